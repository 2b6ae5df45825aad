//! Fetch: local records as file ranges, remote ones through the tier, long polling, sessions.
//!
//! Flow: `handle` -> session plan -> `Partition::read` for each partition; what lies below the local log start ->
//! `Tier::read`; not enough yet -> wait for a high watermark to move -> read again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId};
use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_protocol::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use strandline_protocol::rope::{Records, Rope};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Call;
use crate::broker::Broker;
use crate::clock;
use crate::fetch_session::{Asked, Place, Plan, Telling, Told, TopicKey, Wanted};
use crate::partition::{Aborted, Isolation, Partition, PartitionRead, ReadFrom, ReadRefused};
use crate::replication::selector::{self, Candidate};

/// The first version in which a consumer says its rack, and can be sent to a follower.
const RACKS_SINCE: i16 = 11;

/// What one partition gave.
struct Found {
    place: Place,
    wanted: Wanted,
    partition: Option<Arc<Partition>>,
    outcome: Result<PartitionRead, ReadRefused>,
    /// The replica that the consumer should read from instead.
    preferred: Option<BrokerId>,
}

pub(super) async fn handle(broker: Arc<Broker>, call: Call, request: FetchRequest) -> FetchResponse {
    if let Some(replica) = super::replica_fetch::replica(&request) {
        return super::replica_fetch::handle(broker, call, replica, request).await;
    }
    let plan = match plan(&broker, &call, &request, None) {
        Ok(plan) => plan,
        Err(code) => {
            return FetchResponse { error_code: code.code(), session_id: 0, ..Default::default() };
        }
    };
    let limits = ReadLimits {
        max_bytes: request.max_bytes.clamp(0, broker.config.fetch_max_bytes),
        // Version 3 brought the rule that the first record batch is always given, however large.
        min_one: call.version >= 3,
        isolation: if request.isolation_level == 1 { Isolation::TxnCommitted } else { Isolation::HighWatermark },
        from: if call.version >= RACKS_SINCE { ReadFrom::AnyReplica } else { ReadFrom::Leader },
        rack: request.rack_id,
    };
    let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let found = read_until_enough(&broker, &plan, &limits, request.min_bytes, max_wait).await;
    respond(&broker, &call, plan, found)
}

/// What the request wants, by its session. `owner` is the follower that asks.
pub(super) fn plan(
    broker: &Broker,
    call: &Call,
    request: &FetchRequest,
    owner: Option<BrokerId>,
) -> Result<Plan, ErrorCode> {
    let by_id = call.version >= 13;
    let key = |name: &str, id: uuid::Uuid| {
        if by_id { TopicKey::Id(TopicId(id)) } else { TopicKey::Name(Arc::from(name)) }
    };
    let mut wanted = Vec::new();
    for topic in &request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.iter().map(|p| Wanted::of(topic_key.clone(), p)));
    }
    let mut forgotten = Vec::new();
    for topic in &request.forgotten_topics_data {
        let topic_key = key(&topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|p| (topic_key.clone(), *p)));
    }
    let random = || uuid::Uuid::new_v4().as_u128() as i32;
    let (session_id, epoch) = (request.session_id, request.session_epoch);
    let asked = Asked { owner, session_id, epoch, wanted, forgotten: &forgotten };
    broker.sessions.plan(asked, clock::monotonic(), random)
}

struct ReadLimits {
    max_bytes: i32,
    min_one: bool,
    isolation: Isolation,
    from: ReadFrom,
    /// Of the consumer; empty = it does not say.
    rack: String,
}

/// Reads; while there is too little and nothing is wrong, waits for an append, until `max_wait` is over.
async fn read_until_enough(
    broker: &Arc<Broker>,
    plan: &Plan,
    limits: &ReadLimits,
    min_bytes: i32,
    max_wait: Duration,
) -> Vec<Found> {
    let deadline = Instant::now() + max_wait;
    let mut found = read_all(broker, plan, limits).await;
    if enough(&found, min_bytes) || max_wait.is_zero() {
        return found;
    }
    let wake = Arc::new(Notify::new());
    loop {
        // Registered before the read, so that no append slips in between.
        for f in &found {
            if let Some(partition) = &f.partition {
                partition.wake_on_progress(&wake);
            }
        }
        found = read_all(broker, plan, limits).await;
        if enough(&found, min_bytes) || tokio::time::timeout_at(deadline, wake.notified()).await.is_err() {
            return found;
        }
    }
}

/// Errors are told at once, and where else to read.
fn enough(found: &[Found], min_bytes: i32) -> bool {
    let mut bytes = 0;
    for f in found {
        match &f.outcome {
            Err(_) => return true,
            Ok(_) if f.preferred.is_some() => return true,
            Ok(read) => bytes += read.records.len(),
        }
    }
    bytes >= u64::try_from(min_bytes).unwrap_or(0)
}

async fn read_all(broker: &Arc<Broker>, plan: &Plan, limits: &ReadLimits) -> Vec<Found> {
    let mut left = i64::from(limits.max_bytes);
    let mut given = false;
    let mut found = Vec::with_capacity(plan.wanted.len());
    let mut remote = Vec::new();
    for (place, wanted) in &plan.wanted {
        let max_bytes = left.min(i64::from(wanted.max_bytes)).max(0) as u32;
        let min_one = limits.min_one && !given;
        let (partition, preferred, outcome) = read_one(broker, wanted, max_bytes, min_one, limits);
        match &outcome {
            Ok(read) => {
                left -= read.records.len() as i64;
                given |= !read.records.is_empty();
            }
            Err(ReadRefused::Remote { .. }) if max_bytes > 0 || min_one => {
                remote.push((found.len(), max_bytes, min_one));
                left -= i64::from(max_bytes);
                given = true;
            }
            Err(_) => {}
        }
        found.push(Found { place: *place, wanted: wanted.clone(), partition, outcome, preferred });
    }
    if !remote.is_empty() {
        read_remote(broker, &mut found, remote, limits.isolation).await;
    }
    found
}

fn read_one(
    broker: &Broker,
    wanted: &Wanted,
    max_bytes: u32,
    min_one: bool,
    limits: &ReadLimits,
) -> (Option<Arc<Partition>>, Option<BrokerId>, Result<PartitionRead, ReadRefused>) {
    let id = match &wanted.topic {
        TopicKey::Id(id) => Ok(*id),
        TopicKey::Name(name) => broker.image().topic(name).map(|t| t.id).ok_or(ErrorCode::UnknownTopicOrPartition),
    };
    let partition = id.and_then(|id| {
        broker.partitions.readable(id, wanted.partition, limits.from).map_err(|code| match (&wanted.topic, code) {
            (TopicKey::Id(_), ErrorCode::UnknownTopicOrPartition) if broker.image().live_topic(id).is_none() => {
                ErrorCode::UnknownTopicId
            }
            (_, code) => code,
        })
    });
    let partition = match partition {
        Err(code) => return (None, None, Err(ReadRefused::Code(code))),
        Ok(partition) => partition,
    };
    if let Err(code) = partition.check_epoch(wanted.current_leader_epoch) {
        return (Some(partition), None, Err(ReadRefused::Code(code)));
    }
    let preferred = preferred_replica(broker, &partition, wanted.fetch_offset, limits);
    let outcome = match preferred {
        None => partition.read(wanted.fetch_offset, max_bytes, min_one, limits.isolation, limits.from),
        Some(_) => {
            let aborted = (limits.isolation == Isolation::TxnCommitted).then(Vec::new);
            Ok(PartitionRead::new(Rope::default(), &partition.offsets(), aborted))
        }
    };
    (Some(partition), preferred, outcome)
}

/// Where the consumer should read instead, if this node leads the partition and another is nearer.
fn preferred_replica(broker: &Broker, partition: &Partition, offset: i64, limits: &ReadLimits) -> Option<BrokerId> {
    let asks = broker.config.rack_aware_reads && limits.from == ReadFrom::AnyReplica && !limits.rack.is_empty();
    if !asks || !partition.leads() {
        return None;
    }
    let image = broker.image();
    let rack = |id: BrokerId| image.brokers.get(&id).and_then(|b| b.rack.as_deref());
    let followers = partition.followers_in_sync();
    let candidates: Vec<Candidate<'_>> = followers
        .iter()
        .map(|(id, end, at)| Candidate { id: *id, rack: rack(*id), end: *end, caught_up_ms: *at })
        .collect();
    selector::rack_aware(&limits.rack, rack(broker.config.node_id), &candidates, offset)
}

/// Replaces "it is in the tier" by what the tier gives, all partitions at once. A read that takes too long gives
/// nothing now; it goes on warming the cache, and the client asks again.
async fn read_remote(broker: &Arc<Broker>, found: &mut [Found], remote: Vec<(usize, u32, bool)>, isolation: Isolation) {
    let reads = remote.iter().map(|(index, max_bytes, min_one)| {
        let f = &found[*index];
        let (partition, offset) = (f.partition.clone(), f.wanted.fetch_offset);
        async move {
            match partition {
                Some(partition) => broker.tier_read(&partition, offset, *max_bytes, *min_one, isolation).await,
                None => Err(ReadRefused::Code(ErrorCode::UnknownTopicOrPartition)),
            }
        }
    });
    let outcomes = join_all(reads).await;
    for ((index, ..), outcome) in remote.into_iter().zip(outcomes) {
        found[index].outcome = outcome;
    }
}

fn respond(broker: &Broker, call: &Call, plan: Plan, found: Vec<Found>) -> FetchResponse {
    let tellings: Vec<Telling> = found.iter().map(telling).collect();
    let news = broker.sessions.tell(plan.session_id, &tellings);
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    for (f, news) in found.into_iter().zip(news) {
        let silent = f.outcome.as_ref().is_ok_and(|read| read.records.is_empty());
        if plan.incremental && silent && !news && f.preferred.is_none() {
            continue;
        }
        if let (Ok(read), Some(partition)) = (&f.outcome, &f.partition) {
            broker.metrics.fetched(&partition.topic, read.records.len());
        }
        if f.outcome.is_err() {
            broker.metrics.failed_fetch();
        }
        let (name, id) = match &f.wanted.topic {
            TopicKey::Name(name) => (name.to_string(), uuid::Uuid::nil()),
            TopicKey::Id(id) => (String::new(), id.0),
        };
        let data = partition_data(call, f);
        match responses.iter_mut().rev().find(|t| t.topic == name && t.topic_id == id) {
            Some(topic) => topic.partitions.push(data),
            None => responses.push(FetchableTopicResponse {
                topic: name,
                topic_id: id,
                partitions: vec![data],
                ..Default::default()
            }),
        }
    }
    FetchResponse { session_id: plan.session_id, responses, ..Default::default() }
}

fn telling(f: &Found) -> Telling {
    let (told, with_records) = match &f.outcome {
        Ok(read) => {
            let told = Told { high_watermark: read.high_watermark, log_start_offset: read.log_start_offset };
            (told, !read.records.is_empty())
        }
        Err(_) => (Told { high_watermark: -1, log_start_offset: -1 }, false),
    };
    Telling { place: f.place, told, with_records }
}

fn partition_data(call: &Call, f: Found) -> PartitionData {
    let partition_index = f.wanted.partition;
    match f.outcome {
        Ok(read) => PartitionData {
            partition_index,
            high_watermark: read.high_watermark,
            last_stable_offset: if call.version >= 4 { read.last_stable_offset } else { -1 },
            log_start_offset: read.log_start_offset,
            aborted_transactions: read.aborted.map(|aborted| aborted.into_iter().map(aborted_transaction).collect()),
            preferred_read_replica: f.preferred.unwrap_or(-1),
            records: Some(Records::Parts(read.records)),
            ..Default::default()
        },
        Err(refused) => PartitionData {
            partition_index,
            error_code: refused.code().code(),
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            // Null where the partition is here, empty where it is not, as in Kafka.
            aborted_transactions: if f.partition.is_some() { None } else { Some(Vec::new()) },
            preferred_read_replica: -1,
            records: Some(Records::Parts(Rope::default())),
            ..Default::default()
        },
    }
}

fn aborted_transaction(aborted: Aborted) -> AbortedTransaction {
    AbortedTransaction { producer_id: aborted.producer_id, first_offset: aborted.first_offset, ..Default::default() }
}
