//! AlterPartitionReassignmentsResponse, versions 0 to 1. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct AlterPartitionReassignmentsResponse {
    pub throttle_time_ms: i32,
    pub allow_replication_factor_change: bool,
    pub error_code: i16,
    pub error_message: Option<String>,
    pub responses: Vec<ReassignableTopicResponse>,
}

impl Default for AlterPartitionReassignmentsResponse {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            allow_replication_factor_change: true,
            error_code: 0,
            error_message: Some(String::new()),
            responses: Vec::new(),
        }
    }
}

impl AlterPartitionReassignmentsResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.throttle_time_ms = r.i32()?;
        if version == 1 {
            m.allow_replication_factor_change = r.bool()?;
        }
        m.error_code = r.i16()?;
        m.error_message = r.nullable_string(true)?;
        m.responses = r.array(true, |r| ReassignableTopicResponse::read(r, version))?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.throttle_time_ms);
        if version == 1 {
            w.bool(self.allow_replication_factor_change);
        }
        w.i16(self.error_code);
        w.nullable_string(self.error_message.as_deref(), true)?;
        w.array(&self.responses, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReassignableTopicResponse {
    pub name: String,
    pub partitions: Vec<ReassignablePartitionResponse>,
}

impl Default for ReassignableTopicResponse {
    fn default() -> Self {
        Self { name: String::new(), partitions: Vec::new() }
    }
}

impl ReassignableTopicResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(true)?;
        m.partitions = r.array(true, |r| ReassignablePartitionResponse::read(r, version))?;
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
pub struct ReassignablePartitionResponse {
    pub partition_index: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
}

impl Default for ReassignablePartitionResponse {
    fn default() -> Self {
        Self { partition_index: 0, error_code: 0, error_message: Some(String::new()) }
    }
}

impl ReassignablePartitionResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition_index = r.i32()?;
        m.error_code = r.i16()?;
        m.error_message = r.nullable_string(true)?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.partition_index);
        w.i16(self.error_code);
        w.nullable_string(self.error_message.as_deref(), true)?;
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for AlterPartitionReassignmentsResponse {
    const NAME: &'static str = "AlterPartitionReassignmentsResponse";
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
