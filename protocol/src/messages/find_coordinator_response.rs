//! FindCoordinatorResponse, versions 0 to 6. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct FindCoordinatorResponse {
    pub throttle_time_ms: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub coordinators: Vec<Coordinator>,
}

impl Default for FindCoordinatorResponse {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error_code: 0,
            error_message: Some(String::new()),
            node_id: 0,
            host: String::new(),
            port: 0,
            coordinators: Vec::new(),
        }
    }
}

impl FindCoordinatorResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 1 {
            m.throttle_time_ms = r.i32()?;
        }
        if version <= 3 {
            m.error_code = r.i16()?;
        }
        if (1..=3).contains(&version) {
            m.error_message = r.nullable_string(version >= 3)?;
        }
        if version <= 3 {
            m.node_id = r.i32()?;
        }
        if version <= 3 {
            m.host = r.string(version >= 3)?;
        }
        if version <= 3 {
            m.port = r.i32()?;
        }
        if version >= 4 {
            m.coordinators = r.array(version >= 3, |r| Coordinator::read(r, version))?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        if version <= 3 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("FindCoordinatorResponse", "error_code", version));
        }
        if (1..=3).contains(&version) {
            w.nullable_string(self.error_message.as_deref(), version >= 3)?;
        }
        if version <= 3 {
            w.i32(self.node_id);
        } else if self.node_id != 0 {
            return Err(EncodeError::field("FindCoordinatorResponse", "node_id", version));
        }
        if version <= 3 {
            w.string(&self.host, version >= 3)?;
        } else if !self.host.is_empty() {
            return Err(EncodeError::field("FindCoordinatorResponse", "host", version));
        }
        if version <= 3 {
            w.i32(self.port);
        } else if self.port != 0 {
            return Err(EncodeError::field("FindCoordinatorResponse", "port", version));
        }
        if version >= 4 {
            w.array(&self.coordinators, version >= 3, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        } else if !self.coordinators.is_empty() {
            return Err(EncodeError::field("FindCoordinatorResponse", "coordinators", version));
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Coordinator {
    pub key: String,
    pub node_id: i32,
    pub host: String,
    pub port: i32,
    pub error_code: i16,
    pub error_message: Option<String>,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            key: String::new(),
            node_id: 0,
            host: String::new(),
            port: 0,
            error_code: 0,
            error_message: Some(String::new()),
        }
    }
}

impl Coordinator {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 4 {
            m.key = r.string(version >= 3)?;
        }
        if version >= 4 {
            m.node_id = r.i32()?;
        }
        if version >= 4 {
            m.host = r.string(version >= 3)?;
        }
        if version >= 4 {
            m.port = r.i32()?;
        }
        if version >= 4 {
            m.error_code = r.i16()?;
        }
        if version >= 4 {
            m.error_message = r.nullable_string(version >= 3)?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 4 {
            w.string(&self.key, version >= 3)?;
        } else if !self.key.is_empty() {
            return Err(EncodeError::field("Coordinator", "key", version));
        }
        if version >= 4 {
            w.i32(self.node_id);
        } else if self.node_id != 0 {
            return Err(EncodeError::field("Coordinator", "node_id", version));
        }
        if version >= 4 {
            w.string(&self.host, version >= 3)?;
        } else if !self.host.is_empty() {
            return Err(EncodeError::field("Coordinator", "host", version));
        }
        if version >= 4 {
            w.i32(self.port);
        } else if self.port != 0 {
            return Err(EncodeError::field("Coordinator", "port", version));
        }
        if version >= 4 {
            w.i16(self.error_code);
        } else if self.error_code != 0 {
            return Err(EncodeError::field("Coordinator", "error_code", version));
        }
        if version >= 4 {
            w.nullable_string(self.error_message.as_deref(), version >= 3)?;
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for FindCoordinatorResponse {
    const NAME: &'static str = "FindCoordinatorResponse";
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
