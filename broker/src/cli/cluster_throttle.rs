//! The throttle of moves: set before them, taken away after them, whichever run of the command sees their end.
//!
//! Owns Kafka's four settings for it. The rates are set for all brokers at once, the lists for the topics that move. A crash
//! leaves the throttle on; the run that takes the moves up again removes it when nothing moves any more.

use std::collections::{BTreeMap, BTreeSet};

use strandline_client::Cluster;
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_protocol::messages::describe_configs_response::DescribeConfigsResult;
use strandline_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::bootstrap::check;
use super::cluster_moves::Ongoing;
use super::cluster_plan::Placement;
use crate::replication::throttle::{FOLLOWER_RATE, LEADER_RATE};

const LEADER_REPLICAS: &str = "leader.replication.throttled.replicas";
const FOLLOWER_REPLICAS: &str = "follower.replication.throttled.replicas";
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

type Failure = Box<dyn std::error::Error>;
/// `partition:broker` pairs of a topic: of those that give, and of those that take.
type Lists = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// Holds the moves to `rate` bytes a second and broker: those to come, and those under way.
pub async fn set(
    cluster: &Cluster,
    rate: u64,
    now: &[Placement],
    moves: &[Placement],
    ongoing: &BTreeMap<(String, i32), Ongoing>,
) -> Result<(), Failure> {
    let rate = rate.to_string();
    let rates = [LEADER_RATE, FOLLOWER_RATE].map(|key| change(key, SET, Some(rate.clone())));
    let mut resources = vec![resource(BROKER, "", rates.into())];
    for (topic, (giving, taking)) in lists(now, moves, ongoing) {
        let list =
            |key, pairs: BTreeSet<String>| change(key, APPEND, Some(pairs.into_iter().collect::<Vec<_>>().join(",")));
        resources.push(resource(TOPIC, &topic, vec![list(LEADER_REPLICAS, giving), list(FOLLOWER_REPLICAS, taking)]));
    }
    alter(cluster, resources).await
}

/// Takes away what [`set`] has set, also in an earlier run; a throttle that an operator set for one broker stays.
pub async fn clear(cluster: &Cluster) -> Result<bool, Failure> {
    let all_brokers = describe(cluster, vec![(BROKER, String::new())], &[LEADER_RATE, FOLLOWER_RATE]).await?;
    if all_brokers.iter().all(|found| found.configs.is_empty()) {
        return Ok(false);
    }
    let topics = cluster.metadata(None, false).await?.topics;
    let topics = topics.into_iter().filter_map(|t| Some((TOPIC, t.name?))).collect();
    let mut resources = Vec::new();
    for found in describe(cluster, topics, &[LEADER_REPLICAS, FOLLOWER_REPLICAS]).await? {
        let lists = found.configs.iter().filter(|c| !matches!(c.value.as_deref(), None | Some("" | "*")));
        let changes: Vec<_> = lists.map(|c| change(&c.name, DELETE, None)).collect();
        if !changes.is_empty() {
            resources.push(resource(TOPIC, &found.resource_name, changes));
        }
    }
    let rates = [LEADER_RATE, FOLLOWER_RATE].map(|key| change(key, DELETE, None));
    resources.push(resource(BROKER, "", rates.into()));
    alter(cluster, resources).await?;
    Ok(true)
}

/// Who gives and who takes, in moves that are to begin and in those that have.
fn lists(now: &[Placement], moves: &[Placement], ongoing: &BTreeMap<(String, i32), Ongoing>) -> Lists {
    let mut lists = Lists::new();
    let mut add = |topic: &str, partition: i32, from: &[i32], to: &[i32]| {
        let taking: Vec<&i32> = to.iter().filter(|id| !from.contains(id)).collect();
        if taking.is_empty() {
            return;
        }
        let (gives, takes) = lists.entry(topic.to_owned()).or_default();
        gives.extend(from.iter().map(|id| format!("{partition}:{id}")));
        takes.extend(taking.iter().map(|id| format!("{partition}:{id}")));
    };
    let place = |topic: &str, partition| now.iter().find(|p| (p.topic.as_str(), p.partition) == (topic, partition));
    for to in moves {
        let from = place(&to.topic, to.partition).map_or(&[][..], |p| &p.replicas);
        add(&to.topic, to.partition, from, &to.replicas);
    }
    for ((topic, partition), moving) in ongoing {
        // What is to stay and what is to go give; what is added takes.
        let stay = place(topic, *partition).map_or(&[][..], |p| &p.replicas);
        let mut from: Vec<i32> = stay.iter().copied().filter(|id| !moving.adding.contains(id)).collect();
        from.extend(&moving.removing);
        add(topic, *partition, &from, &moving.adding);
    }
    lists
}

fn change(name: &str, config_operation: i8, value: Option<String>) -> AlterableConfig {
    AlterableConfig { name: name.to_owned(), config_operation, value, ..Default::default() }
}

fn resource(resource_type: i8, name: &str, configs: Vec<AlterableConfig>) -> AlterConfigsResource {
    AlterConfigsResource { resource_type, resource_name: name.to_owned(), configs, ..Default::default() }
}

async fn alter(cluster: &Cluster, resources: Vec<AlterConfigsResource>) -> Result<(), Failure> {
    let answer = cluster.ask(&IncrementalAlterConfigsRequest { resources, ..Default::default() }).await?;
    for outcome in answer.responses {
        let subject = format!("the throttle of {:?}", outcome.resource_name);
        check(&subject, outcome.error_code, outcome.error_message)?;
    }
    Ok(())
}

async fn describe(
    cluster: &Cluster,
    named: Vec<(i8, String)>,
    keys: &[&str],
) -> Result<Vec<DescribeConfigsResult>, Failure> {
    let wanted = |(resource_type, resource_name)| DescribeConfigsResource {
        resource_type,
        resource_name,
        configuration_keys: Some(keys.iter().map(|key| (*key).to_owned()).collect()),
        ..Default::default()
    };
    let resources = named.into_iter().map(wanted).collect();
    let answer = cluster.ask(&DescribeConfigsRequest { resources, ..Default::default() }).await?;
    // A topic that is deleted meanwhile has no throttle.
    Ok(answer.results.into_iter().filter(|found| found.error_code == 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(partition: i32, replicas: &[i32]) -> Placement {
        Placement { topic: "t".to_owned(), partition, replicas: replicas.to_vec() }
    }

    #[test]
    fn who_has_gives_and_who_is_new_takes() {
        let now = [placed(0, &[1, 2, 3]), placed(1, &[2, 3, 4]), placed(2, &[1, 2, 3])];
        let begun = Ongoing { adding: vec![4], removing: vec![1] };
        let ongoing = BTreeMap::from([(("t".to_owned(), 1), begun)]);
        // Another order of the same replicas moves nothing.
        let lists = lists(&now, &[placed(0, &[1, 2, 4]), placed(2, &[3, 2, 1])], &ongoing);
        let set = |pairs: &[&str]| pairs.iter().map(|p| (*p).to_owned()).collect::<BTreeSet<_>>();
        let (gives, takes) = &lists["t"];
        assert_eq!(*gives, set(&["0:1", "0:2", "0:3", "1:1", "1:2", "1:3"]));
        assert_eq!(*takes, set(&["0:4", "1:4"]));
    }
}
