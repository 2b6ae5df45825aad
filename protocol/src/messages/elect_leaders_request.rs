//! ElectLeadersRequest, versions 0 to 2. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ElectLeadersRequest {
    pub election_type: i8,
    pub topic_partitions: Option<Vec<TopicPartitions>>,
    pub timeout_ms: i32,
}

impl Default for ElectLeadersRequest {
    fn default() -> Self {
        Self { election_type: 0, topic_partitions: Some(Vec::new()), timeout_ms: 60000 }
    }
}

impl ElectLeadersRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.election_type = r.i8()?;
        }
        m.topic_partitions = r.nullable_array(version == 2, |r| TopicPartitions::read(r, version))?;
        m.timeout_ms = r.i32()?;
        if version == 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 1 {
            w.i8(self.election_type);
        } else if self.election_type != 0 {
            return Err(EncodeError::field("ElectLeadersRequest", "election_type", version));
        }
        w.nullable_array(self.topic_partitions.as_deref(), version == 2, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.i32(self.timeout_ms);
        if version == 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct TopicPartitions {
    pub topic: String,
    pub partitions: Vec<i32>,
}

impl Default for TopicPartitions {
    fn default() -> Self {
        Self { topic: String::new(), partitions: Vec::new() }
    }
}

impl TopicPartitions {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.topic = r.string(version == 2)?;
        m.partitions = r.array(version == 2, |r| r.i32())?;
        if version == 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.topic, version == 2)?;
        w.array(&self.partitions, version == 2, |w, x| {
            w.i32(*x);
            Ok(())
        })?;
        if version == 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ElectLeadersRequest {
    const NAME: &'static str = "ElectLeadersRequest";
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

impl Request for ElectLeadersRequest {
    const API_KEY: ApiKey = ApiKey::ElectLeaders;
    type Response = super::elect_leaders_response::ElectLeadersResponse;
}
