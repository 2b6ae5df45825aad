//! The pointer to the remote log of one partition, and the one way to move it.
//!
//! Owns: the pointer as the controller's image holds it, the proposal that moves it ([`Advance`]), the judgement of that
//! proposal ([`judge`]), and the bytes of both (`docs/formats/remote-pointer.md`).
//! Does not own: manifests and objects (tiering), leadership (controller), the log record that carries a proposal.
//!
//! Invariants, of every pointer that [`judge`] returns:
//! - `log_start_offset <= highest_copied_offset + 1`;
//! - `version` is one more than before; `log_start_offset` and `complete_from` are no less than before, and
//!   `highest_copied_offset` neither, unless the advance closes the pointer or opens it again;
//! - `complete_from <= version`, and `manifest.version <= version`;
//! - a closed pointer changes only by housekeeping (bury, delete) until [`RemotePointer::reopened`].
//!
//! Everything is pure: replay calls [`judge`] on every node and gets the same answer.

use thiserror::Error;
use uuid::Uuid;

use crate::ids::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, TopicId, TopicPartition};

/// The first byte of an encoded pointer, and of an encoded advance.
pub const FORMAT_VERSION: u8 = 1;

/// `highest_copied_epoch` when nobody knows the epoch of that offset.
pub const UNKNOWN_EPOCH: LeaderEpoch = -1;

/// `oldest_max_timestamp` when no live entry is known (milliseconds otherwise).
pub const NO_TIMESTAMP: i64 = -1;

/// Names one immutable manifest object: its key is computed from these, its content must have this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ManifestRef {
    /// The pointer version that this manifest was written for.
    pub version: u64,
    /// Leader epoch of its writer.
    pub leader_epoch: LeaderEpoch,
    pub uuid: Uuid,
    /// CRC-64/NVME of the object.
    pub hash: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PointerState {
    /// Tiering is on and nothing was said about the remote log yet, or tiering was switched on again.
    #[default]
    Unset,
    Open,
    /// Tiering was switched off: all entries are dead, the log start is the local log's own.
    Closed,
}

/// The truth about one partition's remote log, about 80 bytes in the controller's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemotePointer {
    pub version: u64,
    pub state: PointerState,
    pub manifest: Option<ManifestRef>,
    pub log_start_offset: Offset,
    /// Inclusive; `log_start_offset - 1` if nothing is live.
    pub highest_copied_offset: Offset,
    /// Leader epoch at `highest_copied_offset`, or [`UNKNOWN_EPOCH`].
    pub highest_copied_epoch: LeaderEpoch,
    /// Every key that a version from here on names exists; keys removed at or before it may be gone.
    pub complete_from: u64,
    /// Live remote bytes. Only says when retention must load the manifest.
    pub remote_bytes: u64,
    /// The smallest max timestamp (ms) of a live entry, or [`NO_TIMESTAMP`]. Only says when retention must load the manifest.
    pub oldest_max_timestamp: i64,
}

impl Default for RemotePointer {
    /// A pointer is born unset.
    fn default() -> Self {
        RemotePointer {
            version: 0,
            state: PointerState::Unset,
            manifest: None,
            log_start_offset: 0,
            highest_copied_offset: -1,
            highest_copied_epoch: UNKNOWN_EPOCH,
            complete_from: 0,
            remote_bytes: 0,
            oldest_max_timestamp: NO_TIMESTAMP,
        }
    }
}

/// What retention wants to know without a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LiveSummary {
    pub remote_bytes: u64,
    /// Milliseconds, or [`NO_TIMESTAMP`].
    pub oldest_max_timestamp: i64,
}

/// A new manifest, with what it says about the end of the remote log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NewManifest {
    pub manifest: ManifestRef,
    pub highest_copied_offset: Offset,
    pub highest_copied_epoch: LeaderEpoch,
}

/// What an advance sets. Everything is optional, something must be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AdvanceChange {
    pub manifest: Option<NewManifest>,
    /// The log start to come; required by the first advance of an unset pointer and by `close`.
    pub log_start_offset: Option<Offset>,
    pub complete_from: Option<u64>,
    pub live: Option<LiveSummary>,
    /// Tiering is switched off: `log_start_offset` is the leader's local log start.
    pub close: bool,
}

/// A proposal to move a pointer, from the leader of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Advance {
    pub tp: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The version that the proposer saw.
    pub expected_version: u64,
    pub change: AdvanceChange,
}

/// Who leads a partition, as the image says at the moment of replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leadership {
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub broker_epoch: BrokerEpoch,
    /// The topic is marked for deletion.
    pub deleting: bool,
}

/// Why a proposal moved nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum Refusal {
    #[error("the partition does not exist")]
    UnknownPartition,
    #[error("the topic is being deleted")]
    TopicDeleting,
    #[error("broker {leader} leads the partition")]
    NotLeader { leader: BrokerId },
    #[error("the partition's leader epoch is {current}")]
    FencedLeaderEpoch { current: LeaderEpoch },
    #[error("the leader's broker epoch is {current}")]
    StaleBrokerEpoch { current: BrokerEpoch },
    #[error("the pointer is at version {current}")]
    StaleVersion { current: u64 },
    #[error("tiering is off for the partition: only housekeeping may move its pointer")]
    Closed,
    #[error("the first advance of a pointer takes the leader's log start")]
    LogStartMissing,
    #[error("a pointer that has a manifest of an earlier life is opened with a new one")]
    ManifestMissing,
    #[error("the log start does not go back below {current}")]
    LogStartWentBack { current: Offset },
    #[error("the highest copied offset does not go back below {current}")]
    HighestCopiedWentBack { current: Offset },
    #[error("complete_from must lie between {current} and {version}")]
    CompleteFromOutOfRange { current: u64, version: u64 },
    #[error("the manifest must be of version {expected_version} and of the proposer's leader epoch")]
    ManifestMismatch { expected_version: u64 },
    #[error("the proposal sets nothing, or an offset that cannot be")]
    Malformed,
}

/// What replay did with a proposal, and the pointer that it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdvanceOutcome {
    pub accepted: Result<(), Refusal>,
    pub pointer: RemotePointer,
}

/// Judges a proposal against the image. `leadership` is `None` if the partition does not exist.
pub fn judge(
    pointer: &RemotePointer,
    leadership: Option<&Leadership>,
    advance: &Advance,
) -> Result<RemotePointer, Refusal> {
    judge_sender(leadership, advance)?;
    if advance.expected_version != pointer.version {
        return Err(Refusal::StaleVersion { current: pointer.version });
    }
    judge_change(pointer, advance)?;
    let next = apply(pointer, &advance.change);
    assert!(next.log_start_offset <= next.highest_copied_offset + 1, "log start is past the remote end: {next:?}");
    assert!(next.complete_from <= next.version, "complete_from is past the version: {next:?}");
    Ok(next)
}

fn judge_sender(leadership: Option<&Leadership>, advance: &Advance) -> Result<(), Refusal> {
    let leadership = leadership.ok_or(Refusal::UnknownPartition)?;
    if leadership.deleting {
        return Err(Refusal::TopicDeleting);
    }
    if advance.leader_epoch != leadership.leader_epoch {
        return Err(Refusal::FencedLeaderEpoch { current: leadership.leader_epoch });
    }
    if advance.broker_id != leadership.leader {
        return Err(Refusal::NotLeader { leader: leadership.leader });
    }
    if advance.broker_epoch != leadership.broker_epoch {
        return Err(Refusal::StaleBrokerEpoch { current: leadership.broker_epoch });
    }
    Ok(())
}

fn judge_change(pointer: &RemotePointer, advance: &Advance) -> Result<(), Refusal> {
    let change = &advance.change;
    if *change == AdvanceChange::default() || change.log_start_offset.is_some_and(|offset| offset < 0) {
        return Err(Refusal::Malformed);
    }
    match pointer.state {
        PointerState::Closed => judge_housekeeping(pointer, change)?,
        PointerState::Unset => judge_opening(pointer, change)?,
        PointerState::Open if change.close && change.log_start_offset.is_none() => {
            return Err(Refusal::LogStartMissing);
        }
        PointerState::Open => {}
    }
    if let Some(new) = &change.manifest {
        judge_manifest(pointer, advance, new)?;
    }
    if change.log_start_offset.is_some_and(|offset| offset < pointer.log_start_offset) {
        return Err(Refusal::LogStartWentBack { current: pointer.log_start_offset });
    }
    let in_range = |from: u64| from >= pointer.complete_from && from <= pointer.version;
    if !change.complete_from.is_none_or(in_range) {
        return Err(Refusal::CompleteFromOutOfRange { current: pointer.complete_from, version: pointer.version });
    }
    Ok(())
}

/// A closed pointer takes a manifest (bury) and a `complete_from` (delete), and nothing that would show to a reader.
fn judge_housekeeping(pointer: &RemotePointer, change: &AdvanceChange) -> Result<(), Refusal> {
    let moves_end = change.manifest.is_some_and(|new| new.highest_copied_offset != pointer.highest_copied_offset);
    if change.close || change.log_start_offset.is_some() || moves_end {
        return Err(Refusal::Closed);
    }
    Ok(())
}

/// The first advance brings the log start. Entries of an earlier life must not come back, so they are buried with it.
fn judge_opening(pointer: &RemotePointer, change: &AdvanceChange) -> Result<(), Refusal> {
    if change.close {
        return Err(Refusal::Malformed);
    }
    if change.log_start_offset.is_none() {
        return Err(Refusal::LogStartMissing);
    }
    if pointer.manifest.is_some() && change.manifest.is_none() {
        return Err(Refusal::ManifestMissing);
    }
    Ok(())
}

fn judge_manifest(pointer: &RemotePointer, advance: &Advance, new: &NewManifest) -> Result<(), Refusal> {
    let expected_version = pointer.version + 1;
    if new.manifest.version != expected_version || new.manifest.leader_epoch != advance.leader_epoch {
        return Err(Refusal::ManifestMismatch { expected_version });
    }
    if new.highest_copied_offset < -1 || new.highest_copied_offset == Offset::MAX {
        return Err(Refusal::Malformed);
    }
    // An unset pointer's end is the log start that opens it, minus one; `apply` raises it.
    if pointer.state != PointerState::Unset && new.highest_copied_offset < pointer.highest_copied_offset {
        return Err(Refusal::HighestCopiedWentBack { current: pointer.highest_copied_offset });
    }
    Ok(())
}

fn apply(pointer: &RemotePointer, change: &AdvanceChange) -> RemotePointer {
    let mut next = *pointer;
    next.version += 1;
    if let Some(log_start) = change.log_start_offset {
        next.log_start_offset = log_start;
    }
    let opens = pointer.state == PointerState::Unset;
    if opens {
        next.state = PointerState::Open;
        next.restart_at_log_start();
    }
    if let Some(new) = &change.manifest {
        next.manifest = Some(new.manifest);
        if new.highest_copied_offset >= next.highest_copied_offset {
            next.highest_copied_offset = new.highest_copied_offset;
            next.highest_copied_epoch = new.highest_copied_epoch;
        }
    }
    if let Some(live) = &change.live {
        next.remote_bytes = live.remote_bytes;
        next.oldest_max_timestamp = live.oldest_max_timestamp;
    }
    if let Some(complete_from) = change.complete_from {
        next.complete_from = complete_from;
    }
    if change.close {
        next.state = PointerState::Closed;
    }
    if change.close || next.log_start_offset > next.highest_copied_offset + 1 {
        next.restart_at_log_start();
    }
    next
}

impl RemotePointer {
    /// Nothing is live: the remote log ends just below the log start.
    fn restart_at_log_start(&mut self) {
        self.highest_copied_offset = self.log_start_offset - 1;
        self.highest_copied_epoch = UNKNOWN_EPOCH;
        self.remote_bytes = 0;
        self.oldest_max_timestamp = NO_TIMESTAMP;
    }

    /// The pointer after tiering was switched on again: unset, the version goes on counting. Any other pointer stays as it is.
    pub fn reopened(&self) -> RemotePointer {
        if self.state != PointerState::Closed {
            return *self;
        }
        RemotePointer { version: self.version + 1, state: PointerState::Unset, ..*self }
    }

    /// True if some offset can be read from the remote log only by this pointer's manifest.
    pub fn has_live(&self) -> bool {
        self.state == PointerState::Open && self.highest_copied_offset >= self.log_start_offset
    }

    /// The bytes of `docs/formats/remote-pointer.md`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.push(FORMAT_VERSION);
        out.extend_from_slice(&self.version.to_be_bytes());
        out.push(match self.state {
            PointerState::Unset => 0,
            PointerState::Open => 1,
            PointerState::Closed => 2,
        });
        put_option(&mut out, self.manifest.as_ref(), put_manifest);
        out.extend_from_slice(&self.log_start_offset.to_be_bytes());
        out.extend_from_slice(&self.highest_copied_offset.to_be_bytes());
        out.extend_from_slice(&self.highest_copied_epoch.to_be_bytes());
        out.extend_from_slice(&self.complete_from.to_be_bytes());
        out.extend_from_slice(&self.remote_bytes.to_be_bytes());
        out.extend_from_slice(&self.oldest_max_timestamp.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<RemotePointer, PointerDecodeError> {
        let mut input = Input::new(bytes)?;
        let version = input.u64()?;
        let state = match input.u8()? {
            0 => PointerState::Unset,
            1 => PointerState::Open,
            2 => PointerState::Closed,
            value => {
                return Err(PointerDecodeError::UnknownValue { field: "state", value });
            }
        };
        let pointer = RemotePointer {
            version,
            state,
            manifest: input.option(Input::manifest)?,
            log_start_offset: input.i64()?,
            highest_copied_offset: input.i64()?,
            highest_copied_epoch: input.i32()?,
            complete_from: input.u64()?,
            remote_bytes: input.u64()?,
            oldest_max_timestamp: input.i64()?,
        };
        input.end()?;
        Ok(pointer)
    }
}

impl Advance {
    /// The bytes of `docs/formats/remote-pointer.md`.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.push(FORMAT_VERSION);
        out.extend_from_slice(self.tp.topic_id.0.as_bytes());
        out.extend_from_slice(&self.tp.partition.to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.to_be_bytes());
        out.extend_from_slice(&self.broker_id.to_be_bytes());
        out.extend_from_slice(&self.broker_epoch.to_be_bytes());
        out.extend_from_slice(&self.expected_version.to_be_bytes());
        put_option(&mut out, self.change.manifest.as_ref(), |out, new| {
            put_manifest(out, &new.manifest);
            out.extend_from_slice(&new.highest_copied_offset.to_be_bytes());
            out.extend_from_slice(&new.highest_copied_epoch.to_be_bytes());
        });
        put_option(&mut out, self.change.log_start_offset.as_ref(), |out, v| out.extend_from_slice(&v.to_be_bytes()));
        put_option(&mut out, self.change.complete_from.as_ref(), |out, v| out.extend_from_slice(&v.to_be_bytes()));
        put_option(&mut out, self.change.live.as_ref(), |out, live| {
            out.extend_from_slice(&live.remote_bytes.to_be_bytes());
            out.extend_from_slice(&live.oldest_max_timestamp.to_be_bytes());
        });
        out.push(u8::from(self.change.close));
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Advance, PointerDecodeError> {
        let mut input = Input::new(bytes)?;
        let topic_id = TopicId(input.uuid()?);
        let advance = Advance {
            tp: TopicPartition { topic_id, partition: input.i32()? },
            leader_epoch: input.i32()?,
            broker_id: input.i32()?,
            broker_epoch: input.i64()?,
            expected_version: input.u64()?,
            change: AdvanceChange {
                manifest: input.option(|input| {
                    Ok(NewManifest {
                        manifest: input.manifest()?,
                        highest_copied_offset: input.i64()?,
                        highest_copied_epoch: input.i32()?,
                    })
                })?,
                log_start_offset: input.option(Input::i64)?,
                complete_from: input.option(Input::u64)?,
                live: input.option(|input| {
                    Ok(LiveSummary { remote_bytes: input.u64()?, oldest_max_timestamp: input.i64()? })
                })?,
                close: input.flag("close")?,
            },
        };
        input.end()?;
        Ok(advance)
    }
}

/// Why bytes are not a pointer, or not an advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PointerDecodeError {
    #[error("format version {0} is unknown; this version of the program reads {FORMAT_VERSION}")]
    UnknownFormat(u8),
    #[error("the bytes end inside a field")]
    Truncated,
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    #[error("{value} is no value of {field}")]
    UnknownValue { field: &'static str, value: u8 },
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_manifest(out: &mut Vec<u8>, manifest: &ManifestRef) {
    out.extend_from_slice(&manifest.version.to_be_bytes());
    out.extend_from_slice(&manifest.leader_epoch.to_be_bytes());
    out.extend_from_slice(manifest.uuid.as_bytes());
    out.extend_from_slice(&manifest.hash.to_be_bytes());
}

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8]) -> Result<Input<'a>, PointerDecodeError> {
        let mut input = Input { rest: bytes };
        match input.u8()? {
            FORMAT_VERSION => Ok(input),
            other => Err(PointerDecodeError::UnknownFormat(other)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PointerDecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(PointerDecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, PointerDecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, PointerDecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, PointerDecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, PointerDecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn uuid(&mut self) -> Result<Uuid, PointerDecodeError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, PointerDecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(PointerDecodeError::UnknownValue { field, value }),
        }
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, PointerDecodeError>,
    ) -> Result<Option<T>, PointerDecodeError> {
        if self.flag("presence")? { read(self).map(Some) } else { Ok(None) }
    }

    fn manifest(&mut self) -> Result<ManifestRef, PointerDecodeError> {
        Ok(ManifestRef { version: self.u64()?, leader_epoch: self.i32()?, uuid: self.uuid()?, hash: self.u64()? })
    }

    fn end(&self) -> Result<(), PointerDecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(PointerDecodeError::TrailingBytes(self.rest.len())) }
    }
}

#[cfg(test)]
#[path = "remote_pointer_tests.rs"]
mod tests;
