//! A table of the destination: looked at, made, widened, written.
//!
//! Owns what is known of tables, until a fault says that it may have changed. Making and widening are transactions of their own, before the rows'
//! one. Rows go straight into the table where the driver can put them there as they are; otherwise through a temporary table, from which
//! the database itself takes them, with its conversions and its way to replace rows.

use std::collections::BTreeMap;

use adbc_core::options::IngestMode;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::keys::{Config, Dialect, PkMode, TableName};
use super::session::{Fault, Remedy, Session, quoted};
use super::shape::Piece;

/// The temporary table.
const STAGE: &str = "strandline_stage";

/// Tables as they were found.
#[derive(Debug, Default)]
pub struct Tables {
    known: BTreeMap<TableName, SchemaRef>,
}

/// The type of a column that is added, in words that all of the databases take.
fn sql_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "BOOLEAN",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE PRECISION",
        DataType::Binary => "BYTEA",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Decimal128(..) => "NUMERIC",
        _ => "TEXT",
    }
}

fn is_same(here: &DataType, there: &DataType) -> bool {
    match (here, there) {
        (DataType::Timestamp(_, here), DataType::Timestamp(_, there)) => here.is_some() == there.is_some(),
        (DataType::Utf8, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        | (DataType::Binary, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => true,
        _ => here == there,
    }
}

/// Whether the driver can put these columns into the table as they are.
fn is_direct(dialect: Dialect, rows: &Schema, table: &Schema) -> bool {
    let fits =
        |field: &Field| table.field_with_name(field.name()).is_ok_and(|t| is_same(field.data_type(), t.data_type()));
    match dialect {
        // Its columns take any type.
        Dialect::Sqlite => true,
        Dialect::Postgresql => rows.fields().iter().all(|field| fits(field)),
        // Its appender counts columns instead of naming them.
        Dialect::Duckdb => {
            let pairs = rows.fields().iter().zip(table.fields());
            rows.fields().len() == table.fields().len()
                && pairs.into_iter().all(|(r, t)| r.name() == t.name() && r.data_type() == t.data_type())
        }
        Dialect::Other => false,
    }
}

impl Tables {
    /// Forgets what is known: it may have changed.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// Sees that the table is there with columns for these rows.
    pub fn prepare(
        &mut self,
        session: &mut Session,
        config: &Config,
        name: &TableName,
        rows: &RecordBatch,
        keys: &[String],
    ) -> Result<(), Fault> {
        let wanted = rows.schema();
        let lacks = |table: &Schema| -> Vec<Field> {
            let lacks = wanted.fields().iter().filter(|f| table.field_with_name(f.name()).is_err());
            lacks.map(|f| f.as_ref().clone()).collect()
        };
        if self.known.get(name).is_some_and(|table| lacks(table).is_empty()) {
            return Ok(());
        }
        let mut table = look(session, name)?;
        if table.is_none() {
            make(session, config, name, rows, keys)?;
            table = look(session, name)?;
        }
        let missing = table.as_ref().map(|table| lacks(table)).unwrap_or_default();
        if !missing.is_empty() {
            widen(session, config, name, &missing)?;
            table = look(session, name)?;
        }
        match table {
            Some(table) if lacks(&table).is_empty() => {
                self.known.insert(name.clone(), table);
                Ok(())
            }
            _ => Err(Fault::later(format!("the table {} has changed meanwhile", name.quoted()))),
        }
    }

    /// Writes or deletes rows, in the transaction that is open.
    pub fn apply(
        &self,
        session: &mut Session,
        config: &Config,
        name: &TableName,
        piece: &Piece,
        keys: &[String],
    ) -> Result<(), Fault> {
        let table = self.known.get(name).ok_or_else(|| Fault::later("the table is looked at again"))?;
        let is_direct = !config.upsert && is_direct(config.dialect, &piece.rows.schema(), table);
        let mut from = 0;
        while from < piece.rows.num_rows() {
            let rows = piece.rows.slice(from, config.batch_rows.min(piece.rows.num_rows() - from));
            from += rows.num_rows();
            if is_direct {
                session.ingest(name, IngestMode::Append, false, rows)?;
                continue;
            }
            let columns: Vec<String> = rows.schema().fields().iter().map(|f| quoted(f.name())).collect();
            let stage = TableName { schema: None, table: STAGE.to_owned() };
            session.ingest(&stage, IngestMode::Replace, true, rows)?;
            session.run(&if piece.delete { deletion(name, keys) } else { insertion(config, name, &columns, keys) })?;
        }
        Ok(())
    }
}

fn insertion(config: &Config, name: &TableName, columns: &[String], keys: &[String]) -> String {
    let list = columns.join(", ");
    // The WHERE keeps SQLite from reading ON as the begin of a join.
    let insert = format!("INSERT INTO {} ({list}) SELECT {list} FROM {} WHERE 1 = 1", name.quoted(), quoted(STAGE));
    if !config.upsert {
        return insert;
    }
    let keys: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
    let others: Vec<String> =
        columns.iter().filter(|c| !keys.contains(c)).map(|c| format!("{c} = excluded.{c}")).collect();
    let action = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", others.join(", ")) };
    format!("{insert} ON CONFLICT ({}) DO {action}", keys.join(", "))
}

fn deletion(name: &TableName, keys: &[String]) -> String {
    let (table, stage) = (name.quoted(), quoted(STAGE));
    let equal: Vec<String> = keys.iter().map(|key| quoted(key)).map(|k| format!("{stage}.{k} = {table}.{k}")).collect();
    format!("DELETE FROM {table} WHERE EXISTS (SELECT 1 FROM {stage} WHERE {})", equal.join(" AND "))
}

/// The table's columns; None = it is not there. Ends the transaction.
fn look(session: &mut Session, name: &TableName) -> Result<Option<SchemaRef>, Fault> {
    match session.columns(&format!("SELECT * FROM {} WHERE 1 = 0", name.quoted())) {
        Ok(columns) => {
            session.commit()?;
            Ok(Some(columns))
        }
        Err(fault) if fault.remedy == Remedy::NoTable => {
            session.rollback();
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

fn make(
    session: &mut Session,
    config: &Config,
    name: &TableName,
    rows: &RecordBatch,
    keys: &[String],
) -> Result<(), Fault> {
    if !config.auto_create {
        let text = format!("make the table {}, or set auto.create=true", name.quoted());
        return Err(Fault::operator(text));
    }
    session.ingest(name, IngestMode::Create, false, rows.slice(0, 0))?;
    if config.pk_mode != PkMode::None {
        let index = quoted(&format!("{}_pk", name.table));
        let columns: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
        session.run(&format!("CREATE UNIQUE INDEX {index} ON {} ({})", name.quoted(), columns.join(", ")))?;
    }
    session.commit()
}

fn widen(session: &mut Session, config: &Config, name: &TableName, missing: &[Field]) -> Result<(), Fault> {
    if !config.auto_evolve {
        let names: Vec<&str> = missing.iter().map(|f| f.name().as_str()).collect();
        let text =
            format!("add the columns {} to the table {}, or set auto.evolve=true", names.join(", "), name.quoted());
        return Err(Fault::operator(text));
    }
    for field in missing {
        let (column, kind) = (quoted(field.name()), sql_type(field.data_type()));
        session.run(&format!("ALTER TABLE {} ADD COLUMN {column} {kind}", name.quoted()))?;
    }
    session.commit()
}
