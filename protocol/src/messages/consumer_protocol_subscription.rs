//! ConsumerProtocolSubscription, versions 0 to 3. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerProtocolSubscription {
    pub topics: Vec<String>,
    pub user_data: Option<Bytes>,
    pub owned_partitions: Vec<TopicPartition>,
    pub generation_id: i32,
    pub rack_id: Option<String>,
}

impl Default for ConsumerProtocolSubscription {
    fn default() -> Self {
        Self { topics: Vec::new(), user_data: None, owned_partitions: Vec::new(), generation_id: -1, rack_id: None }
    }
}

impl ConsumerProtocolSubscription {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.topics = r.array(false, |r| r.string(false))?;
        m.user_data = r.nullable_bytes(false)?;
        if version >= 1 {
            m.owned_partitions = r.array(false, |r| TopicPartition::read(r, version))?;
        }
        if version >= 2 {
            m.generation_id = r.i32()?;
        }
        if version == 3 {
            m.rack_id = r.nullable_string(false)?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.array(&self.topics, false, |w, x| {
            w.string(x, false)?;
            Ok(())
        })?;
        w.nullable_bytes(self.user_data.as_ref(), false)?;
        if version >= 1 {
            w.array(&self.owned_partitions, false, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        }
        if version >= 2 {
            w.i32(self.generation_id);
        }
        if version == 3 {
            w.nullable_string(self.rack_id.as_deref(), false)?;
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct TopicPartition {
    pub topic: String,
    pub partitions: Vec<i32>,
}

impl Default for TopicPartition {
    fn default() -> Self {
        Self { topic: String::new(), partitions: Vec::new() }
    }
}

impl TopicPartition {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.topic = r.string(false)?;
        }
        if version >= 1 {
            m.partitions = r.array(false, |r| r.i32())?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 1 {
            w.string(&self.topic, false)?;
        } else if !self.topic.is_empty() {
            return Err(EncodeError::field("TopicPartition", "topic", version));
        }
        if version >= 1 {
            w.array(&self.partitions, false, |w, x| {
                w.i32(*x);
                Ok(())
            })?;
        } else if !self.partitions.is_empty() {
            return Err(EncodeError::field("TopicPartition", "partitions", version));
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ConsumerProtocolSubscription {
    const NAME: &'static str = "ConsumerProtocolSubscription";
    const VERSIONS: RangeInclusive<i16> = 0..=3;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
