//! Where a member stands in its group: a pure machine of answers and time.
//!
//! Owns coordinator, member id, generation and what is to be asked next. Does not own connections, the protocol's bytes or a clock.
//! Invariants: an offset is committed only under the generation of the last SyncGroup that succeeded; a member that the coordinator
//! calls unknown, or that has heard nothing for its session timeout, is [`Standing::Lost`] until it has joined again.

use strandline_protocol::error_code::ErrorCode;

/// Pause before a question that was answered "not now" is asked again, ms.
const RETRY_PAUSE_MS: i64 = 100;

/// How a member keeps its seat. All are ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub session_timeout_ms: i64,
    pub heartbeat_interval_ms: i64,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    FindCoordinator,
    Join,
    Sync,
    Heartbeat,
    /// Nothing before this time.
    Wait(i64),
}

/// What a member's owner may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The assignment holds.
    Stable,
    /// Others wait for this member to join again; its assignment holds until it does.
    RebalanceDue,
    /// The assignment may be somebody else's already.
    Lost,
}

/// What a coordinator, or the way to it, said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Coordinator(Result<i32, ErrorCode>),
    /// The member id that came with it, if one did.
    Join(Result<i32, ErrorCode>, String),
    Sync(Result<(), ErrorCode>),
    Heartbeat(Result<(), ErrorCode>),
    Commit(Result<(), ErrorCode>),
    /// No answer: whether it was carried out is unknown.
    Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joined,
    Member,
}

/// One member.
#[derive(Debug, Clone)]
pub struct Membership {
    timing: Timing,
    phase: Phase,
    coordinator: Option<i32>,
    member_id: String,
    generation: i32,
    rebalance_due: bool,
    /// When the coordinator last said that this is a member.
    heard_ms: i64,
    beat_ms: i64,
    retry_ms: i64,
}

impl Membership {
    pub fn new(timing: Timing) -> Self {
        Membership {
            timing,
            phase: Phase::Outside,
            coordinator: None,
            member_id: String::new(),
            generation: -1,
            rebalance_due: false,
            heard_ms: 0,
            beat_ms: 0,
            retry_ms: 0,
        }
    }

    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    pub fn coordinator(&self) -> Option<i32> {
        self.coordinator
    }

    /// Of the last SyncGroup that succeeded; None = commits would be refused, or would be somebody else's.
    pub fn generation(&self, now_ms: i64) -> Option<i32> {
        (self.standing(now_ms) != Standing::Lost).then_some(self.generation)
    }

    /// The generation that a SyncGroup goes out under.
    pub fn joined_generation(&self) -> i32 {
        self.generation
    }

    pub fn standing(&self, now_ms: i64) -> Standing {
        if self.phase != Phase::Member || now_ms - self.heard_ms > self.timing.session_timeout_ms {
            Standing::Lost
        } else if self.rebalance_due {
            Standing::RebalanceDue
        } else {
            Standing::Stable
        }
    }

    pub fn next(&self, now_ms: i64) -> Step {
        if now_ms < self.retry_ms {
            return Step::Wait(self.retry_ms);
        }
        match (self.coordinator, self.phase) {
            (None, _) => Step::FindCoordinator,
            (Some(_), Phase::Outside) => Step::Join,
            (Some(_), Phase::Joined) => Step::Sync,
            (Some(_), Phase::Member) => {
                let due = self.beat_ms + self.timing.heartbeat_interval_ms;
                if now_ms >= due { Step::Heartbeat } else { Step::Wait(due) }
            }
        }
    }

    /// Gives the seat up for a new round. The member id stays.
    pub fn rejoin(&mut self) {
        self.phase = Phase::Outside;
        self.rebalance_due = false;
    }

    /// Takes an answer in. Err = the code is nothing that asking again would change.
    pub fn on(&mut self, answer: Answer, now_ms: i64) -> Result<(), ErrorCode> {
        match answer {
            Answer::Unreachable => {
                self.coordinator = None;
                self.retry_ms = now_ms + RETRY_PAUSE_MS;
                Ok(())
            }
            Answer::Coordinator(Ok(node)) => {
                self.coordinator = Some(node);
                Ok(())
            }
            Answer::Join(Ok(generation), member_id) => {
                self.member_id = member_id;
                self.generation = generation;
                self.phase = Phase::Joined;
                self.heard(now_ms);
                Ok(())
            }
            Answer::Join(Err(ErrorCode::MemberIdRequired), member_id) => {
                self.member_id = member_id;
                Ok(())
            }
            Answer::Sync(Ok(())) => {
                self.phase = Phase::Member;
                self.rebalance_due = false;
                self.heard(now_ms);
                Ok(())
            }
            Answer::Heartbeat(Ok(())) | Answer::Commit(Ok(())) => {
                self.heard(now_ms);
                Ok(())
            }
            Answer::Coordinator(Err(code))
            | Answer::Join(Err(code), _)
            | Answer::Sync(Err(code))
            | Answer::Heartbeat(Err(code))
            | Answer::Commit(Err(code)) => self.refused(code, now_ms),
        }
    }

    fn heard(&mut self, now_ms: i64) {
        self.heard_ms = now_ms;
        self.beat_ms = now_ms;
    }

    fn refused(&mut self, code: ErrorCode, now_ms: i64) -> Result<(), ErrorCode> {
        match code {
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                self.coordinator = None;
                self.retry_ms = now_ms + RETRY_PAUSE_MS;
            }
            ErrorCode::CoordinatorLoadInProgress => self.retry_ms = now_ms + RETRY_PAUSE_MS,
            // A member that is asked to join again still is one: it may commit what it has before it does.
            ErrorCode::RebalanceInProgress if self.phase == Phase::Member => {
                self.rebalance_due = true;
                self.heard(now_ms);
            }
            ErrorCode::RebalanceInProgress => self.rejoin(),
            ErrorCode::UnknownMemberId => {
                self.member_id.clear();
                self.generation = -1;
                self.rejoin();
            }
            ErrorCode::IllegalGeneration => {
                self.generation = -1;
                self.rejoin();
            }
            code if code.retriable() => self.retry_ms = now_ms + RETRY_PAUSE_MS,
            code => return Err(code),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { session_timeout_ms: 6_000, heartbeat_interval_ms: 1_000 };

    fn member() -> Membership {
        let mut m = Membership::new(TIMING);
        assert_eq!(m.next(0), Step::FindCoordinator);
        m.on(Answer::Coordinator(Ok(3)), 0).unwrap();
        assert_eq!(m.next(0), Step::Join);
        m.on(Answer::Join(Err(ErrorCode::MemberIdRequired), "a".to_owned()), 0).unwrap();
        assert_eq!((m.next(0), m.member_id()), (Step::Join, "a"));
        m.on(Answer::Join(Ok(7), "a".to_owned()), 10).unwrap();
        assert_eq!((m.next(10), m.generation(10)), (Step::Sync, None), "no commit before the assignment");
        m.on(Answer::Sync(Ok(())), 20).unwrap();
        m
    }

    #[test]
    fn a_member_beats_and_keeps_its_generation() {
        let mut m = member();
        assert_eq!((m.next(20), m.generation(20)), (Step::Wait(1_020), Some(7)));
        assert_eq!(m.next(1_020), Step::Heartbeat);
        m.on(Answer::Heartbeat(Ok(())), 1_030).unwrap();
        assert_eq!(m.next(1_030), Step::Wait(2_030));
    }

    #[test]
    fn who_hears_nothing_for_the_session_is_lost() {
        let mut m = member();
        m.on(Answer::Unreachable, 5_000).unwrap();
        assert_eq!(m.standing(6_020), Standing::Stable);
        assert_eq!((m.standing(6_021), m.generation(6_021)), (Standing::Lost, None));
        assert_eq!(m.next(5_050), Step::Wait(5_100));
        assert_eq!(m.next(5_100), Step::FindCoordinator);
    }

    #[test]
    fn a_rebalance_lets_a_member_finish_before_it_joins() {
        let mut m = member();
        m.on(Answer::Heartbeat(Err(ErrorCode::RebalanceInProgress)), 1_100).unwrap();
        assert_eq!((m.standing(1_100), m.generation(1_100)), (Standing::RebalanceDue, Some(7)));
        m.rejoin();
        assert_eq!((m.next(1_100), m.generation(1_100)), (Step::Join, None));
        m.on(Answer::Join(Ok(8), "a".to_owned()), 1_200).unwrap();
        m.on(Answer::Sync(Err(ErrorCode::RebalanceInProgress)), 1_300).unwrap();
        assert_eq!(m.next(1_300), Step::Join, "the round was overtaken by the next");
    }

    #[test]
    fn the_fenced_join_anew() {
        let mut m = member();
        m.on(Answer::Commit(Err(ErrorCode::IllegalGeneration)), 30).unwrap();
        assert_eq!((m.standing(30), m.member_id(), m.next(30)), (Standing::Lost, "a", Step::Join));
        let mut m = member();
        m.on(Answer::Heartbeat(Err(ErrorCode::UnknownMemberId)), 30).unwrap();
        assert_eq!((m.standing(30), m.member_id(), m.next(30)), (Standing::Lost, "", Step::Join));
    }

    #[test]
    fn what_no_retry_changes_is_told() {
        let mut m = member();
        assert_eq!(
            m.on(Answer::Join(Err(ErrorCode::InconsistentGroupProtocol), String::new()), 0),
            Err(ErrorCode::InconsistentGroupProtocol)
        );
        assert_eq!(m.on(Answer::Sync(Err(ErrorCode::NotCoordinator)), 0), Ok(()));
        assert_eq!(m.coordinator(), None);
    }
}
