//! The sink: lanes of partitions, chunks that are closed, planned and written.
//!
//! Owns the order of the steps: rows of a chunk complete -> files encoded -> plan created -> files created -> the chunk's end is durable.
//! A plan that is there already and is not ours means that another task was here: [`SinkError::Reopen`]. A plan whose files are not all there
//! is carried out, by its own layout, before anything else of its partition.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use strandline_tiering::{Store, StoreError};

use super::chunk::{Fill, cut, points};
use super::encode::encode;
use super::files;
use super::keys::{Config, Layout, OnNull};
use super::plan::{PLAN_BYTES_MAX, Plan, PlanError, PlannedFile, VERSION};
use super::spool::Spool;
use crate::rows::{Rows, column};
use crate::sink::{Assigned, Held, Offsets, Sink, SinkError, TopicPartition};

/// Plans of one partition that are looked through when it is opened.
const PLANS_MAX: usize = 1_000_000;

/// How often a file that is there already is read until two reads agree: a network may flip some bytes.
const LOOKS: u32 = 3;

/// One partition.
#[derive(Debug)]
struct Lane {
    partition: TopicPartition,
    fill: Fill,
    spool: Spool,
    /// A plan that an earlier task left unfinished: the rows up to its end are for it.
    redo: Option<Plan>,
    /// The rows are complete up to here, and wait to be written.
    closed: Option<i64>,
    /// Everything below is in files whose plans are carried out; None = nothing is known of the partition yet.
    durable: Option<i64>,
}

/// A connector's task that writes files.
pub struct Archive {
    config: Config,
    store: Arc<Store>,
    spool_dir: PathBuf,
    memory_bytes_max: u64,
    lanes: BTreeMap<TopicPartition, Lane>,
    /// Of the last flush, for scheduled ends.
    now_ms: i64,
}

fn store_failed(error: StoreError) -> SinkError {
    if error.retryable() { SinkError::Retriable(error.to_string()) } else { SinkError::Fatal(error.to_string()) }
}

fn fatal(error: impl std::fmt::Display) -> SinkError {
    SinkError::Fatal(error.to_string())
}

impl Archive {
    pub fn new(config: Config, store: Arc<Store>, spool_dir: PathBuf, memory_bytes_max: u64) -> Self {
        Archive { config, store, spool_dir, memory_bytes_max, lanes: BTreeMap::new(), now_ms: 0 }
    }

    /// The last plan of a partition, and whether all of its files are there.
    async fn last_plan(&self, partition: &TopicPartition) -> Result<Option<(Plan, bool)>, SinkError> {
        let folder = Plan::folder(&self.config.layout.topics_dir, &partition.topic, partition.partition);
        let is_plan = |key: &str| Plan::start_of(key).is_some();
        let listed = self.store.list_matching(&folder, PLANS_MAX, is_plan).await.map_err(store_failed)?;
        let Some(last) = listed.iter().filter_map(|object| Plan::start_of(&object.key)).max() else { return Ok(None) };
        let mut plan = self.plan_at(partition, last).await?.ok_or_else(|| {
            SinkError::Retriable(format!("the plan of {partition} at {last} was listed and is not there"))
        })?;
        // A LIST may be old; the chain is not.
        while let Some(next) = self.plan_at(partition, plan.end).await? {
            plan = next;
        }
        let mut whole = true;
        for file in &plan.files {
            match self.store.check_len(&file.path, file.bytes).await {
                Ok(()) => {}
                Err(StoreError::NotFound { .. }) => whole = false,
                Err(StoreError::WrongLength { found, .. }) => {
                    return Err(fatal(format!(
                        "{} has {found} bytes, its plan says {}: it was changed by another program; restore it, or move it and its plan away",
                        file.path, file.bytes
                    )));
                }
                Err(error) => return Err(store_failed(error)),
            }
        }
        Ok(Some((plan, whole)))
    }

    async fn plan_at(&self, partition: &TopicPartition, start: i64) -> Result<Option<Plan>, SinkError> {
        let key = Plan::key(&self.config.layout.topics_dir, &partition.topic, partition.partition, start);
        match self.store.get(&key, PLAN_BYTES_MAX).await {
            Ok(bytes) => Plan::decode(&key, &bytes).map(Some).map_err(|error| match error {
                PlanError::Malformed { .. } => SinkError::Retriable(error.to_string()),
                PlanError::Newer { .. } => fatal(error),
            }),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(store_failed(error)),
        }
    }

    async fn open_one(&self, assigned: &Assigned) -> Result<(Lane, Option<i64>), SinkError> {
        let partition = assigned.partition.clone();
        let lane = |start, next, redo, durable| Lane {
            partition: partition.clone(),
            fill: Fill::begin(start, next),
            spool: Spool::default(),
            redo,
            closed: None,
            durable,
        };
        match self.last_plan(&assigned.partition).await? {
            None => {
                let from = assigned.committed.unwrap_or(0);
                Ok((lane(0, from, None, assigned.committed), None))
            }
            Some((plan, true)) => {
                // Behind the last file the group may have passed offsets without records.
                let from = assigned.committed.unwrap_or(0).max(plan.end);
                Ok((lane(plan.end, from, None, Some(from)), Some(from)))
            }
            Some((plan, false)) => {
                tracing::info!(partition = %assigned.partition, start = plan.start, end = plan.end, "files of a plan are missing: they are written first");
                let start = plan.start;
                Ok((lane(start, start, Some(plan), None), Some(start)))
            }
        }
    }

    /// Rows without those that the connector does not want.
    fn wanted(&self, rows: Rows) -> Result<Rows, SinkError> {
        if self.config.on_null == OnNull::Write {
            return Ok(rows);
        }
        let (mut groups, mut nulls) = (Vec::new(), Vec::new());
        for batch in rows.groups {
            let values = batch.column(column::VALUE);
            if values.null_count() == 0 {
                groups.push(batch);
                continue;
            }
            let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
            nulls.extend((0..batch.num_rows()).filter(|row| values.is_null(*row)).map(|row| offsets.value(row)));
            let keep = arrow::compute::is_not_null(values).map_err(fatal)?;
            let kept = arrow::compute::filter_record_batch(&batch, &keep).map_err(fatal)?;
            if kept.num_rows() > 0 {
                groups.push(kept);
            }
        }
        if self.config.on_null == OnNull::Fail && !nulls.is_empty() {
            let reason = "the record has no value, and behavior.on.null.values is fail".to_owned();
            return Err(SinkError::Rejected { offsets: nulls, reason });
        }
        Ok(Rows { groups, ..rows })
    }

    /// Puts rows into their lane and writes each chunk that they complete.
    async fn absorb(&mut self, mut rows: Rows) -> Result<(), SinkError> {
        let partition = rows.partition.clone();
        loop {
            // A chunk that could not be written before comes first.
            self.write_closed(&partition).await?;
            let rotation = self.config.rotation;
            let lane = self.lanes.get_mut(&partition).expect("opened before it is written");
            // What an earlier try of this call has taken is not taken again.
            rows = cut(rows, lane.fill.next_offset).1;
            let points = points(&rows);
            let end = match &lane.redo {
                Some(plan) => (rows.next_offset >= plan.end).then_some(plan.end),
                None => lane.fill.take(&points, &rotation),
            };
            let Some(end) = end else {
                let bytes = points.iter().map(|point| point.bytes).sum();
                lane.fill.next_offset = lane.fill.next_offset.max(rows.next_offset);
                lane.fill.schedule(self.now_ms, &rotation);
                lane.spool.push(rows.groups, bytes);
                if lane.fill.records == 0 && lane.redo.is_none() {
                    lane.durable = Some(lane.fill.next_offset);
                }
                return Ok(());
            };
            let (below, above) = cut(rows, end);
            let bytes = points.iter().take_while(|point| point.offset < end).map(|point| point.bytes).sum();
            lane.spool.push(below.groups, bytes);
            lane.closed = Some(end);
            rows = above;
            if rows.groups.is_empty() && rows.first_offset >= rows.next_offset {
                return self.write_closed(&partition).await;
            }
        }
    }

    /// Writes a lane's complete chunk, if it has one. On an error the chunk stays as it is.
    async fn write_closed(&mut self, partition: &TopicPartition) -> Result<(), SinkError> {
        let Some(lane) = self.lanes.get(partition) else { return Ok(()) };
        let Some(end) = lane.closed else { return Ok(()) };
        let batches = lane.spool.read().map_err(|e| fatal(format!("the spool of {partition} cannot be read: {e}")))?;
        let layout = lane.redo.as_ref().map_or(&self.config.layout, |plan| &plan.layout);
        let encoded = chunk_files(layout, partition, &batches)?;
        if let Some(plan) = &lane.redo {
            self.carry_out_again(plan, encoded).await?;
        } else if !encoded.is_empty() {
            let plan = Plan {
                version: VERSION,
                topic: partition.topic.to_string(),
                partition: partition.partition,
                start: lane.fill.start,
                end,
                layout: layout.clone(),
                files: encoded.iter().map(|(file, _)| file.clone()).collect(),
            };
            self.decide(&plan).await?;
            for (file, bytes) in encoded {
                self.create_file(&file, bytes).await?;
            }
        }
        let lane = self.lanes.get_mut(partition).expect("it was there");
        lane.spool.clear();
        let start = if encoded_nothing(&batches) && lane.redo.is_none() { lane.fill.start } else { end };
        lane.fill = Fill::begin(start, end);
        lane.redo = None;
        lane.closed = None;
        lane.durable = Some(end);
        Ok(())
    }

    /// Makes the plan the one of its place in the chain; Err(Reopen) = another one is there.
    async fn decide(&self, plan: &Plan) -> Result<(), SinkError> {
        let dir = &self.config.layout.topics_dir;
        let key = Plan::key(dir, &plan.topic, plan.partition, plan.start);
        if self.store.create(&key, Bytes::from(plan.encode())).await.map_err(store_failed)? {
            return Ok(());
        }
        let partition = TopicPartition::new(&plan.topic, plan.partition);
        match self.plan_at(&partition, plan.start).await? {
            // Ours, from a try whose answer was lost.
            Some(there) if there == *plan => Ok(()),
            Some(there) => Err(SinkError::Reopen(format!(
                "another task has planned {partition} from {} to {}",
                there.start, there.end
            ))),
            None => Err(SinkError::Retriable(format!("{key} is taken and cannot be read"))),
        }
    }

    async fn create_file(&self, file: &PlannedFile, bytes: Bytes) -> Result<(), SinkError> {
        if self.store.create(&file.path, bytes.clone()).await.map_err(store_failed)? {
            return Ok(());
        }
        let other_bytes = || {
            fatal(format!(
                "{} is there with other bytes, and not from this connector: move it away, or use another topics.dir",
                file.path
            ))
        };
        let mut before = None;
        for _ in 0..LOOKS {
            match self.store.get(&file.path, bytes.len() as u64).await {
                Ok(there) if there == bytes => return Ok(()),
                // What is read twice is there; what a network flips comes once.
                Ok(there) if before.as_ref() == Some(&there) => return Err(other_bytes()),
                Ok(there) => before = Some(there),
                Err(StoreError::WrongLength { .. }) => return Err(other_bytes()),
                Err(error) => return Err(store_failed(error)),
            }
        }
        Err(SinkError::Retriable(format!("{} is there, and each time it is read as something else", file.path)))
    }

    /// Writes the files of a plan that an earlier task has made and not finished.
    async fn carry_out_again(&self, plan: &Plan, encoded: Vec<(PlannedFile, Bytes)>) -> Result<(), SinkError> {
        let same = encoded.len() == plan.files.len()
            && encoded.iter().zip(&plan.files).all(|((mine, _), planned)| {
                (&mine.path, mine.rows, mine.first_offset, mine.last_offset)
                    == (&planned.path, planned.rows, planned.first_offset, planned.last_offset)
            });
        if !same {
            return Err(fatal(format!(
                "the log of {}-{} has no longer the records of its plan {}..{}: they were deleted before they were archived, or the connector's transforms \
                 were changed while its files were not all written (change them back until they are); \
                 take the plan away to go on without them",
                plan.topic, plan.partition, plan.start, plan.end
            )));
        }
        for ((file, bytes), planned) in encoded.into_iter().zip(&plan.files) {
            if file.crc32c != planned.crc32c {
                tracing::warn!(path = %file.path, "the file is written by another release than its plan: the same rows, other bytes");
            }
            match self.store.check_len(&planned.path, planned.bytes).await {
                Ok(()) => {}
                Err(StoreError::NotFound { .. }) => self.create_file(&file, bytes).await?,
                Err(error) => return Err(store_failed(error)),
            }
        }
        Ok(())
    }

    /// Moves rows to disk until what is in memory fits.
    fn keep_budget(&mut self) -> Result<(), SinkError> {
        let mut memory: u64 = self.lanes.values().map(|lane| lane.spool.memory_bytes).sum();
        // Half: the other half is for encoding.
        while memory > self.memory_bytes_max / 2 {
            let largest = self.lanes.values_mut().max_by_key(|lane| lane.spool.memory_bytes);
            let Some(lane) = largest.filter(|lane| lane.spool.memory_bytes > 0) else { return Ok(()) };
            memory -= lane.spool.memory_bytes;
            let name = format!("{}-{}.arrow", lane.partition.topic, lane.partition.partition);
            let path = self.spool_dir.join(name);
            lane.spool.spill(&path).map_err(|e| {
                fatal(format!(
                    "{} cannot be written: {e}; free the disk, or give the worker another spool.dir",
                    path.display()
                ))
            })?;
        }
        Ok(())
    }
}

fn encoded_nothing(batches: &[RecordBatch]) -> bool {
    batches.iter().all(|batch| batch.num_rows() == 0)
}

/// Rows of one file.
struct Part {
    schema: SchemaRef,
    /// Where transforms have sent the rows; without them, the partition's.
    topic: String,
    folder: String,
    batches: Vec<RecordBatch>,
}

/// The files of a chunk, in the order of their first offsets: one for each topic, folder and schema.
fn chunk_files(
    layout: &Layout,
    partition: &TopicPartition,
    batches: &[RecordBatch],
) -> Result<Vec<(PlannedFile, Bytes)>, SinkError> {
    let mut parts: Vec<Part> = Vec::new();
    for batch in batches {
        let folders = layout.partitioner.folders(batch).map_err(SinkError::Fatal)?;
        let topics = batch.column(column::TOPIC).as_string::<i32>();
        let mut by_folder: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
        for (row, (topic, folder)) in (0_u32..).zip(topics.iter().zip(&folders)) {
            by_folder.entry((topic.unwrap_or_default(), folder)).or_default().push(row);
        }
        let whole = by_folder.len() == 1;
        for ((topic, folder), rows) in by_folder {
            let rows = if whole {
                batch.clone()
            } else {
                take_record_batch(batch, &UInt32Array::from(rows)).map_err(fatal)?
            };
            let is_its =
                |part: &&mut Part| part.topic == topic && part.folder == folder && part.schema == batch.schema();
            match parts.iter_mut().find(is_its) {
                Some(part) => part.batches.push(rows),
                None => {
                    let (schema, topic, folder) = (batch.schema(), topic.to_owned(), folder.to_owned());
                    parts.push(Part { schema, topic, folder, batches: vec![rows] });
                }
            }
        }
    }
    let mut encoded = Vec::with_capacity(parts.len());
    for part in parts {
        let offsets = |batch: &RecordBatch| batch.column(column::OFFSET).as_primitive::<Int64Type>().clone();
        let (first, last) = (offsets(&part.batches[0]), offsets(part.batches.last().expect("at least one")));
        let (first_offset, last_offset) = (first.value(0), last.value(last.len() - 1));
        let bytes = Bytes::from(encode(layout, &part.batches).map_err(fatal)?);
        let file = PlannedFile {
            path: files::key(layout, partition, &part.topic, &part.folder, first_offset),
            rows: part.batches.iter().map(|batch| batch.num_rows() as u64).sum(),
            first_offset,
            last_offset,
            bytes: bytes.len() as u64,
            crc32c: u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes)).expect("32 bits"),
        };
        encoded.push((file, bytes));
    }
    encoded.sort_by_key(|(file, _)| file.first_offset);
    Ok(encoded)
}

#[async_trait]
impl Sink for Archive {
    async fn open(&mut self, partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        let mut starts = Offsets::new();
        let mut lanes = Vec::new();
        for assigned in partitions {
            let (lane, start) = self.open_one(assigned).await?;
            starts.extend(start.map(|start| (assigned.partition.clone(), start)));
            lanes.push(lane);
        }
        for lane in lanes {
            if let Some(mut before) = self.lanes.insert(lane.partition.clone(), lane) {
                before.spool.clear();
            }
        }
        Ok(starts)
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        let rows = self.wanted(rows)?;
        self.absorb(rows).await?;
        self.keep_budget()
    }

    async fn flush(&mut self, now_ms: i64, force: bool) -> Result<Offsets, SinkError> {
        self.now_ms = now_ms;
        let partitions: Vec<TopicPartition> = self.lanes.keys().cloned().collect();
        for partition in partitions {
            let lane = self.lanes.get_mut(&partition).expect("its key was there");
            let due = force || lane.fill.due_ms.is_some_and(|due| now_ms >= due);
            if due && lane.closed.is_none() && lane.redo.is_none() && lane.fill.records > 0 {
                lane.closed = Some(lane.fill.next_offset);
            }
            self.write_closed(&partition).await?;
        }
        Ok(self.lanes.iter().filter_map(|(partition, lane)| Some((partition.clone(), lane.durable?))).collect())
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(mut lane) = self.lanes.remove(partition) {
                lane.spool.clear();
            }
        }
    }

    fn held(&self) -> Held {
        let lanes = self.lanes.values();
        let (memory_bytes, spool_bytes, open_files) = lanes.fold((0, 0, 0), |(memory, disk, open), lane| {
            let spool = &lane.spool;
            (memory + spool.memory_bytes, disk + spool.disk_bytes, open + u64::from(!spool.is_empty()))
        });
        Held { memory_bytes, spool_bytes, open_files }
    }
}
