//! LeaveGroupResponse, versions 0 to 5. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct LeaveGroupResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub members: Vec<MemberResponse>,
}

impl Default for LeaveGroupResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, error_code: 0, members: Vec::new() }
    }
}

impl LeaveGroupResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.throttle_time_ms = r.i32()?;
        }
        m.error_code = r.i16()?;
        if version >= 3 {
            m.members = r.array(version >= 4, |r| MemberResponse::read(r, version))?;
        }
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
        if version >= 3 {
            w.array(&self.members, version >= 4, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.members.is_empty() {
            return Err(EncodeError::field("LeaveGroupResponse", "members", version));
        }
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MemberResponse {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub error_code: i16,
}

impl Default for MemberResponse {
    fn default() -> Self {
        Self { member_id: String::new(), group_instance_id: Some(String::new()), error_code: 0 }
    }
}

impl MemberResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 3 {
            m.member_id = r.string(version >= 4)?;
        }
        if version >= 3 {
            m.group_instance_id = r.nullable_string(version >= 4)?;
        }
        if version >= 3 {
            m.error_code = r.i16()?;
        }
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 3 {
            w.string(&self.member_id, version >= 4)?;
        } else if !self.member_id.is_empty() {
            return Err(EncodeError::field("MemberResponse", "member_id", version));
        }
        if version >= 3 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 4)?;
        } else if self.group_instance_id != Some(String::new()) {
            return Err(EncodeError::field("MemberResponse", "group_instance_id", version));
        }
        if version >= 3 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("MemberResponse", "error_code", version));
        }
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for LeaveGroupResponse {
    const NAME: &'static str = "LeaveGroupResponse";
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
