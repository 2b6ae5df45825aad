//! What the connector's settings mean. Keys are those of Apache Iceberg's own sink; defaults come from connector.json.

use std::collections::{BTreeMap, HashMap};

use iceberg::TableIdent;
use iceberg::spec::Transform;

const TOPIC: &str = "${topic}";
const CATALOG: &str = "iceberg.catalog.";

/// A column of a created table, and what of it partitions the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionBy {
    pub column: String,
    pub transform: Transform,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// namespace.table, perhaps with `${topic}`.
    table: String,
    pub auto_create: bool,
    pub evolve: bool,
    pub partition_by: Vec<PartitionBy>,
    pub commit_interval_ms: i64,
    /// For the catalog and its storage, without the prefix.
    pub catalog: HashMap<String, String>,
}

/// `day(c)`, `bucket(c, 8)`, `c`.
fn partition_by(text: &str) -> Result<PartitionBy, String> {
    let unknown = || {
        format!(
            "iceberg.tables.default-partition-by has {text}: a column, or one of year(c), month(c), day(c), hour(c), bucket(c, n), \
             truncate(c, n) is allowed"
        )
    };
    let Some((name, rest)) = text.split_once('(') else {
        return Ok(PartitionBy { column: text.trim().to_owned(), transform: Transform::Identity });
    };
    let inner = rest.trim().strip_suffix(')').ok_or_else(unknown)?;
    let (column, number) = match inner.split_once(',') {
        Some((column, number)) => (column.trim(), Some(number.trim().parse::<u32>().map_err(|_| unknown())?)),
        None => (inner.trim(), None),
    };
    let transform = match (name.trim().to_ascii_lowercase().trim_end_matches('s'), number) {
        ("year", None) => Transform::Year,
        ("month", None) => Transform::Month,
        ("day", None) => Transform::Day,
        ("hour", None) => Transform::Hour,
        ("bucket", Some(n)) if n > 0 => Transform::Bucket(n),
        ("truncate", Some(n)) if n > 0 => Transform::Truncate(n),
        _ => return Err(unknown()),
    };
    Ok(PartitionBy { column: column.to_owned(), transform })
}

/// Parts between commas that are not in parentheses.
fn listed(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_i32;
    for c in text.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        match parts.last_mut() {
            Some(last) if c != ',' || depth > 0 => last.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.into_iter().map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

impl Settings {
    /// Err = which is wrong, and what would be right.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Settings, String> {
        let text = |key: &str| given.get(key).map(|v| v.trim()).filter(|v| !v.is_empty());
        let is = |key: &str| text(key).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let table = text("iceberg.tables").ok_or("iceberg.tables is not set: set it to namespace.table")?.to_owned();
        if table.contains(',') {
            return Err(
                "iceberg.tables names several tables: name one, or use ${topic} for one of each topic".to_owned()
            );
        }
        if text("iceberg.catalog.uri").is_none() {
            return Err("iceberg.catalog.uri is not set: set it to where the REST catalog is".to_owned());
        }
        let interval = text("iceberg.control.commit.interval-ms").unwrap_or("300000");
        let commit_interval_ms = interval
            .parse()
            .ok()
            .filter(|ms| *ms > 0)
            .ok_or_else(|| format!("iceberg.control.commit.interval-ms is {interval}: milliseconds, at least 1"))?;
        let partition_by = listed(text("iceberg.tables.default-partition-by").unwrap_or_default())
            .iter()
            .map(|part| partition_by(part))
            .collect::<Result<_, _>>()?;
        let catalog = given
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(CATALOG)?.to_owned(), value.trim().to_owned())))
            .filter(|(key, value)| key != "type" && !value.is_empty())
            .collect();
        let settings = Settings {
            table,
            auto_create: is("iceberg.tables.auto-create-enabled"),
            evolve: is("iceberg.tables.evolve-schema-enabled"),
            partition_by,
            commit_interval_ms,
            catalog,
        };
        settings.table_of("topic")?;
        Ok(settings)
    }

    /// Where the records of a topic go. Dots and dashes of a topic's name are underscores in a table's.
    pub fn table_of(&self, topic: &str) -> Result<TableIdent, String> {
        let plain = topic.replace(['.', '-'], "_");
        let name = self.table.replace(TOPIC, &plain);
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() < 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!("iceberg.tables is {:?}: it has to be namespace.table", self.table));
        }
        TableIdent::from_strs(parts).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(more: &[(&str, &str)]) -> Result<Settings, String> {
        let base = [("iceberg.tables", "db.t"), ("iceberg.catalog.uri", "http://c")];
        let all = base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Settings::parse(&all.collect())
    }

    #[test]
    fn tables_are_one_or_one_of_each_topic() {
        assert_eq!(parsed(&[]).unwrap().table_of("a.b").unwrap().to_string(), "db.t");
        let each = parsed(&[("iceberg.tables", "lake.raw.${topic}")]).unwrap();
        assert_eq!(each.table_of("a.b-c").unwrap().to_string(), "lake.raw.a_b_c");
        for wrong in ["t", "db.", "a.b,c.d"] {
            assert!(parsed(&[("iceberg.tables", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn partitions_are_columns_and_transforms() {
        let key = "iceberg.tables.default-partition-by";
        let found = parsed(&[(key, "region, days(at),bucket(id, 8)")]).unwrap().partition_by;
        let by = |column: &str, transform| PartitionBy { column: column.to_owned(), transform };
        assert_eq!(
            found,
            [by("region", Transform::Identity), by("at", Transform::Day), by("id", Transform::Bucket(8))]
        );
        for wrong in ["week(at)", "bucket(id)", "bucket(id, 0)", "day(at"] {
            assert!(parsed(&[(key, wrong)]).unwrap_err().contains("is allowed"), "{wrong}");
        }
    }

    #[test]
    fn what_is_the_catalogs_goes_to_it() {
        let catalog = parsed(&[("iceberg.catalog.s3.endpoint", "http://m"), ("iceberg.catalog.type", "rest")]).unwrap();
        assert_eq!(catalog.catalog.len(), 2);
        assert_eq!(catalog.catalog["s3.endpoint"], "http://m");
    }
}
