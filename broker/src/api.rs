//! Requests: decoded, authorised, carried out, answered.
//!
//! Owns the one table from API key to handler and the one authorisation point. Does not own sockets (`net`) nor state
//! (`broker`). A handler is a function `(broker, call, request) -> response`; only produce begins before its turn.

mod configs;
mod delete_records;
mod fetch;
mod groups;
mod list_offsets;
mod log_dirs;
mod metadata;
mod produce;
mod producers;
mod quorum;
mod reassignments;
mod replica_fetch;
mod topics;
mod versions;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use strandline_controller::request::Refused;
use strandline_protocol::api::ApiKey;
use strandline_protocol::codec::Reader;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::frame::{RequestHeader, decode_request_header, encode_response};
use strandline_protocol::messages::Request;
use strandline_protocol::rope::Rope;

use crate::broker::Broker;
use crate::net::{ConnectionContext, FrameHandler, Reply};

/// One request, as a handler sees it.
#[derive(Debug, Clone)]
pub struct Call {
    pub context: ConnectionContext,
    pub version: i16,
    pub client_id: Option<String>,
}

/// What a request wants to do, for the authoriser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
}

/// The one place that says whether `call`'s principal may do `operation`. Without an authoriser everyone may, as in
/// Kafka with `authorizer.class.name` unset; ACLs are decided here and nowhere else.
fn authorize(call: &Call, api: ApiKey) -> bool {
    let operation = operation(api);
    tracing::trace!(principal = %call.context.principal, listener = %call.context.listener, ?api, ?operation, "authorised");
    true
}

fn operation(api: ApiKey) -> Operation {
    match api {
        ApiKey::Produce | ApiKey::InitProducerId => Operation::Write,
        ApiKey::Fetch
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup => Operation::Read,
        ApiKey::CreateTopics => Operation::Create,
        ApiKey::DeleteTopics | ApiKey::DeleteRecords | ApiKey::DeleteGroups | ApiKey::OffsetDelete => Operation::Delete,
        ApiKey::CreatePartitions
        | ApiKey::AlterConfigs
        | ApiKey::IncrementalAlterConfigs
        | ApiKey::AlterPartitionReassignments
        | ApiKey::ElectLeaders
        | ApiKey::AddRaftVoter
        | ApiKey::RemoveRaftVoter
        | ApiKey::UnregisterBroker => Operation::Alter,
        _ => Operation::Describe,
    }
}

/// What Kafka tells with INVALID_REQUEST when it has nothing better to say.
const MALFORMED: &str = "This most likely occurs because of a request being malformed by the client library or the \
                         message was sent to an incompatible broker. See the broker logs for more details.";
/// "Not asked for" in `*_authorized_operations`.
const OPERATIONS_OMITTED: i32 = i32::MIN;
/// All that may be done to a topic, as bits of Kafka's `AclOperation` numbers: read, write, create, delete, alter,
/// describe, describe configs, alter configs.
const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// To the cluster: create, alter, describe, cluster action, describe configs, alter configs, idempotent write.
const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// To a group: read, delete, describe, describe configs, alter configs.
const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

/// Without an authoriser everyone may do everything (`authorize`), if it was asked for.
fn operations(asked: bool, all: i32) -> i32 {
    if asked { all } else { OPERATIONS_OMITTED }
}

/// An outcome as error code and message.
fn told(outcome: Result<(), Refused>) -> (i16, Option<String>) {
    match outcome {
        Ok(()) => (ErrorCode::None.code(), None),
        // The code says it all.
        Err(refused) if refused.code == ErrorCode::NoReassignmentInProgress => (refused.code.code(), None),
        Err(refused) => (refused.code.code(), Some(refused.message)),
    }
}

/// The handlers of one node.
pub struct Api {
    broker: Arc<Broker>,
}

impl Api {
    pub fn new(broker: Arc<Broker>) -> Self {
        Api { broker }
    }

    /// Never blocks; a produce is appended when this returns.
    fn begin(&self, context: &ConnectionContext, frame: Bytes) -> Reply {
        let (header, body) = match decode_request_header(frame) {
            Ok(decoded) => decoded,
            Err(error) => return versions::unreadable_header(&error),
        };
        let Some(api) = ApiKey::from_code(header.api_key).filter(|api| api.is_served()) else {
            return Reply::Close(format!("API key {} is not served", header.api_key));
        };
        if !api.served_versions().contains(&header.api_version) {
            return versions::unsupported(api, &header);
        }
        let call = Call { context: context.clone(), version: header.api_version, client_id: header.client_id.clone() };
        if !authorize(&call, api) {
            return Reply::Close(format!("{} may not {api:?}", call.context.principal));
        }
        self.broker.metrics.request(api);
        self.route(api, call, header, body)
    }

    fn route(&self, api: ApiKey, call: Call, header: RequestHeader, body: Reader) -> Reply {
        let broker = self.broker.clone();
        match api {
            ApiKey::Produce => produce::start(broker, call, header, body),
            ApiKey::Fetch => later(broker, call, header, body, fetch::handle),
            ApiKey::ListOffsets => later(broker, call, header, body, list_offsets::handle),
            ApiKey::OffsetForLeaderEpoch => later(broker, call, header, body, list_offsets::for_leader_epoch),
            ApiKey::Metadata => later(broker, call, header, body, metadata::handle),
            ApiKey::DescribeCluster => later(broker, call, header, body, metadata::describe_cluster),
            ApiKey::DescribeTopicPartitions => later(broker, call, header, body, metadata::describe_topic_partitions),
            ApiKey::ApiVersions => later(broker, call, header, body, versions::handle),
            ApiKey::CreateTopics => later(broker, call, header, body, topics::create),
            ApiKey::DeleteTopics => later(broker, call, header, body, topics::delete),
            ApiKey::CreatePartitions => later(broker, call, header, body, topics::create_partitions),
            ApiKey::DeleteRecords => later(broker, call, header, body, delete_records::handle),
            ApiKey::DescribeConfigs => later(broker, call, header, body, configs::describe),
            ApiKey::AlterConfigs => later(broker, call, header, body, configs::alter),
            ApiKey::IncrementalAlterConfigs => later(broker, call, header, body, configs::alter_incrementally),
            ApiKey::ListConfigResources => later(broker, call, header, body, configs::list_resources),
            ApiKey::DescribeLogDirs => later(broker, call, header, body, log_dirs::handle),
            ApiKey::InitProducerId => later(broker, call, header, body, producers::init),
            ApiKey::DescribeProducers => later(broker, call, header, body, producers::describe),
            ApiKey::FindCoordinator => later(broker, call, header, body, groups::find_coordinator),
            ApiKey::JoinGroup => later(broker, call, header, body, groups::join),
            ApiKey::SyncGroup => later(broker, call, header, body, groups::sync),
            ApiKey::Heartbeat => later(broker, call, header, body, groups::heartbeat),
            ApiKey::LeaveGroup => later(broker, call, header, body, groups::leave),
            ApiKey::OffsetCommit => later(broker, call, header, body, groups::commit),
            ApiKey::OffsetFetch => later(broker, call, header, body, groups::fetch),
            ApiKey::OffsetDelete => later(broker, call, header, body, groups::offset_delete),
            ApiKey::ListGroups => later(broker, call, header, body, groups::list),
            ApiKey::DescribeGroups => later(broker, call, header, body, groups::describe),
            ApiKey::DeleteGroups => later(broker, call, header, body, groups::delete),
            ApiKey::AlterPartitionReassignments => later(broker, call, header, body, reassignments::alter),
            ApiKey::ListPartitionReassignments => later(broker, call, header, body, reassignments::list),
            ApiKey::ElectLeaders => later(broker, call, header, body, reassignments::elect),
            ApiKey::DescribeQuorum => later(broker, call, header, body, quorum::describe),
            ApiKey::AddRaftVoter => later(broker, call, header, body, quorum::add_voter),
            ApiKey::RemoveRaftVoter => later(broker, call, header, body, quorum::remove_voter),
            ApiKey::UnregisterBroker => later(broker, call, header, body, quorum::unregister),
            other => Reply::Close(format!("{other:?} is not served")),
        }
    }
}

impl FrameHandler for Api {
    fn start(&self, context: &ConnectionContext, frame: Bytes) -> Reply {
        self.begin(context, frame)
    }

    fn answered(&self, api_key: i16, took: Duration) {
        self.broker.metrics.answered(api_key, took);
    }

    fn connections(&self, now: usize) {
        self.broker.metrics.connections.store(i64::try_from(now).unwrap_or(i64::MAX), Ordering::Relaxed);
    }
}

/// Decodes now, so that a malformed body closes the connection; carries out when the turn comes.
fn later<R, F, Fut>(broker: Arc<Broker>, call: Call, header: RequestHeader, mut body: Reader, handler: F) -> Reply
where
    R: Request + Send + 'static,
    R::Response: Send,
    F: FnOnce(Arc<Broker>, Call, R) -> Fut + Send + 'static,
    Fut: Future<Output = R::Response> + Send + 'static,
{
    let request = match R::decode(&mut body, header.api_version) {
        Ok(request) => request,
        Err(error) => return Reply::Close(format!("malformed {:?} v{}: {error}", R::API_KEY, header.api_version)),
    };
    Reply::Later(Box::pin(async move {
        let response = handler(broker, call, request).await;
        respond::<R>(&header, &response)
    }))
}

/// Encodes a response of `R`. A response that its version cannot carry is a bug of ours: logged, and nothing is sent.
fn respond<R: Request>(header: &RequestHeader, response: &R::Response) -> Option<Rope> {
    match encode_response(R::API_KEY, header.api_version, header.correlation_id, response) {
        Ok(rope) => Some(rope),
        Err(error) => {
            tracing::error!(api = ?R::API_KEY, version = header.api_version, %error, "response cannot be encoded");
            None
        }
    }
}
