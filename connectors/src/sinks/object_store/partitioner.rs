//! Folders of a topic's files: by partition, by fields of the value, by time.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType, TimestampMillisecondType};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::config::Values;
use crate::rows::column;

/// Where the time of a record comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timestamps {
    Record,
    /// A field of the value, ms since 1970.
    Field(String),
}

impl Timestamps {
    pub fn check_zone(text: &str) -> Result<(), String> {
        TimeZone::get(text).map(drop).map_err(|_| "write a time zone such as UTC or Europe/Paris".to_owned())
    }
}

/// How rows find their folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// `partition=<n>`.
    Default,
    /// `<field>=<value>/...`.
    Fields(Vec<String>),
    /// A path of time, in parts of [`TimePart`].
    Time { format: Vec<TimePart>, zone: String, from: Timestamps },
}

/// A piece of `path.format`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimePart {
    Text(String),
    Year(usize),
    Month(usize),
    Day(usize),
    Hour(usize),
    Minute(usize),
    Second(usize),
}

const DAILY: &str = "'year'=YYYY/'month'=MM/'day'=dd";
const HOURLY: &str = "'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH";

impl Partitioner {
    fn kind(text: &str) -> Option<&'static str> {
        let name = text.rsplit('.').next().unwrap_or(text).to_ascii_lowercase();
        let name = name.strip_suffix("partitioner").unwrap_or(&name);
        ["default", "field", "timebased", "daily", "hourly"].into_iter().find(|kind| *kind == name)
    }

    pub fn check(text: &str) -> Result<(), String> {
        Partitioner::kind(text).map(drop).ok_or_else(|| "write default, field, timebased, daily or hourly".to_owned())
    }

    /// Err = key and what to write.
    pub fn parse(values: &Values<'_>) -> Result<Partitioner, (String, String)> {
        let fault =
            |key: &str, text: &str| Err((key.to_owned(), format!("Invalid value for configuration {key}: {text}")));
        let format = match Partitioner::kind(values.text("partitioner.class")).unwrap_or("default") {
            "field" => {
                let fields: Vec<String> = values.list("partition.field.name").into_iter().map(str::to_owned).collect();
                if fields.is_empty() {
                    return fault("partition.field.name", "the partitioner field needs the names of fields");
                }
                return Ok(Partitioner::Fields(fields));
            }
            "timebased" => match values.given("path.format") {
                Some(format) => format,
                None => return fault("path.format", &format!("the partitioner timebased needs one, such as {HOURLY}")),
            },
            "daily" => DAILY,
            "hourly" => HOURLY,
            _ => return Ok(Partitioner::Default),
        };
        let format = match time_parts(format) {
            Ok(parts) => parts,
            Err(text) => return fault("path.format", &text),
        };
        let from = match values.text("timestamp.extractor").eq_ignore_ascii_case("RecordField") {
            true => Timestamps::Field(values.text("timestamp.field").to_owned()),
            false => Timestamps::Record,
        };
        Ok(Partitioner::Time { format, zone: values.text("timezone").to_owned(), from })
    }

    /// The folder of each row, and rows of which none can be told, with the reason.
    pub fn folders(&self, rows: &RecordBatch) -> Result<Vec<String>, String> {
        let count = rows.num_rows();
        match self {
            Partitioner::Default => {
                let partitions = rows.column(column::PARTITION).as_primitive::<arrow::datatypes::Int32Type>();
                Ok((0..count).map(|row| format!("partition={}", partitions.value(row))).collect())
            }
            Partitioner::Fields(fields) => {
                let columns = fields.iter().map(|field| field_of(rows, field)).collect::<Result<Vec<_>, _>>()?;
                let folder = |row: usize| {
                    let parts = fields.iter().zip(&columns).map(|(field, array)| {
                        let value = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
                        // A value never makes a folder of its own, or leads out of this one.
                        let value = value.replace(['/', '\\'], "_");
                        format!("{field}={}", if value.is_empty() || array.is_null(row) { "null" } else { &value })
                    });
                    parts.collect::<Vec<_>>().join("/")
                };
                Ok((0..count).map(folder).collect())
            }
            Partitioner::Time { format, zone, from } => {
                let zone = TimeZone::get(zone).map_err(|e| e.to_string())?;
                let times = times(rows, from)?;
                // Neighbours mostly have the same one.
                let mut known: Option<(i64, String)> = None;
                let folder = |ms: i64| match &known {
                    Some((second, folder)) if *second == ms.div_euclid(1_000) => folder.clone(),
                    _ => {
                        let folder = render(format, &zone, ms);
                        known = Some((ms.div_euclid(1_000), folder.clone()));
                        folder
                    }
                };
                Ok(times.into_iter().map(folder).collect())
            }
        }
    }
}

fn field_of(rows: &RecordBatch, field: &str) -> Result<ArrayRef, String> {
    let value = rows.column(column::VALUE);
    let record = match value.data_type() {
        DataType::Struct(_) => value.as_struct(),
        other => {
            return Err(format!(
                "the value has no field {field}: it is {other}; set a value.converter that gives records"
            ));
        }
    };
    record.column_by_name(field).cloned().ok_or_else(|| format!("the value has no field {field}"))
}

fn times(rows: &RecordBatch, from: &Timestamps) -> Result<Vec<i64>, String> {
    match from {
        Timestamps::Record => {
            Ok(rows.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>().values().to_vec())
        }
        Timestamps::Field(field) => {
            let array = field_of(rows, field)?;
            match array.data_type() {
                DataType::Int64 => Ok(array.as_primitive::<Int64Type>().values().to_vec()),
                DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _) => {
                    Ok(array.as_primitive::<TimestampMillisecondType>().values().to_vec())
                }
                DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _) => {
                    let times = array.as_primitive::<TimestampMicrosecondType>().values();
                    Ok(times.iter().map(|time| time.div_euclid(1_000)).collect())
                }
                other => Err(format!("the field {field} is {other}, and no time in ms")),
            }
        }
    }
}

/// Java's pattern letters, as far as folders need them.
fn time_parts(format: &str) -> Result<Vec<TimePart>, String> {
    let mut parts = Vec::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\'' {
            let text: String = chars.by_ref().take_while(|c| *c != '\'').collect();
            parts.push(TimePart::Text(text));
            continue;
        }
        if !c.is_ascii_alphabetic() {
            parts.push(TimePart::Text(c.to_string()));
            continue;
        }
        let mut width = 1;
        while chars.peek() == Some(&c) {
            chars.next();
            width += 1;
        }
        parts.push(match c {
            'Y' | 'y' => TimePart::Year(width),
            'M' => TimePart::Month(width),
            'd' => TimePart::Day(width),
            'H' => TimePart::Hour(width),
            'm' => TimePart::Minute(width),
            's' => TimePart::Second(width),
            _ => return Err(format!("the letter {c} is unknown; there are YYYY, MM, dd, HH, mm, ss, and text in ''")),
        });
    }
    Ok(parts)
}

fn render(format: &[TimePart], zone: &TimeZone, ms: i64) -> String {
    let timestamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let time = timestamp.to_zoned(zone.clone());
    let mut out = String::new();
    for part in format {
        let (number, width) = match part {
            TimePart::Text(text) => {
                out += text;
                continue;
            }
            TimePart::Year(width) => (i32::from(time.year()), *width),
            TimePart::Month(width) => (i32::from(time.month()), *width),
            TimePart::Day(width) => (i32::from(time.day()), *width),
            TimePart::Hour(width) => (i32::from(time.hour()), *width),
            TimePart::Minute(width) => (i32::from(time.minute()), *width),
            TimePart::Second(width) => (i32::from(time.second()), *width),
        };
        let width = width.min(4);
        out += &format!("{number:0width$}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_by_time_are_as_other_sinks_name_them() {
        let parts = time_parts(HOURLY).unwrap();
        let zone = TimeZone::get("UTC").unwrap();
        assert_eq!(render(&parts, &zone, 1_795_527_703_353), "year=2026/month=11/day=24/hour=13");
        let paris = TimeZone::get("Europe/Paris").unwrap();
        assert_eq!(render(&parts, &paris, 1_795_527_703_353), "year=2026/month=11/day=24/hour=14");
        assert!(time_parts("YYYY-QQ").is_err());
    }
}
