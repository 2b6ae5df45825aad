//! AddRaftVoterRequest, versions 0 to 1. Generated from Kafka's schema by `protocol/generator`; not edited by hand.

use super::prelude::*;

#[derive(Debug, Clone, PartialEq)]
pub struct AddRaftVoterRequest {
    pub cluster_id: Option<String>,
    pub timeout_ms: i32,
    pub voter_id: i32,
    pub voter_directory_id: Uuid,
    pub listeners: Vec<Listener>,
    pub ack_when_committed: bool,
}

impl Default for AddRaftVoterRequest {
    fn default() -> Self {
        Self {
            cluster_id: Some(String::new()),
            timeout_ms: 0,
            voter_id: 0,
            voter_directory_id: Uuid::nil(),
            listeners: Vec::new(),
            ack_when_committed: true,
        }
    }
}

impl AddRaftVoterRequest {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.cluster_id = r.nullable_string(true)?;
        m.timeout_ms = r.i32()?;
        m.voter_id = r.i32()?;
        m.voter_directory_id = r.uuid()?;
        m.listeners = r.array(true, |r| Listener::read(r, version))?;
        if version == 1 {
            m.ack_when_committed = r.bool()?;
        }
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.nullable_string(self.cluster_id.as_deref(), true)?;
        w.i32(self.timeout_ms);
        w.i32(self.voter_id);
        w.uuid(self.voter_directory_id);
        w.array(&self.listeners, true, |w, x| {
            x.write(w, version)?;
            Ok(())
        })?;
        if version == 1 {
            w.bool(self.ack_when_committed);
        } else if !self.ack_when_committed {
            return Err(EncodeError::field("AddRaftVoterRequest", "ack_when_committed", version));
        }
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    pub name: String,
    pub host: String,
    pub port: u16,
}

impl Default for Listener {
    fn default() -> Self {
        Self { name: String::new(), host: String::new(), port: 0 }
    }
}

impl Listener {
    pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut m = Self::default();
        m.name = r.string(true)?;
        m.host = r.string(true)?;
        m.port = r.u16()?;
        r.skip_tagged_fields()?;
        let _ = version;
        Ok(m)
    }

    pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        w.string(&self.name, true)?;
        w.string(&self.host, true)?;
        w.u16(self.port);
        w.no_tagged_fields();
        let _ = (&w, version);
        Ok(())
    }
}

impl Message for AddRaftVoterRequest {
    const NAME: &'static str = "AddRaftVoterRequest";
    const VERSIONS: RangeInclusive<i16> = 0..=1;
    fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        check_decode_version::<Self>(version)?;
        Self::read(r, version)
    }
    fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {
        check_encode_version::<Self>(version)?;
        self.write(w, version)
    }
}

impl Request for AddRaftVoterRequest {
    const API_KEY: ApiKey = ApiKey::AddRaftVoter;
    type Response = super::add_raft_voter_response::AddRaftVoterResponse;
}
