//! JoinGroupRequest, versions 0 to 9. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroupRequest {
    pub group_id: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub protocol_type: String,
    pub protocols: Vec<JoinGroupRequestProtocol>,
    pub reason: Option<String>,
}

impl Default for JoinGroupRequest {
    fn default() -> Self {
        Self {
            group_id: String::new(),
            session_timeout_ms: 0,
            rebalance_timeout_ms: -1,
            member_id: String::new(),
            group_instance_id: None,
            protocol_type: String::new(),
            protocols: Vec::new(),
            reason: None,
        }
    }
}

impl JoinGroupRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.group_id = r.string(version >= 6)?;
        m.session_timeout_ms = r.i32()?;
        if version >= 1 {
            m.rebalance_timeout_ms = r.i32()?;
        }
        m.member_id = r.string(version >= 6)?;
        if version >= 5 {
            m.group_instance_id = r.nullable_string(version >= 6)?;
        }
        m.protocol_type = r.string(version >= 6)?;
        m.protocols = r.array(version >= 6, |r| JoinGroupRequestProtocol::read(r, version))?;
        if version >= 8 {
            m.reason = r.nullable_string(version >= 6)?;
        }
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.group_id, version >= 6)?;
        w.i32(self.session_timeout_ms);
        if version >= 1 {
            w.i32(self.rebalance_timeout_ms);
        }
        w.string(&self.member_id, version >= 6)?;
        if version >= 5 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 6)?;
        } else if self.group_instance_id.is_some() {
            return Err(EncodeError::field("JoinGroupRequest", "group_instance_id", version));
        }
        w.string(&self.protocol_type, version >= 6)?;
        w.array(&self.protocols, version >= 6, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 8 {
            w.nullable_string(self.reason.as_deref(), version >= 6)?;
        }
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct JoinGroupRequestProtocol {
    pub name: String,
    pub metadata: Bytes,
}

impl Default for JoinGroupRequestProtocol {
    fn default() -> Self {
        Self { name: String::new(), metadata: Bytes::new() }
    }
}

impl JoinGroupRequestProtocol {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(version >= 6)?;
        m.metadata = r.bytes(version >= 6)?;
        if version >= 6 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.name, version >= 6)?;
        w.bytes(&self.metadata, version >= 6)?;
        if version >= 6 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for JoinGroupRequest {
    const NAME: &'static str = "JoinGroupRequest";
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

impl Request for JoinGroupRequest {
    const API_KEY: ApiKey = ApiKey::JoinGroup;
    type Response = super::join_group_response::JoinGroupResponse;
}
