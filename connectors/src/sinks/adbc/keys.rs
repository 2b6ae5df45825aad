//! What the sink can be told, under the names that JDBC sinks have, and how a URL becomes a driver's options.
//!
//! A connector's settings name a driver, never a file to load; a database in a file is named by an absolute path and nothing else, so that a
//! setting cannot ask a driver for extensions, sockets or other files.

use reqwest::Url;

use crate::config::{Importance, Key, Rule, Settings, Type, Values};

const CONNECTION: &str = "Connection";
const WRITES: &str = "Writes";
const TABLES: &str = "Tables";
/// What stands for the name of the topic that is read.
const TOPIC: &str = "${topic}";
/// Columns of `pk.mode=kafka`, unless `pk.fields` names others.
const KAFKA_COLUMNS: [&str; 3] = ["__connect_topic", "__connect_partition", "__connect_offset"];

/// All keys of the sink.
pub const KEYS: &[Key] = &[
    Key::required("connection.url", Type::String, "The database: postgresql://host:port/database, sqlite:/path, duckdb:/path, or what another driver takes as its uri. jdbc: in front is allowed.").group(CONNECTION).rule(Rule::NonEmpty),
    Key::new("connection.user", Type::String, "", "The user, if the database has users.").group(CONNECTION),
    Key::new("connection.password", Type::Password, "", "The user's password.").group(CONNECTION),
    Key::new("adbc.driver", Type::String, "", "The driver: postgresql, sqlite, duckdb, or NAME of a libadbc_driver_NAME.so below plugin.path; empty = as the URL begins.").group(CONNECTION).rule(Rule::Check(check_driver)),
    Key::new("insert.mode", Type::String, "insert", "insert, or upsert: a row of the same primary key is replaced.").group(WRITES).rule(Rule::OneOf(&["insert", "upsert"])).importance(Importance::High),
    Key::new("batch.size", Type::Int, "3000", "Rows that are handed to the driver at once.").group(WRITES).rule(Rule::AtLeast(1)),
    Key::new("delete.enabled", Type::Boolean, "false", "Whether a record without a value deletes the row of its key; needs insert.mode=upsert and pk.mode=record_key.").group(WRITES),
    Key::new("pk.mode", Type::String, "none", "The primary key: none, kafka (topic, partition, offset), record_key, record_value.").group(TABLES).rule(Rule::OneOf(&["none", "kafka", "record_key", "record_value"])).importance(Importance::High),
    Key::new("pk.fields", Type::List, "", "Its columns: three names for kafka; fields of the key or value, empty = all of the key; one name for a key without fields.").group(TABLES),
    Key::new("table.name.format", Type::String, "${topic}", "The table; ${topic} is the topic. A dot in front of ${topic} ends the schema's name.").group(TABLES),
    Key::new("auto.create", Type::Boolean, "false", "Whether a table that is not there is made.").group(TABLES),
    Key::new("auto.evolve", Type::Boolean, "false", "Whether columns that a table lacks are added.").group(TABLES),
];

fn check_driver(value: &str) -> Result<(), String> {
    let plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { Ok(()) } else { Err("write a driver's name: letters, digits and underscores".to_owned()) }
}

/// Databases whose ways are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Postgresql,
    Sqlite,
    Duckdb,
    Other,
}

impl Dialect {
    pub fn of(driver: &str) -> Dialect {
        match driver {
            "postgresql" => Dialect::Postgresql,
            "sqlite" => Dialect::Sqlite,
            "duckdb" => Dialect::Duckdb,
            _ => Dialect::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PkMode {
    None,
    Kafka,
    RecordKey,
    RecordValue,
}

/// A table and its schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    pub schema: Option<String>,
    pub table: String,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub driver: String,
    pub dialect: Dialect,
    /// The driver's options for a database.
    pub options: Vec<(String, String)>,
    pub upsert: bool,
    pub delete: bool,
    pub batch_rows: usize,
    pub pk_mode: PkMode,
    pub pk_fields: Vec<String>,
    pub auto_create: bool,
    pub auto_evolve: bool,
    format: String,
}

type Faults = Vec<(String, String)>;

fn fault(key: &str, text: impl Into<String>) -> Faults {
    vec![(key.to_owned(), text.into())]
}

impl Config {
    /// Err = all that is wrong, with its key.
    pub fn parse(settings: &Settings) -> Result<Config, Faults> {
        let values = Values::check(KEYS, settings)
            .map_err(|faults| faults.into_iter().map(|text| (String::new(), text)).collect::<Faults>())?;
        let url = values.text("connection.url");
        let url = url.strip_prefix("jdbc:").unwrap_or(url);
        let named = values.text("adbc.driver").to_ascii_lowercase();
        let driver = if named.is_empty() { driver_of(url)?.to_owned() } else { named };
        let dialect = Dialect::of(&driver);
        let pk_mode = match values.text("pk.mode").to_ascii_lowercase().as_str() {
            "kafka" => PkMode::Kafka,
            "record_key" => PkMode::RecordKey,
            "record_value" => PkMode::RecordValue,
            _ => PkMode::None,
        };
        let mut pk_fields: Vec<String> = values.list("pk.fields").into_iter().map(str::to_owned).collect();
        if pk_mode == PkMode::Kafka && pk_fields.is_empty() {
            pk_fields = KAFKA_COLUMNS.map(str::to_owned).to_vec();
        }
        let config = Config {
            options: options(dialect, url, &values)?,
            driver,
            dialect,
            upsert: values.text("insert.mode").eq_ignore_ascii_case("upsert"),
            delete: values.flag("delete.enabled"),
            batch_rows: usize::try_from(values.number("batch.size")).unwrap_or(1),
            pk_mode,
            pk_fields,
            auto_create: values.flag("auto.create"),
            auto_evolve: values.flag("auto.evolve"),
            format: values.text("table.name.format").to_owned(),
        };
        config.together()?;
        Ok(config)
    }

    fn together(&self) -> Result<(), Faults> {
        let count = self.pk_fields.len();
        match self.pk_mode {
            PkMode::None if self.upsert => {
                return Err(fault(
                    "pk.mode",
                    "insert.mode=upsert needs a primary key: write kafka, record_key or record_value",
                ));
            }
            PkMode::Kafka if count != 3 => {
                return Err(fault("pk.fields", "pk.mode=kafka has three columns: write their names, or leave it out"));
            }
            PkMode::RecordValue if count == 0 => {
                return Err(fault(
                    "pk.fields",
                    "pk.mode=record_value needs it: write the fields of the value that are the primary key",
                ));
            }
            _ => {}
        }
        if self.delete && !(self.upsert && self.pk_mode == PkMode::RecordKey) {
            return Err(fault("delete.enabled", "it needs insert.mode=upsert and pk.mode=record_key"));
        }
        if self.format.replace(TOPIC, "x").trim().is_empty() || self.format.contains('"') {
            return Err(fault("table.name.format", "write a table's name, in which ${topic} is the topic"));
        }
        Ok(())
    }

    /// The table of a topic.
    pub fn table(&self, topic: &str) -> TableName {
        // A topic's own dots are part of the table's name.
        let (schema, table) = match self.format.split_once('.') {
            Some((schema, table)) if !schema.contains(TOPIC) => (Some(schema), table),
            _ => (None, self.format.as_str()),
        };
        TableName { schema: schema.map(str::to_owned), table: table.replace(TOPIC, topic) }
    }
}

fn driver_of(url: &str) -> Result<&'static str, Faults> {
    match url.split(':').next().unwrap_or_default() {
        "postgresql" | "postgres" => Ok("postgresql"),
        "sqlite" => Ok("sqlite"),
        "duckdb" => Ok("duckdb"),
        _ => Err(fault("adbc.driver", "the URL does not tell the driver: write its name")),
    }
}

fn options(dialect: Dialect, url: &str, values: &Values<'_>) -> Result<Vec<(String, String)>, Faults> {
    let (user, password) = (values.given("connection.user"), values.secret("connection.password"));
    let password = Some(password.reveal()).filter(|p| !p.is_empty());
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    match dialect {
        Dialect::Postgresql => Ok(vec![pair("uri", &postgresql(url, user, password)?)]),
        Dialect::Sqlite => Ok(vec![pair("uri", file(url, "sqlite:")?)]),
        Dialect::Duckdb => Ok(vec![
            pair("path", file(url, "duckdb:")?),
            pair("autoinstall_known_extensions", "false"),
            pair("autoload_known_extensions", "false"),
            // Its own idea is most of the machine; the process may use 4 GiB of addresses.
            pair("memory_limit", "1GB"),
            pair("threads", "2"),
        ]),
        Dialect::Other => {
            let mut options = vec![pair("uri", url)];
            options.extend(user.map(|user| pair("username", user)));
            options.extend(password.map(|password| pair("password", password)));
            Ok(options)
        }
    }
}

fn file<'a>(url: &'a str, scheme: &str) -> Result<&'a str, Faults> {
    let path = url.strip_prefix(scheme).unwrap_or(url);
    let path = path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path);
    let well = path.starts_with('/') && !path.contains(['?', '\0']) && !path.split('/').any(|part| part == "..");
    if well {
        Ok(path)
    } else {
        Err(fault("connection.url", format!("write the database's file as an absolute path: {scheme}/path")))
    }
}

/// Parameters of libpq that lead elsewhere than the URL says, or name files.
const ELSEWHERE: [&str; 8] = ["host", "hostaddr", "port", "service", "servicefile", "passfile", "password", "user"];

fn postgresql(url: &str, user: Option<&str>, password: Option<&str>) -> Result<String, Faults> {
    let wrong = |text: &str| fault("connection.url", text);
    let mut url = Url::parse(url).map_err(|_| wrong("write postgresql://host:port/database"))?;
    if !matches!(url.scheme(), "postgresql" | "postgres")
        || url.host_str().is_none_or(|h| h.is_empty() || h.contains('%'))
    {
        return Err(wrong("write postgresql://host:port/database"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL is shown to everybody: put credentials into connection.user and connection.password"));
    }
    if let Some((name, _)) = url.query_pairs().find(|(name, _)| ELSEWHERE.contains(&name.to_ascii_lowercase().as_str()))
    {
        return Err(wrong(&format!(
            "the parameter {name} is not taken: write host and port into the URL, credentials into their keys"
        )));
    }
    let refused = |()| wrong("it cannot have a user");
    url.set_username(user.unwrap_or("")).map_err(refused)?;
    url.set_password(password).map_err(refused)?;
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::settings;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, Faults> {
        let mut all = settings(&[("connection.url", "postgresql://db.test:5432/shop")]);
        all.extend(settings(pairs));
        Config::parse(&all)
    }

    #[test]
    fn a_url_names_the_driver_and_credentials_have_their_keys() {
        let config = parse(&[("connection.user", "a b"), ("connection.password", "p/w@")]).unwrap();
        assert_eq!((config.driver.as_str(), config.dialect), ("postgresql", Dialect::Postgresql));
        assert_eq!(config.options[0].1, "postgresql://a%20b:p%2Fw%40@db.test:5432/shop");
        let jdbc = parse(&[("connection.url", "jdbc:sqlite:/data/x.db")]).unwrap();
        assert_eq!(jdbc.options, [("uri".to_owned(), "/data/x.db".to_owned())]);
        assert_eq!(parse(&[("connection.url", "duckdb:///data/x")]).unwrap().options[0].1, "/data/x");
    }

    #[test]
    fn a_topic_s_dots_are_not_a_schema() {
        let table = |format: &str| parse(&[("table.name.format", format)]).unwrap().table("eu.orders");
        assert_eq!(table("${topic}"), TableName { schema: None, table: "eu.orders".to_owned() });
        let named = TableName { schema: Some("shop".to_owned()), table: "t_eu.orders".to_owned() };
        assert_eq!(table("shop.t_${topic}"), named);
    }

    #[test]
    fn what_does_not_fit_together_is_told_with_its_key() {
        for (pairs, key) in [
            (&[("connection.url", "mysql://db/x")][..], "adbc.driver"),
            (&[("connection.url", "postgresql://u:p@db/x")], "connection.url"),
            (&[("connection.url", "postgresql://db/x?host=/tmp")], "connection.url"),
            (&[("connection.url", "postgresql://db/x?hostaddr=169.254.169.254")], "connection.url"),
            (&[("connection.url", "sqlite:x.db")], "connection.url"),
            (&[("connection.url", "duckdb:md:share")], "connection.url"),
            (&[("insert.mode", "upsert")], "pk.mode"),
            (&[("pk.mode", "kafka"), ("pk.fields", "a,b")], "pk.fields"),
            (&[("pk.mode", "record_value")], "pk.fields"),
            (&[("delete.enabled", "true")], "delete.enabled"),
        ] {
            let faults = parse(pairs).unwrap_err();
            assert!(faults.len() == 1 && faults[0].0 == key, "{pairs:?}: {faults:?}");
        }
    }
}
