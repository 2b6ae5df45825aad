//! `vs-kafka`: runs rows of the comparison and loops of the limits; see `benches/README.md`.

use std::process::ExitCode;
use std::time::Duration;

use strandline_benches::limits::LIMITS;
use strandline_benches::meter::{MEMORY, touch_memory};
use strandline_benches::report::{Measured, RowReport};
use strandline_benches::rows::{ROWS, Row, Size};
use strandline_tests::broker::Software;
use strandline_tests::place;

/// Pairs of a full run: the fewest from which a median with its spread may be told.
const PAIRS: usize = 5;
/// Messages of 1 KiB a second for row L2 when none is given.
const L2_RATE: f64 = 50_000.0;

struct Options {
    names: Vec<String>,
    pairs: usize,
    quick: bool,
    same: bool,
    l2_rate: f64,
}

const USAGE: &str = "usage: vs-kafka [--quick] [--pairs N] [--same] [--l2-rate N] ROW|LIMIT|all|limits ...
  --quick      an eighth of the load, one pair: to see that it works, not to quote
  --same       Kafka against Kafka: the noise of the machine
  --l2-rate    messages of 1 KiB a second in row L2: half of what Kafka took in row P1";

fn options() -> Result<Options, String> {
    let mut options = Options { names: Vec::new(), pairs: 0, quick: false, same: false, l2_rate: L2_RATE };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number =
            || words.next().and_then(|n| n.parse::<u32>().ok()).ok_or(format!("{word} takes a number\n{USAGE}"));
        match word.as_str() {
            "--quick" => options.quick = true,
            "--same" => options.same = true,
            "--pairs" => options.pairs = number()? as usize,
            "--l2-rate" => options.l2_rate = f64::from(number()?),
            _ if word.starts_with('-') => return Err(USAGE.to_owned()),
            "all" => options.names.extend(ROWS.iter().map(|r| r.name.to_owned())),
            "limits" => options.names.extend(LIMITS.iter().map(|l| l.name.to_owned())),
            _ => options.names.push(word),
        }
    }
    if options.pairs == 0 {
        options.pairs = if options.quick { 1 } else { PAIRS };
    }
    if options.names.is_empty() { Err(USAGE.to_owned()) } else { Ok(options) }
}

fn report(row: &'static str, what: &'static str, options: &Options) -> RowReport {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("vs-kafka {}", words.join(" "));
    RowReport { row, what, command, quick: options.quick, kafka: Vec::new(), strandline: Vec::new() }
}

/// Pairs in ABBA order, so that what drifts on the machine falls on both.
fn run_row(row: &Row, options: &Options) -> RowReport {
    let size = Size { quick: options.quick, l2_rate: options.l2_rate };
    let mut result = report(row.name, row.what, options);
    let other = if options.same { Software::Kafka } else { Software::Strandline };
    for pair in 0..options.pairs {
        let kafka_first = pair % 2 == 0;
        for first in [true, false] {
            place::clear(MEMORY);
            touch_memory();
            if first == kafka_first {
                eprintln!("{} pair {} of {}: Kafka", row.name, pair + 1, options.pairs);
                result.kafka.push((row.run)(Software::Kafka, size));
            } else {
                eprintln!("{} pair {} of {}: {other:?}", row.name, pair + 1, options.pairs);
                result.strandline.push((row.run)(other, size));
            }
        }
    }
    result
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    for name in &options.names {
        let outcome = if let Some(row) = ROWS.iter().find(|r| r.name == name) {
            run_row(row, &options)
        } else if let Some(limit) = LIMITS.iter().find(|l| l.name == name) {
            let mut result = report(limit.name, limit.what, &options);
            let (bytes, longest) = if options.quick { (512 << 20, 3) } else { (4 << 30, 15) };
            for _ in 0..options.pairs {
                place::clear(MEMORY);
                touch_memory();
                let values = (limit.run)(bytes, Duration::from_secs(longest));
                result.strandline.push(Measured {
                    values,
                    load: "a loop of the limits, no broker".to_owned(),
                    ..Default::default()
                });
            }
            result
        } else {
            eprintln!("no row or limit is named {name}\n{USAGE}");
            return ExitCode::from(2);
        };
        if let Err(e) = outcome.write() {
            eprintln!("the result of {name} cannot be written: {e}");
            return ExitCode::FAILURE;
        }
    }
    place::clear("");
    ExitCode::SUCCESS
}
