//! What a task holds: its partitions, the tables they go to, and when rows are committed.
//!
//! Invariants: an offset is named as durable only after the commit that has its rows, or if no row before it waits; after an error that
//! leaves the outcome unknown everything is thrown away, and the worker opens the partitions anew, where the tables say. A crash leaves
//! what was committed.

use std::collections::{BTreeMap, HashMap};

use arrow_array::RecordBatch;
use iceberg::{Error, ErrorKind, TableIdent};

use crate::catalog::{self, Inner, offset_in, property};
use crate::columns::{Incoming, incoming};
use crate::frame::{Answer, At, Fault, Named};
use crate::settings::Settings;
use crate::table::{self, Open};

/// Topic and partition.
pub type Place = (String, i32);

/// Why a call is not done.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub fault: Fault,
    pub message: String,
    pub rejected: Vec<i64>,
}

impl Refused {
    pub fn fatal(message: impl Into<String>) -> Refused {
        Refused { fault: Fault::Fatal, message: message.into(), rejected: Vec::new() }
    }

    fn reopen(message: impl Into<String>) -> Refused {
        Refused { fault: Fault::Reopen, message: message.into(), rejected: Vec::new() }
    }
}

#[derive(Debug)]
struct Position {
    /// What the table says comes next.
    base: Option<i64>,
    /// Rows are taken up to here, exclusive.
    written: Option<i64>,
    /// Whether rows wait for a commit.
    waits: bool,
    /// Given back with rows that wait: they are committed with the others, if nobody else has.
    closed: bool,
}

pub struct Sink {
    connector: String,
    settings: Settings,
    catalog: Inner,
    partitions: BTreeMap<Place, Position>,
    tables: HashMap<TableIdent, Open>,
    /// When the oldest row that waits was seen by a flush; None = none waits, or none was seen.
    waiting_since_ms: Option<i64>,
}

/// What is wrong for good, whoever asks again.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::FeatureUnsupported | ErrorKind::NamespaceNotFound | ErrorKind::TableNotFound)
}

/// Letters of an error that are told: some catalogs answer with a page of HTML.
const ERROR_MAX: usize = 600;

fn told(name: &TableIdent, what: &str, error: &Error) -> String {
    let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    format!("{what} the table {name}: {}", text.chars().take(ERROR_MAX).collect::<String>())
}

impl Sink {
    pub async fn start(connector: String, settings: Settings) -> Result<Sink, Refused> {
        let catalog = catalog::connect(settings.catalog.clone())
            .await
            .map_err(|e| Refused::fatal(format!("iceberg.catalog: {e}; correct the settings")))?;
        Ok(Sink {
            connector,
            settings,
            catalog,
            partitions: BTreeMap::new(),
            tables: HashMap::new(),
            waiting_since_ms: None,
        })
    }

    fn table_of(&self, topic: &str) -> Result<TableIdent, Refused> {
        self.settings.table_of(topic).map_err(Refused::fatal)
    }

    /// An error whose outcome is not known, or that may pass.
    fn lost(&mut self, message: String, error: &Error) -> Refused {
        self.forget();
        if is_final(error) { Refused::fatal(message) } else { Refused::reopen(message) }
    }

    fn forget(&mut self) {
        self.tables.clear();
        // What is in the tables is not known: nothing is durable until the partitions are opened anew.
        self.partitions.values_mut().for_each(|position| (position.waits, position.written) = (false, None));
        self.partitions.retain(|_, position| !position.closed);
        self.waiting_since_ms = None;
    }

    pub async fn open(&mut self, named: &[Named]) -> Result<Answer, Refused> {
        let again = |n: &Named| self.partitions.get(&(n.topic.clone(), n.partition)).is_some_and(|p| p.waits);
        if named.iter().any(again) {
            self.commit().await?;
        }
        let mut offsets = Vec::new();
        for one in named {
            let name = self.table_of(&one.topic)?;
            let found = match table::find(&self.catalog, &name).await {
                Ok(found) => found,
                Err(error) if is_final(&error) => return Err(Refused::fatal(told(&name, "cannot load", &error))),
                Err(error) => {
                    let message = told(&name, "cannot load", &error);
                    return Err(Refused { fault: Fault::Retriable, message, rejected: Vec::new() });
                }
            };
            let key = property(&self.connector, &one.topic, one.partition);
            let base = match &found {
                Some(table) => offset_in(table, &key).map_err(|e| Refused::fatal(e.to_string()))?,
                None => None,
            };
            // An operator may have set the group's further on, to pass records.
            if let Some(start) = base.max(one.offset) {
                offsets.push(At { topic: one.topic.clone(), partition: one.partition, offset: start });
            }
            let position = Position { base, written: base.max(one.offset), waits: false, closed: false };
            self.partitions.insert((one.topic.clone(), one.partition), position);
        }
        Ok(Answer { offsets, ..Answer::default() })
    }

    /// The table that these rows go to, with every column they need if it may be changed.
    async fn prepared(&mut self, name: &TableIdent, rows: &Incoming) -> Result<(), Refused> {
        if !self.tables.contains_key(name) {
            let found = match table::find(&self.catalog, name).await {
                Ok(None) if self.settings.auto_create => {
                    table::create(&self.catalog, name, rows, &self.settings).await.map(Some)
                }
                other => other,
            };
            let found = match found {
                Ok(Some(table)) => Open::new(table),
                Ok(None) => {
                    return Err(Refused::fatal(format!(
                        "there is no table {name}: create it, or set iceberg.tables.auto-create-enabled=true"
                    )));
                }
                Err(error) => Err(error),
            };
            match found {
                Ok(open) => self.tables.insert(name.clone(), open),
                Err(error) => return Err(self.lost(told(name, "cannot open", &error), &error)),
            };
        }
        if !self.settings.evolve {
            return Ok(());
        }
        let fields = rows.fields().map_err(|e| Refused::fatal(format!("{name}: {e}")))?;
        let Some(open) = self.tables.get_mut(name) else { return Ok(()) };
        let missing = open.missing(fields);
        if missing.is_empty() {
            return Ok(());
        }
        let outcome = open.evolve(&self.catalog, missing).await;
        outcome.map_err(|error| self.lost(told(name, "cannot add columns to", &error), &error))
    }

    pub async fn write(&mut self, place: Place, next: i64, batches: Vec<RecordBatch>) -> Result<Answer, Refused> {
        let name = self.table_of(&place.0)?;
        let mut rejected = Vec::new();
        let mut reason = String::new();
        let mut waits = false;
        for batch in &batches {
            let rows = incoming(batch).map_err(|e| Refused::fatal(format!("{}-{}: {e}", place.0, place.1)))?;
            if rows.is_empty() {
                continue;
            }
            self.prepared(&name, &rows).await?;
            let Some(open) = self.tables.get_mut(&name) else { continue };
            let wrong = |e| Refused::fatal(format!("rows of {} do not fit the table {name}: {e}", place.0));
            let (rows, refused, why) = rows.into_rows(open.rows()).map_err(wrong)?;
            if reason.is_empty() {
                reason = why;
            }
            rejected.extend(refused);
            if rows.num_rows() == 0 {
                continue;
            }
            if let Err(error) = open.write(rows).await {
                return Err(self.lost(told(&name, "cannot write a file of", &error), &error));
            }
            waits = true;
        }
        let Some(position) = self.partitions.get_mut(&place) else {
            return Err(Refused::fatal(format!("{}-{} is not open", place.0, place.1)));
        };
        position.written = Some(next);
        position.waits |= waits;
        if rejected.is_empty() {
            return Ok(Answer::default());
        }
        rejected.sort_unstable();
        Err(Refused { fault: Fault::Rejected, message: reason, rejected })
    }

    pub async fn flush(&mut self, now_ms: i64, force: bool) -> Result<Answer, Refused> {
        if self.partitions.values().any(|p| p.waits) {
            let since = *self.waiting_since_ms.get_or_insert(now_ms);
            if force || now_ms - since >= self.settings.commit_interval_ms {
                self.commit().await?;
            }
        }
        let durable = self.partitions.iter().filter(|(_, p)| !p.waits && !p.closed);
        let one = |((topic, partition), position): (&Place, &Position)| {
            Some(At { topic: topic.clone(), partition: *partition, offset: position.written? })
        };
        Ok(Answer { offsets: durable.filter_map(one).collect(), ..Answer::default() })
    }

    /// Commits every row that waits, table by table.
    async fn commit(&mut self) -> Result<(), Refused> {
        let names: Vec<TableIdent> = self.tables.keys().cloned().collect();
        for name in names {
            let mut moves = Vec::new();
            let mut moved = Vec::new();
            for (place, position) in self.partitions.iter().filter(|(_, p)| p.waits) {
                let (Ok(table), Some(written)) = (self.settings.table_of(&place.0), position.written) else { continue };
                if table == name {
                    moves.push((property(&self.connector, &place.0, place.1), position.base, written));
                    moved.push(place.clone());
                }
            }
            let Some(open) = self.tables.get_mut(&name).filter(|open| open.is_dirty()) else { continue };
            if let Err(error) = open.commit(&self.catalog, moves).await {
                return Err(self.lost(told(&name, "cannot commit to", &error), &error));
            }
            for place in moved {
                if let Some(position) = self.partitions.get_mut(&place) {
                    position.base = position.written;
                    position.waits = false;
                }
            }
        }
        self.partitions.retain(|_, position| !position.closed);
        self.waiting_since_ms = None;
        Ok(())
    }

    pub fn close(&mut self, named: &[Named]) {
        for one in named {
            if let Some(position) = self.partitions.get_mut(&(one.topic.clone(), one.partition)) {
                position.closed = true;
            }
        }
        self.partitions.retain(|_, position| !position.closed || position.waits);
        if self.partitions.values().all(|position| position.closed) {
            self.forget();
        }
    }
}
