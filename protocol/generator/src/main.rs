//! Writes `protocol/src/messages/` (and the tests' random samples of them) from Kafka's message schemas.
//!
//! Usage: `cargo run -p strandline-protocol-generator -- JAR... ` with `kafka-clients-4.3.1.jar` and
//! `kafka-group-coordinator-4.3.1.jar`; run at the top of the repository. Schemas are read with `unzip -p`.
//! Owns the list of messages. What it writes is checked in; CI does not run it.

mod emit;
mod samples;
mod schema;

use std::error::Error;
use std::path::Path;
use std::process::Command;

/// Requests (with their responses), by API name.
const APIS: &[&str] = &[
    "Produce",
    "Fetch",
    "ListOffsets",
    "Metadata",
    "OffsetCommit",
    "OffsetFetch",
    "FindCoordinator",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "SyncGroup",
    "DescribeGroups",
    "ListGroups",
    "SaslHandshake",
    "ApiVersions",
    "CreateTopics",
    "DeleteTopics",
    "DeleteRecords",
    "InitProducerId",
    "OffsetForLeaderEpoch",
    "DescribeConfigs",
    "AlterConfigs",
    "DescribeLogDirs",
    "SaslAuthenticate",
    "CreatePartitions",
    "DeleteGroups",
    "ElectLeaders",
    "IncrementalAlterConfigs",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "OffsetDelete",
    "DescribeQuorum",
    "DescribeCluster",
    "DescribeProducers",
    "UnregisterBroker",
    "ListConfigResources",
    "DescribeTopicPartitions",
    "AddRaftVoter",
    "RemoveRaftVoter",
];

/// Other messages.
const OTHERS: &[&str] = &[
    "RequestHeader",
    "ResponseHeader",
    "ConsumerProtocolSubscription",
    "ConsumerProtocolAssignment",
    "OffsetCommitKey",
    "OffsetCommitValue",
    "GroupMetadataKey",
    "GroupMetadataValue",
    "EndTxnMarker",
];

fn main() -> Result<(), Box<dyn Error>> {
    let jars: Vec<String> = std::env::args().skip(1).collect();
    if jars.is_empty() {
        return Err("name the jars that hold common/message/*.json".into());
    }
    let target = Path::new("protocol/src/messages");
    std::fs::create_dir_all(target)?;
    let mut requests = Vec::new();
    let mut messages = Vec::new();
    let apis = APIS.iter().flat_map(|api| [format!("{api}Request"), format!("{api}Response")]);
    for name in apis.chain(OTHERS.iter().map(|n| (*n).to_owned())) {
        let message = schema::parse(&read(&jars, &name)?);
        let module = schema::snake(&name);
        write(&target.join(format!("{module}.rs")), &emit::message(&message))?;
        if message.is_request {
            requests.push(message.clone());
        }
        messages.push(message);
    }
    requests.sort_by_key(|m| m.api_key);
    write(&target.join("api_key.rs"), &emit::api_keys(&requests))?;
    let mut samples = samples::head();
    messages.iter().for_each(|m| samples.push_str(&samples::message(m)));
    samples.push_str(&samples::tail(&messages));
    write(Path::new("protocol/tests/messages/samples.rs"), &samples)?;
    println!("{} messages; modules:", messages.len());
    let mut modules: Vec<String> = messages.iter().map(|m| schema::snake(&m.name)).collect();
    modules.sort();
    modules.iter().for_each(|m| println!("pub mod {m};"));
    Ok(())
}

fn read(jars: &[String], name: &str) -> Result<String, Box<dyn Error>> {
    for jar in jars {
        let output = Command::new("unzip").args(["-p", jar, &format!("common/message/{name}.json")]).output()?;
        if output.status.success() && !output.stdout.is_empty() {
            return Ok(String::from_utf8(output.stdout)?);
        }
    }
    Err(format!("no jar has a schema of {name}").into())
}

#[expect(clippy::disallowed_methods, reason = "a dev tool writes source files")]
fn write(path: &Path, code: &str) -> Result<(), Box<dyn Error>> {
    std::fs::write(path, code)?;
    let status = Command::new("rustfmt").args(["--edition", "2024"]).arg(path).status()?;
    if status.success() { Ok(()) } else { Err(format!("rustfmt refuses {}", path.display()).into()) }
}
