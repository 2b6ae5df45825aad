//! Moves of replicas, carried out a few at a time and watched to their end.
//!
//! Owns the order and the progress bar. The moves are the controller's: when this process ends, those that began go on,
//! and the same command takes up the rest.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use strandline_client::Cluster;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use strandline_protocol::messages::elect_leaders_request::ElectLeadersRequest;
use strandline_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use tokio::time::Instant;

use super::bootstrap::{check, table};
use super::cluster_plan::Placement;
use super::cluster_throttle;

const TIMEOUT_MS: i32 = 30_000;
/// Between two looks at what is moving.
const LOOK: Duration = Duration::from_millis(200);
/// After this long without progress it is said what is waited for.
const SLOW: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error>;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only says what would move.
    #[arg(long)]
    pub dry_run: bool,
    /// Partitions that move at the same time.
    #[arg(long, value_name = "PARTITIONS", default_value_t = 8)]
    pub at_once: usize,
    /// Bytes a second that each broker gives and takes for the moves; the limit is gone when they are over.
    #[arg(long, value_name = "BYTES")]
    pub throttle: Option<u64>,
}

/// A move under way.
pub struct Ongoing {
    pub adding: Vec<i32>,
    pub removing: Vec<i32>,
}

pub async fn ongoing(cluster: &Cluster) -> Result<BTreeMap<(String, i32), Ongoing>, Failure> {
    let request = ListPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, ..Default::default() };
    let answer = cluster.ask(&request).await?;
    check("the moves under way", answer.error_code, answer.error_message)?;
    let mut found = BTreeMap::new();
    for topic in answer.topics {
        for p in topic.partitions {
            let moving = Ongoing { adding: p.adding_replicas, removing: p.removing_replicas };
            found.insert((topic.name.clone(), p.partition_index), moving);
        }
    }
    Ok(found)
}

/// Moves everything in `moves` from where it is `now`, and waits for what was moving before, too. Then the preferred
/// replicas lead.
pub async fn carry_out(
    cluster: &Cluster,
    now: &[Placement],
    moves: Vec<Placement>,
    options: &Options,
    as_json: bool,
) -> Result<(), Failure> {
    if options.dry_run {
        tell_plan(now, &moves, as_json);
        return Ok(());
    }
    let before = ongoing(cluster).await?;
    if let Some(rate) = options.throttle {
        cluster_throttle::set(cluster, rate, now, &moves, &before).await?;
    }
    let total = moves.len();
    let bar = ProgressBar::new((total + before.len()) as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} partitions  {elapsed}  {msg}")?;
    bar.set_style(style.progress_chars("█▓░"));
    watch(cluster, moves.into(), options.at_once.max(1), &bar).await?;
    bar.finish();
    if cluster_throttle::clear(cluster).await? && !as_json {
        println!("the throttle is gone");
    }
    let elected = elect_preferred(cluster).await?;
    if as_json {
        println!("{}", json!({ "moved": total, "elected": elected }));
    } else {
        println!("{total} partitions moved, {elected} leaders changed");
    }
    Ok(())
}

/// Begins moves as others end, until none is left.
async fn watch(
    cluster: &Cluster,
    mut waiting: VecDeque<Placement>,
    at_once: usize,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let mut begun: Vec<Placement> = Vec::new();
    let mut progress = Instant::now();
    let mut told = false;
    loop {
        let moving = ongoing(cluster).await?;
        let placed = placed(cluster).await?;
        begun.retain(|p| {
            let key = (p.topic.clone(), p.partition);
            let is = placed.get(&key);
            // A topic that is deleted meanwhile is not waited for.
            is.is_some_and(|replicas| *replicas != p.replicas || moving.contains_key(&key))
        });
        let own = |key: &(String, i32)| begun.iter().any(|p| (&p.topic, p.partition) == (&key.0, key.1));
        let others = moving.keys().filter(|key| !own(key)).count();
        let left = (waiting.len() + begun.len() + others) as u64;
        let position = bar.length().unwrap_or(0).saturating_sub(left);
        if position != bar.position() {
            (progress, told) = (Instant::now(), false);
        }
        bar.set_position(position);
        if left == 0 {
            return Ok(());
        }
        let room = at_once.saturating_sub(begun.len() + others);
        let next: Vec<Placement> = (0..room).filter_map(|_| waiting.pop_front()).collect();
        if !next.is_empty() {
            begin(cluster, &next).await?;
            begun.extend(next);
        }
        if progress.elapsed() > SLOW && !told {
            let waits = moving.iter().take(3).map(|((t, p), o)| format!("{t}-{p} to {:?}", o.adding));
            bar.println(format!(
                "no move has ended for {SLOW:?}; waiting for {} (is the node up? `strandline cluster status` says)",
                waits.collect::<Vec<_>>().join(", ")
            ));
            told = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn placed(cluster: &Cluster) -> Result<BTreeMap<(String, i32), Vec<i32>>, Failure> {
    let metadata = cluster.metadata(None, false).await?;
    let rows = metadata.topics.into_iter().flat_map(|t| {
        let name = t.name.unwrap_or_default();
        t.partitions.into_iter().map(move |p| ((name.clone(), p.partition_index), p.replica_nodes))
    });
    Ok(rows.collect())
}

async fn begin(cluster: &Cluster, moves: &[Placement]) -> Result<(), Failure> {
    let wanted = moves.iter().map(|p| (p.topic.clone(), p.partition, Some(p.replicas.clone())));
    alter(cluster, wanted).await
}

async fn alter(
    cluster: &Cluster,
    wanted: impl Iterator<Item = (String, i32, Option<Vec<i32>>)>,
) -> Result<(), Failure> {
    let mut topics: BTreeMap<String, Vec<ReassignablePartition>> = BTreeMap::new();
    for (topic, partition_index, replicas) in wanted {
        let row = ReassignablePartition { partition_index, replicas, ..Default::default() };
        topics.entry(topic).or_default().push(row);
    }
    let topics =
        topics.into_iter().map(|(name, partitions)| ReassignableTopic { name, partitions, ..Default::default() });
    let request =
        AlterPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics: topics.collect(), ..Default::default() };
    let answer = cluster.ask(&request).await?;
    check("the moves", answer.error_code, answer.error_message)?;
    for topic in answer.responses {
        for p in topic.partitions {
            check(&format!("{}-{}", topic.name, p.partition_index), p.error_code, p.error_message)?;
        }
    }
    Ok(())
}

/// Takes the moves of a topic back.
pub async fn cancel(cluster: &Cluster, topic: &str, partition: Option<i32>, as_json: bool) -> Result<(), Failure> {
    let moving = ongoing(cluster).await?;
    let asked = |(name, p): &&(String, i32)| name == topic && partition.is_none_or(|only| only == *p);
    let found: Vec<(String, i32)> = moving.keys().filter(asked).cloned().collect();
    alter(cluster, found.iter().map(|(name, p)| (name.clone(), *p, None))).await?;
    if as_json {
        println!("{}", json!({ "cancelled": found.len() }));
    } else {
        println!("{} moves cancelled", found.len());
    }
    Ok(())
}

/// Has every partition led by its preferred replica where that is in sync; answers how many leaders changed.
pub async fn elect_preferred(cluster: &Cluster) -> Result<usize, Failure> {
    // None = all of them; the default is none of them.
    let request = ElectLeadersRequest { topic_partitions: None, timeout_ms: TIMEOUT_MS, ..Default::default() };
    let answer = cluster.ask(&request).await?;
    check("the election", answer.error_code, None)?;
    let none = ErrorCode::None.code();
    let rows = answer.replica_election_results.iter().flat_map(|t| &t.partition_result);
    Ok(rows.filter(|row| row.error_code == none).count())
}

fn tell_plan(now: &[Placement], moves: &[Placement], as_json: bool) {
    let before = |m: &Placement| {
        now.iter().find(|p| (&p.topic, p.partition) == (&m.topic, m.partition)).map(|p| p.replicas.clone())
    };
    if as_json {
        let row =
            |m: &Placement| json!({ "topic": m.topic, "partition": m.partition, "from": before(m), "to": m.replicas });
        println!("{}", json!({ "moves": moves.iter().map(row).collect::<Vec<_>>() }));
        return;
    }
    if moves.is_empty() {
        println!("nothing would move");
        return;
    }
    let mut table = table(&["PARTITION", "FROM", "TO"]);
    for m in moves {
        let from = before(m).unwrap_or_default();
        table.add_row([format!("{}-{}", m.topic, m.partition), format!("{from:?}"), format!("{:?}", m.replicas)]);
    }
    println!("{table}");
}
