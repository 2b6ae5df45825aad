//! Where each partition goes on: a table in the sink's own database, changed in the transaction of the rows.
//!
//! Owns `strandline_offsets` (docs/formats/sink-offsets.md). Invariant: an offset moves only in a transaction that ends while its row names the
//! task that moves it; a task that has lost its partition, however late it wakes, finds another owner there and commits nothing. Whoever
//! opens a partition waits for the transaction of the one before, and then sees what that one has done.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use super::session::{Fault, Session, literal};
use crate::sink::{Offsets, TopicPartition};

/// The table.
pub const TABLE: &str = "strandline_offsets";
/// `next_offset` of a partition of which nothing was written.
const NOTHING: i64 = -1;

/// The rows of one connector, as one task sees them.
pub struct OffsetTable {
    connector: String,
    /// Who this task is: no other one, and no earlier run of it, has the same name.
    owner: String,
}

impl OffsetTable {
    pub fn new(connector: &str, owner: String) -> OffsetTable {
        OffsetTable { connector: connector.to_owned(), owner }
    }

    /// Makes the table if it is not there, in a transaction of its own.
    pub fn make(session: &mut Session) -> Result<(), Fault> {
        // Looked for first: whoever may write rows need not be allowed to make tables.
        if session.columns(&format!("SELECT * FROM {TABLE} WHERE 1 = 0")).is_ok() {
            return session.commit();
        }
        session.rollback();
        session.run(&format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (connector VARCHAR(255) NOT NULL, topic VARCHAR(255) NOT NULL, \
             partition_number INTEGER NOT NULL, next_offset BIGINT NOT NULL, owner VARCHAR(64) NOT NULL, \
             PRIMARY KEY (connector, topic, partition_number))"
        ))?;
        session.commit()
    }

    fn place(&self, partition: &TopicPartition) -> String {
        let (connector, topic) = (literal(&self.connector), literal(&partition.topic));
        format!("connector = {connector} AND topic = {topic} AND partition_number = {}", partition.partition)
    }

    /// Takes a partition over, in a transaction of its own; returns its next offset, if anything was written.
    pub fn take(&self, session: &mut Session, partition: &TopicPartition) -> Result<Option<i64>, Fault> {
        let (place, owner) = (self.place(partition), literal(&self.owner));
        // A write first: it waits for a transaction of the owner before.
        session.run(&format!("UPDATE {TABLE} SET owner = {owner} WHERE {place}"))?;
        let found = self.look(session, partition)?;
        if found.is_none() {
            let (connector, topic) = (literal(&self.connector), literal(&partition.topic));
            session.run(&format!(
                "INSERT INTO {TABLE} (connector, topic, partition_number, next_offset, owner) \
                 VALUES ({connector}, {topic}, {}, {NOTHING}, {owner})",
                partition.partition
            ))?;
        }
        session.commit()?;
        Ok(found.map(|(next, _)| next).filter(|next| *next > NOTHING))
    }

    fn look(&self, session: &mut Session, partition: &TopicPartition) -> Result<Option<(i64, String)>, Fault> {
        let place = self.place(partition);
        let rows = session.query(&format!("SELECT next_offset, owner FROM {TABLE} WHERE {place}"))?;
        rows.iter().find(|batch| batch.num_rows() > 0).map(first).transpose()
    }

    /// Moves a partition's offset, in the transaction of the rows. Err(None) = the partition is another task's.
    pub fn put(&self, session: &mut Session, partition: &TopicPartition, next: i64) -> Result<(), Option<Fault>> {
        let (place, owner) = (self.place(partition), literal(&self.owner));
        session.run(&format!("UPDATE {TABLE} SET next_offset = {next} WHERE {place} AND owner = {owner}"))?;
        match self.look(session, partition)? {
            Some((found, who)) if found == next && who == self.owner => Ok(()),
            _ => Err(None),
        }
    }
}

fn first(batch: &RecordBatch) -> Result<(i64, String), Fault> {
    let wrong =
        || Fault::operator(format!("the table {TABLE} has other columns than docs/formats/sink-offsets.md says"));
    let column = |at: usize, kind: &DataType| cast(batch.columns().get(at)?, kind).ok();
    let next = column(0, &DataType::Int64).ok_or_else(wrong)?;
    let owner = column(1, &DataType::Utf8).ok_or_else(wrong)?;
    if next.is_null(0) || owner.is_null(0) {
        return Err(wrong());
    }
    Ok((next.as_primitive::<Int64Type>().value(0), owner.as_string::<i32>().value(0).to_owned()))
}

/// What a task holds: the next offset of each partition that it has open.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// Ends by partition, for an answer.
pub fn answered(ends: &Offsets) -> Vec<crate::plugin::frame::Position> {
    ends.iter().map(|(partition, end)| crate::plugin::frame::Position::at(partition, Some(*end))).collect()
}
