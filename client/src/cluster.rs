//! The brokers of a cluster: how to reach them, and who leads what.
//!
//! Owns one connection per broker and the last metadata. Metadata is asked for again when a call says that it is stale.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::Request;
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_protocol::messages::metadata_response::MetadataResponse;
use uuid::Uuid;

use crate::connection::{CallError, Connection};
use crate::network::Network;

/// A partition's leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node_id: i32,
    pub leader_epoch: i32,
    pub topic_id: Uuid,
}

#[derive(Default)]
struct Known {
    addresses: BTreeMap<i32, String>,
    connections: HashMap<String, Arc<Connection>>,
}

/// A cluster, as a client sees it.
pub struct Cluster {
    bootstrap: Vec<String>,
    client_id: String,
    network: Network,
    deadline: Duration,
    known: Mutex<Known>,
}

impl Cluster {
    /// `bootstrap` is `host:port`, several separated by commas. Every call ends within `deadline`. Connects on first use.
    pub fn new(bootstrap: &str, client_id: &str, deadline: Duration) -> Cluster {
        Cluster::over(Network::Tcp, bootstrap, client_id, deadline)
    }

    /// The same over another network.
    pub fn over(network: Network, bootstrap: &str, client_id: &str, deadline: Duration) -> Cluster {
        let addresses = bootstrap.split(',').map(str::trim).filter(|a| !a.is_empty());
        let bootstrap = addresses.map(|a| if a.contains(':') { a.to_owned() } else { format!("{a}:9092") }).collect();
        Cluster { bootstrap, client_id: client_id.to_owned(), network, deadline, known: Mutex::default() }
    }

    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    async fn connection(&self, address: &str) -> Result<Arc<Connection>, CallError> {
        if let Some(open) = self.known.lock().connections.get(address).filter(|c| !c.has_failed()) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(Connection::open(&self.network, address, &self.client_id).await?);
        self.known.lock().connections.insert(address.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }

    /// A connection to any broker.
    pub async fn any(&self) -> Result<Arc<Connection>, CallError> {
        let known: Vec<String> = self.known.lock().addresses.values().cloned().collect();
        let mut last = None;
        for address in known.iter().chain(&self.bootstrap) {
            match self.connection(address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| CallError::NoBroker(self.bootstrap.join(","))))
    }

    /// A connection to one broker, as metadata named it.
    pub async fn node(&self, node_id: i32) -> Result<Arc<Connection>, CallError> {
        let address = self.known.lock().addresses.get(&node_id).cloned();
        match address {
            Some(address) => self.connection(&address).await,
            None => Err(CallError::NoBroker(format!("node {node_id}"))),
        }
    }

    /// A connection of the caller's own to one broker: for requests that the broker may park.
    pub async fn open_own(&self, node_id: i32) -> Result<Connection, CallError> {
        let address = self.known.lock().addresses.get(&node_id).cloned();
        let address = address.ok_or_else(|| CallError::NoBroker(format!("node {node_id}")))?;
        Connection::open(&self.network, &address, &self.client_id).await
    }

    /// Asks any broker.
    pub async fn ask<R: Request>(&self, request: &R) -> Result<R::Response, CallError> {
        self.any().await?.call(request, self.deadline).await
    }

    /// Metadata of these topics, or of all (`None`). `create` lets the broker make them.
    pub async fn metadata(&self, topics: Option<&[&str]>, create: bool) -> Result<MetadataResponse, CallError> {
        let named = |name: &&str| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() };
        let request = MetadataRequest {
            topics: topics.map(|topics| topics.iter().map(named).collect()),
            allow_auto_topic_creation: create,
            ..Default::default()
        };
        let response = self.ask(&request).await?;
        let mut known = self.known.lock();
        known.addresses = response.brokers.iter().map(|b| (b.node_id, format!("{}:{}", b.host, b.port))).collect();
        drop(known);
        Ok(response)
    }

    /// Leaders of a topic's partitions by number. A code if the topic, or one of its leaders, is not there.
    pub async fn leaders(
        &self,
        topic: &str,
        create: bool,
    ) -> Result<Result<BTreeMap<i32, Leader>, ErrorCode>, CallError> {
        let metadata = self.metadata(Some(&[topic]), create).await?;
        let Some(found) = metadata.topics.first() else { return Ok(Err(ErrorCode::UnknownTopicOrPartition)) };
        if let Err(code) = crate::connection::check(found.error_code) {
            return Ok(Err(code));
        }
        let mut leaders = BTreeMap::new();
        for p in &found.partitions {
            if p.leader_id < 0 {
                return Ok(Err(ErrorCode::LeaderNotAvailable));
            }
            let leader = Leader { node_id: p.leader_id, leader_epoch: p.leader_epoch, topic_id: found.topic_id };
            leaders.insert(p.partition_index, leader);
        }
        Ok(Ok(leaders))
    }
}
