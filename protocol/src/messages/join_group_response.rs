//! JoinGroupResponse, versions 0 to 9. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroupResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub generation_id: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub leader: String,
    pub skip_assignment: bool,
    pub member_id: String,
    pub members: Vec<JoinGroupResponseMember>,
}

impl Default for JoinGroupResponse {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error_code: 0,
            generation_id: -1,
            protocol_type: None,
            protocol_name: Some(String::new()),
            leader: String::new(),
            skip_assignment: false,
            member_id: String::new(),
            members: Vec::new(),
        }
    }
}

impl JoinGroupResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 2 {
            m.throttle_time_ms = r.i32()?;
        }
        m.error_code = r.i16()?;
        m.generation_id = r.i32()?;
        if version >= 7 {
            m.protocol_type = r.nullable_string(version >= 6)?;
        }
        m.protocol_name = if version >= 7 { r.nullable_string(version >= 6)? } else { Some(r.string(version >= 6)?) };
        m.leader = r.string(version >= 6)?;
        if version == 9 {
            m.skip_assignment = r.bool()?;
        }
        m.member_id = r.string(version >= 6)?;
        m.members = r.array(version >= 6, |r| JoinGroupResponseMember::read(r, version))?;
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 2 {
            w.i32(self.throttle_time_ms);
        }
        w.i16(self.error_code);
        w.i32(self.generation_id);
        if version >= 7 {
            w.nullable_string(self.protocol_type.as_deref(), version >= 6)?;
        }
        if version >= 7 {
            w.nullable_string(self.protocol_name.as_deref(), version >= 6)?;
        } else {
            match &self.protocol_name {
                Some(x) => {
                    w.string(x, version >= 6)?;
                }
                None => return Err(EncodeError::null("protocol_name", version)),
            }
        }
        w.string(&self.leader, version >= 6)?;
        if version == 9 {
            w.bool(self.skip_assignment);
        } else if self.skip_assignment {
            return Err(EncodeError::field("JoinGroupResponse", "skip_assignment", version));
        }
        w.string(&self.member_id, version >= 6)?;
        w.array(&self.members, version >= 6, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroupResponseMember {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub metadata: Bytes,
}

impl Default for JoinGroupResponseMember {
    fn default() -> Self {
        Self { member_id: String::new(), group_instance_id: None, metadata: Bytes::new() }
    }
}

impl JoinGroupResponseMember {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.member_id = r.string(version >= 6)?;
        if version >= 5 {
            m.group_instance_id = r.nullable_string(version >= 6)?;
        }
        m.metadata = r.bytes(version >= 6)?;
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.member_id, version >= 6)?;
        if version >= 5 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 6)?;
        }
        w.bytes(&self.metadata, version >= 6)?;
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for JoinGroupResponse {
    const NAME: &'static str = "JoinGroupResponse";
    const VERSIONS: RangeInclusive<i16> = 0..=9;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
