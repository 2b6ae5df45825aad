//! GroupMetadataValue, versions 0 to 4. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct GroupMetadataValue {
    pub protocol_type: String,
    pub generation: i32,
    pub protocol: Option<String>,
    pub leader: Option<String>,
    pub current_state_timestamp: i64,
    pub members: Vec<MemberMetadata>,
}

impl Default for GroupMetadataValue {
    fn default() -> Self {
        Self {
            protocol_type: String::new(),
            generation: 0,
            protocol: Some(String::new()),
            leader: Some(String::new()),
            current_state_timestamp: -1,
            members: Vec::new(),
        }
    }
}

impl GroupMetadataValue {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.protocol_type = r.string(version == 4)?;
        m.generation = r.i32()?;
        m.protocol = r.nullable_string(version == 4)?;
        m.leader = r.nullable_string(version == 4)?;
        if version >= 2 {
            m.current_state_timestamp = r.i64()?;
        }
        m.members = r.array(version == 4, |r| MemberMetadata::read(r, version))?;
        if version == 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.protocol_type, version == 4)?;
        w.i32(self.generation);
        w.nullable_string(self.protocol.as_deref(), version == 4)?;
        w.nullable_string(self.leader.as_deref(), version == 4)?;
        if version >= 2 {
            w.i64(self.current_state_timestamp);
        }
        w.array(&self.members, version == 4, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version == 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MemberMetadata {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout: i32,
    pub session_timeout: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

impl Default for MemberMetadata {
    fn default() -> Self {
        Self {
            member_id: String::new(),
            group_instance_id: None,
            client_id: String::new(),
            client_host: String::new(),
            rebalance_timeout: -1,
            session_timeout: 0,
            subscription: Bytes::new(),
            assignment: Bytes::new(),
        }
    }
}

impl MemberMetadata {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.member_id = r.string(version == 4)?;
        if version >= 3 {
            m.group_instance_id = r.nullable_string(version == 4)?;
        }
        m.client_id = r.string(version == 4)?;
        m.client_host = r.string(version == 4)?;
        if version >= 1 {
            m.rebalance_timeout = r.i32()?;
        }
        m.session_timeout = r.i32()?;
        m.subscription = r.bytes(version == 4)?;
        m.assignment = r.bytes(version == 4)?;
        if version == 4 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.member_id, version == 4)?;
        if version >= 3 {
            w.nullable_string(self.group_instance_id.as_deref(), version == 4)?;
        }
        w.string(&self.client_id, version == 4)?;
        w.string(&self.client_host, version == 4)?;
        if version >= 1 {
            w.i32(self.rebalance_timeout);
        }
        w.i32(self.session_timeout);
        w.bytes(&self.subscription, version == 4)?;
        w.bytes(&self.assignment, version == 4)?;
        if version == 4 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for GroupMetadataValue {
    const NAME: &'static str = "GroupMetadataValue";
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
