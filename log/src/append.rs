//! Appends: batches checked, given offsets, written once, and taken into indexes, epochs and producer state.
//!
//! Owns: the order of an append. Does not own: what batches may hold (`validate.rs`), idempotence (`producer_state.rs`).
//! Invariants: all or nothing; nothing in memory changes before the write has succeeded; records are not copied, only their
//! 16-byte prefixes are made anew. A crash leaves: any part of what no finished flush covers.

use crate::error::AppendError;
use crate::file_cache::FileKind;
use crate::log::{Log, Segment};
use crate::producer_state::{AppendOrigin, PendingProducers};
use crate::producers::{ProducerEvent, aborted_entries, producer_event};
use crate::segment::{MemoryIndex, SegmentFiles};
use crate::transaction_index;
use crate::validate;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::sync::Arc;
use strandline_protocol::record_batch::{BatchHeader, PREFIX_LEN, TimestampType};

/// Largest offset of a segment above its base: an index entry has 32 bits, of which Kafka uses 31.
const RELATIVE_OFFSET_MAX: i64 = i32::MAX as i64;
/// Most buffers in one write, below the system's limit of 1024.
const SLICES_MAX: usize = 1_000;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Inclusive.
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
    /// -1 if records keep the time of their creation.
    pub log_append_time_ms: i64,
    pub record_count: u64,
    pub bytes: u64,
    /// True if the batch was in the log already: the offsets are the earlier ones and nothing was written.
    pub duplicate: bool,
    /// True if a new segment was begun.
    pub rolled: bool,
}

impl Log {
    /// Appends one or several batches as their leader: offsets and epoch are given here.
    pub fn append_as_leader(
        &mut self,
        records: &Bytes,
        leader_epoch: i32,
        origin: AppendOrigin,
        now_ms: i64,
    ) -> Result<Appended, AppendError> {
        self.check_writable()?;
        let mut headers = std::mem::take(&mut self.headers);
        let config = Arc::clone(&self.config);
        let result = validate::for_leader(records, &config, origin, now_ms, &mut headers).and_then(|bytes| {
            let mut next = self.log_end;
            for header in &mut headers {
                header.base_offset = next;
                header.partition_leader_epoch = leader_epoch;
                next = next
                    .checked_add(i64::from(header.last_offset_delta) + 1)
                    .ok_or_else(|| AppendError::InvalidRecord("the offsets of the log are used up".to_owned()))?;
            }
            self.append(&bytes, &headers, true, origin, Some(now_ms))
        });
        self.headers = headers;
        result
    }

    /// Appends batches as their leader wrote them. Offsets may have gaps (compaction) but never go back.
    pub fn append_as_follower(&mut self, records: &Bytes) -> Result<Appended, AppendError> {
        self.check_writable()?;
        let mut headers = std::mem::take(&mut self.headers);
        let result = validate::for_follower(records, &mut headers).and_then(|()| {
            let base_offset = headers[0].base_offset;
            if base_offset < self.log_end {
                return Err(AppendError::UnexpectedOffset { base_offset, log_end_offset: self.log_end });
            }
            self.append(records, &headers, false, AppendOrigin::Replication, None)
        });
        self.headers = headers;
        result
    }

    fn check_writable(&self) -> Result<(), AppendError> {
        if self.failed { Err(AppendError::Failed) } else { Ok(()) }
    }

    fn append(
        &mut self,
        bytes: &Bytes,
        headers: &[BatchHeader],
        patch: bool,
        origin: AppendOrigin,
        now_ms: Option<i64>,
    ) -> Result<Appended, AppendError> {
        let size = bytes.len() as u64;
        let max = self.config.segment_bytes as u64;
        if size > max && patch {
            return Err(AppendError::RecordListTooLarge { size, max });
        }
        let pending = match self.note_producers(bytes, headers, origin)? {
            Noted::Duplicate(earlier) => return Ok(earlier),
            Noted::Pending(pending) => pending,
        };
        self.ensure_active_index()?;
        // What could fail for want of a file must fail before anything is written.
        self.with_epochs(|_| ())?;
        let last = headers.last().expect("validation refuses an empty append").last_offset();
        let max_timestamp = headers.iter().map(|header| header.max_timestamp).max().unwrap_or(-1);
        let rolled = self.must_roll(size, max_timestamp, last, now_ms)?;
        if rolled {
            self.roll_to(self.log_end, now_ms.unwrap_or(max_timestamp))?;
        }
        if self.segments.is_empty() {
            self.create_active(self.log_end, now_ms.unwrap_or(max_timestamp))?;
        }
        self.write_batches(bytes, headers, patch)?;
        self.take_in(headers, pending)?;
        let first = headers[0];
        Ok(Appended {
            first_offset: first.base_offset,
            last_offset: last,
            log_append_time_ms: match first.timestamp_type() {
                TimestampType::LogAppendTime => first.max_timestamp,
                TimestampType::CreateTime => -1,
            },
            record_count: headers.iter().map(|header| header.record_count as u64).sum(),
            bytes: size,
            duplicate: false,
            rolled,
        })
    }

    /// Checks all batches against the producers; nothing changes yet.
    fn note_producers(
        &self,
        bytes: &Bytes,
        headers: &[BatchHeader],
        origin: AppendOrigin,
    ) -> Result<Noted, AppendError> {
        let mut pending = PendingProducers::default();
        if !headers.iter().any(BatchHeader::has_producer_id) {
            return Ok(Noted::Pending(pending));
        }
        self.producers.with(self, |state| {
            let mut position = 0;
            for header in headers {
                let batch = &bytes[position..position + header.size_in_bytes()];
                position += header.size_in_bytes();
                let event = if header.is_control() {
                    // The offset of the marker is the patched one.
                    producer_event(header, || Ok(batch.into()))?
                } else {
                    producer_event(header, || unreachable!("only control batches are read"))?
                };
                match event {
                    ProducerEvent::Nothing => {}
                    ProducerEvent::Data(batch) => {
                        if origin == AppendOrigin::Client
                            && let Some(earlier) = state.find_duplicate(&batch)
                        {
                            return Ok(Noted::Duplicate(Appended {
                                first_offset: earlier.first_offset(),
                                last_offset: earlier.last_offset,
                                log_append_time_ms: match header.timestamp_type() {
                                    TimestampType::LogAppendTime => earlier.timestamp,
                                    TimestampType::CreateTime => -1,
                                },
                                record_count: 0,
                                bytes: 0,
                                duplicate: true,
                                rolled: false,
                            }));
                        }
                        state.append_batch(&mut pending, &batch, origin)?;
                    }
                    ProducerEvent::Marker(marker) => state.append_marker(&mut pending, &marker, origin)?,
                }
            }
            Ok(Noted::Pending(pending))
        })?
    }

    /// Kafka's `LogSegment.shouldRoll`. `now_ms` is not known to a follower, which rolls by its records' times alone.
    fn must_roll(&mut self, size: u64, max_timestamp: i64, last_offset: i64, now_ms: Option<i64>) -> io::Result<bool> {
        let config = Arc::clone(&self.config);
        let limit_ms = self.segment_ms_limit();
        let Some(active) = self.segments.last_mut() else {
            return Ok(false);
        };
        if active.size == 0 {
            return Ok(false);
        }
        let waited = match active.first_timestamp()? {
            Some(first) if first >= 0 => max_timestamp - first,
            _ => now_ms.map_or(0, |now| now - active.created_ms),
        };
        let full = active
            .files
            .with_index(|index| index.is_full(config.offset_index_entries_max(), config.time_index_entries_max()));
        Ok(active.size + size > config.segment_bytes as u64
            || waited > limit_ms
            || full == Some(true)
            || last_offset - active.base() > RELATIVE_OFFSET_MAX)
    }

    /// `segment.ms` less a jitter that depends on the log alone, so that not all logs roll at once.
    pub(crate) fn segment_ms_limit(&self) -> i64 {
        let most = self.config.segment_jitter_ms.min(self.config.segment_ms);
        if most <= 0 {
            return self.config.segment_ms;
        }
        let spread = (self.topic_id.0.as_u128() as u64 ^ self.id).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        self.config.segment_ms - (spread as i64 % most)
    }

    /// Creates the segment in which the next batch goes, and on the very first use the directory.
    pub(crate) fn create_active(&mut self, base_offset: i64, now_ms: i64) -> io::Result<()> {
        let result = self.try_create_active(base_offset, now_ms);
        self.fail_on_error(result)
    }

    fn try_create_active(&mut self, base_offset: i64, now_ms: i64) -> io::Result<()> {
        self.create_directory()?;
        let files = SegmentFiles::new(self.id, base_offset, Arc::clone(&self.dir), Arc::clone(&self.cache));
        let file = files.create(FileKind::Log)?;
        files.set_index(MemoryIndex::new(base_offset));
        self.creations.count += 1;
        self.dirty.insert(base_offset, file);
        self.segments.push(Segment::new(files, 0, now_ms));
        Ok(())
    }

    /// Fails the log if the disk did: what is in memory may no longer be what is on disk. A full disk is no failure.
    pub(crate) fn fail_on_error<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::StorageFull
        {
            self.failed = true;
        }
        result
    }

    fn write_batches(&mut self, bytes: &Bytes, headers: &[BatchHeader], patch: bool) -> Result<(), AppendError> {
        let active = self.segments.last().expect("there is an active segment");
        let (base, size) = (active.base(), active.size);
        let file = match self.dirty.get(&base) {
            Some(file) => Arc::clone(file),
            None => active.files.open(FileKind::Log)?,
        };
        let written = if patch {
            write_patched(&*file, bytes, headers, size)
        } else {
            file.write_at(&mut [IoSlice::new(bytes)], size)
        };
        if let Err(error) = written {
            // Whatever was written of it must not stay: the next append would leave a hole behind it.
            if file.truncate(size).is_err() || error.kind() != io::ErrorKind::StorageFull {
                self.failed = true;
            }
            return Err(error.into());
        }
        self.dirty.insert(base, file);
        Ok(())
    }

    /// Takes what was written into memory.
    fn take_in(&mut self, headers: &[BatchHeader], pending: PendingProducers) -> Result<(), AppendError> {
        let interval = self.config.index_interval_bytes;
        let mut epochs_changed = false;
        self.with_epochs(|epochs| {
            for header in headers {
                epochs_changed |= epochs.assign_unwritten(header.partition_leader_epoch, header.base_offset);
            }
        })?;
        self.epochs_dirty |= epochs_changed;
        let active = self.segments.last_mut().expect("there is an active segment");
        let mut position = active.size;
        active.files.with_index(|index| {
            for header in headers {
                index.add_batch(header, position, interval);
                position += header.size_in_bytes() as u64;
            }
        });
        active.size = position;
        active.first_timestamp = active.first_timestamp.or(headers.first().map(|header| header.max_timestamp));
        self.log_end = headers.last().map_or(self.log_end, BatchHeader::next_offset);
        let log_end = self.log_end;
        let aborted = self.producers.loaded_mut().map(|state| aborted_entries(state.commit(pending, log_end)));
        if let Some(aborted) = aborted.filter(|aborted| !aborted.is_empty()) {
            let active = self.segments.last().expect("there is an active segment");
            let files = Arc::clone(&active.files);
            let created = transaction_index::append(&files, &aborted);
            // The batches are in the log, without their entries: nothing may follow.
            let created = created.inspect_err(|_| self.failed = true)?;
            self.creations.count += u64::from(created);
            self.unsynced.insert(files.path(FileKind::TransactionIndex));
        }
        Ok(())
    }
}

enum Noted {
    Duplicate(Appended),
    Pending(PendingProducers),
}

/// Writes batches with their prefixes made anew, without copying the rest.
fn write_patched(
    file: &dyn strandline_disk::DiskFile,
    bytes: &Bytes,
    headers: &[BatchHeader],
    start: u64,
) -> io::Result<()> {
    let mut at = 0;
    let mut position = start;
    for group in headers.chunks(SLICES_MAX / 2) {
        let prefixes: Vec<[u8; PREFIX_LEN]> =
            group.iter().map(|header| header.prefix_with(header.base_offset, header.partition_leader_epoch)).collect();
        let mut slices = Vec::with_capacity(2 * group.len());
        let mut written = 0;
        for (header, prefix) in group.iter().zip(&prefixes) {
            let end = at + header.size_in_bytes();
            slices.push(IoSlice::new(prefix));
            slices.push(IoSlice::new(&bytes[at + PREFIX_LEN..end]));
            at = end;
            written += header.size_in_bytes() as u64;
        }
        file.write_at(&mut slices, position)?;
        position += written;
    }
    Ok(())
}
