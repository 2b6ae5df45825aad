//! ProduceRequest, versions 3 to 13. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ProduceRequest {
    pub transactional_id: Option<String>,
    pub acks: i16,
    pub timeout_ms: i32,
    pub topic_data: Vec<TopicProduceData>,
}

impl Default for ProduceRequest {
    fn default() -> Self {
        Self { transactional_id: None, acks: 0, timeout_ms: 0, topic_data: Vec::new() }
    }
}

impl ProduceRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.transactional_id = r.nullable_string(version >= 9)?;
        m.acks = r.i16()?;
        m.timeout_ms = r.i32()?;
        m.topic_data = r.array(version >= 9, |r| TopicProduceData::read(r, version))?;
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.nullable_string(self.transactional_id.as_deref(), version >= 9)?;
        w.i16(self.acks);
        w.i32(self.timeout_ms);
        w.array(&self.topic_data, version >= 9, |w, x| {
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
pub struct TopicProduceData {
    pub name: String,
    pub topic_id: Uuid,
    pub partition_data: Vec<PartitionProduceData>,
}

impl Default for TopicProduceData {
    fn default() -> Self {
        Self { name: String::new(), topic_id: Uuid::nil(), partition_data: Vec::new() }
    }
}

impl TopicProduceData {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 12 {
            m.name = r.string(version >= 9)?;
        }
        if version == 13 {
            m.topic_id = r.uuid()?;
        }
        m.partition_data = r.array(version >= 9, |r| PartitionProduceData::read(r, version))?;
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
        w.array(&self.partition_data, version >= 9, |w, x| {
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
pub struct PartitionProduceData {
    pub index: i32,
    pub records: Option<Records>,
}

impl Default for PartitionProduceData {
    fn default() -> Self {
        Self { index: 0, records: None }
    }
}

impl PartitionProduceData {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.index = r.i32()?;
        m.records = r.nullable_records(version >= 9)?;
        if version >= 9 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.index);
        w.nullable_records(self.records.as_ref(), version >= 9)?;
        if version >= 9 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ProduceRequest {
    const NAME: &'static str = "ProduceRequest";
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

impl Request for ProduceRequest {
    const API_KEY: ApiKey = ApiKey::Produce;
    type Response = super::produce_response::ProduceResponse;
}
