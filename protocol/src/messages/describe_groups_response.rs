//! DescribeGroupsResponse, versions 0 to 6. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct DescribeGroupsResponse {
    pub throttle_time_ms: i32,
    pub groups: Vec<DescribedGroup>,
}

impl Default for DescribeGroupsResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, groups: Vec::new() }
    }
}

impl DescribeGroupsResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.throttle_time_ms = r.i32()?;
        }
        m.groups = r.array(version >= 5, |r| DescribedGroup::read(r, version))?;
        if version >= 5 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        w.array(&self.groups, version >= 5, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 5 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DescribedGroup {
    pub error_code: i16,
    pub error_message: Option<String>,
    pub group_id: String,
    pub group_state: String,
    pub protocol_type: String,
    pub protocol_data: String,
    pub members: Vec<DescribedGroupMember>,
    pub authorized_operations: i32,
}

impl Default for DescribedGroup {
    fn default() -> Self {
        Self {
            error_code: 0,
            error_message: None,
            group_id: String::new(),
            group_state: String::new(),
            protocol_type: String::new(),
            protocol_data: String::new(),
            members: Vec::new(),
            authorized_operations: -2147483648,
        }
    }
}

impl DescribedGroup {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.error_code = r.i16()?;
        if version == 6 {
            m.error_message = r.nullable_string(version >= 5)?;
        }
        m.group_id = r.string(version >= 5)?;
        m.group_state = r.string(version >= 5)?;
        m.protocol_type = r.string(version >= 5)?;
        m.protocol_data = r.string(version >= 5)?;
        m.members = r.array(version >= 5, |r| DescribedGroupMember::read(r, version))?;
        if version >= 3 {
            m.authorized_operations = r.i32()?;
        }
        if version >= 5 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i16(self.error_code);
        if version == 6 {
            w.nullable_string(self.error_message.as_deref(), version >= 5)?;
        } else if self.error_message.is_some() {
            return Err(EncodeError::field("DescribedGroup", "error_message", version));
        }
        w.string(&self.group_id, version >= 5)?;
        w.string(&self.group_state, version >= 5)?;
        w.string(&self.protocol_type, version >= 5)?;
        w.string(&self.protocol_data, version >= 5)?;
        w.array(&self.members, version >= 5, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 3 {
            w.i32(self.authorized_operations);
        } else if self.authorized_operations != -2147483648 {
            return Err(EncodeError::field("DescribedGroup", "authorized_operations", version));
        }
        if version >= 5 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct DescribedGroupMember {
    pub member_id: String,
    pub group_instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub member_metadata: Bytes,
    pub member_assignment: Bytes,
}

impl Default for DescribedGroupMember {
    fn default() -> Self {
        Self {
            member_id: String::new(),
            group_instance_id: None,
            client_id: String::new(),
            client_host: String::new(),
            member_metadata: Bytes::new(),
            member_assignment: Bytes::new(),
        }
    }
}

impl DescribedGroupMember {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.member_id = r.string(version >= 5)?;
        if version >= 4 {
            m.group_instance_id = r.nullable_string(version >= 5)?;
        }
        m.client_id = r.string(version >= 5)?;
        m.client_host = r.string(version >= 5)?;
        m.member_metadata = r.bytes(version >= 5)?;
        m.member_assignment = r.bytes(version >= 5)?;
        if version >= 5 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.member_id, version >= 5)?;
        if version >= 4 {
            w.nullable_string(self.group_instance_id.as_deref(), version >= 5)?;
        }
        w.string(&self.client_id, version >= 5)?;
        w.string(&self.client_host, version >= 5)?;
        w.bytes(&self.member_metadata, version >= 5)?;
        w.bytes(&self.member_assignment, version >= 5)?;
        if version >= 5 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for DescribeGroupsResponse {
    const NAME: &'static str = "DescribeGroupsResponse";
    const VERSIONS: RangeInclusive<i16> = 0..=6;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
