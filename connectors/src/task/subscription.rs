//! Which partitions a connector's group reads, and which of them a task gets.
//!
//! Owns the topics that the settings name, listed or by pattern, as the cluster has them now. Notices new topics and partitions by
//! looking, at most every `metadata.max.age.ms`, and sooner while a listed topic is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regex::Regex;
use strandline_client::Cluster;
use strandline_client::group::consumer::{self, RANGE};
use strandline_client::group::{GroupError, Member};
use strandline_protocol::error_code::ErrorCode;
use tokio::time::Instant;

use super::settings::TaskSettings;
use crate::config::Settings;
use crate::connector::{listed_topics, whole};
use crate::sink::TopicPartition;

/// Between looks while a listed topic is not there, or there is none that matches.
const LOOK_FOR_MISSING: Duration = Duration::from_secs(2);
/// Rounds of a group that are overtaken by the next, until the task looks at its surroundings again.
const ROUNDS_MAX: usize = 20;

/// Partition counts by topic.
type Counts = BTreeMap<String, i32>;

pub struct Subscription {
    listed: Vec<String>,
    pattern: Option<Regex>,
    group: String,
    create: bool,
    max_age: Duration,
    known: Counts,
    next_look: Instant,
}

impl Subscription {
    pub fn new(settings: &Settings, options: &TaskSettings) -> Result<Subscription, String> {
        let pattern = settings.get("topics.regex").map(|t| t.trim()).filter(|t| !t.is_empty());
        let pattern = match pattern.map(whole) {
            Some(Ok(pattern)) => Some(pattern),
            Some(Err(error)) => return Err(format!("topics.regex is not a pattern: {error}; correct it")),
            None => None,
        };
        Ok(Subscription {
            listed: listed_topics(settings),
            pattern,
            group: options.group.clone(),
            create: options.create_topics,
            max_age: options.metadata_max_age,
            known: Counts::new(),
            next_look: Instant::now(),
        })
    }

    async fn look(&mut self, cluster: &Cluster) -> Result<Counts, GroupError> {
        let names: Vec<&str> = self.listed.iter().map(String::as_str).collect();
        let metadata = match &self.pattern {
            Some(_) => cluster.metadata(None, false).await?,
            None => cluster.metadata(Some(&names), self.create).await?,
        };
        let wanted = |name: &str, internal: bool| match &self.pattern {
            Some(pattern) => !internal && pattern.is_match(name),
            None => true,
        };
        let mut counts = Counts::new();
        for topic in metadata.topics {
            let Some(name) = topic.name.filter(|n| wanted(n, topic.is_internal)) else { continue };
            match ErrorCode::from_code(topic.error_code) {
                Some(ErrorCode::None | ErrorCode::LeaderNotAvailable) if !topic.partitions.is_empty() => {
                    counts.insert(name, i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX));
                }
                Some(code) if !code.retriable() && code != ErrorCode::None => {
                    return Err(GroupError::Refused { group: self.group.clone(), code });
                }
                _ => {}
            }
        }
        let missing = counts.is_empty() || counts.len() < self.listed.len();
        self.next_look = Instant::now() + if missing { LOOK_FOR_MISSING.min(self.max_age) } else { self.max_age };
        Ok(counts)
    }

    /// Whether the group's partitions are others than at the last join. Asks the cluster when it is time to.
    pub async fn has_changed(&mut self, cluster: &Cluster) -> bool {
        if Instant::now() < self.next_look {
            return false;
        }
        match self.look(cluster).await {
            Ok(counts) => counts != self.known,
            Err(error) => {
                tracing::debug!(%error, "topics are looked up later");
                self.next_look = Instant::now() + LOOK_FOR_MISSING;
                false
            }
        }
    }

    /// Joins, and assigns if this is the leader. None = rounds without end; try again.
    pub async fn join(
        &mut self,
        member: &Member,
        cluster: &Cluster,
    ) -> Result<Option<(i32, Vec<TopicPartition>)>, GroupError> {
        for _ in 0..ROUNDS_MAX {
            self.known = self.look(cluster).await?;
            let topics: BTreeSet<String> = match &self.pattern {
                Some(_) => self.known.keys().cloned().collect(),
                None => self.listed.iter().cloned().collect(),
            };
            let unreadable = || GroupError::Refused { group: self.group.clone(), code: ErrorCode::InvalidRequest };
            let wish = consumer::subscription(&topics).map_err(|_| unreadable())?;
            let seat = member.join(&[(RANGE.to_owned(), wish)]).await?;
            let mut assignments = Vec::new();
            if let Some(members) = &seat.members {
                let mut wishes = BTreeMap::new();
                for (id, metadata) in members {
                    let wish = consumer::subscribed(metadata.clone());
                    wishes.insert(id.clone(), wish.map_err(|_| unreadable())?);
                }
                for (id, partitions) in consumer::range(&wishes, &self.known) {
                    let bytes = consumer::assignment(&partitions).map_err(|_| unreadable())?;
                    assignments.push((id, bytes));
                }
            }
            let Some(bytes) = member.sync(&seat, assignments).await? else { continue };
            let given = consumer::assigned(bytes).map_err(|_| unreadable())?;
            let partitions = given
                .iter()
                .flat_map(|(topic, partitions)| partitions.iter().map(move |p| TopicPartition::new(topic, *p)))
                .collect();
            return Ok(Some((seat.generation, partitions)));
        }
        Ok(None)
    }
}
