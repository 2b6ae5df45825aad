//! One line of JSON a row, appended to `benches/results/<date of the run's first line>.jsonl`, and the table on the terminal.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use strandline_tests::wait;

/// The numbers of one measurement, by name with its unit.
pub type Values = BTreeMap<&'static str, f64>;

/// One measurement of one broker.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub durability: String,
    pub codec: String,
    pub batch: String,
    pub load: String,
    pub values: Values,
}

/// All measurements of a row; pair n is `kafka[n]` and `strandline[n]`.
#[derive(Debug)]
pub struct RowReport {
    pub row: &'static str,
    pub what: &'static str,
    pub command: String,
    pub quick: bool,
    pub kafka: Vec<Measured>,
    pub strandline: Vec<Measured>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn command_output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

impl RowReport {
    /// Ratio ours to Kafka's of each pair, for each number that both have.
    fn ratios(&self) -> BTreeMap<&'static str, Vec<f64>> {
        let mut ratios: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for (kafka, ours) in self.kafka.iter().zip(&self.strandline) {
            for (name, theirs) in &kafka.values {
                if let Some(value) = ours.values.get(name).filter(|_| *theirs != 0.0) {
                    ratios.entry(name).or_default().push(value / theirs);
                }
            }
        }
        ratios
    }

    fn json(&self) -> Value {
        let side = |measured: &[Measured]| -> Value {
            let mut by_name: Map<String, Value> = Map::new();
            for one in measured {
                for (name, value) in &one.values {
                    let list = by_name.entry(*name).or_insert_with(|| json!([]));
                    list.as_array_mut().expect("a list").push(json!(value));
                }
            }
            Value::Object(by_name)
        };
        let ratios: Map<String, Value> = self
            .ratios()
            .into_iter()
            .map(|(name, list)| {
                let (low, high) = list.iter().fold((f64::MAX, f64::MIN), |(l, h), r| (l.min(*r), h.max(*r)));
                (name.to_owned(), json!({"median": median(list), "min": low, "max": high}))
            })
            .collect();
        let mode = self.strandline.first().or(self.kafka.first()).cloned().unwrap_or_default();
        json!({
            "time_ms": wait::wall_clock_ms(),
            "row": self.row,
            "what": self.what,
            "durability": mode.durability,
            "codec": mode.codec,
            "batch": mode.batch,
            "load": mode.load,
            "command": self.command,
            "quick": self.quick,
            "commit": command_output("git", &["describe", "--always", "--dirty"]),
            "kernel": command_output("uname", &["-r"]),
            "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "load_average": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
            "kafka_version": "4.3.1",
            "pairs": self.strandline.len(),
            "kafka": side(&self.kafka),
            "strandline": side(&self.strandline),
            "ratio": ratios,
        })
    }

    /// Appends the line and prints the table.
    pub fn write(&self) -> std::io::Result<()> {
        let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results"));
        std::fs::create_dir_all(&directory)?;
        let name = if self.quick { "quick.jsonl" } else { "full.jsonl" };
        let mut file = std::fs::File::options().create(true).append(true).open(directory.join(name))?;
        writeln!(file, "{}", self.json())?;
        println!("\n{} {}", self.row, self.what);
        let names: std::collections::BTreeSet<_> =
            self.kafka.iter().chain(&self.strandline).flat_map(|m| m.values.keys().copied()).collect();
        let ratios = self.ratios();
        for name in names {
            let of = |all: &[Measured]| median(all.iter().filter_map(|m| m.values.get(name).copied()).collect());
            let show = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.3}"));
            let ratio = ratios.get(name).and_then(|r| median(r.clone()));
            println!(
                "  {name:<34} kafka {:>12}  strandline {:>12}  ratio {:>7}",
                show(of(&self.kafka)),
                show(of(&self.strandline)),
                show(ratio)
            );
        }
        Ok(())
    }
}
