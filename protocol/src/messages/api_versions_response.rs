//! ApiVersionsResponse, versions 0 to 4. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct ApiVersionsResponse {
    pub error_code: i16,
    pub api_keys: Vec<ApiVersion>,
    pub throttle_time_ms: i32,
    pub supported_features: Vec<SupportedFeatureKey>,
    pub finalized_features_epoch: i64,
    pub finalized_features: Vec<FinalizedFeatureKey>,
    pub zk_migration_ready: bool,
}

impl Default for ApiVersionsResponse {
    fn default() -> Self {
        Self {
            error_code: 0,
            api_keys: Vec::new(),
            throttle_time_ms: 0,
            supported_features: Vec::new(),
            finalized_features_epoch: -1,
            finalized_features: Vec::new(),
            zk_migration_ready: false,
        }
    }
}

impl ApiVersionsResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.error_code = r.i16()?;
        m.api_keys = r.array(version >= 3, |r| ApiVersion::read(r, version))?;
        if version >= 1 {
            m.throttle_time_ms = r.i32()?;
        }
        if version >= 3 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 3 => {
                        m.supported_features = r.array(version >= 3, |r| SupportedFeatureKey::read(r, version))?;
                    }
                    1 if version >= 3 => {
                        m.finalized_features_epoch = r.i64()?;
                    }
                    2 if version >= 3 => {
                        m.finalized_features = r.array(version >= 3, |r| FinalizedFeatureKey::read(r, version))?;
                    }
                    3 if version >= 3 => {
                        m.zk_migration_ready = r.bool()?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i16(self.error_code);
        w.array(&self.api_keys, version >= 3, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        if version >= 3 {
            let mut tags = TaggedFields::default();
            if version >= 3 && !self.supported_features.is_empty() {
                tags.field(0, |w| {
                    w.array(&self.supported_features, version >= 3, |w, x| {
                        x.write(w, version)?;
                        Ok(())
                    })?;
                    Ok(())
                })?;
            }
            if version >= 3 && self.finalized_features_epoch != -1 {
                tags.field(1, |w| {
                    w.i64(self.finalized_features_epoch);
                    Ok(())
                })?;
            }
            if version >= 3 && !self.finalized_features.is_empty() {
                tags.field(2, |w| {
                    w.array(&self.finalized_features, version >= 3, |w, x| {
                        x.write(w, version)?;
                        Ok(())
                    })?;
                    Ok(())
                })?;
            }
            if version >= 3 && self.zk_migration_ready {
                tags.field(3, |w| {
                    w.bool(self.zk_migration_ready);
                    Ok(())
                })?;
            }
            w.tagged_fields(tags);
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct ApiVersion {
    pub api_key: i16,
    pub min_version: i16,
    pub max_version: i16,
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self { api_key: 0, min_version: 0, max_version: 0 }
    }
}

impl ApiVersion {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.api_key = r.i16()?;
        m.min_version = r.i16()?;
        m.max_version = r.i16()?;
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i16(self.api_key);
        w.i16(self.min_version);
        w.i16(self.max_version);
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SupportedFeatureKey {
    pub name: String,
    pub min_version: i16,
    pub max_version: i16,
}

impl Default for SupportedFeatureKey {
    fn default() -> Self {
        Self { name: String::new(), min_version: 0, max_version: 0 }
    }
}

impl SupportedFeatureKey {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 3 {
            m.name = r.string(version >= 3)?;
        }
        if version >= 3 {
            m.min_version = r.i16()?;
        }
        if version >= 3 {
            m.max_version = r.i16()?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 3 {
            w.string(&self.name, version >= 3)?;
        } else if !self.name.is_empty() {
            return Err(EncodeError::field("SupportedFeatureKey", "name", version));
        }
        if version >= 3 {
            w.i16(self.min_version);
        } else if self.min_version != 0 {
            return Err(EncodeError::field("SupportedFeatureKey", "min_version", version));
        }
        if version >= 3 {
            w.i16(self.max_version);
        } else if self.max_version != 0 {
            return Err(EncodeError::field("SupportedFeatureKey", "max_version", version));
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct FinalizedFeatureKey {
    pub name: String,
    pub max_version_level: i16,
    pub min_version_level: i16,
}

impl Default for FinalizedFeatureKey {
    fn default() -> Self {
        Self { name: String::new(), max_version_level: 0, min_version_level: 0 }
    }
}

impl FinalizedFeatureKey {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 3 {
            m.name = r.string(version >= 3)?;
        }
        if version >= 3 {
            m.max_version_level = r.i16()?;
        }
        if version >= 3 {
            m.min_version_level = r.i16()?;
        }
        if version >= 3 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 3 {
            w.string(&self.name, version >= 3)?;
        } else if !self.name.is_empty() {
            return Err(EncodeError::field("FinalizedFeatureKey", "name", version));
        }
        if version >= 3 {
            w.i16(self.max_version_level);
        } else if self.max_version_level != 0 {
            return Err(EncodeError::field("FinalizedFeatureKey", "max_version_level", version));
        }
        if version >= 3 {
            w.i16(self.min_version_level);
        } else if self.min_version_level != 0 {
            return Err(EncodeError::field("FinalizedFeatureKey", "min_version_level", version));
        }
        if version >= 3 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for ApiVersionsResponse {
    const NAME: &'static str = "ApiVersionsResponse";
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
