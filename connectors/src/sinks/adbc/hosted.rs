//! The child's side of the sink: one driver, one connection, one task's partitions.
//!
//! Owns the connection and what is uncommitted on it. A write is one transaction: its rows and the partition's next offset. It is committed at
//! once, but for a write of which rows were refused: that one is committed with the next call, which the runtime makes only after the
//! refused rows are put aside, so that no record is lost between the two. After any other fault the connection is given up and the partitions
//! have to be opened again: whether a commit whose answer was lost took place is then read from the database.

use std::io::Read;
use std::path::Path;

use arrow::array::RecordBatch;

use super::keys::{Config, TableName};
use super::offsets::{OffsetTable, Positions, answered};
use super::session::{Fault, Loaded, Remedy, Session};
use super::shape::{Shaped, chosen, key_names, shape};
use super::table::Tables;
use crate::plugin::frame::{Answer, Call, ErrorKind, Position};
use crate::rows::column;
use crate::sink::{Offsets, TopicPartition};

/// Rows of one write that are refused only because of others in it; more of them end the task.
const ENTANGLED_MAX: usize = 64;

/// A driver, and the task that it works for.
pub struct Driven {
    driver: Loaded,
    name: String,
    task: Option<Task>,
}

struct Task {
    config: Config,
    offsets: OffsetTable,
    session: Option<Session>,
    tables: Tables,
    positions: Positions,
    /// Written, committed or pending, and not named by a flush yet.
    ends: Offsets,
    /// Whose transaction waits to be committed.
    pending: Option<TopicPartition>,
}

/// Why a call is not answered with yes.
struct No {
    kind: ErrorKind,
    text: String,
    rejected: Vec<i64>,
}

impl No {
    fn fatal(text: impl Into<String>) -> No {
        No { kind: ErrorKind::Fatal, text: text.into(), rejected: Vec::new() }
    }

    fn reopen(text: impl Into<String>) -> No {
        No { kind: ErrorKind::Reopen, text: text.into(), rejected: Vec::new() }
    }

    /// A fault where nothing was given that has to come again.
    fn of_open(fault: Fault) -> No {
        match fault.remedy {
            // A row: another task has made the same one in the table of offsets.
            Remedy::Later | Remedy::Row => No { kind: ErrorKind::Retriable, text: fault.text, rejected: Vec::new() },
            Remedy::NoTable | Remedy::Operator => No::fatal(fault.text),
        }
    }

    fn of_write(fault: Fault) -> No {
        match fault.remedy {
            Remedy::Later | Remedy::NoTable => No::reopen(fault.text),
            Remedy::Row | Remedy::Operator => No::fatal(fault.text),
        }
    }
}

/// A name that no other process has.
fn owner() -> Result<String, String> {
    let mut bytes = [0_u8; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| format!("no random bytes: {e}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Driven {
    /// Loads the driver `name` from its file.
    pub fn load(file: &Path, name: &str) -> Result<Driven, String> {
        Ok(Driven { driver: Loaded::load(file, name)?, name: name.to_owned(), task: None })
    }

    /// Carries out a call; `groups` are its rows.
    pub fn answer(&mut self, call: &Call, groups: &[RecordBatch]) -> Answer {
        let outcome = match (call, &mut self.task) {
            (Call::Start { connector, settings, .. }, None) => start(&self.name, connector, settings).map(|task| {
                self.task = Some(task);
                Vec::new()
            }),
            (Call::Start { .. }, Some(_)) => Err(No::fatal("it was started before")),
            (_, None) => Err(No::fatal("it was not started")),
            (Call::Open { partitions }, Some(task)) => task.open(&mut self.driver, partitions),
            (Call::Write { topic, partition, next_offset, .. }, Some(task)) => {
                task.write(&TopicPartition::new(topic, *partition), *next_offset, groups).map(|()| Vec::new())
            }
            (Call::Flush { .. }, Some(task)) => task.flush(),
            (Call::Close { partitions }, Some(task)) => {
                task.close(partitions);
                Ok(Vec::new())
            }
        };
        match outcome {
            Ok(offsets) => Answer { offsets, ..Answer::default() },
            Err(No { kind, text, rejected }) => {
                let message = crate::plugin::frame::cut(&text);
                Answer { error: Some(kind), message, rejected, ..Answer::default() }
            }
        }
    }
}

fn start(driver: &str, connector: &str, settings: &crate::config::Settings) -> Result<Task, No> {
    let config = Config::parse(settings)
        .map_err(|faults| No::fatal(faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; ")))?;
    if config.driver != driver {
        return Err(No::fatal(format!("the driver {} was asked of {driver}", config.driver)));
    }
    Ok(Task {
        offsets: OffsetTable::new(connector, owner().map_err(No::fatal)?),
        config,
        session: None,
        tables: Tables::default(),
        positions: Positions::new(),
        ends: Offsets::new(),
        pending: None,
    })
}

impl Task {
    /// Gives the connection up, with all that is not committed.
    fn give_up(&mut self) {
        if let Some(session) = &mut self.session {
            session.rollback();
        }
        self.session = None;
        self.tables.forget();
        self.pending = None;
        self.ends.clear();
    }

    fn open(&mut self, driver: &mut Loaded, partitions: &[Position]) -> Result<Vec<Position>, No> {
        let outcome = self.take(driver, partitions);
        if outcome.is_err() {
            self.give_up();
        }
        outcome.map_err(No::of_open)
    }

    fn take(&mut self, driver: &mut Loaded, partitions: &[Position]) -> Result<Vec<Position>, Fault> {
        self.settle()?;
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                let mut session = Session::open(driver, &self.config)?;
                OffsetTable::make(&mut session)?;
                none.insert(session)
            }
        };
        let mut starts = Vec::new();
        for one in partitions {
            let partition = TopicPartition::new(&one.topic, one.partition);
            let kept = self.offsets.take(session, &partition)?;
            // Committed further than written: an operator has set the offset to pass records.
            if kept > one.offset {
                starts.push(Position::at(&partition, kept));
            }
            self.positions.insert(partition, kept.max(one.offset).unwrap_or(0));
        }
        Ok(starts)
    }

    /// Commits what waits for it.
    fn settle(&mut self) -> Result<(), Fault> {
        if self.pending.take().is_some()
            && let Some(session) = &mut self.session
        {
            session.commit()?;
        }
        Ok(())
    }

    fn write(&mut self, partition: &TopicPartition, next: i64, groups: &[RecordBatch]) -> Result<(), No> {
        let outcome = self.transact(partition, next, groups);
        match outcome {
            Ok(shaped) if shaped.rejected.is_empty() => Ok(()),
            Ok(Shaped { rejected, reason, .. }) => Err(No { kind: ErrorKind::Rejected, text: reason, rejected }),
            Err(no) => {
                self.give_up();
                Err(no)
            }
        }
    }

    fn transact(&mut self, partition: &TopicPartition, next: i64, groups: &[RecordBatch]) -> Result<Shaped, No> {
        self.settle().map_err(No::of_write)?;
        let position = self.positions.get(partition).copied();
        let position = position.ok_or_else(|| No::fatal(format!("{partition} is not open")))?;
        let mut shaped = shape(&self.config, groups, position).map_err(No::fatal)?;
        let key = groups.first().map(|batch| batch.column(column::KEY).data_type().clone());
        let keys = key.map(|key| key_names(&self.config, &key)).unwrap_or_default();
        let mut work = Work { name: self.config.table(&partition.topic), keys, task: self };
        work.prepare(&shaped).map_err(No::of_write)?;
        work.rows(&mut shaped).map_err(No::of_write)?;
        let session = self.session.as_mut().ok_or_else(|| No::reopen("the connection was given up"))?;
        self.offsets.put(session, partition, next).map_err(|fault| match fault {
            Some(fault) => No::of_write(fault),
            None => No::reopen(format!("another task has taken {partition} over")),
        })?;
        if shaped.rejected.is_empty() {
            session.commit().map_err(No::of_write)?;
        } else {
            self.pending = Some(partition.clone());
        }
        self.positions.insert(partition.clone(), next);
        self.ends.insert(partition.clone(), next);
        Ok(shaped)
    }

    fn flush(&mut self) -> Result<Vec<Position>, No> {
        if let Err(fault) = self.settle() {
            self.give_up();
            return Err(No::of_write(fault));
        }
        Ok(answered(&std::mem::take(&mut self.ends)))
    }

    fn close(&mut self, partitions: &[Position]) {
        for one in partitions {
            let partition = TopicPartition::new(&one.topic, one.partition);
            if self.pending.as_ref() == Some(&partition) {
                self.give_up();
            }
            self.positions.remove(&partition);
            self.ends.remove(&partition);
        }
        // A database in a file may be waited for by somebody.
        if self.positions.is_empty() {
            self.give_up();
        }
    }
}

/// The rows of one write, on their way into a table.
struct Work<'a> {
    task: &'a mut Task,
    name: TableName,
    keys: Vec<String>,
}

impl Work<'_> {
    fn session(&mut self) -> Result<&mut Session, Fault> {
        self.task.session.as_mut().ok_or_else(|| Fault::later("the connection was given up"))
    }

    fn prepare(&mut self, shaped: &Shaped) -> Result<(), Fault> {
        let Task { config, session, tables, .. } = &mut *self.task;
        let session = session.as_mut().ok_or_else(|| Fault::later("the connection was given up"))?;
        for piece in &shaped.pieces {
            tables.prepare(session, config, &self.name, &piece.rows, &self.keys)?;
        }
        Ok(())
    }

    /// Puts those of the rows that have these offsets into the open transaction.
    fn apply(&mut self, shaped: &Shaped, offsets: &[i64]) -> Result<(), Fault> {
        let Task { config, session, tables, .. } = &mut *self.task;
        let session = session.as_mut().ok_or_else(|| Fault::later("the connection was given up"))?;
        for piece in &shaped.pieces {
            let part = chosen(piece, offsets).map_err(|e| Fault::operator(e.to_string()))?;
            tables.apply(session, config, &self.name, &part, &self.keys)?;
        }
        Ok(())
    }

    /// The same, undone; the error if a row is at fault.
    fn tried(&mut self, shaped: &Shaped, offsets: &[i64]) -> Result<Option<String>, Fault> {
        let outcome = self.apply(shaped, offsets);
        self.session()?.rollback();
        match outcome {
            Ok(()) => Ok(None),
            Err(fault) if fault.remedy == Remedy::Row => Ok(Some(fault.text)),
            Err(fault) => Err(fault),
        }
    }

    /// Puts all rows into the transaction but those that the database refuses, which become `rejected`.
    fn rows(&mut self, shaped: &mut Shaped) -> Result<(), Fault> {
        let mut good = shaped.offsets();
        match self.apply(shaped, &good) {
            Err(fault) if fault.remedy == Remedy::Row => self.session()?.rollback(),
            other => return other,
        }
        let mut bad = Vec::new();
        self.bad_alone(shaped, &good, &mut bad)?;
        good.retain(|offset| bad.iter().all(|(b, _)| b != offset));
        for _ in 0..ENTANGLED_MAX {
            match self.apply(shaped, &good) {
                Err(fault) if fault.remedy == Remedy::Row => {
                    self.session()?.rollback();
                    let at = self.first_entangled(shaped, &good)?;
                    bad.push((good.remove(at), fault.text));
                }
                Err(fault) => return Err(fault),
                Ok(()) => {
                    bad.sort_unstable();
                    if let Some((_, reason)) = bad.first() {
                        shaped.reason.clone_from(reason);
                    }
                    shaped.rejected.extend(bad.into_iter().map(|(offset, _)| offset));
                    shaped.rejected.sort_unstable();
                    return Ok(());
                }
            }
        }
        Err(Fault::operator(format!("over {ENTANGLED_MAX} rows of one write are refused because of others in it")))
    }

    /// Rows that are refused whatever else is there.
    fn bad_alone(&mut self, shaped: &Shaped, offsets: &[i64], bad: &mut Vec<(i64, String)>) -> Result<(), Fault> {
        match (self.tried(shaped, offsets)?, offsets) {
            (None, _) | (_, []) => {}
            (Some(reason), [one]) => bad.push((*one, reason)),
            (Some(_), many) => {
                let (first, second) = many.split_at(many.len() / 2);
                self.bad_alone(shaped, first, bad)?;
                self.bad_alone(shaped, second, bad)?;
            }
        }
        Ok(())
    }

    /// The place of the first row that is refused because of those in front of it.
    fn first_entangled(&mut self, shaped: &Shaped, offsets: &[i64]) -> Result<usize, Fault> {
        let (mut fits, mut fails) = (0, offsets.len());
        while fails - fits > 1 {
            let middle = usize::midpoint(fits, fails);
            match self.tried(shaped, &offsets[..middle])? {
                None => fits = middle,
                Some(_) => fails = middle,
            }
        }
        Ok(fails.saturating_sub(1))
    }
}
