//! Cases: asked of both brokers, compared, and told all at once at the end.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::ops::RangeInclusive;

use strandline_protocol::messages::Request;

use crate::kept;
use crate::line::Line;
use crate::pair::{Pair, Side};

/// The cases of one test. [`Table::finish`] judges them.
pub struct Table {
    pub pair: &'static Pair,
    /// One connection to each side, reopened when the broker closed it.
    connections: [Option<Line>; 2],
    /// Per case: versions in which the sides differ, by both answers.
    differences: BTreeMap<String, BTreeMap<(String, String), Vec<i16>>>,
    asked: Vec<String>,
}

impl Table {
    pub fn new() -> Self {
        Table { pair: Pair::get(), connections: [None, None], differences: BTreeMap::new(), asked: Vec::new() }
    }

    /// A case in every served version.
    pub fn all<R>(&mut self, name: &str, build: impl Fn(&Side, i16) -> R)
    where
        R: Request,
        R::Response: Debug,
    {
        self.with(name, R::API_KEY.served_versions(), build, |_| {});
    }

    /// A case in some versions.
    pub fn some<R>(&mut self, name: &str, versions: RangeInclusive<i16>, build: impl Fn(&Side, i16) -> R)
    where
        R: Request,
        R::Response: Debug,
    {
        self.with(name, versions, build, |_| {});
    }

    /// A case whose answer loses what may differ through `normalise`.
    pub fn with<R>(
        &mut self,
        name: &str,
        versions: RangeInclusive<i16>,
        build: impl Fn(&Side, i16) -> R,
        normalise: impl Fn(&mut R::Response),
    ) where
        R: Request,
        R::Response: Debug,
    {
        let name = format!("{:?}: {name}", R::API_KEY);
        for version in versions {
            self.effect(&name, version, |side, connection| {
                let request = build(side, version);
                let sent = connection.send(version, &request);
                match sent.and_then(|()| connection.receive::<R>(version)) {
                    Ok(mut answer) => {
                        normalise(&mut answer);
                        Ok(format!("{answer:#?}"))
                    }
                    Err(broken) => Err(broken),
                }
            });
        }
    }

    /// A case that is more than one request: what `act` returns is compared; an error means that the connection is lost.
    pub fn effect(&mut self, name: &str, version: i16, act: impl Fn(&Side, &mut Line) -> Result<String, String>) {
        let mut told = Vec::new();
        for (side, connection) in self.pair.sides().into_iter().zip(&mut self.connections) {
            let open = connection.get_or_insert_with(|| Line::open(side.address));
            let text = match act(side, open) {
                Ok(text) => neutral(&side.neutral(&text)),
                Err(reason) => {
                    *connection = None;
                    reason
                }
            };
            told.push(text);
        }
        let strandline = told.pop().expect("two sides");
        let kafka = told.pop().expect("two sides");
        if !self.asked.iter().any(|asked| asked == name) {
            self.asked.push(name.to_owned());
        }
        if kafka != strandline {
            let case = self.differences.entry(name.to_owned()).or_default();
            case.entry((kafka, strandline)).or_default().push(version);
        }
    }

    /// Panics with both answers of every case that differs and is not kept, and with every kept case that no longer differs.
    pub fn finish(self) {
        let mut wrong = String::new();
        let mut count = 0;
        for (case, answers) in &self.differences {
            if kept::reason(case).is_some() {
                continue;
            }
            count += 1;
            for ((kafka, strandline), versions) in answers {
                let _ = writeln!(wrong, "=== {case}, versions {versions:?}\n{}", side_by_side(kafka, strandline));
            }
        }
        for case in self.asked.iter().filter(|c| kept::reason(c).is_some() && !self.differences.contains_key(*c)) {
            count += 1;
            let _ = writeln!(wrong, "=== {case}: listed as kept, but the answers are the same");
        }
        assert!(count == 0, "{count} of {} cases:\n{wrong}", self.asked.len());
        assert!(!self.asked.is_empty(), "a table has cases");
    }
}

/// The lines of both answers: equal ones once, others after `kafka` and `strandline`.
fn side_by_side(kafka: &str, strandline: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (kafka.lines().collect(), strandline.lines().collect());
    let mut out = String::new();
    if a.len() == b.len() {
        for (x, y) in a.iter().zip(&b) {
            if x == y {
                let _ = writeln!(out, "            {x}");
            } else {
                let _ = writeln!(out, "kafka       {x}\nstrandline  {y}");
            }
        }
        return out;
    }
    for (who, lines) in [("kafka", a), ("strandline", b)] {
        for line in lines {
            let _ = writeln!(out, "{who:11} {line}");
        }
    }
    out
}

/// Fields whose value is a broker's own, whatever the case.
const OWN_VALUES: [&str; 3] = ["throttle_time_ms: ", "log_append_time_ms: 1", "finalized_features_epoch: "];

/// The text of an answer without what never is the same twice.
fn neutral(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let field = line.trim_start();
        match OWN_VALUES.iter().find(|own| field.starts_with(*own)) {
            Some(own) => {
                let _ = writeln!(out, "{}{own}<its own>", &line[..line.len() - field.len()]);
            }
            None => {
                let _ = writeln!(out, "{}", without_ids(line));
            }
        }
    }
    out
}

const ID_LENGTH: usize = 36;

/// A line with each UUID but the nil one replaced.
fn without_ids(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let id = rest.get(..ID_LENGTH).and_then(|text| uuid::Uuid::try_parse(text).ok());
        match id {
            Some(id) if !id.is_nil() => {
                out.push_str("<an id>");
                rest = &rest[ID_LENGTH..];
            }
            _ => {
                let first = rest.chars().next().expect("not empty");
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}
