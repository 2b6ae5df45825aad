//! A follower's side of an incremental fetch session (KIP-227).
//!
//! Owns what the leader was last told of each partition, so that a fetch names only what changed. Does not own the connection, nor what
//! is wanted (`following`). Invariants: after an answer the leader knows of exactly the partitions in [`Session::wanted`], as they stand
//! there; after anything but an answer nothing is assumed of it, and the next fetch names everything.
//! All of it is memory. Source: `org.apache.kafka.clients.FetchSessionHandler`.

use std::collections::BTreeMap;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicPartition;
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};

/// The fetch that opens a session.
const INITIAL_EPOCH: i32 = 0;

/// The session with one leader.
#[derive(Debug, Default)]
pub struct Session {
    /// 0 = none.
    id: i32,
    /// Of the next fetch.
    epoch: i32,
    wanted: BTreeMap<TopicPartition, FetchPartition>,
}

impl Session {
    /// What the fetch under way, or the last one, asks for.
    pub fn wanted(&self) -> &BTreeMap<TopicPartition, FetchPartition> {
        &self.wanted
    }

    /// Puts into `request` what the leader has to be told, so that it answers for all of `wanted`.
    pub fn ask(&mut self, wanted: BTreeMap<TopicPartition, FetchPartition>, request: &mut FetchRequest) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        (request.session_id, request.session_epoch) = (self.id, self.epoch);
        let is_full = self.epoch == INITIAL_EPOCH;
        for (tp, wanted) in &self.wanted {
            if !is_full && before.get(tp) == Some(wanted) {
                continue;
            }
            match request.topics.last_mut().filter(|t| t.topic_id == tp.topic_id.0) {
                Some(topic) => topic.partitions.push(wanted.clone()),
                None => request.topics.push(FetchTopic {
                    topic_id: tp.topic_id.0,
                    partitions: vec![wanted.clone()],
                    ..Default::default()
                }),
            }
        }
        for tp in before.keys().filter(|tp| !is_full && !self.wanted.contains_key(tp)) {
            match request.forgotten_topics_data.last_mut().filter(|t| t.topic_id == tp.topic_id.0) {
                Some(topic) => topic.partitions.push(tp.partition),
                None => request.forgotten_topics_data.push(ForgottenTopic {
                    topic_id: tp.topic_id.0,
                    partitions: vec![tp.partition],
                    ..Default::default()
                }),
            }
        }
    }

    /// Takes the head of an answer. False: the leader knows the session no more, and is to be asked again at once.
    pub fn answered(&mut self, error: ErrorCode, session_id: i32) -> bool {
        match error {
            ErrorCode::None if session_id == 0 => {
                *self = Session { wanted: std::mem::take(&mut self.wanted), ..Session::default() }
            }
            ErrorCode::None if self.epoch == INITIAL_EPOCH => (self.id, self.epoch) = (session_id, 1),
            ErrorCode::None => self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 },
            ErrorCode::FetchSessionIdNotFound => {
                self.id = 0;
                self.broken();
                return false;
            }
            ErrorCode::InvalidFetchSessionEpoch => {
                self.broken();
                return false;
            }
            _ => self.broken(),
        }
        true
    }

    /// Whether the leader took the last fetch in is not known: the next one closes the session and opens another.
    pub fn broken(&mut self) {
        self.epoch = INITIAL_EPOCH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_protocol::ids::TopicId;

    fn wanted(partitions: &[(i32, i64)]) -> BTreeMap<TopicPartition, FetchPartition> {
        let topic_id = TopicId(uuid::Uuid::from_u128(7));
        let one = |(partition, fetch_offset): &(i32, i64)| {
            let asked = FetchPartition { partition: *partition, fetch_offset: *fetch_offset, ..Default::default() };
            (TopicPartition { topic_id, partition: *partition }, asked)
        };
        partitions.iter().map(one).collect()
    }

    /// Session id, session epoch, partitions with offsets, forgotten partitions.
    fn ask(session: &mut Session, partitions: &[(i32, i64)]) -> (i32, i32, Vec<(i32, i64)>, Vec<i32>) {
        let mut request = FetchRequest::default();
        session.ask(wanted(partitions), &mut request);
        let named = request.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition, p.fetch_offset)).collect();
        let forgotten = request.forgotten_topics_data.iter().flat_map(|t| t.partitions.clone()).collect();
        (request.session_id, request.session_epoch, named, forgotten)
    }

    #[test]
    fn a_fetch_names_only_what_changed() {
        let mut session = Session::default();
        assert_eq!(ask(&mut session, &[(0, 5), (1, 7)]), (0, 0, vec![(0, 5), (1, 7)], vec![]));
        assert!(session.answered(ErrorCode::None, 42));
        assert_eq!(ask(&mut session, &[(0, 5), (1, 9), (2, 0)]), (42, 1, vec![(1, 9), (2, 0)], vec![]));
        assert!(session.answered(ErrorCode::None, 42));
        assert_eq!(ask(&mut session, &[(1, 9), (2, 0)]), (42, 2, vec![], vec![0]));
        assert_eq!(session.wanted().len(), 2);
        assert!(session.answered(ErrorCode::None, 42));
        assert_eq!(ask(&mut session, &[(0, 5), (1, 9), (2, 0)]), (42, 3, vec![(0, 5)], vec![]));
    }

    #[test]
    fn after_anything_but_an_answer_everything_is_named() {
        let all = [(0, 5), (1, 7)];
        let opened = || {
            let mut session = Session::default();
            ask(&mut session, &all);
            session.answered(ErrorCode::None, 42);
            ask(&mut session, &all);
            session
        };
        let mut session = opened();
        session.broken();
        assert_eq!(ask(&mut session, &all), (42, 0, all.to_vec(), vec![]), "closes the one that may be there");
        let mut session = opened();
        assert!(!session.answered(ErrorCode::FetchSessionIdNotFound, 0));
        assert_eq!(ask(&mut session, &all), (0, 0, all.to_vec(), vec![]));
        let mut session = opened();
        assert!(!session.answered(ErrorCode::InvalidFetchSessionEpoch, 0));
        assert_eq!(ask(&mut session, &all), (42, 0, all.to_vec(), vec![]));
        let mut session = opened();
        assert!(session.answered(ErrorCode::StaleBrokerEpoch, 0));
        assert_eq!(ask(&mut session, &all), (42, 0, all.to_vec(), vec![]));
        // The leader has no room for a session.
        let mut session = opened();
        assert!(session.answered(ErrorCode::None, 0));
        assert_eq!(ask(&mut session, &all), (0, 0, all.to_vec(), vec![]));
    }
}
