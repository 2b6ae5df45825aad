//! HeartbeatRequest, versions 0 to 4. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatRequest {
    pub group_id: String,
    pub generation_id: i32,
    pub member_id: String,
    pub group_instance_id: Option<String>,
}

impl Default for HeartbeatRequest {
    fn default() -> Self {
        Self { group_id: String::new(), generation_id: 0, member_id: String::new(), group_instance_id: None }
    }
}

impl HeartbeatRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.group_id = r.string(version == 4)?;
        m.generation_id = r.i32()?;
        m.member_id = r.string(version == 4)?;
        if version >= 3 {
            m.group_instance_id = r.nullable_string(version == 4)?;
        }
        if version == 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.group_id, version == 4)?;
        w.i32(self.generation_id);
        w.string(&self.member_id, version == 4)?;
        if version >= 3 {
            w.nullable_string(self.group_instance_id.as_deref(), version == 4)?;
        } else if self.group_instance_id.is_some() {
            return Err(EncodeError::field("HeartbeatRequest", "group_instance_id", version));
        }
        if version == 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for HeartbeatRequest {
    const NAME: &'static str = "HeartbeatRequest";
    const VERSIONS: RangeInclusive<i16> = 0..=4;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for HeartbeatRequest {
    const API_KEY: ApiKey = ApiKey::Heartbeat;
    type Response = super::heartbeat_response::HeartbeatResponse;
}
