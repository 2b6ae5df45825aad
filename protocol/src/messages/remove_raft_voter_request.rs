//! RemoveRaftVoterRequest, versions 0 to 0. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct RemoveRaftVoterRequest {
    pub cluster_id: Option<String>,
    pub voter_id: i32,
    pub voter_directory_id: Uuid,
}

impl Default for RemoveRaftVoterRequest {
    fn default() -> Self {
        Self { cluster_id: Some(String::new()), voter_id: 0, voter_directory_id: Uuid::nil() }
    }
}

impl RemoveRaftVoterRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.cluster_id = r.nullable_string(true)?;
        m.voter_id = r.i32()?;
        m.voter_directory_id = r.uuid()?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.nullable_string(self.cluster_id.as_deref(), true)?;
        w.i32(self.voter_id);
        w.uuid(self.voter_directory_id);
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for RemoveRaftVoterRequest {
    const NAME: &'static str = "RemoveRaftVoterRequest";
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

impl Request for RemoveRaftVoterRequest {
    const API_KEY: ApiKey = ApiKey::RemoveRaftVoter;
    type Response = super::remove_raft_voter_response::RemoveRaftVoterResponse;
}
