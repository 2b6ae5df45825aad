//! DeleteTopicsRequest, versions 1 to 6. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct DeleteTopicsRequest {
    pub topics: Vec<DeleteTopicState>,
    pub topic_names: Vec<String>,
    pub timeout_ms: i32,
}

impl Default for DeleteTopicsRequest {
    fn default() -> Self {
        Self { topics: Vec::new(), topic_names: Vec::new(), timeout_ms: 0 }
    }
}

impl DeleteTopicsRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version == 6 {
            m.topics = r.array(version >= 4, |r| DeleteTopicState::read(r, version))?;
        }
        if version <= 5 {
            m.topic_names = r.array(version >= 4, |r| r.string(version >= 4))?;
        }
        m.timeout_ms = r.i32()?;
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version == 6 {
            w.array(&self.topics, version >= 4, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.topics.is_empty() {
            return Err(EncodeError::field("DeleteTopicsRequest", "topics", version));
        }
        if version <= 5 {
            w.array(&self.topic_names, version >= 4, |w, x| {
                w.string(x, version >= 4)?;
                Ok(())
            })?;
        }
        w.i32(self.timeout_ms);
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DeleteTopicState {
    pub name: Option<String>,
    pub topic_id: Uuid,
}

impl Default for DeleteTopicState {
    fn default() -> Self {
        Self { name: None, topic_id: Uuid::nil() }
    }
}

impl DeleteTopicState {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version == 6 {
            m.name = r.nullable_string(version >= 4)?;
        }
        if version == 6 {
            m.topic_id = r.uuid()?;
        }
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version == 6 {
            w.nullable_string(self.name.as_deref(), version >= 4)?;
        } else if self.name.is_some() {
            return Err(EncodeError::field("DeleteTopicState", "name", version));
        }
        if version == 6 {
            w.uuid(self.topic_id);
        } else if !self.topic_id.is_nil() {
            return Err(EncodeError::field("DeleteTopicState", "topic_id", version));
        }
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for DeleteTopicsRequest {
    const NAME: &'static str = "DeleteTopicsRequest";
    const VERSIONS: RangeInclusive<i16> = 1..=6;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for DeleteTopicsRequest {
    const API_KEY: ApiKey = ApiKey::DeleteTopics;
    type Response = super::delete_topics_response::DeleteTopicsResponse;
}
