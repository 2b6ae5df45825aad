//! CreatePartitionsRequest, versions 0 to 3. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct CreatePartitionsRequest {
    pub topics: Vec<CreatePartitionsTopic>,
    pub timeout_ms: i32,
    pub validate_only: bool,
}

impl Default for CreatePartitionsRequest {
    fn default() -> Self {
        Self { topics: Vec::new(), timeout_ms: 0, validate_only: false }
    }
}

impl CreatePartitionsRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.topics = r.array(version >= 2, |r| CreatePartitionsTopic::read(r, version))?;
        m.timeout_ms = r.i32()?;
        m.validate_only = r.bool()?;
        if version >= 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.array(&self.topics, version >= 2, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.i32(self.timeout_ms);
        w.bool(self.validate_only);
        if version >= 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreatePartitionsTopic {
    pub name: String,
    pub count: i32,
    pub assignments: Option<Vec<CreatePartitionsAssignment>>,
}

impl Default for CreatePartitionsTopic {
    fn default() -> Self {
        Self { name: String::new(), count: 0, assignments: Some(Vec::new()) }
    }
}

impl CreatePartitionsTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(version >= 2)?;
        m.count = r.i32()?;
        m.assignments = r.nullable_array(version >= 2, |r| CreatePartitionsAssignment::read(r, version))?;
        if version >= 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.name, version >= 2)?;
        w.i32(self.count);
        w.nullable_array(self.assignments.as_deref(), version >= 2, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CreatePartitionsAssignment {
    pub broker_ids: Vec<i32>,
}

impl Default for CreatePartitionsAssignment {
    fn default() -> Self {
        Self { broker_ids: Vec::new() }
    }
}

impl CreatePartitionsAssignment {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.broker_ids = r.array(version >= 2, |r| r.i32())?;
        if version >= 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.array(&self.broker_ids, version >= 2, |w, x| {
            w.i32(*x);
            Ok(())
        })?;
        if version >= 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for CreatePartitionsRequest {
    const NAME: &'static str = "CreatePartitionsRequest";
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

impl Request for CreatePartitionsRequest {
    const API_KEY: ApiKey = ApiKey::CreatePartitions;
    type Response = super::create_partitions_response::CreatePartitionsResponse;
}
