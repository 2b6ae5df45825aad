//! FetchRequest, versions 4 to 18. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct FetchRequest {
    pub cluster_id: Option<String>,
    pub replica_id: i32,
    pub replica_state: ReplicaState,
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub isolation_level: i8,
    pub session_id: i32,
    pub session_epoch: i32,
    pub topics: Vec<FetchTopic>,
    pub forgotten_topics_data: Vec<ForgottenTopic>,
    pub rack_id: String,
}

impl Default for FetchRequest {
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: -1,
            replica_state: ReplicaState::default(),
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 0x7fffffff,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            topics: Vec::new(),
            forgotten_topics_data: Vec::new(),
            rack_id: String::new(),
        }
    }
}

impl FetchRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 14 {
            m.replica_id = r.i32()?;
        }
        m.max_wait_ms = r.i32()?;
        m.min_bytes = r.i32()?;
        m.max_bytes = r.i32()?;
        m.isolation_level = r.i8()?;
        if version >= 7 {
            m.session_id = r.i32()?;
        }
        if version >= 7 {
            m.session_epoch = r.i32()?;
        }
        m.topics = r.array(version >= 12, |r| FetchTopic::read(r, version))?;
        if version >= 7 {
            m.forgotten_topics_data = r.array(version >= 12, |r| ForgottenTopic::read(r, version))?;
        }
        if version >= 11 {
            m.rack_id = r.string(version >= 12)?;
        }
        if version >= 12 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 12 => {
                        m.cluster_id = r.nullable_string(version >= 12)?;
                    }
                    1 if version >= 15 => {
                        m.replica_state = ReplicaState::read(r, version)?;
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
        if version <= 14 {
            w.i32(self.replica_id);
        } else if self.replica_id != -1 {
            return Err(EncodeError::field("FetchRequest", "replica_id", version));
        }
        w.i32(self.max_wait_ms);
        w.i32(self.min_bytes);
        w.i32(self.max_bytes);
        w.i8(self.isolation_level);
        if version >= 7 {
            w.i32(self.session_id);
        }
        if version >= 7 {
            w.i32(self.session_epoch);
        }
        w.array(&self.topics, version >= 12, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 7 {
            w.array(&self.forgotten_topics_data, version >= 12, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.forgotten_topics_data.is_empty() {
            return Err(EncodeError::field("FetchRequest", "forgotten_topics_data", version));
        }
        if version >= 11 {
            w.string(&self.rack_id, version >= 12)?;
        }
        if version >= 12 {
            let mut tags = TaggedFields::default();
            if version >= 12 && self.cluster_id.is_some() {
                tags.field(0, |w| {
                    w.nullable_string(self.cluster_id.as_deref(), version >= 12)?;
                    Ok(())
                })?;
            }
            if version >= 15 && self.replica_state != ReplicaState::default() {
                tags.field(1, |w| {
                    self.replica_state.write(w, version)?;
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
pub struct ReplicaState {
    pub replica_id: i32,
    pub replica_epoch: i64,
}

impl Default for ReplicaState {
    fn default() -> Self {
        Self { replica_id: -1, replica_epoch: -1 }
    }
}

impl ReplicaState {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 15 {
            m.replica_id = r.i32()?;
        }
        if version >= 15 {
            m.replica_epoch = r.i64()?;
        }
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 15 {
            w.i32(self.replica_id);
        } else if self.replica_id != -1 {
            return Err(EncodeError::field("ReplicaState", "replica_id", version));
        }
        if version >= 15 {
            w.i64(self.replica_epoch);
        } else if self.replica_epoch != -1 {
            return Err(EncodeError::field("ReplicaState", "replica_epoch", version));
        }
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct FetchTopic {
    pub topic: String,
    pub topic_id: Uuid,
    pub partitions: Vec<FetchPartition>,
}

impl Default for FetchTopic {
    fn default() -> Self {
        Self { topic: String::new(), topic_id: Uuid::nil(), partitions: Vec::new() }
    }
}

impl FetchTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 12 {
            m.topic = r.string(version >= 12)?;
        }
        if version >= 13 {
            m.topic_id = r.uuid()?;
        }
        m.partitions = r.array(version >= 12, |r| FetchPartition::read(r, version))?;
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
pub struct FetchPartition {
    pub partition: i32,
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    pub last_fetched_epoch: i32,
    pub log_start_offset: i64,
    pub partition_max_bytes: i32,
    pub replica_directory_id: Uuid,
    pub high_watermark: i64,
}

impl Default for FetchPartition {
    fn default() -> Self {
        Self {
            partition: 0,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            partition_max_bytes: 0,
            replica_directory_id: Uuid::nil(),
            high_watermark: 9223372036854775807,
        }
    }
}

impl FetchPartition {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition = r.i32()?;
        if version >= 9 {
            m.current_leader_epoch = r.i32()?;
        }
        m.fetch_offset = r.i64()?;
        if version >= 12 {
            m.last_fetched_epoch = r.i32()?;
        }
        if version >= 5 {
            m.log_start_offset = r.i64()?;
        }
        m.partition_max_bytes = r.i32()?;
        if version >= 12 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 17 => {
                        m.replica_directory_id = r.uuid()?;
                    }
                    1 if version == 18 => {
                        m.high_watermark = r.i64()?;
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
        w.i32(self.partition);
        if version >= 9 {
            w.i32(self.current_leader_epoch);
        }
        w.i64(self.fetch_offset);
        if version >= 12 {
            w.i32(self.last_fetched_epoch);
        } else if self.last_fetched_epoch != -1 {
            return Err(EncodeError::field("FetchPartition", "last_fetched_epoch", version));
        }
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        w.i32(self.partition_max_bytes);
        if version >= 12 {
            let mut tags = TaggedFields::default();
            if version >= 17 && !self.replica_directory_id.is_nil() {
                tags.field(0, |w| {
                    w.uuid(self.replica_directory_id);
                    Ok(())
                })?;
            }
            if version == 18 && self.high_watermark != 9223372036854775807 {
                tags.field(1, |w| {
                    w.i64(self.high_watermark);
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
pub struct ForgottenTopic {
    pub topic: String,
    pub topic_id: Uuid,
    pub partitions: Vec<i32>,
}

impl Default for ForgottenTopic {
    fn default() -> Self {
        Self { topic: String::new(), topic_id: Uuid::nil(), partitions: Vec::new() }
    }
}

impl ForgottenTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if (7..=12).contains(&version) {
            m.topic = r.string(version >= 12)?;
        }
        if version >= 13 {
            m.topic_id = r.uuid()?;
        }
        if version >= 7 {
            m.partitions = r.array(version >= 12, |r| r.i32())?;
        }
        if version >= 12 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if (7..=12).contains(&version) {
            w.string(&self.topic, version >= 12)?;
        }
        if version >= 13 {
            w.uuid(self.topic_id);
        }
        if version >= 7 {
            w.array(&self.partitions, version >= 12, |w, x| {
                w.i32(*x);
                Ok(())
            })?;
        } else if !self.partitions.is_empty() {
            return Err(EncodeError::field("ForgottenTopic", "partitions", version));
        }
        if version >= 12 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for FetchRequest {
    const NAME: &'static str = "FetchRequest";
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

impl Request for FetchRequest {
    const API_KEY: ApiKey = ApiKey::Fetch;
    type Response = super::fetch_response::FetchResponse;
}
