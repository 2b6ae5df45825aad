//! Incremental fetch sessions (KIP-227).
//!
//! Owns what a client has said it wants and what it was last told, so that an unchanged partition costs no bytes. Does
//! not own reading. Invariants: at most `slots` sessions; a session is given up for a new one only after
//! [`EVICTION_MIN`] without use, or a consumer's for a follower's; a session answers whom it was opened for. All of it is memory: a
//! restart makes clients begin again (FETCH_SESSION_ID_NOT_FOUND).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId};
use strandline_protocol::messages::fetch_request::FetchPartition;

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
    /// Leader epoch of the last record that the client has; -1 = it does not say.
    pub last_fetched_epoch: i32,
    /// Of a follower's log; -1 for consumers.
    pub log_start_offset: i64,
}

impl Wanted {
    pub fn of(topic: TopicKey, p: &FetchPartition) -> Self {
        Self {
            topic,
            partition: p.partition,
            fetch_offset: p.fetch_offset,
            current_leader_epoch: p.current_leader_epoch,
            max_bytes: p.partition_max_bytes,
            last_fetched_epoch: p.last_fetched_epoch,
            log_start_offset: p.log_start_offset,
        }
    }
}

/// A fetch, as far as its session goes.
pub struct Asked<'a> {
    /// The follower that asks; `None` for consumers.
    pub owner: Option<BrokerId>,
    pub session_id: i32,
    pub epoch: i32,
    pub wanted: Vec<Wanted>,
    pub forgotten: &'a [(TopicKey, i32)],
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

/// Where a partition stands in a session.
pub type Place = u64;

#[derive(Debug)]
struct Session {
    owner: Option<BrokerId>,
    epoch: i32,
    /// In the order of the next answer: what gave records goes to the end.
    entries: BTreeMap<Place, Partition>,
    places: HashMap<(TopicKey, i32), Place>,
    next_place: Place,
    used: Instant,
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// 0 = no session.
    pub session_id: i32,
    /// Only partitions with news are answered.
    pub incremental: bool,
    pub wanted: Vec<(Place, Wanted)>,
}

/// What one partition's answer says.
#[derive(Debug, Clone, Copy)]
pub struct Telling {
    pub place: Place,
    pub told: Told,
    pub with_records: bool,
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
    pub fn count(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Partitions in all of them.
    pub fn partitions(&self) -> usize {
        self.sessions.lock().values().map(|session| session.entries.len()).sum()
    }

    /// Works out what a request wants. `random` picks the id of a new session.
    pub fn plan(&self, asked: Asked<'_>, now: Instant, random: impl FnMut() -> i32) -> Result<Plan, ErrorCode> {
        const FINAL_EPOCH: i32 = -1;
        const INITIAL_EPOCH: i32 = 0;
        let Asked { owner, session_id, epoch, wanted, forgotten } = asked;
        let wanted = last_of_each(wanted);
        let mut sessions = self.sessions.lock();
        let own = sessions.get(&session_id).is_some_and(|session| session.owner == owner);
        if epoch == FINAL_EPOCH || epoch == INITIAL_EPOCH {
            if own {
                sessions.remove(&session_id);
            }
            // A node follows another by one fetcher: what it had before, or before it was started anew, is over.
            if owner.is_some() {
                sessions.retain(|_, session| session.owner != owner);
            }
            let mut session_id = 0;
            if epoch == INITIAL_EPOCH && !wanted.is_empty() && wanted.len() <= PARTITIONS_MAX {
                session_id = open(&mut sessions, self.slots, owner, &wanted, now, random);
            }
            // The places of a new session.
            return Ok(Plan { session_id, incremental: false, wanted: (0..).zip(wanted).collect() });
        }
        let session = sessions.get_mut(&session_id).filter(|_| own).ok_or(ErrorCode::FetchSessionIdNotFound)?;
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
        let wanted = session.entries.iter().map(|(place, entry)| (*place, entry.wanted.clone())).collect();
        Ok(Plan { session_id, incremental: true, wanted })
    }

    /// Which of `tellings` are news to the session; remembers them. A partition with records moves to the end of the order.
    pub fn tell(&self, session_id: i32, tellings: &[Telling]) -> Vec<bool> {
        let mut sessions = self.sessions.lock();
        let Some(session) = sessions.get_mut(&session_id) else { return vec![true; tellings.len()] };
        tellings.iter().map(|telling| session.tell(telling)).collect()
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
    owner: Option<BrokerId>,
    wanted: &[Wanted],
    now: Instant,
    mut random: impl FnMut() -> i32,
) -> i32 {
    if sessions.len() >= slots {
        // A follower's fetches are worth more than a consumer's (KIP-227: privileged).
        let may_go = |s: &Session| {
            now.saturating_duration_since(s.used) >= EVICTION_MIN || (owner.is_some() && s.owner.is_none())
        };
        let oldest = sessions.iter().filter(|(_, s)| may_go(s)).min_by_key(|(_, s)| s.used).map(|(id, _)| *id);
        match oldest {
            Some(id) => sessions.remove(&id),
            None => return 0,
        };
    }
    let mut id = 0;
    while id == 0 || sessions.contains_key(&id) {
        id = random() & i32::MAX;
    }
    let mut session =
        Session { owner, epoch: 1, entries: BTreeMap::new(), places: HashMap::new(), next_place: 0, used: now };
    wanted.iter().for_each(|w| session.append(Partition { wanted: w.clone(), told: None }));
    sessions.insert(id, session);
    id
}

impl Session {
    fn append(&mut self, partition: Partition) {
        let key = (partition.wanted.topic.clone(), partition.wanted.partition);
        self.places.insert(key, self.next_place);
        self.entries.insert(self.next_place, partition);
        self.next_place += 1;
    }

    fn update(&mut self, wanted: Vec<Wanted>, forgotten: &[(TopicKey, i32)]) -> Result<(), ErrorCode> {
        for w in wanted {
            let place = self.places.get(&(w.topic.clone(), w.partition)).copied();
            if let Some(entry) = place.and_then(|place| self.entries.get_mut(&place)) {
                // What was told in another leader epoch, or of a log that went back since, is told again.
                let before = &entry.wanted;
                if before.current_leader_epoch != w.current_leader_epoch || before.fetch_offset > w.fetch_offset {
                    entry.told = None;
                }
                entry.wanted = w;
                continue;
            }
            if self.entries.len() >= PARTITIONS_MAX {
                return Err(ErrorCode::InvalidRequest);
            }
            self.append(Partition { wanted: w, told: None });
        }
        // What is both wanted and forgotten is forgotten.
        for gone in forgotten {
            if let Some(place) = self.places.remove(gone) {
                self.entries.remove(&place);
            }
        }
        Ok(())
    }

    /// True if `telling` is news. A place that is there no longer was answered by another fetch of the session meanwhile.
    fn tell(&mut self, telling: &Telling) -> bool {
        let Some(entry) = self.entries.get_mut(&telling.place) else { return true };
        let is_news = entry.told != Some(telling.told);
        entry.told = Some(telling.told);
        if telling.with_records
            && let Some(entry) = self.entries.remove(&telling.place)
        {
            self.append(entry);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32, fetch_offset: i64) -> Wanted {
        let asked = FetchPartition { partition, fetch_offset, partition_max_bytes: 1 << 20, ..Default::default() };
        Wanted::of(TopicKey::Name(Arc::from("t")), &asked)
    }

    fn asked(session_id: i32, epoch: i32, wanted: Vec<Wanted>) -> Asked<'static> {
        Asked { owner: None, session_id, epoch, wanted, forgotten: &[] }
    }

    fn order(plan: &Plan) -> Vec<(i32, i64)> {
        plan.wanted.iter().map(|(_, w)| (w.partition, w.fetch_offset)).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads the clock once")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_session_answers_only_news() {
        let (sessions, now) = (FetchSessions::new(2), start());
        let plan = sessions.plan(asked(0, 0, vec![wanted(0, 5), wanted(1, 7)]), now, || 42).unwrap();
        assert_eq!((plan.session_id, plan.incremental), (42, false));
        let told = Told { high_watermark: 9, log_start_offset: 0 };
        let tellings = |plan: &Plan, with_records: &[i32]| {
            let telling = |(place, w): &(Place, Wanted)| Telling {
                place: *place,
                told,
                with_records: with_records.contains(&w.partition),
            };
            plan.wanted.iter().map(telling).collect::<Vec<_>>()
        };
        assert_eq!(sessions.tell(42, &tellings(&plan, &[0])), [true, true]);
        let plan = sessions.plan(asked(42, 1, vec![wanted(0, 9)]), now, || 1).unwrap();
        assert_eq!(order(&plan), [(1, 7), (0, 9)], "what gave records comes last");
        assert_eq!(sessions.tell(42, &tellings(&plan, &[])), [false, false]);
        assert_eq!(sessions.plan(asked(42, 1, vec![]), now, || 1), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert_eq!(sessions.plan(asked(43, 1, vec![]), now, || 1), Err(ErrorCode::FetchSessionIdNotFound));
        let mut of_another_epoch = wanted(1, 7);
        of_another_epoch.current_leader_epoch = 3;
        let plan = sessions.plan(asked(42, 2, vec![of_another_epoch]), now, || 1).unwrap();
        assert_eq!(sessions.tell(42, &tellings(&plan, &[])), [true, false], "what was told in another epoch");
        let forgotten = [(TopicKey::Name(Arc::from("t")), 1)];
        let plan = sessions.plan(Asked { forgotten: &forgotten, ..asked(42, 3, vec![]) }, now, || 1).unwrap();
        assert_eq!(order(&plan), [(0, 9)]);
        let plan = sessions.plan(asked(42, 4, vec![wanted(1, 7)]), now, || 1).unwrap();
        assert_eq!(sessions.tell(42, &tellings(&plan, &[])), [false, true], "what was forgotten is new");
    }

    #[test]
    fn slots_are_bounded_and_old_sessions_make_room() {
        let (sessions, now) = (FetchSessions::new(1), start());
        let new = |owner, now, id| {
            let asked = Asked { owner, ..asked(0, 0, vec![wanted(0, 0)]) };
            sessions.plan(asked, now, || id).unwrap().session_id
        };
        assert_eq!(new(None, now, 1), 1);
        assert_eq!(new(None, now, 2), 0);
        let later = now + EVICTION_MIN;
        assert_eq!(new(None, later, 2), 2);
        assert_eq!(new(Some(5), later, 3), 3, "a follower's goes before a consumer's");
        assert_eq!((new(Some(6), later, 4), new(None, later, 4)), (0, 0));
        assert_eq!(new(Some(5), later, 5), 5, "in the place of its own");
        assert_eq!(sessions.count(), 1);
    }

    #[test]
    fn a_session_is_its_owners() {
        let (sessions, now) = (FetchSessions::new(4), start());
        let of = |owner, session_id, epoch| {
            sessions.plan(Asked { owner, ..asked(session_id, epoch, vec![wanted(0, 0)]) }, now, || 9)
        };
        assert_eq!(of(Some(1), 0, 0).unwrap().session_id, 9);
        for stranger in [None, Some(2)] {
            assert_eq!(of(stranger, 9, 1), Err(ErrorCode::FetchSessionIdNotFound));
            assert_eq!(of(stranger, 9, -1).unwrap().session_id, 0);
        }
        assert!(of(Some(1), 9, 1).unwrap().incremental);
        assert_eq!(of(Some(1), 9, -1).unwrap().session_id, 0);
        assert_eq!(sessions.count(), 0);
    }
}
