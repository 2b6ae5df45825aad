//! AlterPartitionReassignmentsRequest, versions 0 to 1. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct AlterPartitionReassignmentsRequest {
    pub timeout_ms: i32,
    pub allow_replication_factor_change: bool,
    pub topics: Vec<ReassignableTopic>,
}

impl Default for AlterPartitionReassignmentsRequest {
    fn default() -> Self {
        Self { timeout_ms: 60000, allow_replication_factor_change: true, topics: Vec::new() }
    }
}

impl AlterPartitionReassignmentsRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.timeout_ms = r.i32()?;
        if version == 1 {
            m.allow_replication_factor_change = r.bool()?;
        }
        m.topics = r.array(true, |r| ReassignableTopic::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.timeout_ms);
        if version == 1 {
            w.bool(self.allow_replication_factor_change);
        } else if !self.allow_replication_factor_change {
            return Err(EncodeError::field(
                "AlterPartitionReassignmentsRequest",
                "allow_replication_factor_change",
                version,
            ));
        }
        w.array(&self.topics, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReassignableTopic {
    pub name: String,
    pub partitions: Vec<ReassignablePartition>,
}

impl Default for ReassignableTopic {
    fn default() -> Self {
        Self { name: String::new(), partitions: Vec::new() }
    }
}

impl ReassignableTopic {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(true)?;
        m.partitions = r.array(true, |r| ReassignablePartition::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.name, true)?;
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
pub struct ReassignablePartition {
    pub partition_index: i32,
    pub replicas: Option<Vec<i32>>,
}

impl Default for ReassignablePartition {
    fn default() -> Self {
        Self { partition_index: 0, replicas: None }
    }
}

impl ReassignablePartition {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition_index = r.i32()?;
        m.replicas = r.nullable_array(true, |r| r.i32())?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.partition_index);
        w.nullable_array(self.replicas.as_deref(), true, |w, x| {
            w.i32(*x);
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for AlterPartitionReassignmentsRequest {
    const NAME: &'static str = "AlterPartitionReassignmentsRequest";
    const VERSIONS: RangeInclusive<i16> = 0..=1;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for AlterPartitionReassignmentsRequest {
    const API_KEY: ApiKey = ApiKey::AlterPartitionReassignments;
    type Response = super::alter_partition_reassignments_response::AlterPartitionReassignmentsResponse;
}
