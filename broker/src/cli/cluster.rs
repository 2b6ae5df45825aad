//! `strandline cluster status|nodes|rebalance|decommission|reassign|elect|add-controller|remove-controller|forget`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;
use strandline_client::Cluster;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::add_raft_voter_request::{AddRaftVoterRequest, Listener};
use strandline_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use strandline_protocol::messages::describe_quorum_request::{
    DescribeQuorumRequest, PartitionData as QuorumPartition, TopicData,
};
use strandline_protocol::messages::describe_quorum_response::PartitionData;
use strandline_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use strandline_protocol::messages::metadata_response::MetadataResponse;
use strandline_protocol::messages::remove_raft_voter_request::RemoveRaftVoterRequest;
use strandline_protocol::messages::unregister_broker_request::UnregisterBrokerRequest;

use super::CommandResult;
use super::bootstrap::{Connect, block_on, check, table};
use super::cluster_moves::{self, Options};
use super::cluster_plan::{self, Placement, Racks};

/// How long a node that was stopped may count as running: longer than the default session timeout.
const FORGET_MAX: Duration = Duration::from_secs(10);
const FORGET_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    /// JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The cluster on one page: nodes, controllers, what is under-replicated, what is moving. Exit code 1 if a partition
    /// has no leader.
    Status,
    /// Nodes with their racks, leaders and replicas.
    Nodes,
    /// Spreads replicas and leaders evenly over the nodes, with as few moves as that needs. Run it again to go on.
    Rebalance(Options),
    /// Moves every replica away from a node, so that it can be stopped for good. Run it again to go on.
    Decommission {
        node: i32,
        #[command(flatten)]
        options: Options,
    },
    /// Puts the replicas of a topic's partitions on these nodes.
    Reassign {
        topic: String,
        /// Nodes in order; the first is the preferred leader.
        #[arg(long, value_delimiter = ',', required_unless_present = "cancel")]
        replicas: Vec<i32>,
        /// Of this partition only.
        #[arg(long)]
        partition: Option<i32>,
        /// Takes moves under way back instead.
        #[arg(long, conflicts_with = "replicas")]
        cancel: bool,
        #[command(flatten)]
        options: Options,
    },
    /// Gives leadership back to the preferred replicas.
    Elect,
    /// Makes a running node a voter of the metadata log.
    AddController { node: i32, address: String },
    /// Takes a voter out of the metadata log.
    RemoveController { node: i32 },
    /// Removes a stopped node's registration.
    Forget { node: i32 },
}

pub fn run(args: Args) -> CommandResult {
    let cluster = args.connect.cluster();
    let as_json = args.json;
    block_on(async {
        match args.command {
            Command::Status => return status(&cluster, as_json).await,
            Command::Nodes => nodes(&cluster, as_json).await?,
            Command::Rebalance(options) => {
                let (now, racks) = placements(&cluster).await?;
                cluster_moves::carry_out(&cluster, &now, cluster_plan::rebalance(&now, &racks), &options, as_json)
                    .await?;
            }
            Command::Decommission { node, options } => decommission(&cluster, node, &options, as_json).await?,
            Command::Reassign { topic, partition, cancel: true, .. } => {
                cluster_moves::cancel(&cluster, &topic, partition, as_json).await?;
            }
            Command::Reassign { topic, replicas, partition, options, .. } => {
                let (now, _) = placements(&cluster).await?;
                let asked = |p: &&Placement| p.topic == topic && partition.is_none_or(|only| only == p.partition);
                let moved = |p: &Placement| Placement { replicas: replicas.clone(), ..p.clone() };
                let moves: Vec<Placement> = now.iter().filter(asked).map(moved).collect();
                if moves.is_empty() {
                    return Err(
                        format!("there is no such partition of {topic}; see `strandline topic describe`").into()
                    );
                }
                let moves = moves.into_iter().filter(|m| !now.contains(m)).collect();
                cluster_moves::carry_out(&cluster, &now, moves, &options, as_json).await?;
            }
            Command::Elect => {
                let elected = cluster_moves::elect_preferred(&cluster).await?;
                if as_json {
                    println!("{}", json!({ "elected": elected }));
                } else {
                    println!("{elected} partitions are led by their preferred replica again");
                }
            }
            Command::AddController { node, address } => add_controller(&cluster, node, &address).await?,
            Command::RemoveController { node } => {
                let request = RemoveRaftVoterRequest { cluster_id: None, voter_id: node, ..Default::default() };
                let answer = cluster.ask(&request).await?;
                check(&format!("controller {node}"), answer.error_code, answer.error_message)?;
                println!("node {node} is no voter of the metadata log any more");
            }
            Command::Forget { node } => forget(&cluster, node).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A node that has just been stopped counts as running until the controller has missed it, so it is asked again for a while.
async fn forget(cluster: &Cluster, node: i32) -> Result<(), Box<dyn std::error::Error>> {
    let end = tokio::time::Instant::now() + FORGET_MAX;
    loop {
        let answer = cluster.ask(&UnregisterBrokerRequest { broker_id: node, ..Default::default() }).await?;
        if answer.error_code == ErrorCode::InvalidRequest.code() && tokio::time::Instant::now() < end {
            tokio::time::sleep(FORGET_PAUSE).await;
            continue;
        }
        check(&format!("node {node}"), answer.error_code, answer.error_message)?;
        println!("node {node} is not registered any more");
        return Ok(());
    }
}

/// Where all replicas are now, moves under way counted as done, and the brokers that can take some.
async fn placements(cluster: &Cluster) -> Result<(Vec<Placement>, Racks), Box<dyn std::error::Error>> {
    let metadata = cluster.metadata(None, false).await?;
    let ongoing = cluster_moves::ongoing(cluster).await?;
    let racks = metadata.brokers.iter().map(|b| (b.node_id, b.rack.clone())).collect();
    let mut now = Vec::new();
    for topic in &metadata.topics {
        let name = topic.name.clone().unwrap_or_default();
        for partition in &topic.partitions {
            let removing = ongoing.get(&(name.clone(), partition.partition_index)).map(|o| o.removing.as_slice());
            let stays = |id: &&i32| !removing.unwrap_or_default().contains(id);
            now.push(Placement {
                topic: name.clone(),
                partition: partition.partition_index,
                replicas: partition.replica_nodes.iter().filter(stays).copied().collect(),
            });
        }
    }
    Ok((now, racks))
}

async fn decommission(
    cluster: &Cluster,
    node: i32,
    options: &Options,
    as_json: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let (now, racks) = placements(cluster).await?;
    if !racks.contains_key(&node) && !now.iter().any(|p| p.replicas.contains(&node)) {
        return Err(format!("there is no node {node}; see `strandline cluster nodes`").into());
    }
    let moves = cluster_plan::empty(&now, &racks, node)?;
    cluster_moves::carry_out(cluster, &now, moves, options, as_json).await?;
    let voter = quorum(cluster).await?.current_voters.iter().any(|v| v.replica_id == node);
    if !as_json && !options.dry_run {
        let voting = format!("`strandline cluster remove-controller {node}`, then ");
        println!(
            "node {node} has no replica any more. Next: {}stop it, then `strandline cluster forget {node}`",
            if voter { voting.as_str() } else { "" }
        );
    }
    Ok(())
}

async fn add_controller(cluster: &Cluster, node: i32, address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (host, port) = address.rsplit_once(':').ok_or("the address is HOST:PORT of the node's controller listener")?;
    let listener = Listener {
        name: "CONTROLLER".to_owned(),
        host: host.to_owned(),
        port: port.parse().map_err(|_| format!("{port} is not a port"))?,
        ..Default::default()
    };
    let request =
        AddRaftVoterRequest { cluster_id: None, voter_id: node, listeners: vec![listener], ..Default::default() };
    let answer = cluster.ask(&request).await?;
    check(&format!("controller {node}"), answer.error_code, answer.error_message)?;
    println!("node {node} votes on the metadata log");
    Ok(())
}

async fn quorum(cluster: &Cluster) -> Result<PartitionData, Box<dyn std::error::Error>> {
    let partitions = vec![QuorumPartition { partition_index: 0, ..Default::default() }];
    let topic = TopicData { topic_name: "__cluster_metadata".to_owned(), partitions, ..Default::default() };
    let answer = cluster.ask(&DescribeQuorumRequest { topics: vec![topic], ..Default::default() }).await?;
    check("the quorum", answer.error_code, answer.error_message)?;
    let partition = answer.topics.into_iter().flat_map(|t| t.partitions).next();
    Ok(partition.ok_or("the broker does not tell the quorum")?)
}

/// One node, counted.
#[derive(Debug, Default)]
struct NodeRow {
    address: String,
    rack: Option<String>,
    fenced: bool,
    leaders: usize,
    replicas: usize,
    /// Replicas that are not in sync.
    behind: usize,
    controller: &'static str,
}

fn count(
    metadata: &MetadataResponse,
    quorum: &PartitionData,
    mut rows: BTreeMap<i32, NodeRow>,
) -> BTreeMap<i32, NodeRow> {
    for partition in metadata.topics.iter().flat_map(|t| &t.partitions) {
        if let Some(row) = rows.get_mut(&partition.leader_id) {
            row.leaders += 1;
        }
        for id in &partition.replica_nodes {
            let row = rows.entry(*id).or_default();
            row.replicas += 1;
            row.behind += usize::from(!partition.isr_nodes.contains(id));
        }
    }
    for voter in &quorum.current_voters {
        let active = voter.replica_id == quorum.leader_id;
        rows.entry(voter.replica_id).or_default().controller = if active { "active" } else { "voter" };
    }
    for observer in &quorum.observers {
        rows.entry(observer.replica_id).or_default().controller = "observer";
    }
    rows
}

struct Picture {
    cluster_id: String,
    rows: BTreeMap<i32, NodeRow>,
    metadata: MetadataResponse,
    quorum: PartitionData,
}

async fn picture(cluster: &Cluster) -> Result<Picture, Box<dyn std::error::Error>> {
    let metadata = cluster.metadata(None, false).await?;
    let quorum = quorum(cluster).await?;
    let described = cluster.ask(&DescribeClusterRequest { include_fenced_brokers: true, ..Default::default() }).await?;
    check("the cluster", described.error_code, described.error_message)?;
    let row = |b: strandline_protocol::messages::describe_cluster_response::DescribeClusterBroker| {
        let address = format!("{}:{}", b.host, b.port);
        (b.broker_id, NodeRow { address, rack: b.rack, fenced: b.is_fenced, ..Default::default() })
    };
    let rows = count(&metadata, &quorum, described.brokers.into_iter().map(row).collect());
    Ok(Picture { cluster_id: described.cluster_id, rows, metadata, quorum })
}

fn node_json(id: i32, row: &NodeRow) -> serde_json::Value {
    json!({
        "node": id, "address": row.address, "rack": row.rack, "fenced": row.fenced, "leaders": row.leaders,
        "replicas": row.replicas, "behind": row.behind, "controller": row.controller,
    })
}

fn print_nodes(rows: &BTreeMap<i32, NodeRow>) {
    let mut table = table(&["NODE", "ADDRESS", "RACK", "STATE", "LEADERS", "REPLICAS", "BEHIND", "CONTROLLER"]);
    for (id, row) in rows {
        let state = match (row.address.is_empty(), row.fenced) {
            (true, _) => "unknown",
            (_, true) => "down",
            _ => "up",
        };
        table.add_row([
            id.to_string(),
            row.address.clone(),
            row.rack.clone().unwrap_or_else(|| "-".to_owned()),
            state.to_owned(),
            row.leaders.to_string(),
            row.replicas.to_string(),
            row.behind.to_string(),
            if row.controller.is_empty() { "-" } else { row.controller }.to_owned(),
        ]);
    }
    println!("{table}");
}

async fn nodes(cluster: &Cluster, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let picture = picture(cluster).await?;
    if as_json {
        println!("{}", json!(picture.rows.iter().map(|(id, row)| node_json(*id, row)).collect::<Vec<_>>()));
    } else {
        print_nodes(&picture.rows);
    }
    Ok(())
}

async fn status(cluster: &Cluster, as_json: bool) -> CommandResult {
    let Picture { cluster_id, rows, metadata, quorum } = picture(cluster).await?;
    let request = ListPartitionReassignmentsRequest { timeout_ms: 30_000, ..Default::default() };
    let moving: usize = cluster.ask(&request).await?.topics.iter().map(|t| t.partitions.len()).sum();
    let all = || {
        metadata.topics.iter().flat_map(|t| {
            let name = t.name.clone().unwrap_or_default();
            t.partitions.iter().map(move |p| (format!("{name}-{}", p.partition_index), p))
        })
    };
    let behind: Vec<String> =
        all().filter(|(_, p)| p.isr_nodes.len() < p.replica_nodes.len()).map(|(name, _)| name).collect();
    let leaderless: Vec<String> = all().filter(|(_, p)| p.leader_id < 0).map(|(name, _)| name).collect();
    let count = all().count();
    if as_json {
        let nodes: Vec<_> = rows.iter().map(|(id, row)| node_json(*id, row)).collect();
        println!(
            "{}",
            json!({
                "cluster": cluster_id, "active_controller": quorum.leader_id, "term": quorum.leader_epoch,
                "nodes": nodes, "topics": metadata.topics.len(), "partitions": count,
                "under_replicated": behind, "without_leader": leaderless, "moving": moving,
            })
        );
    } else {
        let up = rows.values().filter(|r| !r.fenced && !r.address.is_empty()).count();
        println!(
            "cluster {cluster_id}: {up} of {} nodes up, active controller {} (term {}), {} topics, {count} partitions",
            rows.len(),
            quorum.leader_id,
            quorum.leader_epoch,
            metadata.topics.len(),
        );
        println!("  without leader    {}", named(&leaderless));
        println!("  under-replicated  {}", named(&behind));
        println!("  moving            {moving}");
        print_nodes(&rows);
    }
    Ok(if leaderless.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many there are, and which, as far as they fit on a line.
fn named(partitions: &[String]) -> String {
    const SHOWN: usize = 5;
    match partitions.len() {
        0 => "0".to_owned(),
        count if count <= SHOWN => format!("{count}: {}", partitions.join(", ")),
        count => format!("{count}: {}, ...", partitions[..SHOWN].join(", ")),
    }
}
