//! Kafka's messages, generated from the schemas of Kafka 4.3.1 (see `protocol/generator`), and what they share.
//!
//! Structs and fields have Kafka's names. `decode` and `encode` take the version; a field that a version lacks has its
//! default after decoding, and must have it for encoding unless Kafka calls it ignorable. Unknown tagged fields are
//! skipped.

#![allow(clippy::derivable_impls, clippy::field_reassign_with_default, reason = "generated code has one form")]

use std::ops::RangeInclusive;

pub use api_key::ApiKey;

use crate::codec::{DecodeError, EncodeError, Reader, Writer};

/// A message of the protocol.
pub trait Message: Sized {
    const NAME: &'static str;
    /// Versions that can be read and written.
    const VERSIONS: RangeInclusive<i16>;

    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError>;
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request, and what answers it.
pub trait Request: Message {
    const API_KEY: ApiKey;
    type Response: Message;
}

fn check_decode_version<M: Message>(version: i16) -> Result<(), DecodeError> {
    if M::VERSIONS.contains(&version) { Ok(()) } else { Err(DecodeError::Version { message: M::NAME, version }) }
}

fn check_encode_version<M: Message>(version: i16) -> Result<(), EncodeError> {
    if M::VERSIONS.contains(&version) { Ok(()) } else { Err(EncodeError::Version { message: M::NAME, version }) }
}

/// What generated code needs.
mod prelude {
    pub(super) use std::ops::RangeInclusive;

    pub(super) use bytes::Bytes;
    pub(super) use uuid::Uuid;

    pub(super) use super::{ApiKey, Message, Request, check_decode_version, check_encode_version};
    pub(super) use crate::codec::{DecodeError, EncodeError, Reader, TaggedFields, Writer};
    pub(super) use crate::rope::Records;
}

pub mod add_raft_voter_request;
pub mod add_raft_voter_response;
pub mod alter_configs_request;
pub mod alter_configs_response;
pub mod alter_partition_reassignments_request;
pub mod alter_partition_reassignments_response;
pub mod api_key;
pub mod api_versions_request;
pub mod api_versions_response;
pub mod consumer_protocol_assignment;
pub mod consumer_protocol_subscription;
pub mod create_partitions_request;
pub mod create_partitions_response;
pub mod create_topics_request;
pub mod create_topics_response;
pub mod delete_groups_request;
pub mod delete_groups_response;
pub mod delete_records_request;
pub mod delete_records_response;
pub mod delete_topics_request;
pub mod delete_topics_response;
pub mod describe_cluster_request;
pub mod describe_cluster_response;
pub mod describe_configs_request;
pub mod describe_configs_response;
pub mod describe_groups_request;
pub mod describe_groups_response;
pub mod describe_log_dirs_request;
pub mod describe_log_dirs_response;
pub mod describe_producers_request;
pub mod describe_producers_response;
pub mod describe_quorum_request;
pub mod describe_quorum_response;
pub mod describe_topic_partitions_request;
pub mod describe_topic_partitions_response;
pub mod elect_leaders_request;
pub mod elect_leaders_response;
pub mod end_txn_marker;
pub mod fetch_request;
pub mod fetch_response;
pub mod find_coordinator_request;
pub mod find_coordinator_response;
pub mod group_metadata_key;
pub mod group_metadata_value;
pub mod heartbeat_request;
pub mod heartbeat_response;
pub mod incremental_alter_configs_request;
pub mod incremental_alter_configs_response;
pub mod init_producer_id_request;
pub mod init_producer_id_response;
pub mod join_group_request;
pub mod join_group_response;
pub mod leave_group_request;
pub mod leave_group_response;
pub mod list_config_resources_request;
pub mod list_config_resources_response;
pub mod list_groups_request;
pub mod list_groups_response;
pub mod list_offsets_request;
pub mod list_offsets_response;
pub mod list_partition_reassignments_request;
pub mod list_partition_reassignments_response;
pub mod metadata_request;
pub mod metadata_response;
pub mod offset_commit_key;
pub mod offset_commit_request;
pub mod offset_commit_response;
pub mod offset_commit_value;
pub mod offset_delete_request;
pub mod offset_delete_response;
pub mod offset_fetch_request;
pub mod offset_fetch_response;
pub mod offset_for_leader_epoch_request;
pub mod offset_for_leader_epoch_response;
pub mod produce_request;
pub mod produce_response;
pub mod remove_raft_voter_request;
pub mod remove_raft_voter_response;
pub mod request_header;
pub mod response_header;
pub mod sasl_authenticate_request;
pub mod sasl_authenticate_response;
pub mod sasl_handshake_request;
pub mod sasl_handshake_response;
pub mod sync_group_request;
pub mod sync_group_response;
pub mod unregister_broker_request;
pub mod unregister_broker_response;
