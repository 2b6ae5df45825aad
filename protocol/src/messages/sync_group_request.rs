//! SyncGroupRequest, versions 0 to 5. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct SyncGroupRequest {
    pub group_id: String,
    pub generation_id: i32,
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub assignments: Vec<SyncGroupRequestAssignment>,
}

impl Default for SyncGroupRequest {
    fn default() -> Self {
        Self {
            group_id: String::new(),
            generation_id: 0,
            member_id: String::new(),
            group_instance_id: None,
            protocol_type: None,
            protocol_name: None,
            assignments: Vec::new(),
        }
    }
}

impl SyncGroupRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.group_id = r.string(version >= 4)?;
        m.generation_id = r.i32()?;
        m.member_id = r.string(version >= 4)?;
        if version >= 3 {
            m.group_instance_id = r.nullable_string(version >= 4)?;
        }
        if version == 5 {
            m.protocol_type = r.nullable_string(version >= 4)?;
        }
        if version == 5 {
            m.protocol_name = r.nullable_string(version >= 4)?;
        }
        m.assignments = r.array(version >= 4, |r| SyncGroupRequestAssignment::read(r, version))?;
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.group_id, version >= 4)?;
        w.i32(self.generation_id);
        w.string(&self.member_id, version >= 4)?;
        if version >= 3 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 4)?;
        } else if self.group_instance_id.is_some() {
            return Err(EncodeError::field("SyncGroupRequest", "group_instance_id", version));
        }
        if version == 5 {
            w.nullable_string(self.protocol_type.as_deref(), version >= 4)?;
        }
        if version == 5 {
            w.nullable_string(self.protocol_name.as_deref(), version >= 4)?;
        }
        w.array(&self.assignments, version >= 4, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SyncGroupRequestAssignment {
    pub member_id: String,
    pub assignment: Bytes,
}

impl Default for SyncGroupRequestAssignment {
    fn default() -> Self {
        Self { member_id: String::new(), assignment: Bytes::new() }
    }
}

impl SyncGroupRequestAssignment {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.member_id = r.string(version >= 4)?;
        m.assignment = r.bytes(version >= 4)?;
        if version >= 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.member_id, version >= 4)?;
        w.bytes(&self.assignment, version >= 4)?;
        if version >= 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for SyncGroupRequest {
    const NAME: &'static str = "SyncGroupRequest";
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

impl Request for SyncGroupRequest {
    const API_KEY: ApiKey = ApiKey::SyncGroup;
    type Response = super::sync_group_response::SyncGroupResponse;
}
