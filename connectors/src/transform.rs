//! Single message transforms and predicates under Kafka Connect's names, on the columns of batches.
//!
//! Owns the chain that a connector's `transforms` and `predicates` describe, and what each makes of rows. `keys` has their settings,
//! `record` fields of records with a schema, `json_text` fields of JSON without one, `route` topics. Does not own what is done with a record
//! that cannot be transformed: it is told with its offset and is not in the rows. Invariants: the range of offsets of the rows stays: a
//! record that was filtered counts as delivered; no offset changes, and in each group they ascend; the partition that rows belong to stays
//! the one that they were read from, whatever their column `topic` says; the same rows and settings give the same rows.

mod json_text;
pub mod keys;
mod record;
mod route;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, not, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use regex::Regex;

use self::route::{DateFormat, Replacement};
use crate::convert::{JSON_TEXT, Side};
use crate::rows::{Rows, column};

/// A record that a transform cannot take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub offset: i64,
    pub reason: String,
}

/// A field that is put in, if it has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Inserted {
    name: String,
    /// `?` or nothing behind its name; `!` = required.
    optional: bool,
}

/// What is done with fields of keys or values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Operation {
    Insert {
        topic: Option<Inserted>,
        partition: Option<Inserted>,
        offset: Option<Inserted>,
        timestamp: Option<Inserted>,
        fixed: Option<(Inserted, String)>,
    },
    Replace {
        exclude: Vec<String>,
        include: Vec<String>,
        renames: Vec<(String, String)>,
    },
    Mask {
        fields: Vec<String>,
        replacement: Option<String>,
    },
    Extract {
        /// From the outermost field to the one that is meant.
        path: Vec<String>,
        /// As it was written.
        text: String,
    },
}

impl Operation {
    /// In Kafka's words.
    fn purpose(&self) -> &'static str {
        match self {
            Operation::Insert { .. } => "field insertion",
            Operation::Replace { .. } => "field replacement",
            Operation::Mask { .. } => "mask fields",
            Operation::Extract { .. } => "field extraction",
        }
    }

    /// The new name of a field; None = it goes.
    fn kept<'a>(
        exclude: &[String],
        include: &[String],
        renames: &'a [(String, String)],
        name: &'a str,
    ) -> Option<&'a str> {
        let stays = !exclude.iter().any(|n| n == name) && (include.is_empty() || include.iter().any(|n| n == name));
        let renamed = renames.iter().rev().find(|(from, _)| from == name).map_or(name, |(_, to)| to.as_str());
        stays.then_some(renamed)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Fields { side: Side, operation: Operation },
    TimestampRouter { topic_format: String, timestamp_format: DateFormat },
    RegexRouter { pattern: Regex, whole: Regex, replacement: Replacement },
    Filter,
}

#[derive(Debug, Clone)]
enum Predicate {
    TopicNameMatches(Regex),
    RecordIsTombstone,
    HasHeaderKey(String),
}

#[derive(Debug, Clone)]
struct Stage {
    step: Step,
    predicate: Option<Predicate>,
    negate: bool,
}

/// A connector's transforms, in order.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    stages: Vec<Stage>,
}

/// What a step makes of one column.
struct Column {
    field: Field,
    column: ArrayRef,
    /// Rows that could not be transformed, with the reason.
    failed: Vec<(usize, String)>,
}

/// Rows of one schema, and what was taken out of them.
type Passed = (Option<RecordBatch>, Vec<Failed>);

impl Chain {
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Transforms rows; the second is what could not be transformed, and is not in the first.
    pub fn apply(&self, rows: Rows) -> (Rows, Vec<Failed>) {
        if self.is_empty() {
            return (rows, Vec::new());
        }
        let mut failed = Vec::new();
        let mut groups = rows.groups;
        for stage in &self.stages {
            let mut next = Vec::with_capacity(groups.len());
            for batch in groups {
                next.extend(stage.apply(batch, &mut failed));
            }
            groups = merged(next);
        }
        failed.sort_by_key(|one: &Failed| one.offset);
        (Rows { groups, ..rows }, failed)
    }
}

impl Stage {
    fn apply(&self, batch: RecordBatch, failed: &mut Vec<Failed>) -> Vec<RecordBatch> {
        let Some(predicate) = &self.predicate else {
            return self.pass(batch, failed).into_iter().collect();
        };
        let holds = predicate.test(&batch);
        let chosen = if self.negate { not(&holds).expect("a flag for each row") } else { holds };
        match chosen.true_count() {
            0 => vec![batch],
            all if all == batch.num_rows() => self.pass(batch, failed).into_iter().collect(),
            _ => {
                let only = |flags: &BooleanArray| filter_record_batch(&batch, flags).expect("a flag for each row");
                let others = only(&not(&chosen).expect("a flag for each row"));
                self.pass(only(&chosen), failed).into_iter().chain([others]).collect()
            }
        }
    }

    /// The rows that are left, if there are any.
    fn pass(&self, batch: RecordBatch, failed: &mut Vec<Failed>) -> Option<RecordBatch> {
        let (left, mut wrong) = match &self.step {
            Step::Filter => (None, Vec::new()),
            Step::Fields { side, operation } => on_fields(*side, operation, &batch),
            Step::TimestampRouter { topic_format, timestamp_format } => {
                routed(&batch, |topic, ms| timestamp_format.route(topic_format, topic, ms))
            }
            Step::RegexRouter { pattern, whole, replacement } => {
                routed(&batch, |topic, _| Ok(replacement.route(pattern, whole, topic)))
            }
        };
        failed.append(&mut wrong);
        left.filter(|batch| batch.num_rows() > 0)
    }
}

impl Predicate {
    fn test(&self, batch: &RecordBatch) -> BooleanArray {
        match self {
            Predicate::TopicNameMatches(pattern) => {
                let topics = batch.column(column::TOPIC).as_string::<i32>();
                // Neighbours mostly have the same one.
                let mut known: Option<(&str, bool)> = None;
                let matches = |topic| match known {
                    Some((name, matches)) if name == topic => matches,
                    _ => {
                        let matches = pattern.is_match(topic);
                        known = Some((topic, matches));
                        matches
                    }
                };
                topics.iter().map(Option::unwrap_or_default).map(matches).map(Some).collect()
            }
            Predicate::RecordIsTombstone => {
                let values = batch.column(column::VALUE);
                let is_json = batch.schema().field(column::VALUE).metadata().contains_key(JSON_TEXT);
                let is_null = |row: usize| {
                    values.is_null(row) || (is_json && json_text::is_null(values.as_string_view().value(row)))
                };
                let nulls = values.logical_nulls();
                let null = |row: usize| nulls.as_ref().is_some_and(|n| n.is_null(row)) || is_null(row);
                (0..batch.num_rows()).map(|row| Some(null(row))).collect()
            }
            Predicate::HasHeaderKey(wanted) => {
                let lists = batch.column(column::HEADERS).as_list::<i32>();
                let keys = lists.values().as_struct().column(0).as_string::<i32>();
                let offsets = lists.value_offsets();
                let has = |row: usize| {
                    (offsets[row]..offsets[row + 1]).any(|at| keys.value(usize::try_from(at).unwrap_or(0)) == wanted)
                };
                (0..batch.num_rows()).map(|row| Some(has(row))).collect()
            }
        }
    }
}

/// Groups of one schema joined, in the order of their offsets.
fn merged(groups: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let mut kinds: Vec<Vec<RecordBatch>> = Vec::new();
    for batch in groups {
        match kinds.iter_mut().find(|kind| kind[0].schema() == batch.schema()) {
            Some(kind) => kind.push(batch),
            None => kinds.push(vec![batch]),
        }
    }
    let join = |mut kind: Vec<RecordBatch>| {
        if kind.len() == 1 {
            return kind.remove(0);
        }
        let whole = concat_batches(&kind[0].schema(), &kind).expect("of one schema");
        let offsets = whole.column(column::OFFSET).as_primitive::<Int64Type>();
        let mut order: Vec<u32> = (0..u32::try_from(whole.num_rows()).expect("a batch has fewer rows")).collect();
        order.sort_by_key(|row| offsets.value(*row as usize));
        take_record_batch(&whole, &UInt32Array::from(order)).expect("rows of the batch")
    };
    kinds.into_iter().map(join).collect()
}

/// Without the rows that failed.
fn without(batch: RecordBatch, failed: Vec<(usize, String)>) -> Passed {
    if failed.is_empty() {
        return (Some(batch), Vec::new());
    }
    let mut keep = vec![true; batch.num_rows()];
    failed.iter().for_each(|(row, _)| keep[*row] = false);
    let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
    let told = failed.into_iter().map(|(row, reason)| Failed { offset: offsets.value(row), reason }).collect();
    (Some(filter_record_batch(&batch, &BooleanArray::from(keep)).expect("a flag for each row")), told)
}

fn replaced(batch: &RecordBatch, at: usize, field: Field, column: ArrayRef) -> RecordBatch {
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    let mut columns = batch.columns().to_vec();
    (fields[at], columns[at]) = (field, column);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length")
}

fn on_fields(side: Side, operation: &Operation, batch: &RecordBatch) -> Passed {
    let at = match side {
        Side::Key => column::KEY,
        Side::Value => column::VALUE,
    };
    let schema = batch.schema();
    let field = schema.field(at);
    let values = batch.column(at);
    let made = match values.data_type() {
        DataType::Utf8View if field.metadata().contains_key(JSON_TEXT) => {
            json_text::apply(operation, batch, field, values)
        }
        DataType::Struct(_) => record::apply(operation, batch, field, values),
        other => neither(operation, field, values, other),
    };
    without(replaced(batch, at, made.field, made.column), made.failed)
}

/// What has no fields: only nulls pass.
fn neither(operation: &Operation, field: &Field, values: &ArrayRef, kind: &DataType) -> Column {
    let nulls = values.logical_nulls();
    let is_null = |row: usize| nulls.as_ref().is_some_and(|n| n.is_null(row));
    let without_schema = *kind == DataType::Null;
    let fault = |row: usize| match (is_null(row), operation) {
        (true, Operation::Mask { .. }) => Some(unsupported(operation, without_schema, "null")),
        (true, Operation::Extract { text, .. }) if !without_schema => Some(format!("Unknown field: {text}")),
        (true, _) => None,
        (false, _) => Some(unsupported(operation, without_schema, &kind.to_string())),
    };
    let failed = (0..values.len()).filter_map(|row| Some((row, fault(row)?))).collect();
    Column { field: field.clone(), column: Arc::clone(values), failed }
}

/// In Kafka's words; `found` in ours.
fn unsupported(operation: &Operation, without_schema: bool, found: &str) -> String {
    let purpose = operation.purpose();
    if without_schema {
        format!("Only Map objects supported in absence of schema for [{purpose}], found: {found}")
    } else {
        format!("Only Struct objects supported for [{purpose}], found: {found}")
    }
}

/// Rows with other topics; a name that no topic can have is refused, since sinks make paths and tables of it.
fn routed(batch: &RecordBatch, route: impl Fn(&str, i64) -> Result<String, String>) -> Passed {
    let topics = batch.column(column::TOPIC).as_string::<i32>();
    let times = batch.column(column::TIMESTAMP).as_primitive::<arrow::datatypes::TimestampMillisecondType>();
    let mut failed = Vec::new();
    let mut names = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let topic = topics.value(row);
        match route(topic, times.value(row)).and_then(route::checked) {
            Ok(name) => names.push(name),
            Err(reason) => {
                failed.push((row, reason));
                names.push(topic.to_owned());
            }
        }
    }
    let field = batch.schema().field(column::TOPIC).clone();
    without(replaced(batch, column::TOPIC, field, Arc::new(StringArray::from(names))), failed)
}

#[cfg(test)]
#[path = "transform/tests.rs"]
mod tests;
