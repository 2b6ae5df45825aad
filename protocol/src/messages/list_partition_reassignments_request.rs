//! ListPartitionReassignmentsRequest, versions 0 to 0. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ListPartitionReassignmentsRequest {
    pub timeout_ms: i32,
    pub topics: Option<Vec<ListPartitionReassignmentsTopics>>,
}

impl Default for ListPartitionReassignmentsRequest {
    fn default() -> Self {
        Self { timeout_ms: 60000, topics: None }
    }
}

impl ListPartitionReassignmentsRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.timeout_ms = r.i32()?;
        m.topics = r.nullable_array(true, |r| ListPartitionReassignmentsTopics::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.timeout_ms);
        w.nullable_array(self.topics.as_deref(), true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ListPartitionReassignmentsTopics {
    pub name: String,
    pub partition_indexes: Vec<i32>,
}

impl Default for ListPartitionReassignmentsTopics {
    fn default() -> Self {
        Self { name: String::new(), partition_indexes: Vec::new() }
    }
}

impl ListPartitionReassignmentsTopics {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(true)?;
        m.partition_indexes = r.array(true, |r| r.i32())?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.name, true)?;
        w.array(&self.partition_indexes, true, |w, x| {
            w.i32(*x);
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ListPartitionReassignmentsRequest {
    const NAME: &'static str = "ListPartitionReassignmentsRequest";
    const VERSIONS: RangeInclusive<i16> = 0..=0;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for ListPartitionReassignmentsRequest {
    const API_KEY: ApiKey = ApiKey::ListPartitionReassignments;
    type Response = super::list_partition_reassignments_response::ListPartitionReassignmentsResponse;
}
