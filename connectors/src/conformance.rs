//! What every sink has to do, ours and other people's: the contract of [`crate::sink`] as a suite.
//!
//! Owns the scenes; does not own a sink. A [`Subject`] gives it sinks on one destination and reads that destination back, by its own means
//! and not by the sink's. [`check`] runs all scenes, each on a destination of its own, and returns what is wrong; nothing = it conforms.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use async_trait::async_trait;
use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::{Header, RecordBatchBuilder, batches};

use crate::rows::{Rows, decode};
use crate::sink::{Assigned, Offsets, Sink, SinkError, TopicPartition};

/// The topic of all scenes.
pub const TOPIC: &str = "conformance";
/// The value of the large record, bytes.
const LARGE_VALUE: usize = 8 << 20;

/// A record in a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    /// Bytes of the value, -1 = null; None = the destination does not tell.
    pub length: Option<i64>,
}

/// One destination, empty at first.
#[async_trait]
pub trait Subject: Send + Sync {
    /// A sink on it, as for a new task.
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError>;

    /// All that is there, read without a sink.
    async fn seen(&self) -> Result<Vec<Seen>, String>;

    /// Whether a record is there once after everything, or at least once.
    fn exactly_once(&self) -> bool {
        false
    }

    /// Whether every record is seen; otherwise those alone whose value begins with [`tag`].
    fn sees_all(&self) -> bool {
        true
    }
}

/// How the values of records that every destination can tell begin.
pub fn tag(partition: i32, offset: i64) -> String {
    format!("record {partition} {offset} ")
}

/// The record that a value with a [`tag`] is.
pub fn tagged(value: &str) -> Option<(i32, i64)> {
    let mut words = value.strip_prefix("record ")?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// Records with these values from offset `first` on; keys, headers and times vary.
pub fn records(topic: &str, partition: i32, first: i64, values: &[Option<Vec<u8>>]) -> Rows {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for (n, value) in values.iter().enumerate() {
        let header = |value: Option<&'static [u8]>| Header {
            key: Bytes::from_static(b"h\xc3\xa4nder"),
            value: value.map(Bytes::from_static),
        };
        let (key, headers): (Option<&[u8]>, Vec<Header>) = match n % 3 {
            0 => (Some(b"key"), vec![header(Some(b"\x00\xff")), header(None)]),
            1 => (None, Vec::new()),
            _ => (Some(b""), vec![header(Some(b""))]),
        };
        builder.append(1_700_000_000_000 + i64::try_from(n).unwrap_or(0), key, value.as_deref(), &headers);
    }
    let mut bytes = builder.build().to_vec();
    // The base offset, which no checksum covers.
    bytes[..8].copy_from_slice(&first.to_be_bytes());
    let bytes = Bytes::from(bytes);
    let whole: Vec<_> = batches(&bytes)
        .map(|batch| batch.map(|(header, part)| (header, bytes.slice_ref(part))).expect("a batch as built"))
        .collect();
    decode(&TopicPartition::new(topic, partition), &whole, first).expect("records as built")
}

/// Tagged records [from, to) of a partition.
fn rows(partition: i32, from: i64, to: i64) -> Rows {
    let values: Vec<Option<Vec<u8>>> =
        (from..to).map(|offset| Some(format!("{}{}", tag(partition, offset), "x".repeat(20)).into_bytes())).collect();
    records(TOPIC, partition, from, &values)
}

type Scene = for<'a> fn(&'a dyn Subject) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

macro_rules! scenes {
    ($($name:ident),+ $(,)?) => { [$((stringify!($name), (|subject| Box::pin($name(subject))) as Scene)),+] };
}

/// Runs all scenes on destinations from `fresh`; returns what is wrong, with the scene's name.
pub async fn check(mut fresh: impl FnMut() -> Box<dyn Subject>) -> Vec<String> {
    let all = scenes![
        nothing_written_is_nothing_durable,
        what_flush_names_is_in_the_destination,
        every_kind_of_record_arrives,
        a_span_without_rows_is_passed,
        rows_of_several_schemas_are_one_span,
        a_record_of_8_mib_arrives,
        partitions_are_reopened_where_they_were,
        a_partition_that_is_revoked_in_mid_batch_is_not_named,
        what_was_not_committed_comes_again,
        two_partitions_do_not_mix,
    ];
    let mut faults = Vec::new();
    for (name, scene) in all {
        if let Err(fault) = scene(&*fresh()).await {
            faults.push(format!("{name}: {fault}"));
        }
    }
    faults
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

fn failed(what: &'static str) -> impl Fn(SinkError) -> String {
    move |error| format!("{what} failed: {error}")
}

/// How often a sink that says that it may open later is asked again, and the pause between: an earlier one may not have gone yet.
const OPENS_MAX: u32 = 100;
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Opens; returns where reading of each begins.
async fn open(sink: &mut dyn Sink, committed: &[(i32, Option<i64>)]) -> Result<BTreeMap<i32, i64>, String> {
    let assigned: Vec<Assigned> =
        committed.iter().map(|(n, committed)| Assigned { partition: partition(*n), committed: *committed }).collect();
    let mut tries = OPENS_MAX;
    let starts = loop {
        match sink.open(&assigned).await {
            Err(SinkError::Retriable(_)) if tries > 0 => {
                tries -= 1;
                tokio::time::sleep(OPEN_PAUSE).await;
            }
            other => break other.map_err(failed("open"))?,
        }
    };
    if let Some(other) = starts.keys().find(|p| assigned.iter().all(|a| a.partition != **p)) {
        return Err(format!("open named {other}, which it was not given"));
    }
    let start = |n: i32, committed: Option<i64>| starts.get(&partition(n)).copied().or(committed).unwrap_or(0);
    Ok(committed.iter().map(|(n, committed)| (*n, start(*n, *committed))).collect())
}

async fn write(sink: &mut dyn Sink, rows: Rows) -> Result<(), String> {
    sink.write(rows).await.map_err(failed("write"))
}

async fn flush(sink: &mut dyn Sink, force: bool) -> Result<Offsets, String> {
    sink.flush(1_700_000_100_000, force).await.map_err(failed("flush"))
}

/// Flushes everything; the end of partition `number` has to be `end`, whether it is told now or was before.
async fn flush_to(sink: &mut dyn Sink, number: i32, end: i64) -> Result<(), String> {
    let durable = flush(sink, true).await?;
    match durable.get(&partition(number)) {
        Some(told) if *told == end => Ok(()),
        told => Err(format!("a forced flush named {told:?} as the end of partition {number}, and {end} was written")),
    }
}

/// Every record of [from, to) that can be seen has to be there, once if the subject says so.
async fn expect(subject: &dyn Subject, number: i32, from: i64, to: i64) -> Result<(), String> {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for seen in subject.seen().await?.iter().filter(|seen| seen.partition == number) {
        *counts.entry(seen.offset).or_default() += 1;
    }
    let missing: Vec<i64> = (from..to).filter(|offset| !counts.contains_key(offset)).collect();
    if !missing.is_empty() {
        return Err(format!("offsets {missing:?} of partition {number} were named as durable and are not there"));
    }
    match counts.iter().find(|(_, count)| subject.exactly_once() && **count > 1) {
        Some((offset, count)) => Err(format!("offset {offset} of partition {number} is there {count} times")),
        None => Ok(()),
    }
}

async fn nothing_written_is_nothing_durable(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    let starts = open(&mut *sink, &[(0, None), (1, Some(0))]).await?;
    for force in [false, true] {
        if let Some((place, end)) = flush(&mut *sink, force).await?.iter().find(|(_, end)| **end > 0) {
            return Err(format!("{place} ends at {end} and nothing was written"));
        }
    }
    sink.close(&[partition(0), partition(1)]).await;
    if starts.values().any(|start| *start != 0) || !subject.seen().await?.is_empty() {
        return Err(format!("an empty destination begins at {starts:?}"));
    }
    Ok(())
}

async fn what_flush_names_is_in_the_destination(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    let mut told = 0;
    for portion in 0..12 {
        let (from, to) = (portion * 25, portion * 25 + 25);
        write(&mut *sink, rows(0, from, to)).await?;
        let force = portion % 4 == 3;
        let durable = flush(&mut *sink, force).await?;
        let end = durable.get(&partition(0)).copied().unwrap_or(told);
        if end < told || end > to || (force && end != to) {
            return Err(format!(
                "after offsets to {to} were written, flush(force={force}) named {end}, and {told} before"
            ));
        }
        told = end;
        expect(subject, 0, 0, told).await?;
    }
    sink.close(&[partition(0)]).await;
    expect(subject, 0, 0, told).await
}

async fn every_kind_of_record_arrives(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    let bytes: Vec<u8> = (0..=255).collect();
    let tagged = |offset: i64, more: &str| Some(format!("{}{more}", tag(0, offset)).into_bytes());
    let values = [
        tagged(0, ""),
        None,
        Some(Vec::new()),
        Some(bytes),
        tagged(4, "gr\u{fc}n \u{1f40c}"),
        None,
        tagged(6, &"long ".repeat(10_000)),
        tagged(7, "last"),
    ];
    write(&mut *sink, records(TOPIC, 0, 0, &values)).await?;
    flush_to(&mut *sink, 0, 8).await?;
    let seen = subject.seen().await?;
    for (offset, value) in (0_i64..).zip(&values) {
        let is_tagged = value.as_ref().is_some_and(|v| v.starts_with(b"record "));
        if !subject.sees_all() && !is_tagged {
            continue;
        }
        let found = seen.iter().find(|s| s.partition == 0 && s.offset == offset);
        let found = found.ok_or_else(|| format!("the record at offset {offset} is not there"))?;
        let length = value.as_ref().map_or(-1, |v| i64::try_from(v.len()).unwrap_or(-1));
        if found.length.is_some_and(|told| told != length) {
            return Err(format!("the value at offset {offset} has {length} bytes (-1 = null), and {found:?} is there"));
        }
    }
    Ok(())
}

async fn a_span_without_rows_is_passed(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    let nothing =
        |first, next| Rows { partition: partition(0), groups: Vec::new(), first_offset: first, next_offset: next };
    write(&mut *sink, nothing(0, 3)).await?;
    flush(&mut *sink, true).await?;
    write(&mut *sink, rows(0, 3, 6)).await?;
    write(&mut *sink, nothing(6, 9)).await?;
    write(&mut *sink, rows(0, 9, 12)).await?;
    flush_to(&mut *sink, 0, 12).await?;
    expect(subject, 0, 3, 6).await?;
    expect(subject, 0, 9, 12).await
}

/// The rows of a batch at even or odd places.
fn every_second(batch: &RecordBatch, odd: bool) -> Result<RecordBatch, String> {
    let keep: Vec<bool> = (0..batch.num_rows()).map(|row| (row % 2 == 1) == odd).collect();
    filter_record_batch(batch, &keep.into()).map_err(|e| e.to_string())
}

async fn rows_of_several_schemas_are_one_span(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    let mut both = rows(0, 0, 10);
    let whole = both.groups.remove(0);
    both.groups = vec![every_second(&whole, false)?, every_second(&whole, true)?];
    write(&mut *sink, both).await?;
    write(&mut *sink, rows(0, 10, 12)).await?;
    flush_to(&mut *sink, 0, 12).await?;
    expect(subject, 0, 0, 12).await
}

async fn a_record_of_8_mib_arrives(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    let mut value = tag(0, 0).into_bytes();
    value.resize(LARGE_VALUE, b'x');
    write(&mut *sink, records(TOPIC, 0, 0, &[Some(value)])).await?;
    flush_to(&mut *sink, 0, 1).await?;
    expect(subject, 0, 0, 1).await?;
    let length = subject.seen().await?.first().and_then(|seen| seen.length);
    match length {
        Some(length) if usize::try_from(length) != Ok(LARGE_VALUE) => Err(format!("{length} bytes are there")),
        _ => Ok(()),
    }
}

async fn partitions_are_reopened_where_they_were(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None)]).await?;
    write(&mut *sink, rows(0, 0, 30)).await?;
    flush_to(&mut *sink, 0, 30).await?;
    sink.close(&[partition(0)]).await;
    for round in 1..4 {
        let committed = round * 30;
        let start = open(&mut *sink, &[(0, Some(committed))]).await?[&0];
        if start > committed {
            return Err(format!("it begins at {start} after {committed} was the end of what was written"));
        }
        write(&mut *sink, rows(0, start, committed + 30)).await?;
        flush_to(&mut *sink, 0, committed + 30).await?;
        sink.close(&[partition(0)]).await;
    }
    expect(subject, 0, 0, 120).await
}

async fn a_partition_that_is_revoked_in_mid_batch_is_not_named(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None), (1, None)]).await?;
    write(&mut *sink, rows(0, 0, 10)).await?;
    write(&mut *sink, rows(1, 0, 10)).await?;
    sink.close(&[partition(1)]).await;
    let durable = flush(&mut *sink, true).await?;
    if durable.contains_key(&partition(1)) {
        return Err("a partition that was given back is named as durable".to_owned());
    }
    if durable.get(&partition(0)) != Some(&10) {
        return Err(format!("the partition that stayed is not durable: {durable:?}"));
    }
    expect(subject, 0, 0, 10).await?;
    let start = open(&mut *sink, &[(1, None)]).await?[&1];
    if start > 10 {
        return Err(format!("the revoked partition begins at {start}, and offsets to 10 were written"));
    }
    write(&mut *sink, rows(1, start, 20)).await?;
    flush_to(&mut *sink, 1, 20).await?;
    expect(subject, 1, 0, 20).await
}

async fn what_was_not_committed_comes_again(subject: &dyn Subject) -> Result<(), String> {
    let mut committed = None;
    for round in 0..3 {
        let mut sink = subject.sink().map_err(failed("create"))?;
        let start = open(&mut *sink, &[(0, committed)]).await?[&0];
        write(&mut *sink, rows(0, start, start + 40)).await?;
        let durable = flush(&mut *sink, true).await?;
        // Every other task ends after the flush and before the commit.
        committed = if round % 2 == 0 { durable.get(&partition(0)).copied() } else { committed };
        write(&mut *sink, rows(0, start + 40, start + 50)).await?;
        drop(sink);
    }
    let mut sink = subject.sink().map_err(failed("create"))?;
    let start = open(&mut *sink, &[(0, committed)]).await?[&0];
    write(&mut *sink, rows(0, start, 200)).await?;
    flush_to(&mut *sink, 0, 200).await?;
    expect(subject, 0, 0, 200).await
}

async fn two_partitions_do_not_mix(subject: &dyn Subject) -> Result<(), String> {
    let mut sink = subject.sink().map_err(failed("create"))?;
    open(&mut *sink, &[(0, None), (1, None), (2, Some(0))]).await?;
    for portion in 0..5 {
        for number in [0, 1] {
            write(&mut *sink, rows(number, portion * 10, portion * 10 + 10)).await?;
        }
    }
    let durable = flush(&mut *sink, true).await?;
    if [0, 1].iter().any(|n| durable.get(&partition(*n)) != Some(&50))
        || durable.get(&partition(2)).is_some_and(|e| *e > 0)
    {
        return Err(format!("a forced flush named {durable:?}"));
    }
    sink.close(&[partition(0), partition(1), partition(2)]).await;
    expect(subject, 0, 0, 50).await?;
    expect(subject, 1, 0, 50).await
}

/// Settings of one text each.
pub fn settings(pairs: &[(&str, &str)]) -> crate::config::Settings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A kind's sink for the first task of a connector `conformance`, with its files in `spool`.
pub fn sink_of(
    kind: &Arc<dyn crate::registry::SinkKind>,
    settings: &crate::config::Settings,
    spool: &std::path::Path,
) -> Result<Box<dyn Sink>, SinkError> {
    let context = crate::registry::TaskContext {
        connector: TOPIC.to_owned(),
        task: 0,
        spool: spool.to_owned(),
        memory_bytes_max: 64 << 20,
        urls: Arc::default(),
        secrets: crate::secrets::Secrets::default(),
    };
    kind.create(settings, &context)
}

#[cfg(test)]
mod tests;
