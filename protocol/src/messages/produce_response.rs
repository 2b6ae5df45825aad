//! ProduceResponse, versions 3 to 13. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ProduceResponse {
    pub responses: Vec<TopicProduceResponse>,
    pub throttle_time_ms: i32,
    pub node_endpoints: Vec<NodeEndpoint>,
}

impl Default for ProduceResponse {
    fn default() -> Self {
        Self { responses: Vec::new(), throttle_time_ms: 0, node_endpoints: Vec::new() }
    }
}

impl ProduceResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.responses = r.array(version >= 9, |r| TopicProduceResponse::read(r, version))?;
        m.throttle_time_ms = r.i32()?;
        if version >= 9 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 10 => {
                        m.node_endpoints = r.array(version >= 9, |r| NodeEndpoint::read(r, version))?;
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
        w.array(&self.responses, version >= 9, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.i32(self.throttle_time_ms);
        if version >= 9 {
            let mut tags = TaggedFields::default();
            if version >= 10 && !self.node_endpoints.is_empty() {
                tags.field(0, |w| {
                    w.array(&self.node_endpoints, version >= 9, |w, x| {
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
pub struct TopicProduceResponse {
    pub name: String,
    pub topic_id: Uuid,
    pub partition_responses: Vec<PartitionProduceResponse>,
}

impl Default for TopicProduceResponse {
    fn default() -> Self {
        Self { name: String::new(), topic_id: Uuid::nil(), partition_responses: Vec::new() }
    }
}

impl TopicProduceResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 12 {
            m.name = r.string(version >= 9)?;
        }
        if version == 13 {
            m.topic_id = r.uuid()?;
        }
        m.partition_responses = r.array(version >= 9, |r| PartitionProduceResponse::read(r, version))?;
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 12 {
            w.string(&self.name, version >= 9)?;
        }
        if version == 13 {
            w.uuid(self.topic_id);
        }
        w.array(&self.partition_responses, version >= 9, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 9 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct PartitionProduceResponse {
    pub index: i32,
    pub error_code: i16,
    pub base_offset: i64,
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
    pub record_errors: Vec<BatchIndexAndErrorMessage>,
    pub error_message: Option<String>,
    pub current_leader: LeaderIdAndEpoch,
}

impl Default for PartitionProduceResponse {
    fn default() -> Self {
        Self {
            index: 0,
            error_code: 0,
            base_offset: 0,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: LeaderIdAndEpoch::default(),
        }
    }
}

impl PartitionProduceResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.index = r.i32()?;
        m.error_code = r.i16()?;
        m.base_offset = r.i64()?;
        m.log_append_time_ms = r.i64()?;
        if version >= 5 {
            m.log_start_offset = r.i64()?;
        }
        if version >= 8 {
            m.record_errors = r.array(version >= 9, |r| BatchIndexAndErrorMessage::read(r, version))?;
        }
        if version >= 8 {
            m.error_message = r.nullable_string(version >= 9)?;
        }
        if version >= 9 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 10 => {
                        m.current_leader = LeaderIdAndEpoch::read(r, version)?;
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
        w.i32(self.index);
        w.i16(self.error_code);
        w.i64(self.base_offset);
        w.i64(self.log_append_time_ms);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        if version >= 8 {
            w.array(&self.record_errors, version >= 9, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        }
        if version >= 8 {
            w.nullable_string(self.error_message.as_deref(), version >= 9)?;
        }
        if version >= 9 {
            let mut tags = TaggedFields::default();
            if version >= 10 && self.current_leader != LeaderIdAndEpoch::default() {
                tags.field(0, |w| {
                    self.current_leader.write(w, version)?;
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
pub struct BatchIndexAndErrorMessage {
    pub batch_index: i32,
    pub batch_index_error_message: Option<String>,
}

impl Default for BatchIndexAndErrorMessage {
    fn default() -> Self {
        Self { batch_index: 0, batch_index_error_message: None }
    }
}

impl BatchIndexAndErrorMessage {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 8 {
            m.batch_index = r.i32()?;
        }
        if version >= 8 {
            m.batch_index_error_message = r.nullable_string(version >= 9)?;
        }
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 8 {
            w.i32(self.batch_index);
        } else if self.batch_index != 0 {
            return Err(EncodeError::field("BatchIndexAndErrorMessage", "batch_index", version));
        }
        if version >= 8 {
            w.nullable_string(self.batch_index_error_message.as_deref(), version >= 9)?;
        } else if self.batch_index_error_message.is_some() {
            return Err(EncodeError::field("BatchIndexAndErrorMessage", "batch_index_error_message", version));
        }
        if version >= 9 {
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
        if version >= 10 {
            m.leader_id = r.i32()?;
        }
        if version >= 10 {
            m.leader_epoch = r.i32()?;
        }
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 10 {
            w.i32(self.leader_id);
        } else if self.leader_id != -1 {
            return Err(EncodeError::field("LeaderIdAndEpoch", "leader_id", version));
        }
        if version >= 10 {
            w.i32(self.leader_epoch);
        } else if self.leader_epoch != -1 {
            return Err(EncodeError::field("LeaderIdAndEpoch", "leader_epoch", version));
        }
        if version >= 9 {
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
        if version >= 10 {
            m.node_id = r.i32()?;
        }
        if version >= 10 {
            m.host = r.string(version >= 9)?;
        }
        if version >= 10 {
            m.port = r.i32()?;
        }
        if version >= 10 {
            m.rack = r.nullable_string(version >= 9)?;
        }
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 10 {
            w.i32(self.node_id);
        } else if self.node_id != 0 {
            return Err(EncodeError::field("NodeEndpoint", "node_id", version));
        }
        if version >= 10 {
            w.string(&self.host, version >= 9)?;
        } else if !self.host.is_empty() {
            return Err(EncodeError::field("NodeEndpoint", "host", version));
        }
        if version >= 10 {
            w.i32(self.port);
        } else if self.port != 0 {
            return Err(EncodeError::field("NodeEndpoint", "port", version));
        }
        if version >= 10 {
            w.nullable_string(self.rack.as_deref(), version >= 9)?;
        } else if self.rack.is_some() {
            return Err(EncodeError::field("NodeEndpoint", "rack", version));
        }
        if version >= 9 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ProduceResponse {
    const NAME: &'static str = "ProduceResponse";
    const VERSIONS: RangeInclusive<i16> = 3..=13;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
