//! Kafka's own command line and servers, run from its jars.

use std::time::Duration;

use crate::place;
use crate::process::{self, Output, Program};

/// How long a tool may take.
pub const TOOL: Duration = Duration::from_secs(120);

pub const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
pub const CONFIGS: &str = "kafka.admin.ConfigCommand";
pub const CONSUMER_GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
pub const GET_OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
pub const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
pub const LOG_DIRS: &str = "org.apache.kafka.tools.LogDirsCommand";
pub const REASSIGN: &str = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand";
pub const LEADER_ELECTION: &str = "org.apache.kafka.tools.LeaderElectionCommand";
pub const METADATA_QUORUM: &str = "org.apache.kafka.tools.MetadataQuorumCommand";
pub const DUMP_LOG: &str = "org.apache.kafka.tools.DumpLogSegments";
pub const CONSOLE_PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
pub const CONSOLE_CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
pub const VERIFIABLE_PRODUCER: &str = "org.apache.kafka.tools.VerifiableProducer";
pub const VERIFIABLE_CONSUMER: &str = "org.apache.kafka.tools.VerifiableConsumer";

/// A class of Kafka's jars with its arguments; quick to start rather than quick to run.
pub fn java(class: &str, arguments: &[&str]) -> Program {
    let heap = "-Xmx512m";
    Program::new("java")
        .args([heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &place::class_path("kafka"), class])
        .args(arguments.iter().copied())
}

/// Runs a tool; panics if it fails or its deadline passes. Its standard output.
pub fn run(class: &str, arguments: &[&str]) -> String {
    run_on(class, arguments, b"")
}

/// [`run`] with standard input.
pub fn run_on(class: &str, arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8_lossy(&process::run_well(&java(class, arguments), input, TOOL)).into_owned()
}

/// Runs a tool that may fail.
pub fn try_run(class: &str, arguments: &[&str]) -> Output {
    process::run(&java(class, arguments), b"", TOOL)
}
