//! Incremental fetch sessions (KIP-227).
//!
//! Owns what a client has said it wants and what it was last told, so that an unchanged partition costs no bytes. Does
//! not own reading. Invariants: at most `slots` sessions; a session is given up for a new one only after
//! [`EVICTION_MIN`] without use. All of it is memory: a restart makes clients begin again (FETCH_SESSION_ID_NOT_FOUND).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicId;

/// A session unused for this long may be given up for a new one.
pub const EVICTION_MIN: Duration = Duration::from_secs(120);
/// Partitions of one session, at most; a larger fetch gets no session.
pub const PARTITIONS_MAX: usize = 100_000;

/// How a client names a topic: by id from Fetch version 13 on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicKey {
    Name(Arc<str>),
    Id(TopicId),
}

/// What is wanted of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub topic: TopicKey,
    pub partition: i32,
    pub fetch_offset: i64,
    /// -1 = not known to the client.
    pub current_leader_epoch: i32,
    pub max_bytes: i32,
}

/// What the client was last told of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

#[derive(Debug)]
struct Partition {
    wanted: Wanted,
    told: Option<Told>,
}

#[derive(Debug)]
struct Session {
    epoch: i32,
    /// In the order of the next answer: what gave records goes to the end.
    entries: Vec<Partition>,
    used: Instant,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// 0 = no session.
    pub session_id: i32,
    /// Only partitions with news are answered.
    pub incremental: bool,
    pub wanted: Vec<Wanted>,
}

/// The sessions of a node.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    sessions: Mutex<HashMap<i32, Session>>,
}

/// First epoch of a session, and the one that follows the largest.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl FetchSessions {
    pub fn new(slots: usize) -> Self {
        FetchSessions { slots, sessions: Mutex::default() }
    }

    /// Sessions in use.
    pub fn len(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Works out what a request wants. `random` picks the id of a new session.
    pub fn plan(
        &self,
        session_id: i32,
        epoch: i32,
        wanted: Vec<Wanted>,
        forgotten: &[(TopicKey, i32)],
        now: Instant,
        random: impl FnMut() -> i32,
    ) -> Result<Plan, ErrorCode> {
        const FINAL_EPOCH: i32 = -1;
        const INITIAL_EPOCH: i32 = 0;
        let wanted = last_of_each(wanted);
        let mut sessions = self.sessions.lock();
        if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
            sessions.remove(&session_id);
            let mut session_id = 0;
            if epoch == INITIAL_EPOCH && !wanted.is_empty() && wanted.len() <= PARTITIONS_MAX {
                session_id = open(&mut sessions, self.slots, &wanted, now, random);
            }
            return Ok(Plan { session_id, incremental: false, wanted });
        }
        let session = sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.epoch = next_epoch(epoch);
        session.used = now;
        session.update(wanted, forgotten)?;
        if session.entries.is_empty() {
            // Nothing is left to tell: the session is over.
            sessions.remove(&session_id);
            return Ok(Plan { session_id: 0, incremental: false, wanted: Vec::new() });
        }
        Ok(Plan { session_id, incremental: true, wanted: session.entries.iter().map(|e| e.wanted.clone()).collect() })
    }

    /// Whether `told` is news to the session; remembers it. `with_records` moves the partition to the end of the order.
    pub fn tell(&self, session_id: i32, told: &[(&TopicKey, i32, Told, bool)]) -> Vec<bool> {
        let mut sessions = self.sessions.lock();
        let Some(session) = sessions.get_mut(&session_id) else { return vec![true; told.len()] };
        let index: HashMap<(&TopicKey, i32), usize> =
            told.iter().enumerate().map(|(i, (topic, partition, ..))| ((*topic, *partition), i)).collect();
        let mut news = vec![true; told.len()];
        let mut last = Vec::new();
        let mut entries = Vec::with_capacity(session.entries.len());
        for mut entry in session.entries.drain(..) {
            let found = index.get(&(&entry.wanted.topic, entry.wanted.partition)).copied();
            let with_records = found.is_some_and(|i| told[i].3);
            if let Some(i) = found {
                news[i] = entry.told != Some(told[i].2);
                entry.told = Some(told[i].2);
            }
            if with_records { last.push(entry) } else { entries.push(entry) }
        }
        entries.append(&mut last);
        session.entries = entries;
        news
    }
}

/// A partition that is asked for twice is wanted as said last, in the place of the first.
fn last_of_each(wanted: Vec<Wanted>) -> Vec<Wanted> {
    let mut places: HashMap<(TopicKey, i32), usize> = HashMap::with_capacity(wanted.len());
    let mut kept: Vec<Wanted> = Vec::with_capacity(wanted.len());
    for w in wanted {
        match places.entry((w.topic.clone(), w.partition)) {
            Entry::Occupied(place) => kept[*place.get()] = w,
            Entry::Vacant(free) => {
                free.insert(kept.len());
                kept.push(w);
            }
        }
    }
    kept
}

fn open(
    sessions: &mut HashMap<i32, Session>,
    slots: usize,
    wanted: &[Wanted],
    now: Instant,
    mut random: impl FnMut() -> i32,
) -> i32 {
    if sessions.len() >= slots {
        let oldest = sessions.iter().min_by_key(|(_, s)| s.used).map(|(id, s)| (*id, s.used));
        match oldest {
            Some((id, used)) if now.saturating_duration_since(used) >= EVICTION_MIN => {
                sessions.remove(&id);
            }
            _ => return 0,
        }
    }
    let mut id = 0;
    while id == 0 || sessions.contains_key(&id) {
        id = random() & i32::MAX;
    }
    let entries = wanted.iter().map(|w| Partition { wanted: w.clone(), told: None }).collect();
    sessions.insert(id, Session { epoch: 1, entries, used: now });
    id
}

impl Session {
    fn update(&mut self, wanted: Vec<Wanted>, forgotten: &[(TopicKey, i32)]) -> Result<(), ErrorCode> {
        let index: HashMap<(TopicKey, i32), usize> =
            self.entries.iter().enumerate().map(|(i, e)| ((e.wanted.topic.clone(), e.wanted.partition), i)).collect();
        for w in wanted {
            match index.get(&(w.topic.clone(), w.partition)) {
                Some(i) => self.entries[*i].wanted = w,
                None if self.entries.len() < PARTITIONS_MAX => self.entries.push(Partition { wanted: w, told: None }),
                None => return Err(ErrorCode::InvalidRequest),
            }
        }
        // What is both wanted and forgotten is forgotten.
        if !forgotten.is_empty() {
            let gone: std::collections::HashSet<_> = forgotten.iter().map(|(t, p)| (t, *p)).collect();
            self.entries.retain(|e| !gone.contains(&(&e.wanted.topic, e.wanted.partition)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32, fetch_offset: i64) -> Wanted {
        let topic = TopicKey::Name(Arc::from("t"));
        Wanted { topic, partition, fetch_offset, current_leader_epoch: -1, max_bytes: 1 << 20 }
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads the clock once")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_session_answers_only_news() {
        let (sessions, now) = (FetchSessions::new(2), start());
        let plan = sessions.plan(0, 0, vec![wanted(0, 5), wanted(1, 7)], &[], now, || 42).unwrap();
        assert_eq!((plan.session_id, plan.incremental), (42, false));
        let told = Told { high_watermark: 9, log_start_offset: 0 };
        let topic = TopicKey::Name(Arc::from("t"));
        let both = [(&topic, 0, told, true), (&topic, 1, told, false)];
        assert_eq!(sessions.tell(42, &both), [true, true]);
        let plan = sessions.plan(42, 1, vec![wanted(0, 9)], &[], now, || 1).unwrap();
        let order: Vec<_> = plan.wanted.iter().map(|w| (w.partition, w.fetch_offset)).collect();
        assert_eq!(order, [(1, 7), (0, 9)], "what gave records comes last");
        assert_eq!(sessions.tell(42, &both), [false, false]);
        assert_eq!(sessions.plan(42, 1, vec![], &[], now, || 1), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(sessions.plan(43, 1, vec![], &[], now, || 1), Err(ErrorCode::FetchSessionIdNotFound));
        let plan = sessions.plan(42, 2, vec![], &[(topic.clone(), 1)], now, || 1).unwrap();
        assert_eq!(plan.wanted.len(), 1);
    }

    #[test]
    fn slots_are_bounded_and_old_sessions_make_room() {
        let (sessions, now) = (FetchSessions::new(1), start());
        assert_eq!(sessions.plan(0, 0, vec![wanted(0, 0)], &[], now, || 1).unwrap().session_id, 1);
        assert_eq!(sessions.plan(0, 0, vec![wanted(0, 0)], &[], now, || 2).unwrap().session_id, 0);
        let later = now + EVICTION_MIN;
        assert_eq!(sessions.plan(0, 0, vec![wanted(0, 0)], &[], later, || 2).unwrap().session_id, 2);
        assert_eq!(sessions.len(), 1);
    }
}
