//! What the sink can be told: where the other cluster is, and Kafka's own names for producing to it.

use std::time::Duration;

use strandline_client::ProducerOptions;
use strandline_protocol::compression::Compression;

use crate::config::{Importance, Key, Rule, Settings, Type, Values};

const TARGET: &str = "Target";
const TOPICS: &str = "Topics";
const PRODUCER: &str = "Producer";
/// What stands for the name of the topic that is read.
const TOPIC: &str = "${topic}";

/// All keys of the sink.
pub const KEYS: &[Key] = &[
    Key::required("target.bootstrap.servers", Type::List, "Brokers of the cluster that is written to: host:port, separated by commas.").group(TARGET).rule(Rule::Check(check_servers)),
    Key::new("target.security.protocol", Type::String, "PLAINTEXT", "How that cluster is spoken to. PLAINTEXT alone is there.").group(TARGET).rule(Rule::OneOf(&["PLAINTEXT"])).importance(Importance::Low),
    Key::new("topic.name.format", Type::String, "${topic}", "The topic that is written to; ${topic} is the one that is read.").group(TOPICS).rule(Rule::Check(check_format)).importance(Importance::High),
    Key::new("topic.creation.enable", Type::Boolean, "true", "Whether a topic, or a partition, that is not there is made.").group(TOPICS),
    Key::new("topic.creation.default.partitions", Type::Int, "-1", "Partitions of a topic that is made; -1 = as many as are read. Partitions keep their numbers, so more are made when they are needed.").group(TOPICS).rule(Rule::AtLeast(-1)),
    Key::new("topic.creation.default.replication.factor", Type::Int, "-1", "Replicas of a topic that is made; -1 = as that cluster has it.").group(TOPICS).rule(Rule::AtLeast(-1)),
    Key::new("producer.compression.type", Type::String, "none", "none, gzip, snappy, lz4 or zstd.").group(PRODUCER).rule(Rule::OneOf(&["none", "gzip", "snappy", "lz4", "zstd"])),
    Key::new("producer.batch.size", Type::Int, "131072", "Bytes after which a batch is sent.").group(PRODUCER).rule(Rule::AtLeast(1)),
    Key::new("producer.max.in.flight.requests.per.connection", Type::Int, "5", "Batches of a partition that are not acknowledged yet, at most 5.").group(PRODUCER).rule(Rule::Check(check_in_flight)),
    Key::new("producer.request.timeout.ms", Type::Int, "30000", "How long an answer is waited for, ms.").group(PRODUCER).rule(Rule::AtLeast(1)),
    Key::new("producer.delivery.timeout.ms", Type::Int, "120000", "How long a batch is tried again, ms; then everything behind the last commit is read and sent again.").group(PRODUCER).rule(Rule::AtLeast(1)),
];

fn check_servers(value: &str) -> Result<(), String> {
    let well = |server: &str| match server.rsplit_once(':') {
        Some((host, port)) => !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0),
        None => false,
    };
    let mut servers = value.split(',').map(str::trim).filter(|server| !server.is_empty()).peekable();
    let some = servers.peek().is_some();
    if some && servers.all(well) { Ok(()) } else { Err("write host:port, separated by commas".to_owned()) }
}

fn check_format(value: &str) -> Result<(), String> {
    let rest = value.replace(TOPIC, "");
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if value.is_empty() || !rest.bytes().all(legal) {
        return Err("write a topic's name, in which ${topic} is the topic that is read".to_owned());
    }
    Ok(())
}

fn check_in_flight(value: &str) -> Result<(), String> {
    match value.trim().parse::<u8>() {
        Ok(1..=5) => Ok(()),
        _ => Err("write a number from 1 to 5: with more, order is lost".to_owned()),
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub servers: String,
    pub format: String,
    pub create: bool,
    /// None = as many as are read.
    pub partitions: Option<i32>,
    /// -1 = as the cluster has it.
    pub replication_factor: i16,
    pub request_timeout: Duration,
    pub producer: ProducerOptions,
}

impl Config {
    /// Err = all that is wrong.
    pub fn parse(settings: &Settings) -> Result<Config, Vec<String>> {
        let values = Values::check(KEYS, settings)?;
        let millis = |key: &str| Duration::from_millis(values.number(key).unsigned_abs());
        let size = |key: &str| usize::try_from(values.number(key)).unwrap_or(1);
        let codec = values.text("producer.compression.type").to_ascii_lowercase();
        Ok(Config {
            servers: values.text("target.bootstrap.servers").to_owned(),
            format: values.text("topic.name.format").to_owned(),
            create: values.flag("topic.creation.enable"),
            partitions: i32::try_from(values.number("topic.creation.default.partitions")).ok().filter(|n| *n > 0),
            replication_factor: match values.number("topic.creation.default.replication.factor") {
                0 => -1,
                factor => i16::try_from(factor).unwrap_or(i16::MAX),
            },
            request_timeout: millis("producer.request.timeout.ms"),
            producer: ProducerOptions {
                compression: Compression::ALL.into_iter().find(|c| c.name() == codec).unwrap_or(Compression::None),
                batch_bytes: size("producer.batch.size"),
                in_flight: size("producer.max.in.flight.requests.per.connection"),
                delivery_timeout: millis("producer.delivery.timeout.ms"),
            },
        })
    }

    /// The topic that records of `topic` go to.
    pub fn target(&self, topic: &str) -> String {
        self.format.replace(TOPIC, topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::settings;

    #[test]
    fn keys_are_checked_and_names_are_made() {
        let parse = |pairs: &[(&str, &str)]| {
            let mut all = settings(&[("target.bootstrap.servers", "a:9092, b:9092")]);
            all.extend(settings(pairs));
            Config::parse(&all)
        };
        assert_eq!(parse(&[("topic.name.format", "eu.${topic}-copy")]).unwrap().target("orders"), "eu.orders-copy");
        assert_eq!(parse(&[]).unwrap().target("orders"), "orders");
        for wrong in [
            ("target.bootstrap.servers", "a"),
            ("topic.name.format", "a topic"),
            ("producer.max.in.flight.requests.per.connection", "6"),
            ("target.security.protocol", "SASL_SSL"),
        ] {
            let faults = parse(&[wrong]).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(wrong.0), "{faults:?}");
        }
    }
}
