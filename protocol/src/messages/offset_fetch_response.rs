//! OffsetFetchResponse, versions 1 to 10. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponse {
    pub throttle_time_ms: i32,
    pub topics: Vec<OffsetFetchResponseTopic>,
    pub error_code: i16,
    pub groups: Vec<OffsetFetchResponseGroup>,
}

impl Default for OffsetFetchResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, topics: Vec::new(), error_code: 0, groups: Vec::new() }
    }
}

impl OffsetFetchResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 3 {
            m.throttle_time_ms = r.i32()?;
        }
        if version <= 7 {
            m.topics = r.array(version >= 6, |r| OffsetFetchResponseTopic::read(r, version))?;
        }
        if (2..=7).contains(&version) {
            m.error_code = r.i16()?;
        }
        if version >= 8 {
            m.groups = r.array(version >= 6, |r| OffsetFetchResponseGroup::read(r, version))?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 3 {
            w.i32(self.throttle_time_ms);
        }
        if version <= 7 {
            w.array(&self.topics, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.topics.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponse", "topics", version));
        }
        if (2..=7).contains(&version) {
            w.i16(self.error_code);
        }
        if version >= 8 {
            w.array(&self.groups, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.groups.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponse", "groups", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponseTopic {
    pub name: String,
    pub partitions: Vec<OffsetFetchResponsePartition>,
}

impl Default for OffsetFetchResponseTopic {
    fn default() -> Self {
        Self { name: String::new(), partitions: Vec::new() }
    }
}

impl OffsetFetchResponseTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 7 {
            m.name = r.string(version >= 6)?;
        }
        if version <= 7 {
            m.partitions = r.array(version >= 6, |r| OffsetFetchResponsePartition::read(r, version))?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 7 {
            w.string(&self.name, version >= 6)?;
        } else if !self.name.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponseTopic", "name", version));
        }
        if version <= 7 {
            w.array(&self.partitions, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.partitions.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponseTopic", "partitions", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponsePartition {
    pub partition_index: i32,
    pub committed_offset: i64,
    pub committed_leader_epoch: i32,
    pub metadata: Option<String>,
    pub error_code: i16,
}

impl Default for OffsetFetchResponsePartition {
    fn default() -> Self {
        Self {
            partition_index: 0,
            committed_offset: 0,
            committed_leader_epoch: -1,
            metadata: Some(String::new()),
            error_code: 0,
        }
    }
}

impl OffsetFetchResponsePartition {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 7 {
            m.partition_index = r.i32()?;
        }
        if version <= 7 {
            m.committed_offset = r.i64()?;
        }
        if (5..=7).contains(&version) {
            m.committed_leader_epoch = r.i32()?;
        }
        if version <= 7 {
            m.metadata = r.nullable_string(version >= 6)?;
        }
        if version <= 7 {
            m.error_code = r.i16()?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 7 {
            w.i32(self.partition_index);
        } else if self.partition_index != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartition", "partition_index", version));
        }
        if version <= 7 {
            w.i64(self.committed_offset);
        } else if self.committed_offset != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartition", "committed_offset", version));
        }
        if (5..=7).contains(&version) {
            w.i32(self.committed_leader_epoch);
        }
        if version <= 7 {
            w.nullable_string(self.metadata.as_deref(), version >= 6)?;
        } else if self.metadata != Some(String::new()) {
            return Err(EncodeError::field("OffsetFetchResponsePartition", "metadata", version));
        }
        if version <= 7 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartition", "error_code", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponseGroup {
    pub group_id: String,
    pub topics: Vec<OffsetFetchResponseTopics>,
    pub error_code: i16,
}

impl Default for OffsetFetchResponseGroup {
    fn default() -> Self {
        Self { group_id: String::new(), topics: Vec::new(), error_code: 0 }
    }
}

impl OffsetFetchResponseGroup {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 8 {
            m.group_id = r.string(version >= 6)?;
        }
        if version >= 8 {
            m.topics = r.array(version >= 6, |r| OffsetFetchResponseTopics::read(r, version))?;
        }
        if version >= 8 {
            m.error_code = r.i16()?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 8 {
            w.string(&self.group_id, version >= 6)?;
        } else if !self.group_id.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponseGroup", "group_id", version));
        }
        if version >= 8 {
            w.array(&self.topics, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.topics.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponseGroup", "topics", version));
        }
        if version >= 8 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("OffsetFetchResponseGroup", "error_code", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponseTopics {
    pub name: String,
    pub topic_id: Uuid,
    pub partitions: Vec<OffsetFetchResponsePartitions>,
}

impl Default for OffsetFetchResponseTopics {
    fn default() -> Self {
        Self { name: String::new(), topic_id: Uuid::nil(), partitions: Vec::new() }
    }
}

impl OffsetFetchResponseTopics {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if (8..=9).contains(&version) {
            m.name = r.string(version >= 6)?;
        }
        if version == 10 {
            m.topic_id = r.uuid()?;
        }
        if version >= 8 {
            m.partitions = r.array(version >= 6, |r| OffsetFetchResponsePartitions::read(r, version))?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if (8..=9).contains(&version) {
            w.string(&self.name, version >= 6)?;
        }
        if version == 10 {
            w.uuid(self.topic_id);
        }
        if version >= 8 {
            w.array(&self.partitions, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.partitions.is_empty() {
            return Err(EncodeError::field("OffsetFetchResponseTopics", "partitions", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchResponsePartitions {
    pub partition_index: i32,
    pub committed_offset: i64,
    pub committed_leader_epoch: i32,
    pub metadata: Option<String>,
    pub error_code: i16,
}

impl Default for OffsetFetchResponsePartitions {
    fn default() -> Self {
        Self {
            partition_index: 0,
            committed_offset: 0,
            committed_leader_epoch: -1,
            metadata: Some(String::new()),
            error_code: 0,
        }
    }
}

impl OffsetFetchResponsePartitions {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 8 {
            m.partition_index = r.i32()?;
        }
        if version >= 8 {
            m.committed_offset = r.i64()?;
        }
        if version >= 8 {
            m.committed_leader_epoch = r.i32()?;
        }
        if version >= 8 {
            m.metadata = r.nullable_string(version >= 6)?;
        }
        if version >= 8 {
            m.error_code = r.i16()?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 8 {
            w.i32(self.partition_index);
        } else if self.partition_index != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartitions", "partition_index", version));
        }
        if version >= 8 {
            w.i64(self.committed_offset);
        } else if self.committed_offset != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartitions", "committed_offset", version));
        }
        if version >= 8 {
            w.i32(self.committed_leader_epoch);
        }
        if version >= 8 {
            w.nullable_string(self.metadata.as_deref(), version >= 6)?;
        } else if self.metadata != Some(String::new()) {
            return Err(EncodeError::field("OffsetFetchResponsePartitions", "metadata", version));
        }
        if version >= 8 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("OffsetFetchResponsePartitions", "error_code", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for OffsetFetchResponse {
    const NAME: &'static str = "OffsetFetchResponse";
    const VERSIONS: RangeInclusive<i16> = 1..=10;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
