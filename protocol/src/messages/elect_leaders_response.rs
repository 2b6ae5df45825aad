//! ElectLeadersResponse, versions 0 to 2. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ElectLeadersResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub replica_election_results: Vec<ReplicaElectionResult>,
}

impl Default for ElectLeadersResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, error_code: 0, replica_election_results: Vec::new() }
    }
}

impl ElectLeadersResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.throttle_time_ms = r.i32()?;
        if version >= 1 {
            m.error_code = r.i16()?;
        }
        m.replica_election_results = r.array(version == 2, |r| ReplicaElectionResult::read(r, version))?;
        if version == 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.throttle_time_ms);
        if version >= 1 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("ElectLeadersResponse", "error_code", version));
        }
        w.array(&self.replica_election_results, version == 2, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version == 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaElectionResult {
    pub topic: String,
    pub partition_result: Vec<PartitionResult>,
}

impl Default for ReplicaElectionResult {
    fn default() -> Self {
        Self { topic: String::new(), partition_result: Vec::new() }
    }
}

impl ReplicaElectionResult {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.topic = r.string(version == 2)?;
        m.partition_result = r.array(version == 2, |r| PartitionResult::read(r, version))?;
        if version == 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.topic, version == 2)?;
        w.array(&self.partition_result, version == 2, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version == 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct PartitionResult {
    pub partition_id: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
}

impl Default for PartitionResult {
    fn default() -> Self {
        Self { partition_id: 0, error_code: 0, error_message: Some(String::new()) }
    }
}

impl PartitionResult {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.partition_id = r.i32()?;
        m.error_code = r.i16()?;
        m.error_message = r.nullable_string(version == 2)?;
        if version == 2 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.partition_id);
        w.i16(self.error_code);
        w.nullable_string(self.error_message.as_deref(), version == 2)?;
        if version == 2 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ElectLeadersResponse {
    const NAME: &'static str = "ElectLeadersResponse";
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
