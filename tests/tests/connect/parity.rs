//! Every call of Kafka Connect's REST API, right and wrong, to Apache Kafka Connect 4.3.1 and to ours: status, headers and body are equal, or
//! the difference is in `parity/differences.md` with its reason. That table is part of docs/CONNECTORS.md, and a difference that is no
//! longer there must leave it.

mod calls;
mod compare;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::connect::Worker;
use strandline_tests::{http, place, wait};

use self::calls::{Call, Step, steps};
use self::compare::{Told, differences};
use crate::scene::{ARRIVE, produce, topic};

/// Lines in the topic that both connectors read.
pub const LINES: usize = 5;
/// How long a worker may refuse a call because its group is being seated.
const SEATED: Duration = Duration::from_secs(30);
/// A state that is asked for at once may be that of before the last call.
const SETTLES: Duration = Duration::from_millis(1_500);

/// One worker and its cluster.
struct Side {
    worker: Worker,
    /// Held so that it lives as long.
    _broker: Broker,
    /// Where its connectors write.
    file: String,
}

impl Side {
    fn start(software: Software) -> Side {
        let broker = Broker::start(software, Setup::default());
        topic(&broker, "orders", 1);
        produce(&broker, "orders", 1, "line", LINES);
        let worker = Worker::of(software, &broker.bootstrap(), "parity", &[]);
        let file = place::directory("sink").join("out").display().to_string();
        Side { worker, _broker: broker, file }
    }

    /// The answer without what is this side's own.
    fn ask(&self, call: &Call) -> Told {
        let body = call.body.as_ref().map(|body| body.replace("$FILE", &self.file));
        let answer = wait::until(&format!("{} is answered", call.name()), SEATED, || {
            let answer = http::call(self.worker.rest.0, call.method, call.path, body.as_deref());
            let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", call.name()));
            (answer.status != 409 || !answer.body.contains("momentarily")).then_some(answer)
        });
        let neutral = |text: &str| {
            let text = text.replace(&self.file, "$FILE").replace(&self.worker.id(), "$WORKER");
            text.replace(&format!("http://{}", self.worker.rest.0), "$URL")
        };
        let header = |name: &str| {
            let lines = answer.head.lines().filter_map(|line| line.split_once(':'));
            let found = lines.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| neutral(value.trim()).replace("http://$WORKER", "$URL"))
        };
        let body = neutral(&answer.body);
        Told {
            status: answer.status,
            location: header("location"),
            content_type: header("content-type"),
            body: serde_json::from_str(&body).unwrap_or_else(|_| Value::String(body.clone())),
        }
    }

    fn carry_out(&self, step: &Step) -> Option<Told> {
        match step {
            Step::Ask(call) => return Some(self.ask(call)),
            Step::Settle { name, state, tasks } => {
                wait::pause(SETTLES);
                self.worker.rest.await_state(name, state, *tasks);
            }
            Step::Committed { name, offset } => {
                wait::until(&format!("{name} has committed {offset}"), ARRIVE, || {
                    let (_, told) = self.worker.rest.get(&format!("/connectors/{name}/offsets"));
                    (told["offsets"][0]["offset"]["kafka_offset"] == *offset).then_some(())
                });
            }
        }
        None
    }

    /// All answers, in the order of the calls.
    fn told(&self) -> Vec<Told> {
        steps().iter().filter_map(|step| self.carry_out(step)).collect()
    }
}

/// One row of `differences.md`.
struct Kept {
    call: String,
    place: String,
}

fn table() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/connect/parity/differences.md");
    std::fs::read_to_string(path).expect("the table is beside the test")
}

fn kept() -> Vec<Kept> {
    let rows = table();
    let rows = rows.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| row.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`']).to_owned()).collect();
    rows.map(|row| {
        let cells: Vec<String> = cells(row);
        assert!(cells.len() == 3 && !cells[2].is_empty(), "a call, a place and a reason: {row}");
        Kept { call: cells[0].clone(), place: cells[1].clone() }
    })
    .collect()
}

/// Whether a text is what a pattern says, `*` = anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let Some(rest) = text.strip_prefix(before) else { return false };
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
        }
    }
}

#[test]
fn every_call_is_answered_as_kafka_connect_answers_it() {
    let (kafka, ours) = std::thread::scope(|scope| {
        let kafka = scope.spawn(|| Side::start(Software::Kafka).told());
        let ours = scope.spawn(|| Side::start(Software::Strandline).told());
        (kafka.join().expect("Kafka Connect is asked"), ours.join().expect("ours is asked"))
    });
    let kept = kept();
    let mut used = BTreeSet::new();
    let mut wrong = String::new();
    let all = steps();
    let calls = all.iter().filter_map(|step| match step {
        Step::Ask(call) => Some(call),
        _ => None,
    });
    let calls: Vec<&Call> = calls.collect();
    assert!(calls.len() == kafka.len() && kafka.len() == ours.len() && calls.len() > 80, "{}", calls.len());
    for ((call, kafka), ours) in calls.iter().zip(&kafka).zip(&ours) {
        for one in differences(kafka, ours) {
            let meant = kept.iter().position(|kept| fits(&kept.call, &call.name()) && fits(&kept.place, &one.place));
            match meant {
                Some(at) => {
                    used.insert(at);
                }
                None => {
                    let _ = writeln!(
                        wrong,
                        "{} | {}\n    kafka      {}\n    strandline {}",
                        call.name(),
                        one.place,
                        one.kafka,
                        one.ours
                    );
                }
            }
        }
    }
    for (at, kept) in kept.iter().enumerate().filter(|(at, _)| !used.contains(at)) {
        let _ = writeln!(wrong, "row {} of differences.md is no difference: {} | {}", at + 1, kept.call, kept.place);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn users_are_told_the_differences() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CONNECTORS.md");
    let page = std::fs::read_to_string(page).expect("the page is in the tree");
    assert!(
        page.contains(table().trim()),
        "docs/CONNECTORS.md has the table of tests/tests/connect/parity/differences.md"
    );
}
