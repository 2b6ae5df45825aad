//! Names of objects in the bucket (`docs/formats/object-keys.md`).
//!
//! Owns: how a key is computed from what a pointer, a manifest or an entry says, and how a listed key is read back.
//! Does not own: which keys exist. Keys below a partition are *relative*; [`PartitionPrefix`] puts them below
//! `<cluster id>/<topic name>-<topic id>/<partition>/`, and the store below the prefix of its URL.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use strandline_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use uuid::Uuid;

/// Where the objects of one partition lie, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PartitionPrefix(Arc<str>);

impl PartitionPrefix {
    /// The names must be valid (a topic name of Kafka's has no slash and is neither `.` nor `..`).
    pub fn new(cluster_id: &str, topic_name: &str, tp: &TopicPartition) -> PartitionPrefix {
        PartitionPrefix(format!("{cluster_id}/{topic_name}-{}/{}", tp.topic_id, tp.partition).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn full(&self, relative: &str) -> String {
        format!("{}/{relative}", self.0)
    }
}

/// A segment's two objects share the stem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentKey {
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub uuid: Uuid,
}

impl SegmentKey {
    pub fn log(&self) -> String {
        format!("{self}.log")
    }

    pub fn sidecar(&self) -> String {
        format!("{self}.meta")
    }
}

impl fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{}-{}", self.base_offset, self.leader_epoch, self.uuid.simple())
    }
}

/// Names one attempt at one thing. Everything in a partition's folder is one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The `.log` and the `.meta` object of one segment.
    Segment(SegmentKey),
    /// A run of entries or of tombstones; `first` is the first offset, or the first removing version.
    Index {
        first: i64,
        leader_epoch: LeaderEpoch,
        uuid: Uuid,
    },
    Manifest {
        version: u64,
        leader_epoch: LeaderEpoch,
        uuid: Uuid,
    },
}

impl Key {
    /// The objects behind this key, relative to the partition.
    pub fn objects(&self) -> Vec<String> {
        match self {
            Key::Segment(segment) => vec![segment.log(), segment.sidecar()],
            Key::Index { first, leader_epoch, uuid } => {
                vec![format!("index/{first:020}-{leader_epoch}-{}", uuid.simple())]
            }
            Key::Manifest { version, leader_epoch, uuid } => {
                vec![format!("manifest/{version:020}-{leader_epoch}-{}", uuid.simple())]
            }
        }
    }

    pub fn uuid(&self) -> Uuid {
        match self {
            Key::Segment(segment) => segment.uuid,
            Key::Index { uuid, .. } | Key::Manifest { uuid, .. } => *uuid,
        }
    }

    /// The leader epoch of the writer.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        match self {
            Key::Segment(segment) => segment.leader_epoch,
            Key::Index { leader_epoch, .. } | Key::Manifest { leader_epoch, .. } => *leader_epoch,
        }
    }

    /// Reads a relative name that a LIST returned; `None` if no such name was ever written by us.
    pub fn parse(relative: &str) -> Option<Key> {
        if let Some(stem) = relative.strip_prefix("manifest/") {
            let (version, leader_epoch, uuid) = parse_stem(stem)?;
            return Some(Key::Manifest { version, leader_epoch, uuid });
        }
        if let Some(stem) = relative.strip_prefix("index/") {
            let (first, leader_epoch, uuid) = parse_stem(stem)?;
            return Some(Key::Index { first, leader_epoch, uuid });
        }
        let stem = relative.strip_suffix(".log").or_else(|| relative.strip_suffix(".meta"))?;
        let (base_offset, leader_epoch, uuid) = parse_stem(stem)?;
        Some(Key::Segment(SegmentKey { base_offset, leader_epoch, uuid }))
    }
}

/// What a name below a partition's folder turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    Object(Key),
    /// A temporary file of an upload of this key: `NAME#N` in a directory, `.NAME.tmp` or `.NAME.tmp.N` in HDFS.
    Unfinished(Key),
}

impl Key {
    /// Reads a relative name that a LIST or a directory showed; `None` if no such name was ever written by us.
    pub fn parse_listed(relative: &str) -> Option<Listing> {
        if let Some(key) = Key::parse(relative) {
            return Some(Listing::Object(key));
        }
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if let Some((name, _)) = relative.rsplit_once('#').filter(|(_, number)| is_number(number)) {
            return Key::parse(name).map(Listing::Unfinished);
        }
        let (folder, name) = relative.rsplit_once('/').map_or(("", relative), |(folder, name)| (folder, name));
        let (name, number) = name.strip_prefix('.')?.rsplit_once(".tmp")?;
        if !number.is_empty() && !number.strip_prefix('.').is_some_and(is_number) {
            return None;
        }
        let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        Key::parse(&name).map(Listing::Unfinished)
    }
}

fn parse_stem<N: FromStr>(stem: &str) -> Option<(N, LeaderEpoch, Uuid)> {
    let mut parts = stem.splitn(3, '-');
    let number = parts.next().filter(|digits| digits.len() == 20)?.parse().ok()?;
    let leader_epoch = parts.next()?.parse().ok()?;
    let uuid = Uuid::try_parse(parts.next()?).ok()?;
    Some((number, leader_epoch, uuid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_from_its_objects() {
        let uuid = Uuid::from_u128(7);
        let keys = [
            Key::Segment(SegmentKey { base_offset: 42, leader_epoch: 3, uuid }),
            Key::Index { first: i64::MAX, leader_epoch: 0, uuid },
            Key::Manifest { version: u64::MAX, leader_epoch: 3, uuid },
        ];
        for key in keys {
            for object in key.objects() {
                assert_eq!(Key::parse(&object), Some(key), "{object}");
            }
        }
        assert_eq!(Key::parse("manifest/1-2-3"), None);
        assert_eq!(Key::parse("00000000000000000042-3-00000000000000000000000000000007.tmp"), None);
    }

    #[test]
    fn temporary_files_are_told_from_objects() {
        let uuid = Uuid::from_u128(7);
        let segment = Key::Segment(SegmentKey { base_offset: 42, leader_epoch: 3, uuid });
        let manifest = Key::Manifest { version: 9, leader_epoch: 3, uuid };
        for key in [segment, manifest] {
            let object = key.objects()[0].clone();
            let (folder, name) = object.rsplit_once('/').map_or(("", object.as_str()), |(folder, name)| (folder, name));
            let slash = if folder.is_empty() { "" } else { "/" };
            assert_eq!(Key::parse_listed(&object), Some(Listing::Object(key)));
            for unfinished in
                [format!("{object}#1"), format!("{folder}{slash}.{name}.tmp"), format!("{folder}{slash}.{name}.tmp.12")]
            {
                assert_eq!(Key::parse_listed(&unfinished), Some(Listing::Unfinished(key)), "{unfinished}");
                assert_eq!(Key::parse(&unfinished), None);
            }
            for strange in [format!("{object}#"), format!("{object}#x"), format!("{folder}{slash}.{name}.tmpx")] {
                assert_eq!(Key::parse_listed(&strange), None, "{strange}");
            }
        }
    }

    #[test]
    fn keys_look_as_the_format_page_says() {
        let segment = SegmentKey { base_offset: 42, leader_epoch: 3, uuid: Uuid::from_u128(7) };
        assert_eq!(segment.log(), "00000000000000000042-3-00000000000000000000000000000007.log");
    }
}
