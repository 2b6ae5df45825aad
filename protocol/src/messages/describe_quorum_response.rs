//! DescribeQuorumResponse, versions 0 to 2. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct DescribeQuorumResponse {
    pub error_code: i16,
    pub error_message: Option<String>,
    pub topics: Vec<TopicData>,
    pub nodes: Vec<Node>,
}

impl Default for DescribeQuorumResponse {
    fn default() -> Self {
        Self { error_code: 0, error_message: Some(String::new()), topics: Vec::new(), nodes: Vec::new() }
    }
}

impl DescribeQuorumResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.error_code = r.i16()?;
        if version == 2 {
            m.error_message = r.nullable_string(true)?;
        }
        m.topics = r.array(true, |r| TopicData::read(r, version))?;
        if version == 2 {
            m.nodes = r.array(true, |r| Node::read(r, version))?;
        }
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i16(self.error_code);
        if version == 2 {
            w.nullable_string(self.error_message.as_deref(), true)?;
        }
        w.array(&self.topics, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version == 2 {
            w.array(&self.nodes, true, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.nodes.is_empty() {
            return Err(EncodeError::field("DescribeQuorumResponse", "nodes", version));
        }
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct TopicData {
    pub topic_name: String,
    pub partitions: Vec<PartitionData>,
}

impl Default for TopicData {
    fn default() -> Self {
        Self { topic_name: String::new(), partitions: Vec::new() }
    }
}

impl TopicData {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.topic_name = r.string(true)?;
        m.partitions = r.array(true, |r| PartitionData::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.topic_name, true)?;
        w.array(&self.partitions, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct PartitionData {
    pub partition_index: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
    pub leader_id: i32,
    pub leader_epoch: i32,
    pub high_watermark: i64,
    pub current_voters: Vec<ReplicaState>,
    pub observers: Vec<ReplicaState>,
}

impl Default for PartitionData {
    fn default() -> Self {
        Self {
            partition_index: 0,
            error_code: 0,
            error_message: Some(String::new()),
            leader_id: 0,
            leader_epoch: 0,
            high_watermark: 0,
            current_voters: Vec::new(),
            observers: Vec::new(),
        }
    }
}

impl PartitionData {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition_index = r.i32()?;
        m.error_code = r.i16()?;
        if version == 2 {
            m.error_message = r.nullable_string(true)?;
        }
        m.leader_id = r.i32()?;
        m.leader_epoch = r.i32()?;
        m.high_watermark = r.i64()?;
        m.current_voters = r.array(true, |r| ReplicaState::read(r, version))?;
        m.observers = r.array(true, |r| ReplicaState::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.partition_index);
        w.i16(self.error_code);
        if version == 2 {
            w.nullable_string(self.error_message.as_deref(), true)?;
        }
        w.i32(self.leader_id);
        w.i32(self.leader_epoch);
        w.i64(self.high_watermark);
        w.array(&self.current_voters, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.array(&self.observers, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub node_id: i32,
    pub listeners: Vec<Listener>,
}

impl Default for Node {
    fn default() -> Self {
        Self { node_id: 0, listeners: Vec::new() }
    }
}

impl Node {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version == 2 {
            m.node_id = r.i32()?;
        }
        if version == 2 {
            m.listeners = r.array(true, |r| Listener::read(r, version))?;
        }
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version == 2 {
            w.i32(self.node_id);
        } else if self.node_id != 0 {
            return Err(EncodeError::field("Node", "node_id", version));
        }
        if version == 2 {
            w.array(&self.listeners, true, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.listeners.is_empty() {
            return Err(EncodeError::field("Node", "listeners", version));
        }
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
}

impl Default for Listener {
    fn default() -> Self {
        Self { name: String::new(), host: String::new(), port: 0 }
    }
}

impl Listener {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version == 2 {
            m.name = r.string(true)?;
        }
        if version == 2 {
            m.host = r.string(true)?;
        }
        if version == 2 {
            m.port = r.u16()?;
        }
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version == 2 {
            w.string(&self.name, true)?;
        } else if !self.name.is_empty() {
            return Err(EncodeError::field("Listener", "name", version));
        }
        if version == 2 {
            w.string(&self.host, true)?;
        } else if !self.host.is_empty() {
            return Err(EncodeError::field("Listener", "host", version));
        }
        if version == 2 {
            w.u16(self.port);
        } else if self.port != 0 {
            return Err(EncodeError::field("Listener", "port", version));
        }
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaState {
    pub replica_id: i32,
    pub replica_directory_id: Uuid,
    pub log_end_offset: i64,
    pub last_fetch_timestamp: i64,
    pub last_caught_up_timestamp: i64,
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self {
            replica_id: 0,
            replica_directory_id: Uuid::nil(),
            log_end_offset: 0,
            last_fetch_timestamp: -1,
            last_caught_up_timestamp: -1,
        }
    }
}

impl ReplicaState {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.replica_id = r.i32()?;
        if version == 2 {
            m.replica_directory_id = r.uuid()?;
        }
        m.log_end_offset = r.i64()?;
        if version >= 1 {
            m.last_fetch_timestamp = r.i64()?;
        }
        if version >= 1 {
            m.last_caught_up_timestamp = r.i64()?;
        }
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.replica_id);
        if version == 2 {
            w.uuid(self.replica_directory_id);
        } else if !self.replica_directory_id.is_nil() {
            return Err(EncodeError::field("ReplicaState", "replica_directory_id", version));
        }
        w.i64(self.log_end_offset);
        if version >= 1 {
            w.i64(self.last_fetch_timestamp);
        }
        if version >= 1 {
            w.i64(self.last_caught_up_timestamp);
        }
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for DescribeQuorumResponse {
    const NAME: &'static str = "DescribeQuorumResponse";
    const VERSIONS: RangeInclusive<i16> = 0..=2;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
