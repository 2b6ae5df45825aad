//! FindCoordinatorRequest, versions 0 to 6. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct FindCoordinatorRequest {
    pub key: String,
    pub key_type: i8,
    pub coordinator_keys: Vec<String>,
}

impl Default for FindCoordinatorRequest {
    fn default() -> Self {
        Self { key: String::new(), key_type: 0, coordinator_keys: Vec::new() }
    }
}

impl FindCoordinatorRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version <= 3 {
            m.key = r.string(version >= 3)?;
        }
        if version >= 1 {
            m.key_type = r.i8()?;
        }
        if version >= 4 {
            m.coordinator_keys = r.array(version >= 3, |r| r.string(version >= 3))?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version <= 3 {
            w.string(&self.key, version >= 3)?;
        } else if !self.key.is_empty() {
            return Err(EncodeError::field("FindCoordinatorRequest", "key", version));
        }
        if version >= 1 {
            w.i8(self.key_type);
        } else if self.key_type != 0 {
            return Err(EncodeError::field("FindCoordinatorRequest", "key_type", version));
        }
        if version >= 4 {
            w.array(&self.coordinator_keys, version >= 3, |w, x| {
                w.string(x, version >= 3)?;
                Ok(())
            })?;
        } else if !self.coordinator_keys.is_empty() {
            return Err(EncodeError::field("FindCoordinatorRequest", "coordinator_keys", version));
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for FindCoordinatorRequest {
    const NAME: &'static str = "FindCoordinatorRequest";
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

impl Request for FindCoordinatorRequest {
    const API_KEY: ApiKey = ApiKey::FindCoordinator;
    type Response = super::find_coordinator_response::FindCoordinatorResponse;
}
