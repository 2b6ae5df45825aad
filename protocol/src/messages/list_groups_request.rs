//! ListGroupsRequest, versions 0 to 5. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ListGroupsRequest {
    pub states_filter: Vec<String>,
    pub types_filter: Vec<String>,
}

impl Default for ListGroupsRequest {
    fn default() -> Self {
        Self { states_filter: Vec::new(), types_filter: Vec::new() }
    }
}

impl ListGroupsRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 4 {
            m.states_filter = r.array(version >= 3, |r| r.string(version >= 3))?;
        }
        if version == 5 {
            m.types_filter = r.array(version >= 3, |r| r.string(version >= 3))?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 4 {
            w.array(&self.states_filter, version >= 3, |w, x| {
                w.string(x, version >= 3)?;
                Ok(())
            })?;
        } else if !self.states_filter.is_empty() {
            return Err(EncodeError::field("ListGroupsRequest", "states_filter", version));
        }
        if version == 5 {
            w.array(&self.types_filter, version >= 3, |w, x| {
                w.string(x, version >= 3)?;
                Ok(())
            })?;
        } else if !self.types_filter.is_empty() {
            return Err(EncodeError::field("ListGroupsRequest", "types_filter", version));
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ListGroupsRequest {
    const NAME: &'static str = "ListGroupsRequest";
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

impl Request for ListGroupsRequest {
    const API_KEY: ApiKey = ApiKey::ListGroups;
    type Response = super::list_groups_response::ListGroupsResponse;
}
