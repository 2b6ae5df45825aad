//! UnregisterBrokerRequest, versions 0 to 0. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct UnregisterBrokerRequest {
    pub broker_id: i32,
}

impl Default for UnregisterBrokerRequest {
    fn default() -> Self {
        Self { broker_id: 0 }
    }
}

impl UnregisterBrokerRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.broker_id = r.i32()?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.i32(self.broker_id);
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for UnregisterBrokerRequest {
    const NAME: &'static str = "UnregisterBrokerRequest";
    const VERSIONS: RangeInclusive<i16> = 0..=0;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for UnregisterBrokerRequest {
    const API_KEY: ApiKey = ApiKey::UnregisterBroker;
    type Response = super::unregister_broker_response::UnregisterBrokerResponse;
}
