//! `strandline group list|describe|reset-offsets`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use strandline_client::{Cluster, Connection, PartitionReader};
use strandline_protocol::messages::describe_groups_request::DescribeGroupsRequest;
use strandline_protocol::messages::describe_groups_response::DescribedGroup;
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::list_groups_request::ListGroupsRequest;
use strandline_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use strandline_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};

use super::CommandResult;
use super::bootstrap::{Connect, block_on, check, table};

/// OffsetFetch and OffsetCommit by topic name; later versions name topics by id.
const BY_NAME_VERSION_MAX: i16 = 9;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names all consumer groups.
    List,
    /// Members, committed offsets and lag of a group.
    Describe { group: String },
    /// Moves the committed offsets of a group that has no members. Shows what it would do unless --execute is given.
    ResetOffsets {
        group: String,
        /// The topic whose offsets are moved.
        #[arg(long)]
        topic: String,
        #[arg(long, group = "target")]
        to_earliest: bool,
        #[arg(long, group = "target")]
        to_latest: bool,
        #[arg(long, group = "target", value_name = "OFFSET")]
        to_offset: Option<i64>,
        /// To the first record of this time (ms since 1970) or later.
        #[arg(long, group = "target", value_name = "MS")]
        to_timestamp: Option<i64>,
        #[arg(long)]
        execute: bool,
    },
}

pub fn run(args: Args) -> CommandResult {
    let cluster = args.connect.cluster();
    block_on(async {
        match args.command {
            Command::List => list(&cluster, args.json).await?,
            Command::Describe { group } => describe(&cluster, &group, args.json).await?,
            Command::ResetOffsets { group, topic, to_earliest, to_latest, to_offset, to_timestamp, execute } => {
                let target = match (to_earliest, to_latest, to_offset, to_timestamp) {
                    (true, ..) => Target::Time(-2),
                    (_, true, ..) => Target::Time(-1),
                    (_, _, Some(offset), _) => Target::Offset(offset),
                    (.., Some(timestamp)) => Target::Time(timestamp),
                    _ => return Err("say where to: --to-earliest, --to-latest, --to-offset or --to-timestamp".into()),
                };
                reset(&cluster, &group, &topic, target, execute, args.json).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

enum Target {
    Offset(i64),
    /// Or Kafka's -1 latest, -2 earliest.
    Time(i64),
}

async fn coordinator(cluster: &Cluster, group: &str) -> Result<std::sync::Arc<Connection>, Box<dyn std::error::Error>> {
    cluster.metadata(Some(&[]), false).await?;
    let request = FindCoordinatorRequest { coordinator_keys: vec![group.to_owned()], ..Default::default() };
    let response = cluster.ask(&request).await?;
    let found = response.coordinators.first().ok_or("the broker did not answer about the group's coordinator")?;
    check(group, found.error_code, found.error_message.clone())?;
    Ok(cluster.node(found.node_id).await?)
}

async fn list(cluster: &Cluster, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let metadata = cluster.metadata(Some(&[]), false).await?;
    let mut groups = BTreeMap::new();
    for broker in &metadata.brokers {
        let connection = cluster.node(broker.node_id).await?;
        let response = connection.call(&ListGroupsRequest::default(), cluster.deadline()).await?;
        check("groups", response.error_code, None)?;
        groups.extend(response.groups.into_iter().map(|g| (g.group_id.clone(), g)));
    }
    if as_json {
        let all: Vec<Value> = groups
            .values()
            .map(|g| json!({ "group": g.group_id, "state": g.group_state, "type": g.group_type }))
            .collect();
        println!("{}", Value::from(all));
    } else {
        groups.values().for_each(|g| println!("{:<40} {}", g.group_id, g.group_state));
    }
    Ok(())
}

/// Committed offsets by topic and partition.
async fn committed(
    cluster: &Cluster,
    connection: &Connection,
    group: &str,
) -> Result<BTreeMap<(String, i32), i64>, Box<dyn std::error::Error>> {
    let version = connection.version::<OffsetFetchRequest>(BY_NAME_VERSION_MAX)?;
    let wanted =
        OffsetFetchRequestGroup { group_id: group.to_owned(), topics: None, member_epoch: -1, ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![wanted], ..Default::default() };
    let response = connection.call_version(version, &request, cluster.deadline()).await?;
    let mut offsets = BTreeMap::new();
    for found in response.groups {
        check(group, found.error_code, None)?;
        for topic in found.topics {
            for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                offsets.insert((topic.name.clone(), p.partition_index), p.committed_offset);
            }
        }
    }
    Ok(offsets)
}

async fn describe_group(
    cluster: &Cluster,
    connection: &Connection,
    group: &str,
) -> Result<DescribedGroup, Box<dyn std::error::Error>> {
    let request = DescribeGroupsRequest { groups: vec![group.to_owned()], ..Default::default() };
    let response = connection.call(&request, cluster.deadline()).await?;
    let described = response.groups.into_iter().next().ok_or("the broker did not describe the group")?;
    check(group, described.error_code, described.error_message.clone())?;
    Ok(described)
}

async fn describe(cluster: &Cluster, group: &str, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let connection = coordinator(cluster, group).await?;
    let described = describe_group(cluster, &connection, group).await?;
    let mut rows = Vec::new();
    for ((topic, partition), offset) in committed(cluster, &connection, group).await? {
        let end = match PartitionReader::open(cluster, &topic, partition, 0).await {
            Ok(mut reader) => Some(reader.offset_for(-1).await?),
            // The topic was deleted.
            Err(_) => None,
        };
        rows.push((topic, partition, offset, end));
    }
    if as_json {
        let offsets: Vec<Value> = rows
            .iter()
            .map(|(t, p, o, e)| json!({ "topic": t, "partition": p, "committed": o, "end": e, "lag": e.map(|e| (e - o).max(0)) }))
            .collect();
        let members: Vec<Value> = described
            .members
            .iter()
            .map(|m| json!({ "id": m.member_id, "client": m.client_id, "host": m.client_host }))
            .collect();
        println!(
            "{}",
            json!({ "group": group, "state": described.group_state, "protocol": described.protocol_data, "members": members, "offsets": offsets })
        );
        return Ok(());
    }
    println!("{group}  {}  {} members", described.group_state, described.members.len());
    let mut offsets = table(&["topic", "partition", "committed", "end", "lag"]);
    for (topic, partition, offset, end) in rows {
        let shown = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        offsets.add_row([
            topic,
            partition.to_string(),
            offset.to_string(),
            shown(end),
            shown(end.map(|e| (e - offset).max(0))),
        ]);
    }
    println!("{offsets}");
    for member in described.members {
        println!("  {}  {}  {}", member.member_id, member.client_id, member.client_host);
    }
    Ok(())
}

async fn reset(
    cluster: &Cluster,
    group: &str,
    topic: &str,
    target: Target,
    execute: bool,
    as_json: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let connection = coordinator(cluster, group).await?;
    let described = describe_group(cluster, &connection, group).await?;
    if !described.members.is_empty() {
        return Err(
            format!("the group {group} has {} members: stop its consumers first", described.members.len()).into()
        );
    }
    let leaders = cluster.leaders(topic, false).await?.map_err(|code| format!("{topic}: {}", code.message()))?;
    let mut moved = Vec::new();
    for partition in leaders.keys() {
        let mut reader = PartitionReader::open(cluster, topic, *partition, 0).await?;
        let (first, end) = (reader.offset_for(-2).await?, reader.offset_for(-1).await?);
        let offset = match target {
            Target::Offset(offset) => offset.clamp(first, end),
            Target::Time(time) => match reader.offset_for(time).await? {
                // No record of that time or later.
                -1 => end,
                found => found,
            },
        };
        moved.push((*partition, offset));
    }
    if execute {
        commit(cluster, &connection, group, topic, &moved).await?;
    }
    if as_json {
        let rows: Vec<Value> =
            moved.iter().map(|(p, o)| json!({ "topic": topic, "partition": p, "offset": o })).collect();
        println!("{}", json!({ "group": group, "executed": execute, "offsets": rows }));
    } else {
        let mut rows = table(&["topic", "partition", "new offset"]);
        for (partition, offset) in moved {
            rows.add_row([topic.to_owned(), partition.to_string(), offset.to_string()]);
        }
        println!("{rows}");
        println!("{}", if execute { "committed" } else { "nothing was changed; add --execute to commit" });
    }
    Ok(())
}

async fn commit(
    cluster: &Cluster,
    connection: &Connection,
    group: &str,
    topic: &str,
    offsets: &[(i32, i64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let partition = |(partition_index, committed_offset): &(i32, i64)| OffsetCommitRequestPartition {
        partition_index: *partition_index,
        committed_offset: *committed_offset,
        committed_leader_epoch: -1,
        committed_metadata: Some(String::new()),
        ..Default::default()
    };
    let request = OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: topic.to_owned(),
            partitions: offsets.iter().map(partition).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let version = connection.version::<OffsetCommitRequest>(BY_NAME_VERSION_MAX)?;
    let response = connection.call_version(version, &request, cluster.deadline()).await?;
    for answered in response.topics {
        for p in answered.partitions {
            check(&format!("{topic}-{}", p.partition_index), p.error_code, None)?;
        }
    }
    Ok(())
}
