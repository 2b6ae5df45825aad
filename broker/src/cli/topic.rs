//! `strandline topic create|list|describe|alter|delete|tiers`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use strandline_client::Cluster;
use strandline_protocol::ids::TopicId;
use strandline_protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use strandline_protocol::messages::metadata_response::{MetadataResponse, MetadataResponseTopic};

use super::CommandResult;
use super::bootstrap::{Connect, block_on, check, table};
use super::tier_map;

/// Kafka's number for topics in config requests.
pub(super) const TOPIC_RESOURCE: i8 = 2;

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
    /// Makes a topic.
    Create {
        topic: String,
        /// -1 = the broker's num.partitions.
        #[arg(long, short = 'p', default_value_t = -1, allow_negative_numbers = true)]
        partitions: i32,
        /// -1 = the broker's default.replication.factor.
        #[arg(long, short = 'r', default_value_t = -1, allow_negative_numbers = true)]
        replication_factor: i16,
        /// A setting, for instance retention.ms=60000. May be given again.
        #[arg(long, short = 'c', value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Short for -c remote.storage.enable=true.
        #[arg(long)]
        tiered: bool,
    },
    /// Names all topics.
    List {
        /// Also those that brokers keep for themselves.
        #[arg(long)]
        internal: bool,
    },
    /// Partitions and settings of topics; of all, if none is named.
    Describe { topics: Vec<String> },
    /// Changes settings, or adds partitions.
    Alter {
        topic: String,
        #[arg(long, short = 'c', value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Takes a setting back to its default. May be given again.
        #[arg(long, value_name = "KEY")]
        delete_config: Vec<String>,
        /// The number of partitions that the topic is to have.
        #[arg(long, short = 'p')]
        partitions: Option<i32>,
    },
    /// Deletes topics with all their records, local and in the bucket.
    Delete {
        #[arg(required = true)]
        topics: Vec<String>,
    },
    /// Draws where each partition's records are: in the bucket, on local disk, or both.
    Tiers {
        topic: String,
        /// The node's admin listener; found through the broker if it is not given.
        #[arg(long, value_name = "URL")]
        admin: Option<String>,
    },
}

pub fn run(args: Args) -> CommandResult {
    let cluster = args.connect.cluster();
    block_on(async {
        let timeout_ms = args.connect.timeout_ms();
        match args.command {
            Command::Create { topic, partitions, replication_factor, mut config, tiered } => {
                if tiered {
                    config.push("remote.storage.enable=true".to_owned());
                }
                create(&cluster, &topic, partitions, replication_factor, &config, timeout_ms).await?;
                say(args.json, &json!({ "created": topic }), &format!("created {topic}"));
            }
            Command::List { internal } => list(&cluster, internal, args.json).await?,
            Command::Describe { topics } => describe(&cluster, &topics, args.json).await?,
            Command::Alter { topic, config, delete_config, partitions } => {
                alter(&cluster, &topic, &config, &delete_config, partitions, timeout_ms).await?;
                say(args.json, &json!({ "altered": topic }), &format!("altered {topic}"));
            }
            Command::Delete { topics } => {
                delete(&cluster, &topics, timeout_ms).await?;
                say(args.json, &json!({ "deleted": topics }), &format!("deleted {}", topics.join(", ")));
            }
            Command::Tiers { topic, admin } => tier_map::show(&cluster, &topic, admin.as_deref(), args.json).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn say(as_json: bool, value: &Value, text: &str) {
    if as_json { println!("{value}") } else { println!("{text}") }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let parsed = text.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    parsed.filter(|(key, _)| !key.is_empty()).ok_or_else(|| format!("'{text}' is not of the form KEY=VALUE"))
}

/// Makes a topic.
pub(super) async fn create(
    cluster: &Cluster,
    topic: &str,
    partitions: i32,
    replication_factor: i16,
    config: &[String],
    timeout_ms: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut configs = Vec::new();
    for text in config {
        let (name, value) = pair(text)?;
        configs.push(CreatableTopicConfig { name, value: Some(value), ..Default::default() });
    }
    let topics = vec![CreatableTopic {
        name: topic.to_owned(),
        num_partitions: partitions,
        replication_factor,
        configs,
        ..Default::default()
    }];
    let request = CreateTopicsRequest { topics, timeout_ms, validate_only: false, ..Default::default() };
    for answer in cluster.ask(&request).await?.topics {
        check(&answer.name, answer.error_code, answer.error_message)?;
    }
    Ok(())
}

async fn all_topics(cluster: &Cluster, names: &[String]) -> Result<MetadataResponse, Box<dyn std::error::Error>> {
    let named: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = if names.is_empty() { None } else { Some(named.as_slice()) };
    let mut metadata = cluster.metadata(wanted, false).await?;
    for topic in &metadata.topics {
        check(topic.name.as_deref().unwrap_or("topic"), topic.error_code, None)?;
    }
    metadata.topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(metadata)
}

async fn list(cluster: &Cluster, internal: bool, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let metadata = all_topics(cluster, &[]).await?;
    let shown = metadata.topics.iter().filter(|t| internal || !t.is_internal);
    if as_json {
        let topics: Vec<Value> = shown
            .map(|t| json!({ "name": t.name, "id": TopicId(t.topic_id).to_string(), "partitions": t.partitions.len() }))
            .collect();
        println!("{}", Value::from(topics));
    } else {
        for topic in shown {
            println!("{}", topic.name.as_deref().unwrap_or_default());
        }
    }
    Ok(())
}

/// Settings of a topic that are not defaults.
async fn own_settings(cluster: &Cluster, topic: &str) -> Result<Vec<(String, String)>, Box<dyn std::error::Error>> {
    let resource = DescribeConfigsResource {
        resource_type: TOPIC_RESOURCE,
        resource_name: topic.to_owned(),
        ..Default::default()
    };
    let response = cluster.ask(&DescribeConfigsRequest { resources: vec![resource], ..Default::default() }).await?;
    let mut own = Vec::new();
    for result in response.results {
        check(&result.resource_name, result.error_code, result.error_message)?;
        let set = result.configs.into_iter().filter(|c| c.config_source == 1);
        own.extend(set.map(|c| (c.name, c.value.unwrap_or_default())));
    }
    Ok(own)
}

async fn describe(cluster: &Cluster, names: &[String], as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let metadata = all_topics(cluster, names).await?;
    let mut described = Vec::new();
    for topic in metadata.topics.iter().filter(|t| !names.is_empty() || !t.is_internal) {
        let name = topic.name.clone().unwrap_or_default();
        let settings = own_settings(cluster, &name).await?;
        if as_json {
            described.push(topic_json(topic, &settings));
        } else {
            print_topic(topic, &settings);
        }
    }
    if as_json {
        println!("{}", Value::from(described));
    }
    Ok(())
}

fn topic_json(topic: &MetadataResponseTopic, settings: &[(String, String)]) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|p| {
            json!({ "partition": p.partition_index, "leader": p.leader_id, "leader_epoch": p.leader_epoch,
                    "replicas": p.replica_nodes, "isr": p.isr_nodes })
        })
        .collect();
    let configs: serde_json::Map<String, Value> =
        settings.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
    json!({ "name": topic.name, "id": TopicId(topic.topic_id).to_string(), "partitions": partitions, "configs": configs })
}

fn print_topic(topic: &MetadataResponseTopic, settings: &[(String, String)]) {
    println!("{}  id {}", topic.name.as_deref().unwrap_or_default(), TopicId(topic.topic_id));
    for (key, value) in settings {
        println!("  {key}={value}");
    }
    let mut rows = table(&["  partition", "leader", "epoch", "replicas", "in sync"]);
    for p in &topic.partitions {
        rows.add_row([
            format!("  {}", p.partition_index),
            p.leader_id.to_string(),
            p.leader_epoch.to_string(),
            format!("{:?}", p.replica_nodes),
            format!("{:?}", p.isr_nodes),
        ]);
    }
    println!("{rows}\n");
}

async fn alter(
    cluster: &Cluster,
    topic: &str,
    config: &[String],
    delete_config: &[String],
    partitions: Option<i32>,
    timeout_ms: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let mut configs = Vec::new();
    for text in config {
        let (name, value) = pair(text)?;
        configs.push(AlterableConfig { name, config_operation: SET, value: Some(value), ..Default::default() });
    }
    for name in delete_config {
        configs.push(AlterableConfig { name: name.clone(), config_operation: DELETE, ..Default::default() });
    }
    if configs.is_empty() && partitions.is_none() {
        return Err("nothing to change: give --config KEY=VALUE, --delete-config KEY or --partitions N".into());
    }
    if !configs.is_empty() {
        let resource = AlterConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: topic.to_owned(),
            configs,
            ..Default::default()
        };
        let request = IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
        for answer in cluster.ask(&request).await?.responses {
            check(&answer.resource_name, answer.error_code, answer.error_message)?;
        }
    }
    if let Some(count) = partitions {
        let topics = vec![CreatePartitionsTopic { name: topic.to_owned(), count, ..Default::default() }];
        let request = CreatePartitionsRequest { topics, timeout_ms, validate_only: false, ..Default::default() };
        for answer in cluster.ask(&request).await?.results {
            check(&answer.name, answer.error_code, answer.error_message)?;
        }
    }
    Ok(())
}

async fn delete(cluster: &Cluster, topics: &[String], timeout_ms: i32) -> Result<(), Box<dyn std::error::Error>> {
    let named = |name: &String| DeleteTopicState { name: Some(name.clone()), ..Default::default() };
    let request = DeleteTopicsRequest {
        topics: topics.iter().map(named).collect(),
        topic_names: Vec::new(),
        timeout_ms,
        ..Default::default()
    };
    for answer in cluster.ask(&request).await?.responses {
        check(answer.name.as_deref().unwrap_or("topic"), answer.error_code, answer.error_message)?;
    }
    Ok(())
}
