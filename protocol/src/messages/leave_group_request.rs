//! LeaveGroupRequest, versions 0 to 5. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct LeaveGroupRequest {
    pub group_id: String,
    pub member_id: String,
    pub members: Vec<MemberIdentity>,
}

impl Default for LeaveGroupRequest {
    fn default() -> Self {
        Self { group_id: String::new(), member_id: String::new(), members: Vec::new() }
    }
}

impl LeaveGroupRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.group_id = r.string(version >= 4)?;
        if version <= 2 {
            m.member_id = r.string(version >= 4)?;
        }
        if version >= 3 {
            m.members = r.array(version >= 4, |r| MemberIdentity::read(r, version))?;
        }
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.group_id, version >= 4)?;
        if version <= 2 {
            w.string(&self.member_id, version >= 4)?;
        } else if !self.member_id.is_empty() {
            return Err(EncodeError::field("LeaveGroupRequest", "member_id", version));
        }
        if version >= 3 {
            w.array(&self.members, version >= 4, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.members.is_empty() {
            return Err(EncodeError::field("LeaveGroupRequest", "members", version));
        }
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MemberIdentity {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub reason: Option<String>,
}

impl Default for MemberIdentity {
    fn default() -> Self {
        Self { member_id: String::new(), group_instance_id: None, reason: None }
    }
}

impl MemberIdentity {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 3 {
            m.member_id = r.string(version >= 4)?;
        }
        if version >= 3 {
            m.group_instance_id = r.nullable_string(version >= 4)?;
        }
        if version == 5 {
            m.reason = r.nullable_string(version >= 4)?;
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
            return Err(EncodeError::field("MemberIdentity", "member_id", version));
        }
        if version >= 3 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 4)?;
        } else if self.group_instance_id.is_some() {
            return Err(EncodeError::field("MemberIdentity", "group_instance_id", version));
        }
        if version == 5 {
            w.nullable_string(self.reason.as_deref(), version >= 4)?;
        }
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for LeaveGroupRequest {
    const NAME: &'static str = "LeaveGroupRequest";
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

impl Request for LeaveGroupRequest {
    const API_KEY: ApiKey = ApiKey::LeaveGroup;
    type Response = super::leave_group_response::LeaveGroupResponse;
}
