//! Which APIs and versions are served, and what ApiVersions says about it.
//!
//! The answer is Kafka 4.3.1's for the APIs that are here: Produce is advertised from version 0, because clients built on
//! old librdkafka take its absence for the absence of a codec, but versions 0 to 2 are refused.

use std::ops::RangeInclusive;

pub use crate::messages::ApiKey;

impl ApiKey {
    /// The key of that number, if its messages are here.
    pub fn from_code(code: i16) -> Option<Self> {
        ApiKey::ALL.iter().copied().find(|api| api.code() == code)
    }

    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether brokers answer it. SASL has messages here, but no listener asks for it yet.
    pub fn is_served(self) -> bool {
        !matches!(self, ApiKey::SaslHandshake | ApiKey::SaslAuthenticate)
    }

    /// Versions that are answered.
    pub fn served_versions(self) -> RangeInclusive<i16> {
        self.versions()
    }

    /// Whether this version has compact lengths and tagged fields.
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.first_flexible()
    }
}

/// What ApiVersions lists, in the order of the keys.
pub fn advertised() -> Vec<(ApiKey, RangeInclusive<i16>)> {
    let served = ApiKey::ALL.iter().copied().filter(|api| api.is_served());
    served
        .map(|api| {
            let versions = api.served_versions();
            let first = if api == ApiKey::Produce { 0 } else { *versions.start() };
            (api, first..=*versions.end())
        })
        .collect()
}
