//! One connection to a database: statements, bulk ingest, transactions, and what an error of the driver means.
//!
//! Owns the driver's handles, which never leave their process. A transaction is open from the first statement to `commit` or `rollback`;
//! after a fault it has to be rolled back. What drivers say about the kind of an error differs, so texts are looked at too: each text is one
//! that the driver of that database was seen to write.

use std::path::Path;

use adbc_core::error::{Error, Status};
use adbc_core::options::{AdbcVersion, IngestMode, OptionConnection, OptionDatabase, OptionStatement, OptionValue};
use adbc_core::{Connection, Database, Driver, Optionable, Statement};
use adbc_driver_manager::{ManagedConnection, ManagedDatabase, ManagedDriver};
use arrow::array::RecordBatch;

use super::keys::{Config, Dialect, TableName};

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Try again.
    Later,
    /// A row is at fault.
    Row,
    /// The table is not there.
    NoTable,
    /// Somebody has to do something.
    Operator,
}

/// An error of the driver or the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub remedy: Remedy,
    pub text: String,
}

impl Fault {
    pub fn operator(text: impl Into<String>) -> Fault {
        Fault { remedy: Remedy::Operator, text: text.into() }
    }

    pub fn later(text: impl Into<String>) -> Fault {
        Fault { remedy: Remedy::Later, text: text.into() }
    }
}

/// By the code that SQL defines, where a driver has one.
fn remedy_by_state(state: &str) -> Option<Remedy> {
    Some(match (&state[..2], state) {
        // Rows of other types than the columns: not the connection's fault, whatever its class says.
        (_, "08P01") => Remedy::Operator,
        (_, "42P01") => Remedy::NoTable,
        // Somebody else made the same table.
        (_, "42P07" | "55P03" | "55006") => Remedy::Later,
        ("08" | "40" | "53" | "57", _) => Remedy::Later,
        ("21" | "22" | "23", _) => Remedy::Row,
        ("00", _) => return None,
        _ => Remedy::Operator,
    })
}

const NO_TABLE: [&str; 2] = ["no such table", "Catalog Error: Table with name"];
const LATER: [&str; 20] = [
    "database is locked",
    "database table is locked",
    "database is busy",
    "Could not set lock",
    "Conflicting lock",
    "TransactionContext Error",
    "Transaction conflict",
    "write-write conflict",
    "Connection refused",
    "could not connect",
    "could not translate host name",
    "server closed the connection",
    "no connection to the server",
    "is starting up",
    "is shutting down",
    "in recovery mode",
    "Connection reset by peer",
    "Broken pipe",
    "could not receive data from server",
    "timeout expired",
];
const ROW: [&str; 12] = [
    "UNIQUE constraint failed",
    "NOT NULL constraint failed",
    "CHECK constraint failed",
    "FOREIGN KEY constraint failed",
    "datatype mismatch",
    "string or blob too big",
    "Constraint Error",
    "Conversion Error",
    "violates unique constraint",
    "violates primary key constraint",
    "Duplicate key",
    "Invalid Input Error",
];

fn remedy(error: &Error) -> Remedy {
    let state: String =
        error.sqlstate.iter().map(|c| c.cast_unsigned()).filter(u8::is_ascii_alphanumeric).map(char::from).collect();
    if state.len() == 5
        && let Some(remedy) = remedy_by_state(&state)
    {
        return remedy;
    }
    let says = |texts: &[&str]| texts.iter().any(|text| error.message.contains(text));
    match error.status {
        _ if says(&LATER) => Remedy::Later,
        _ if says(&ROW) => Remedy::Row,
        _ if says(&NO_TABLE) => Remedy::NoTable,
        Status::Integrity | Status::InvalidData => Remedy::Row,
        Status::Timeout | Status::Cancelled => Remedy::Later,
        _ => Remedy::Operator,
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault { remedy: remedy(&error), text: error.message.split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

/// A loaded driver.
pub struct Loaded(ManagedDriver);

/// The function that DuckDB's library is entered by; others have one by their file's name.
const DUCKDB_ENTRY: &[u8] = b"duckdb_adbc_init";

impl Loaded {
    pub fn load(file: &Path, driver: &str) -> Result<Loaded, String> {
        let entry = (Dialect::of(driver) == Dialect::Duckdb).then_some(DUCKDB_ENTRY);
        let load = |version| ManagedDriver::load_dynamic_from_filename(file, entry, version);
        let loaded = load(AdbcVersion::V110).or_else(|_| load(AdbcVersion::V100));
        loaded.map(Loaded).map_err(|e| format!("{} is no driver that can be loaded: {}", file.display(), e.message))
    }
}

/// A connection, and the transaction on it.
pub struct Session {
    connection: ManagedConnection,
    _database: ManagedDatabase,
}

/// A name as it stands in a statement.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl TableName {
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.table)),
            None => quoted(&self.table),
        }
    }
}

/// A text as it stands in a statement.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Session {
    pub fn open(driver: &mut Loaded, config: &Config) -> Result<Session, Fault> {
        Session::connect(driver, config).map_err(|fault| {
            // Some errors repeat what was handed over, and a URI has the password in it.
            let text = config.options.iter().fold(fault.text, |text, (_, value)| match value.contains('@') {
                true => text.replace(value.as_str(), crate::config::HIDDEN),
                false => text,
            });
            Fault { text, ..fault }
        })
    }

    fn connect(driver: &mut Loaded, config: &Config) -> Result<Session, Fault> {
        let options = config.options.iter();
        let options =
            options.map(|(key, value)| (OptionDatabase::from(key.as_str()), OptionValue::from(value.as_str())));
        let database = driver.0.new_database_with_opts(options)?;
        let connection = database.new_connection()?;
        let mut session = Session { connection, _database: database };
        if config.dialect == Dialect::Sqlite {
            // Another task may be writing: wait for it, ms.
            session.run("PRAGMA busy_timeout = 20000")?;
        }
        session.connection.set_option(OptionConnection::AutoCommit, "false".into())?;
        Ok(session)
    }

    pub fn run(&mut self, sql: &str) -> Result<(), Fault> {
        let mut statement = self.connection.new_statement()?;
        statement.set_sql_query(sql)?;
        statement.execute_update()?;
        Ok(())
    }

    /// All rows of a query.
    pub fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, Fault> {
        let mut statement = self.connection.new_statement()?;
        statement.set_sql_query(sql)?;
        let rows = statement.execute()?.collect::<Result<Vec<_>, _>>();
        rows.map_err(|e| Fault::from(Error::from(e)))
    }

    /// The columns of a query's rows.
    pub fn columns(&mut self, sql: &str) -> Result<arrow::datatypes::SchemaRef, Fault> {
        let mut statement = self.connection.new_statement()?;
        statement.set_sql_query(sql)?;
        Ok(arrow::array::RecordBatchReader::schema(&*statement.execute()?))
    }

    /// Hands rows to the driver. `temporary` = into a table of this connection alone.
    pub fn ingest(
        &mut self,
        table: &TableName,
        mode: IngestMode,
        temporary: bool,
        rows: RecordBatch,
    ) -> Result<(), Fault> {
        let mut statement = self.connection.new_statement()?;
        statement.set_option(OptionStatement::TargetTable, table.table.as_str().into())?;
        statement.set_option(OptionStatement::IngestMode, mode.into())?;
        if let Some(schema) = &table.schema {
            statement.set_option(OptionStatement::TargetDbSchema, schema.as_str().into())?;
        }
        if temporary {
            statement.set_option(OptionStatement::Temporary, "true".into())?;
        }
        statement.bind(rows)?;
        statement.execute_update()?;
        Ok(())
    }

    pub fn commit(&mut self) -> Result<(), Fault> {
        Ok(self.connection.commit()?)
    }

    /// An error here says nothing more than the one before it did.
    pub fn rollback(&mut self) {
        let _ = self.connection.rollback();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(message: &str, state: &str, status: Status) -> Remedy {
        let mut error = Error::with_message_and_status(message, status);
        for (at, byte) in state.bytes().enumerate() {
            error.sqlstate[at] = byte.cast_signed();
        }
        remedy(&error)
    }

    #[test]
    fn errors_are_told_apart_by_what_can_be_done() {
        assert_eq!(of("ERROR: duplicate key", "23505", Status::Integrity), Remedy::Row);
        assert_eq!(of("ERROR: invalid byte sequence", "22021", Status::InvalidData), Remedy::Row);
        assert_eq!(of("ERROR: relation does not exist", "42P01", Status::NotFound), Remedy::NoTable);
        assert_eq!(of("ERROR: permission denied", "42501", Status::Unauthorized), Remedy::Operator);
        assert_eq!(of("terminating connection", "57P01", Status::IO), Remedy::Later);
        assert_eq!(of("insufficient data left in message", "08P01", Status::IO), Remedy::Operator);
        assert_eq!(of("connection to server failed: Connection refused", "", Status::IO), Remedy::Later);
        assert_eq!(of("[SQLite] database is locked", "", Status::Internal), Remedy::Later);
        assert_eq!(of("failed to execute: UNIQUE constraint failed: t.a", "", Status::Internal), Remedy::Row);
        assert_eq!(of("Catalog Error: Table with name t does not exist!", "", Status::Internal), Remedy::NoTable);
        assert_eq!(of("syntax error", "", Status::InvalidArguments), Remedy::Operator);
    }
}
