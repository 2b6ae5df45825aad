//! Where chunks end: a pure function of the rows, the rotation's settings and, for scheduled ends, the clock.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampMillisecondType};

use super::keys::Rotation;
use crate::rows::{Rows, column};

/// What a row costs beside its key and value: offset, timestamp, views, headers.
const ROW_BYTES: u64 = 100;

/// What the rotation sees of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub offset: i64,
    pub timestamp: i64,
    pub bytes: u64,
}

/// A chunk that is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Where the chain of plans ends, inclusive.
    pub start: i64,
    /// Behind the last offset that was seen, exclusive.
    pub next_offset: i64,
    pub records: u64,
    pub bytes: u64,
    pub first_timestamp: Option<i64>,
    /// When the clock ends it, ms.
    pub due_ms: Option<i64>,
}

impl Fill {
    pub fn begin(start: i64, next_offset: i64) -> Self {
        Fill { start, next_offset, records: 0, bytes: 0, first_timestamp: None, due_ms: None }
    }

    /// Takes points until one of them ends the chunk; the end (exclusive), or None = all were taken.
    pub fn take(&mut self, points: &[Point], rotation: &Rotation) -> Option<i64> {
        for point in points {
            let first = *self.first_timestamp.get_or_insert(point.timestamp);
            if self.records > 0 && rotation.interval_ms.is_some_and(|ms| point.timestamp.saturating_sub(first) >= ms) {
                return Some(point.offset);
            }
            self.records += 1;
            self.bytes += point.bytes;
            self.next_offset = point.offset + 1;
            if self.records >= rotation.records || self.bytes >= rotation.bytes {
                return Some(point.offset + 1);
            }
        }
        None
    }

    /// Notes when the clock ends it; called after rows were taken.
    pub fn schedule(&mut self, now_ms: i64, rotation: &Rotation) {
        if self.records > 0 && self.due_ms.is_none() {
            self.due_ms = rotation.schedule_ms.map(|ms| (now_ms.div_euclid(ms) + 1) * ms);
        }
    }
}

/// The rows' points, by offset.
pub fn points(rows: &Rows) -> Vec<Point> {
    let mut points = Vec::with_capacity(rows.count());
    for batch in &rows.groups {
        let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
        let timestamps = batch.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>();
        let (keys, values) = (batch.column(column::KEY), batch.column(column::VALUE));
        let average = average_bytes(values);
        for row in 0..batch.num_rows() {
            let bytes = ROW_BYTES + len(keys, row, 0) + len(values, row, average);
            points.push(Point { offset: offsets.value(row), timestamp: timestamps.value(row), bytes });
        }
    }
    if rows.groups.len() > 1 {
        points.sort_unstable_by_key(|point| point.offset);
    }
    points
}

fn average_bytes(array: &ArrayRef) -> u64 {
    array.get_array_memory_size() as u64 / (array.len() as u64).max(1)
}

fn len(array: &ArrayRef, row: usize, otherwise: u64) -> u64 {
    if array.is_null(row) {
        return 0;
    }
    match array.data_type() {
        DataType::BinaryView => array.as_binary_view().value(row).len() as u64,
        DataType::Utf8View => array.as_string_view().value(row).len() as u64,
        DataType::Binary => array.as_binary::<i32>().value(row).len() as u64,
        DataType::Utf8 => array.as_string::<i32>().value(row).len() as u64,
        _ => otherwise,
    }
}

/// Cuts rows at an offset: those below it, and those from it on.
pub fn cut(rows: Rows, at: i64) -> (Rows, Rows) {
    let (mut below, mut above) = (Vec::new(), Vec::new());
    for batch in rows.groups {
        let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>().values();
        let row = offsets.partition_point(|offset| *offset < at);
        let count = batch.num_rows();
        let parts: [(&mut Vec<RecordBatch>, usize, usize); 2] = [(&mut below, 0, row), (&mut above, row, count - row)];
        for (side, from, rows) in parts {
            if rows > 0 {
                side.push(batch.slice(from, rows));
            }
        }
    }
    let middle = at.clamp(rows.first_offset, rows.next_offset);
    let below =
        Rows { partition: rows.partition.clone(), groups: below, first_offset: rows.first_offset, next_offset: middle };
    let above = Rows { partition: rows.partition, groups: above, first_offset: middle, next_offset: rows.next_offset };
    (below, above)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Rotation = Rotation { records: u64::MAX, bytes: u64::MAX, interval_ms: None, schedule_ms: None };

    fn point(offset: i64, timestamp: i64) -> Point {
        Point { offset, timestamp, bytes: 10 }
    }

    #[test]
    fn a_chunk_ends_behind_its_last_record_or_before_a_young_one() {
        let points: Vec<Point> = (0..10).map(|n| point(n * 2, n * 100)).collect();
        let by_count = Rotation { records: 3, ..NEVER };
        assert_eq!(Fill::begin(0, 0).take(&points, &by_count), Some(5));
        let by_bytes = Rotation { bytes: 35, ..NEVER };
        assert_eq!(Fill::begin(0, 0).take(&points, &by_bytes), Some(7));
        let by_time = Rotation { interval_ms: Some(250), ..NEVER };
        assert_eq!(Fill::begin(0, 0).take(&points, &by_time), Some(6), "the record at 300 ms begins the next one");
        assert_eq!(Fill::begin(0, 0).take(&points, &NEVER), None);
    }

    /// However the rows come in pieces, the ends are the same.
    #[test]
    fn ends_do_not_depend_on_the_pieces() {
        let points: Vec<Point> = (0..100).map(|n| point(n, (n * 37) % 400)).collect();
        let rotation = Rotation { records: 7, bytes: 65, interval_ms: Some(120), schedule_ms: None };
        let ends = |piece: usize| {
            let (mut ends, mut fill) = (Vec::new(), Fill::begin(0, 0));
            for piece in points.chunks(piece) {
                let mut rest = piece;
                while let Some(end) = fill.take(rest, &rotation) {
                    ends.push(end);
                    rest = &rest[rest.partition_point(|p| p.offset < end)..];
                    fill = Fill::begin(end, end);
                }
            }
            ends
        };
        let whole = ends(100);
        assert!(whole.len() > 10);
        for piece in [1, 2, 3, 10, 33] {
            assert_eq!(ends(piece), whole);
        }
    }

    #[test]
    fn the_clock_ends_a_chunk_at_multiples() {
        let rotation = Rotation { schedule_ms: Some(60_000), ..NEVER };
        let mut fill = Fill::begin(0, 0);
        fill.schedule(61_000, &rotation);
        assert_eq!(fill.due_ms, None, "an empty chunk is not due");
        fill.take(&[point(0, 0)], &rotation);
        fill.schedule(61_000, &rotation);
        fill.schedule(300_000, &rotation);
        assert_eq!(fill.due_ms, Some(120_000));
    }
}
