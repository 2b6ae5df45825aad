//! FetchResponse, versions 4 to 18. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct FetchResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub session_id: i32,
    pub responses: Vec<FetchableTopicResponse>,
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl Default for FetchResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, error_code: 0, session_id: 0, responses: Vec::new(), node_endpoints: Vec::new() }
    }
}

impl FetchResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.throttle_time_ms = r.i32()?;
        if version >= 7 {
            m.error_code = r.i16()?;
        }
        if version >= 7 {
            m.session_id = r.i32()?;
        }
        m.responses = r.array(version >= 12, |r| FetchableTopicResponse::read(r, version))?;
        if version >= 12 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 16 => {
                        m.node_endpoints = r.array(version >= 12, |r| NodeEndpoint::read(r, version))?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.throttle_time_ms);
        if version >= 7 {
            w.i16(self.error_code);
        }
        if version >= 7 {
            w.i32(self.session_id);
        } else if self.session_id != 0 {
            return Err(EncodeError::field("FetchResponse", "session_id", version));
        }
        w.array(&self.responses, version >= 12, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 12 {
            let mut tags = TaggedFields::default();
            if version >= 16 && !self.node_endpoints.is_empty() {
                tags.field(0, |w| {
                    w.array(&self.node_endpoints, version >= 12, |w, x| {
                        x.write(w, version)?;
                        Ok(())
                    })?;
                    Ok(())
                })?;
            }
            w.tagged_fields(tags);
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct FetchableTopicResponse {
    pub topic: String,
    pub topic_id: Uuid,
    pub partitions: Vec<PartitionData>,
}

impl Default for FetchableTopicResponse {
    fn default() -> Self {
        Self { topic: String::new(), topic_id: Uuid::nil(), partitions: Vec::new() }
    }
}

impl FetchableTopicResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 12 {
            m.topic = r.string(version >= 12)?;
        }
        if version >= 13 {
            m.topic_id = r.uuid()?;
        }
        m.partitions = r.array(version >= 12, |r| PartitionData::read(r, version))?;
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 12 {
            w.string(&self.topic, version >= 12)?;
        }
        if version >= 13 {
            w.uuid(self.topic_id);
        }
        w.array(&self.partitions, version >= 12, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct PartitionData {
    pub partition_index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    pub diverging_epoch: EpochEndOffset,
    pub current_leader: LeaderIdAndEpoch,
    pub snapshot_id: SnapshotId,
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    pub preferred_read_replica: i32,
    pub records: Option<Records>,
}

impl Default for PartitionData {
    fn default() -> Self {
        Self {
            partition_index: 0,
            error_code: 0,
            high_watermark: 0,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: EpochEndOffset::default(),
            current_leader: LeaderIdAndEpoch::default(),
            snapshot_id: SnapshotId::default(),
            aborted_transactions: Some(Vec::new()),
            preferred_read_replica: -1,
            records: None,
        }
    }
}

impl PartitionData {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition_index = r.i32()?;
        m.error_code = r.i16()?;
        m.high_watermark = r.i64()?;
        m.last_stable_offset = r.i64()?;
        if version >= 5 {
            m.log_start_offset = r.i64()?;
        }
        m.aborted_transactions = r.nullable_array(version >= 12, |r| AbortedTransaction::read(r, version))?;
        if version >= 11 {
            m.preferred_read_replica = r.i32()?;
        }
        m.records = r.nullable_records(version >= 12)?;
        if version >= 12 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 12 => {
                        m.diverging_epoch = EpochEndOffset::read(r, version)?;
                    }
                    1 if version >= 12 => {
                        m.current_leader = LeaderIdAndEpoch::read(r, version)?;
                    }
                    2 if version >= 12 => {
                        m.snapshot_id = SnapshotId::read(r, version)?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.partition_index);
        w.i16(self.error_code);
        w.i64(self.high_watermark);
        w.i64(self.last_stable_offset);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        w.nullable_array(self.aborted_transactions.as_deref(), version >= 12, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 11 {
            w.i32(self.preferred_read_replica);
        } else if self.preferred_read_replica != -1 {
            return Err(EncodeError::field("PartitionData", "preferred_read_replica", version));
        }
        w.nullable_records(self.records.as_ref(), version >= 12)?;
        if version >= 12 {
            let mut tags = TaggedFields::default();
            if version >= 12 && self.diverging_epoch != EpochEndOffset::default() {
                tags.field(0, |w| {
                    self.diverging_epoch.write(w, version)?;
                    Ok(())
                })?;
            }
            if version >= 12 && self.current_leader != LeaderIdAndEpoch::default() {
                tags.field(1, |w| {
                    self.current_leader.write(w, version)?;
                    Ok(())
                })?;
            }
            if version >= 12 && self.snapshot_id != SnapshotId::default() {
                tags.field(2, |w| {
                    self.snapshot_id.write(w, version)?;
                    Ok(())
                })?;
            }
            w.tagged_fields(tags);
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct EpochEndOffset {
    pub epoch: i32,
    pub end_offset: i64,
}

impl Default for EpochEndOffset {
    fn default() -> Self {
        Self { epoch: -1, end_offset: -1 }
    }
}

impl EpochEndOffset {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 12 {
            m.epoch = r.i32()?;
        }
        if version >= 12 {
            m.end_offset = r.i64()?;
        }
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 12 {
            w.i32(self.epoch);
        } else if self.epoch != -1 {
            return Err(EncodeError::field("EpochEndOffset", "epoch", version));
        }
        if version >= 12 {
            w.i64(self.end_offset);
        } else if self.end_offset != -1 {
            return Err(EncodeError::field("EpochEndOffset", "end_offset", version));
        }
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct LeaderIdAndEpoch {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

impl Default for LeaderIdAndEpoch {
    fn default() -> Self {
        Self { leader_id: -1, leader_epoch: -1 }
    }
}

impl LeaderIdAndEpoch {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 12 {
            m.leader_id = r.i32()?;
        }
        if version >= 12 {
            m.leader_epoch = r.i32()?;
        }
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 12 {
            w.i32(self.leader_id);
        } else if self.leader_id != -1 {
            return Err(EncodeError::field("LeaderIdAndEpoch", "leader_id", version));
        }
        if version >= 12 {
            w.i32(self.leader_epoch);
        } else if self.leader_epoch != -1 {
            return Err(EncodeError::field("LeaderIdAndEpoch", "leader_epoch", version));
        }
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotId {
    pub end_offset: i64,
    pub epoch: i32,
}

impl Default for SnapshotId {
    fn default() -> Self {
        Self { end_offset: -1, epoch: -1 }
    }
}

impl SnapshotId {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.end_offset = r.i64()?;
        m.epoch = r.i32()?;
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i64(self.end_offset);
        w.i32(self.epoch);
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

impl Default for AbortedTransaction {
    fn default() -> Self {
        Self { producer_id: 0, first_offset: 0 }
    }
}

impl AbortedTransaction {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.producer_id = r.i64()?;
        m.first_offset = r.i64()?;
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i64(self.producer_id);
        w.i64(self.first_offset);
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct NodeEndpoint {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

impl Default for NodeEndpoint {
    fn default() -> Self {
        Self { node_id: 0, host: String::new(), port: 0, rack: None }
    }
}

impl NodeEndpoint {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 16 {
            m.node_id = r.i32()?;
        }
        if version >= 16 {
            m.host = r.string(version >= 12)?;
        }
        if version >= 16 {
            m.port = r.i32()?;
        }
        if version >= 16 {
            m.rack = r.nullable_string(version >= 12)?;
        }
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 16 {
            w.i32(self.node_id);
        } else if self.node_id != 0 {
            return Err(EncodeError::field("NodeEndpoint", "node_id", version));
        }
        if version >= 16 {
            w.string(&self.host, version >= 12)?;
        } else if !self.host.is_empty() {
            return Err(EncodeError::field("NodeEndpoint", "host", version));
        }
        if version >= 16 {
            w.i32(self.port);
        } else if self.port != 0 {
            return Err(EncodeError::field("NodeEndpoint", "port", version));
        }
        if version >= 16 {
            w.nullable_string(self.rack.as_deref(), version >= 12)?;
        } else if self.rack.is_some() {
            return Err(EncodeError::field("NodeEndpoint", "rack", version));
        }
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for FetchResponse {
    const NAME: &'static str = "FetchResponse";
    const VERSIONS: RangeInclusive<i16> = 4..=18;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
