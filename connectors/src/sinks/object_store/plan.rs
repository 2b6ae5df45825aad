//! The plan of one chunk: which offsets, which files. docs/formats/archive-plan.md is the format's page.
//!
//! Invariants: the plans of a partition form a chain, each beginning where the one before ends, the first at 0; the key of a plan is its
//! beginning, and is created once. What a plan says never changes.

use serde::{Deserialize, Serialize};

use super::keys::Layout;

/// The only version so far.
pub const VERSION: u32 = 1;
/// A plan larger than this is not one, bytes.
pub const PLAN_BYTES_MAX: u64 = 4 << 20;
/// Digits of the beginning in a plan's key.
const DIGITS: usize = 20;

/// One file of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its key, relative to the store's root.
    pub path: String,
    pub rows: u64,
    /// Inclusive.
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
    pub bytes: u64,
    pub crc32c: u32,
}

/// One chunk of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    pub topic: String,
    pub partition: i32,
    /// Inclusive.
    pub start: i64,
    /// Exclusive.
    pub end: i64,
    /// How the files were laid out, so that they can be written again after the configuration has changed.
    pub layout: Layout,
    pub files: Vec<PlannedFile>,
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    plan: Plan,
    checksum: u32,
}

/// Why bytes are no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Perhaps on its way here only.
    #[error("{key} is not a plan of this sink: {reason}; if it stays so, move it away, or use another topics.dir")]
    Malformed { key: String, reason: String },
    #[error("{key} has version {version}, and this release knows version {VERSION}: use a newer release")]
    Newer { key: String, version: u32 },
}

impl Plan {
    /// The folder of a partition's plans.
    pub fn folder(topics_dir: &str, topic: &str, partition: i32) -> String {
        format!("{topics_dir}/_manifest/{topic}/{partition}")
    }

    /// The key of the plan that begins at `start`.
    pub fn key(topics_dir: &str, topic: &str, partition: i32, start: i64) -> String {
        format!("{}/{start:0DIGITS$}.json", Plan::folder(topics_dir, topic, partition))
    }

    /// The beginning that a key names; None = the key is not a plan's.
    pub fn start_of(key: &str) -> Option<i64> {
        let name = key.rsplit('/').next()?.strip_suffix(".json")?;
        (name.len() == DIGITS).then(|| name.parse().ok()).flatten()
    }

    pub fn encode(&self) -> Vec<u8> {
        let sealed = Sealed { plan: self.clone(), checksum: self.checksum() };
        let mut bytes = serde_json::to_vec_pretty(&sealed).expect("a plan has no map with other keys than text");
        bytes.push(b'\n');
        bytes
    }

    /// CRC32C of the plan's shortest JSON.
    fn checksum(&self) -> u32 {
        let bytes = serde_json::to_vec(self).expect("a plan has no map with other keys than text");
        u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes)).expect("32 bits")
    }

    pub fn decode(key: &str, bytes: &[u8]) -> Result<Plan, PlanError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let malformed = |reason: String| PlanError::Malformed { key: key.to_owned(), reason };
        let Version { version } = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if version > VERSION {
            return Err(PlanError::Newer { key: key.to_owned(), version });
        }
        let Sealed { plan, checksum } = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if plan.checksum() != checksum {
            return Err(malformed("its checksum does not fit it".to_owned()));
        }
        if plan.start < 0 || plan.end <= plan.start || Plan::start_of(key) != Some(plan.start) {
            return Err(malformed(format!("its range {}..{} does not fit its key", plan.start, plan.end)));
        }
        if let Some(file) = plan.files.iter().find(|f| {
            f.first_offset < plan.start || f.last_offset >= plan.end || f.last_offset < f.first_offset || f.rows == 0
        }) {
            return Err(malformed(format!("{} lies outside of {}..{}", file.path, plan.start, plan.end)));
        }
        Ok(plan)
    }
}
