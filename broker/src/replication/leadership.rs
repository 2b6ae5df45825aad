//! What the leader of a partition knows of its replicas: pure.
//!
//! Owns Kafka's rules for being in sync (KIP-16, `replica.lag.time.max.ms`) and for the high watermark.

use std::collections::{BTreeMap, BTreeSet};

use strandline_controller::record::PartitionRecord;
use strandline_protocol::ids::BrokerId;

/// One follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Follower {
    /// All below is durable there (exclusive); -1 = it has not fetched in this epoch.
    durable_end: i64,
    /// The registration in which it fetched last; -1 = none yet.
    broker_epoch: i64,
    /// When it was last known to have everything, in ms.
    caught_up_ms: i64,
    /// The high watermark that it was last told.
    told_high_watermark: i64,
    /// Its last fetch, and the leader's end at that time.
    fetched_ms: i64,
    leader_end_then: i64,
}

/// A leadership of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    me: BrokerId,
    /// The record that gave it, or the newest one since.
    record: PartitionRecord,
    /// The leader's log end when the epoch began: nobody is in sync below it.
    begin_end: i64,
    followers: BTreeMap<BrokerId, Follower>,
    /// An in-sync set that the controller was asked for and has not answered.
    asked: Option<Vec<BrokerId>>,
    /// Who was asked to join by a request that nobody answered: it may be written yet, until the partition epoch moves on.
    doubtful: BTreeSet<BrokerId>,
    /// The in-sync set that the controller refused last, and when (ms).
    refused: Option<(Vec<BrokerId>, i64)>,
}

/// A set that was refused is not asked for again for so long, ms: followers fetch much more often than a refusal's reason goes away.
const REFUSED_PAUSE_MS: i64 = 200;

impl Leadership {
    /// Begins with `record`, whose leader is `me`. Followers have a whole lag time to fetch.
    pub fn begin(me: BrokerId, record: PartitionRecord, log_end: i64, now_ms: i64) -> Self {
        let (followers, doubtful) = (BTreeMap::new(), BTreeSet::new());
        let (asked, refused) = (None, None);
        let mut leadership = Leadership { me, record, begin_end: log_end, followers, asked, doubtful, refused };
        leadership.follow_replicas(now_ms);
        leadership
    }

    fn follow_replicas(&mut self, now_ms: i64) {
        let new = Follower {
            durable_end: -1,
            broker_epoch: -1,
            caught_up_ms: now_ms,
            told_high_watermark: -1,
            fetched_ms: now_ms,
            leader_end_then: -1,
        };
        for id in self.record.replicas.iter().filter(|id| **id != self.me) {
            self.followers.entry(*id).or_insert(new);
        }
        let replicas = &self.record.replicas;
        self.followers.retain(|id, _| replicas.contains(id));
    }

    pub fn epoch(&self) -> i32 {
        self.record.leader_epoch
    }

    /// The log end when this leadership began.
    pub fn begin_end(&self) -> i64 {
        self.begin_end
    }

    /// The log begins anew and ends at `log_end`: what it had before nobody has to have.
    pub fn restarted(&mut self, log_end: i64) {
        self.begin_end = log_end;
    }

    pub fn record(&self) -> &PartitionRecord {
        &self.record
    }

    /// In-sync replicas, the leader included.
    pub fn in_sync(&self) -> usize {
        self.record.isr.len()
    }

    /// Takes a newer record of the same epoch.
    pub fn update(&mut self, record: &PartitionRecord, now_ms: i64) {
        if record.partition_epoch > self.record.partition_epoch {
            self.record = record.clone();
            self.asked = None;
            self.refused = None;
            self.doubtful.clear();
            self.follow_replicas(now_ms);
        }
    }

    /// The controller refused what was asked for: it holds nothing up any more, and is not asked for again at once.
    pub fn ask_failed(&mut self, now_ms: i64) {
        self.refused = self.asked.take().map(|set| (set, now_ms));
    }

    /// Nobody answered. It may be written yet, so the high watermark goes on waiting for who was asked to join; a refusal of a later
    /// request says nothing of this one.
    pub fn ask_unanswered(&mut self) {
        let joining = self.asked.take().into_iter().flatten();
        self.doubtful.extend(joining.filter(|id| !self.record.isr.contains(id)));
    }

    /// A follower fetches in this registration. False if it is an earlier one than was heard of: what it says no longer counts.
    pub fn note_registration(&mut self, id: BrokerId, broker_epoch: i64) -> bool {
        let Some(follower) = self.followers.get_mut(&id) else { return true };
        if broker_epoch < follower.broker_epoch {
            return false;
        }
        if broker_epoch > follower.broker_epoch {
            self.refused = None;
        }
        follower.broker_epoch = broker_epoch;
        true
    }

    /// The registrations in which these fetched last; -1 = not heard of.
    pub fn broker_epochs(&self, ids: &[BrokerId]) -> Vec<i64> {
        ids.iter().map(|id| self.followers.get(id).map_or(-1, |f| f.broker_epoch)).collect()
    }

    /// A follower fetches from `offset` on: all below is durable there. False if it is no replica.
    pub fn note_fetch(&mut self, id: BrokerId, offset: i64, leader_end: i64, now_ms: i64) -> bool {
        let Some(follower) = self.followers.get_mut(&id) else { return false };
        if offset >= leader_end {
            follower.caught_up_ms = now_ms;
        } else if follower.leader_end_then >= 0 && offset >= follower.leader_end_then {
            follower.caught_up_ms = follower.caught_up_ms.max(follower.fetched_ms);
        }
        follower.durable_end = offset;
        follower.fetched_ms = now_ms;
        follower.leader_end_then = leader_end;
        true
    }

    /// A follower is told a high watermark. True if it did not know it.
    pub fn tell_high_watermark(&mut self, id: BrokerId, offset: i64) -> bool {
        let Some(follower) = self.followers.get_mut(&id) else { return false };
        let news = offset > follower.told_high_watermark;
        follower.told_high_watermark = offset;
        news
    }

    /// Followers in sync: id, what they have (exclusive end), and when they last had everything, in ms.
    pub fn followers_in_sync(&self) -> Vec<(BrokerId, i64, i64)> {
        let in_sync = self.followers.iter().filter(|(id, _)| self.record.isr.contains(id));
        in_sync.map(|(id, f)| (*id, f.durable_end, f.caught_up_ms)).collect()
    }

    /// The least durable end of the in-sync set, and of who was asked to join it. Nothing moves while fewer than
    /// `min_insync` are in sync: what is visible then could be lost (KIP-966).
    pub fn high_watermark(&self, own_durable_end: i64, min_insync: usize) -> Option<i64> {
        if self.record.isr.len() < min_insync.min(self.record.replicas.len()) {
            return None;
        }
        let joining = self.asked.iter().flatten().chain(&self.doubtful);
        let ends = self.record.isr.iter().chain(joining).filter(|id| **id != self.me);
        let others = ends.map(|id| self.followers.get(id).map_or(-1, |f| f.durable_end)).min();
        Some(others.map_or(own_durable_end, |least| least.min(own_durable_end)))
    }

    /// The in-sync set to ask for, if it differs from what the controller holds or may come to hold: laggards out, who has caught up in.
    /// Remembers it as asked.
    pub fn change_isr(
        &mut self,
        high_watermark: i64,
        leader_end: i64,
        now_ms: i64,
        lag_max_ms: i64,
    ) -> Option<Vec<BrokerId>> {
        if self.asked.is_some() {
            return None;
        }
        let mut wanted: Vec<BrokerId> = self.record.isr.clone();
        for (id, follower) in &self.followers {
            let lags = follower.durable_end < leader_end && now_ms.saturating_sub(follower.caught_up_ms) > lag_max_ms;
            let here = wanted.contains(id);
            let caught_up = follower.durable_end >= high_watermark.max(self.begin_end);
            if here && lags {
                wanted.retain(|w| w != id);
            } else if !here && caught_up && !lags {
                wanted.push(*id);
            }
        }
        // A doubtful one that stays away would hold the high watermark for ever: the set that there is, asked for again, moves the
        // partition epoch on.
        if wanted == self.record.isr && self.doubtful.is_empty() {
            return None;
        }
        let pauses =
            |(set, at): &(Vec<BrokerId>, i64)| *set == wanted && (0..REFUSED_PAUSE_MS).contains(&(now_ms - at));
        if self.refused.as_ref().is_some_and(pauses) {
            return None;
        }
        self.asked = Some(wanted.clone());
        Some(wanted)
    }

    /// Whether somebody is in sync who may lag, or out of it.
    pub fn has_followers(&self) -> bool {
        !self.followers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_protocol::ids::TopicId;
    use uuid::Uuid;

    fn record(isr: &[BrokerId], partition_epoch: i32) -> PartitionRecord {
        PartitionRecord {
            topic_id: TopicId(Uuid::nil()),
            partition: 0,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            leader: 1,
            leader_epoch: 4,
            partition_epoch,
            adding: Vec::new(),
            removing: Vec::new(),
            elr: Vec::new(),
        }
    }

    #[test]
    fn the_high_watermark_waits_for_everyone_in_sync() {
        let mut leader = Leadership::begin(1, record(&[1, 2, 3], 0), 10, 0);
        assert_eq!(leader.high_watermark(20, 1), Some(-1), "nobody has fetched yet");
        leader.note_fetch(2, 20, 20, 5);
        leader.note_fetch(3, 12, 20, 5);
        assert_eq!(leader.high_watermark(20, 1), Some(12));
        assert_eq!(leader.high_watermark(11, 1), Some(11), "nor does it pass what is durable here");
        leader.update(&record(&[1, 2], 1), 6);
        assert_eq!(leader.high_watermark(20, 1), Some(20));
        assert_eq!(leader.high_watermark(20, 3), None, "too few are in sync");
    }

    #[test]
    fn who_may_have_joined_by_a_request_without_an_answer_is_waited_for() {
        let mut leader = Leadership::begin(1, record(&[1, 2], 0), 10, 0);
        leader.note_fetch(2, 20, 20, 5);
        leader.note_fetch(3, 20, 20, 5);
        assert_eq!(leader.change_isr(20, 20, 6, 30), Some(vec![1, 2, 3]));
        leader.ask_unanswered();
        leader.note_fetch(2, 25, 25, 7);
        assert_eq!(leader.high_watermark(25, 2), Some(20), "3 may be in sync by now");
        assert_eq!(leader.change_isr(20, 25, 8, 30), Some(vec![1, 2, 3]), "asked again at once");
        leader.ask_failed(9);
        assert_eq!(leader.high_watermark(25, 2), Some(20), "that was the second request; the first may be written yet");
        assert_eq!(
            leader.change_isr(20, 25, 1_000, 30),
            Some(vec![1, 2]),
            "3 lags: the epoch has to move on without it"
        );
        leader.update(&record(&[1, 2], 1), 1_001);
        assert_eq!(leader.high_watermark(25, 2), Some(25));
        assert_eq!(leader.change_isr(25, 25, 1_002, 30), None);
    }

    #[test]
    fn laggards_leave_and_come_back_when_they_have_caught_up() {
        let mut leader = Leadership::begin(1, record(&[1, 2, 3], 0), 10, 0);
        leader.note_fetch(2, 10, 10, 100);
        leader.note_fetch(3, 10, 10, 100);
        assert_eq!(leader.change_isr(10, 10, 10_000, 30), None, "who has everything does not lag, however long ago");
        assert_eq!(leader.change_isr(10, 15, 120, 30), None, "not yet");
        leader.note_fetch(2, 15, 15, 130);
        assert_eq!(leader.change_isr(10, 15, 131, 30), Some(vec![1, 2]));
        assert_eq!(leader.change_isr(10, 15, 132, 30), None, "asked already");
        leader.update(&record(&[1, 2], 1), 133);
        leader.note_fetch(3, 14, 15, 140);
        assert_eq!(leader.change_isr(15, 15, 141, 30), None, "below the high watermark");
        leader.note_fetch(3, 15, 16, 150);
        assert_eq!(leader.change_isr(15, 16, 151, 30), Some(vec![1, 2, 3]));
        assert_eq!(leader.high_watermark(16, 1), Some(15), "who was asked to join counts already");
        leader.ask_failed(152);
        leader.note_fetch(2, 16, 16, 152);
        assert_eq!(leader.high_watermark(16, 1), Some(16));
    }

    #[test]
    fn a_refused_set_is_asked_for_again_after_a_pause_and_another_at_once() {
        let mut leader = Leadership::begin(1, record(&[1], 0), 10, 0);
        leader.note_fetch(2, 10, 10, 1);
        assert_eq!(leader.change_isr(10, 10, 2, 30), Some(vec![1, 2]));
        leader.ask_failed(3);
        assert_eq!(leader.change_isr(10, 10, 4, 30), None);
        leader.note_fetch(3, 10, 10, 5);
        assert_eq!(leader.change_isr(10, 10, 5, 30), Some(vec![1, 2, 3]));
        leader.ask_failed(6);
        assert_eq!(leader.change_isr(10, 10, 5 + REFUSED_PAUSE_MS, 30), None);
        assert_eq!(leader.change_isr(10, 10, 6 + REFUSED_PAUSE_MS, 30), Some(vec![1, 2, 3]));
        leader.ask_failed(1_000);
        assert_eq!(leader.change_isr(10, 10, 999, 30), Some(vec![1, 2, 3]), "a clock that went back stops nothing");
        leader.ask_failed(1_001);
        assert!(leader.note_registration(2, 7));
        assert_eq!(leader.change_isr(10, 10, 1_002, 30), Some(vec![1, 2, 3]), "it has come back as another");
    }

    #[test]
    fn a_registration_that_was_replaced_counts_no_more() {
        let mut leader = Leadership::begin(1, record(&[1, 2], 0), 10, 0);
        assert!(leader.note_registration(3, 7) && leader.note_registration(3, 9));
        assert!(!leader.note_registration(3, 7), "a fetch that was long under way");
        assert_eq!(leader.broker_epochs(&[1, 3]), [-1, 9]);
    }

    #[test]
    fn a_log_that_begins_anew_is_all_that_is_asked_for() {
        let mut leader = Leadership::begin(1, record(&[1], 0), 16, 0);
        leader.note_fetch(2, 11, 11, 1);
        assert_eq!(leader.change_isr(11, 11, 2, 30), None, "the leadership began with more");
        leader.restarted(11);
        assert_eq!(leader.change_isr(11, 11, 3, 30), Some(vec![1, 2]));
    }

    #[test]
    fn nobody_joins_below_the_begin_of_the_epoch() {
        let mut leader = Leadership::begin(1, record(&[1], 0), 10, 0);
        leader.note_fetch(2, 8, 10, 1);
        assert_eq!(leader.change_isr(5, 10, 2, 30), None);
        leader.note_fetch(2, 10, 10, 3);
        assert_eq!(leader.change_isr(5, 10, 4, 30), Some(vec![1, 2]));
    }
}
