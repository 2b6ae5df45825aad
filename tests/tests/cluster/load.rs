//! Kafka's verifiable producer and consumer, as long as the cluster changes under them.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use strandline_tests::process::Running;
use strandline_tests::{place, tools, wait};

const MOVED_ON: Duration = Duration::from_secs(60);
const ENDS: Duration = Duration::from_secs(60);

/// An idempotent Java producer and a consumer of a group.
pub struct Load {
    producer: Running,
    consumer: Running,
}

/// A number's place: partition and offset.
pub type Places = BTreeMap<u64, (i32, i64)>;

fn number(line: &str, name: &str) -> Option<i64> {
    let rest = line.split_once(&format!("\"{name}\":"))?.1;
    let digits: String = rest.trim_start_matches('"').chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
    digits.parse().ok()
}

fn place_of(line: &str) -> Option<(u64, (i32, i64))> {
    let value = u64::try_from(number(line, "value")?).ok()?;
    Some((value, (i32::try_from(number(line, "partition")?).ok()?, number(line, "offset")?)))
}

impl Load {
    /// Writes `rate` numbers a second to the topic, and reads them.
    pub fn start(bootstrap: &str, topic: &str, rate: u32) -> Self {
        let file = place::directory("load").join("producer.properties");
        let mut written = std::fs::File::create(&file).expect("a properties file");
        written
            .write_all(b"enable.idempotence=true\nretries=2147483647\ndelivery.timeout.ms=120000\nlinger.ms=5\n")
            .expect("a properties file");
        let (file, rate) = (file.display().to_string(), rate.to_string());
        let connected = ["--bootstrap-server", bootstrap, "--topic", topic];
        let producing = ["--throughput", &rate, "--acks", "-1", "--command-config", &file];
        let producer = Running::start(&tools::java(tools::VERIFIABLE_PRODUCER, &[&connected[..], &producing].concat()));
        let consuming = ["--group-id", "load", "--reset-policy", "earliest", "--verbose"];
        let consumer = Running::start(&tools::java(tools::VERIFIABLE_CONSUMER, &[&connected[..], &consuming].concat()));
        let load = Load { producer, consumer };
        load.await_progress();
        load
    }

    fn acknowledged(&self) -> Places {
        let lines = self.producer.lines();
        lines.iter().filter(|l| l.contains("\"name\":\"producer_send_success\"")).filter_map(|l| place_of(l)).collect()
    }

    /// Waits until more is acknowledged, and read.
    pub fn await_progress(&self) {
        let (written, read) = (self.acknowledged().len(), self.read().len());
        wait::until("the load goes on", MOVED_ON, || {
            assert!(self.errors().is_empty(), "the producer was refused: {:?}", self.errors());
            (self.acknowledged().len() > written + 50 && self.read().len() > read + 50).then_some(())
        });
    }

    fn errors(&self) -> Vec<String> {
        let lines = self.producer.lines().into_iter();
        lines.filter(|line| line.contains("\"name\":\"producer_send_error\"")).collect()
    }

    /// Every record that the consumer got, in its order.
    fn read(&self) -> Vec<(u64, (i32, i64))> {
        let lines = self.consumer.lines();
        lines.iter().filter(|l| l.contains("\"name\":\"record_data\"")).filter_map(|l| place_of(l)).collect()
    }

    /// Ends the producer and waits until the consumer has all; what was acknowledged, each number read once, in order.
    pub fn finish(mut self) -> Places {
        self.producer.terminate(ENDS);
        assert!(self.errors().is_empty(), "the producer was refused: {:?}", self.errors());
        let acknowledged = self.acknowledged();
        let seen = wait::until("the consumer has read what was acknowledged", MOVED_ON, || {
            let seen = self.read();
            let numbers: std::collections::BTreeSet<u64> = seen.iter().map(|(number, _)| *number).collect();
            acknowledged.keys().all(|number| numbers.contains(number)).then_some(seen)
        });
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let mut read = Places::new();
        for (number, (partition, offset)) in seen {
            let expected = next.entry(partition).or_default();
            assert_eq!(offset, *expected, "partition {partition}: every offset once and in order");
            *expected += 1;
            assert_eq!(read.insert(number, (partition, offset)), None, "{number} was read twice");
        }
        for (number, place) in &acknowledged {
            assert_eq!(read.get(number), Some(place), "{number} is read where it was acknowledged");
        }
        acknowledged
    }
}
