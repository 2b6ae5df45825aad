//! SyncGroupResponse, versions 0 to 5. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct SyncGroupResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub assignment: Bytes,
}

impl Default for SyncGroupResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, error_code: 0, protocol_type: None, protocol_name: None, assignment: Bytes::new() }
    }
}

impl SyncGroupResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.throttle_time_ms = r.i32()?;
        }
        m.error_code = r.i16()?;
        if version == 5 {
            m.protocol_type = r.nullable_string(version >= 4)?;
        }
        if version == 5 {
            m.protocol_name = r.nullable_string(version >= 4)?;
        }
        m.assignment = r.bytes(version >= 4)?;
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        w.i16(self.error_code);
        if version == 5 {
            w.nullable_string(self.protocol_type.as_deref(), version >= 4)?;
        }
        if version == 5 {
            w.nullable_string(self.protocol_name.as_deref(), version >= 4)?;
        }
        w.bytes(&self.assignment, version >= 4)?;
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for SyncGroupResponse {
    const NAME: &'static str = "SyncGroupResponse";
    const VERSIONS: RangeInclusive<i16> = 0..=5;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
