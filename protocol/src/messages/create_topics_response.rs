//! CreateTopicsResponse, versions 2 to 7. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct CreateTopicsResponse {
    pub throttle_time_ms: i32,
    pub topics: Vec<CreatableTopicResult>,
}

impl Default for CreateTopicsResponse {
    fn default() -> Self {
        Self { throttle_time_ms: 0, topics: Vec::new() }
    }
}

impl CreateTopicsResponse {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.throttle_time_ms = r.i32()?;
        m.topics = r.array(version >= 5, |r| CreatableTopicResult::read(r, version))?;
        if version >= 5 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.throttle_time_ms);
        w.array(&self.topics, version >= 5, |w, x| {
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
pub struct CreatableTopicResult {
    pub name: String,
    pub topic_id: Uuid,
    pub error_code: i16,
    pub error_message: Option<String>,
    pub topic_config_error_code: i16,
    pub num_partitions: i32,
    pub replication_factor: i16,
    pub configs: Option<Vec<CreatableTopicConfigs>>,
}

impl Default for CreatableTopicResult {
    fn default() -> Self {
        Self {
            name: String::new(),
            topic_id: Uuid::nil(),
            error_code: 0,
            error_message: Some(String::new()),
            topic_config_error_code: 0,
            num_partitions: -1,
            replication_factor: -1,
            configs: Some(Vec::new()),
        }
    }
}

impl CreatableTopicResult {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(version >= 5)?;
        if version == 7 {
            m.topic_id = r.uuid()?;
        }
        m.error_code = r.i16()?;
        m.error_message = r.nullable_string(version >= 5)?;
        if version >= 5 {
            m.num_partitions = r.i32()?;
        }
        if version >= 5 {
            m.replication_factor = r.i16()?;
        }
        if version >= 5 {
            m.configs = r.nullable_array(version >= 5, |r| CreatableTopicConfigs::read(r, version))?;
        }
        if version >= 5 {
            r.tagged_fields(|r, tag| {
                match tag {
                    0 if version >= 5 => {
                        m.topic_config_error_code = r.i16()?;
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
        w.string(&self.name, version >= 5)?;
        if version == 7 {
            w.uuid(self.topic_id);
        }
        w.i16(self.error_code);
        w.nullable_string(self.error_message.as_deref(), version >= 5)?;
        if version >= 5 {
            w.i32(self.num_partitions);
        }
        if version >= 5 {
            w.i16(self.replication_factor);
        }
        if version >= 5 {
            w.nullable_array(self.configs.as_deref(), version >= 5, |w, x| {
                x.write(w, version)?;
                Ok(())
            })?;
        }
        if version >= 5 {
            let mut tags = TaggedFields::default();
            if version >= 5 && self.topic_config_error_code != 0 {
                tags.field(0, |w| {
                    w.i16(self.topic_config_error_code);
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
pub struct CreatableTopicConfigs {
    pub name: String,
    pub value: Option<String>,
    pub read_only: bool,
    pub config_source: i8,
    pub is_sensitive: bool,
}

impl Default for CreatableTopicConfigs {
    fn default() -> Self {
        Self {
            name: String::new(),
            value: Some(String::new()),
            read_only: false,
            config_source: -1,
            is_sensitive: false,
        }
    }
}

impl CreatableTopicConfigs {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        if version >= 5 {
            m.name = r.string(version >= 5)?;
        }
        if version >= 5 {
            m.value = r.nullable_string(version >= 5)?;
        }
        if version >= 5 {
            m.read_only = r.bool()?;
        }
        if version >= 5 {
            m.config_source = r.i8()?;
        }
        if version >= 5 {
            m.is_sensitive = r.bool()?;
        }
        if version >= 5 {
            r.skip_tagged_fields()?;
        }
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        if version >= 5 {
            w.string(&self.name, version >= 5)?;
        } else if !self.name.is_empty() {
            return Err(EncodeError::field("CreatableTopicConfigs", "name", version));
        }
        if version >= 5 {
            w.nullable_string(self.value.as_deref(), version >= 5)?;
        } else if self.value != Some(String::new()) {
            return Err(EncodeError::field("CreatableTopicConfigs", "value", version));
        }
        if version >= 5 {
            w.bool(self.read_only);
        } else if self.read_only {
            return Err(EncodeError::field("CreatableTopicConfigs", "read_only", version));
        }
        if version >= 5 {
            w.i8(self.config_source);
        }
        if version >= 5 {
            w.bool(self.is_sensitive);
        } else if self.is_sensitive {
            return Err(EncodeError::field("CreatableTopicConfigs", "is_sensitive", version));
        }
        if version >= 5 {
            w.no_tagged_fields();
        }
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for CreateTopicsResponse {
    const NAME: &'static str = "CreateTopicsResponse";
    const VERSIONS: RangeInclusive<i16> = 2..=7;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}
