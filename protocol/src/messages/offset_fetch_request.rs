//! OffsetFetchRequest, versions 1 to 10. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchRequest {
    pub group_id: String,
    pub topics: Option<Vec<OffsetFetchRequestTopic>>,
    pub groups: Vec<OffsetFetchRequestGroup>,
    pub require_stable: bool,
}

impl Default for OffsetFetchRequest {
    fn default() -> Self {
        Self { group_id: String::new(), topics: Some(Vec::new()), groups: Vec::new(), require_stable: false }
    }
}

impl OffsetFetchRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 7 {
            m.group_id = r.string(version >= 6)?;
        }
        if version <= 7 {
            m.topics = if version >= 2 {
                r.nullable_array(version >= 6, |r| OffsetFetchRequestTopic::read(r, version))?
            } else {
                Some(r.array(version >= 6, |r| OffsetFetchRequestTopic::read(r, version))?)
            };
        }
        if version >= 8 {
            m.groups = r.array(version >= 6, |r| OffsetFetchRequestGroup::read(r, version))?;
        }
        if version >= 7 {
            m.require_stable = r.bool()?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 7 {
            w.string(&self.group_id, version >= 6)?;
        } else if !self.group_id.is_empty() {
            return Err(EncodeError::field("OffsetFetchRequest", "group_id", version));
        }
        if version <= 7 {
            if version >= 2 {
                w.nullable_array(self.topics.as_deref(), version >= 6, |w, x| {
                    x.write(w, version)?;
                    Ok(())
                })?;
            } else {
                match &self.topics {
                    Some(x) => {
                        w.array(x, version >= 6, |w, x| {
                            x.write(w, version)?;
                            Ok(())
                        })?;
                    }
                    None => return Err(EncodeError::null("topics", version)),
                }
            }
        } else if self.topics != Some(Vec::new()) {
            return Err(EncodeError::field("OffsetFetchRequest", "topics", version));
        }
        if version >= 8 {
            w.array(&self.groups, version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.groups.is_empty() {
            return Err(EncodeError::field("OffsetFetchRequest", "groups", version));
        }
        if version >= 7 {
            w.bool(self.require_stable);
        } else if self.require_stable {
            return Err(EncodeError::field("OffsetFetchRequest", "require_stable", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchRequestTopic {
    pub name: String,
    pub partition_indexes: Vec<i32>,
}

impl Default for OffsetFetchRequestTopic {
    fn default() -> Self {
        Self { name: String::new(), partition_indexes: Vec::new() }
    }
}

impl OffsetFetchRequestTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 7 {
            m.name = r.string(version >= 6)?;
        }
        if version <= 7 {
            m.partition_indexes = r.array(version >= 6, |r| r.i32())?;
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
            return Err(EncodeError::field("OffsetFetchRequestTopic", "name", version));
        }
        if version <= 7 {
            w.array(&self.partition_indexes, version >= 6, |w, x| {
                w.i32(*x);
                Ok(())
            })?;
        } else if !self.partition_indexes.is_empty() {
            return Err(EncodeError::field("OffsetFetchRequestTopic", "partition_indexes", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchRequestGroup {
    pub group_id: String,
    pub member_id: Option<String>,
    pub member_epoch: i32,
    pub topics: Option<Vec<OffsetFetchRequestTopics>>,
}

impl Default for OffsetFetchRequestGroup {
    fn default() -> Self {
        Self { group_id: String::new(), member_id: None, member_epoch: -1, topics: Some(Vec::new()) }
    }
}

impl OffsetFetchRequestGroup {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 8 {
            m.group_id = r.string(version >= 6)?;
        }
        if version >= 9 {
            m.member_id = r.nullable_string(version >= 6)?;
        }
        if version >= 9 {
            m.member_epoch = r.i32()?;
        }
        if version >= 8 {
            m.topics = r.nullable_array(version >= 6, |r| OffsetFetchRequestTopics::read(r, version))?;
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
            return Err(EncodeError::field("OffsetFetchRequestGroup", "group_id", version));
        }
        if version >= 9 {
            w.nullable_string(self.member_id.as_deref(), version >= 6)?;
        }
        if version >= 9 {
            w.i32(self.member_epoch);
        }
        if version >= 8 {
            w.nullable_array(self.topics.as_deref(), version >= 6, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if self.topics != Some(Vec::new()) {
            return Err(EncodeError::field("OffsetFetchRequestGroup", "topics", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetFetchRequestTopics {
    pub name: String,
    pub topic_id: Uuid,
    pub partition_indexes: Vec<i32>,
}

impl Default for OffsetFetchRequestTopics {
    fn default() -> Self {
        Self { name: String::new(), topic_id: Uuid::nil(), partition_indexes: Vec::new() }
    }
}

impl OffsetFetchRequestTopics {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if (8..=9).contains(&version) {
            m.name = r.string(version >= 6)?;
        }
        if version == 10 {
            m.topic_id = r.uuid()?;
        }
        if version >= 8 {
            m.partition_indexes = r.array(version >= 6, |r| r.i32())?;
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
            w.array(&self.partition_indexes, version >= 6, |w, x| {
                w.i32(*x);
                Ok(())
            })?;
        } else if !self.partition_indexes.is_empty() {
            return Err(EncodeError::field("OffsetFetchRequestTopics", "partition_indexes", version));
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for OffsetFetchRequest {
    const NAME: &'static str = "OffsetFetchRequest";
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

impl Request for OffsetFetchRequest {
    const API_KEY: ApiKey = ApiKey::OffsetFetch;
    type Response = super::offset_fetch_response::OffsetFetchResponse;
}
