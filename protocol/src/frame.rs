//! Requests and responses whole: header, body, length.
//!
//! A frame on the wire is a 4-byte length and that many bytes. Reading the length and bounding it is the connection's.

use bytes::Bytes;

use crate::codec::{DecodeError, EncodeError, Reader, Writer};
use crate::messages::{ApiKey, Message, Request};
use crate::rope::Rope;

/// What comes before every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// Only read if the API and version are served.
    pub client_id: Option<String>,
}

/// Why a frame has no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no request header: {0}")]
pub struct FrameError(#[from] pub DecodeError);

/// Reads the header of a request frame (without its length); the reader is left at the body. Of an API or version that
/// is not served only the fixed part is read: nothing behind it can be understood.
pub fn decode_request_header(frame: Bytes) -> Result<(RequestHeader, Reader), FrameError> {
    let mut r = Reader::new(frame);
    let mut header =
        RequestHeader { api_key: r.i16()?, api_version: r.i16()?, correlation_id: r.i32()?, client_id: None };
    let Some(api) = ApiKey::from_code(header.api_key) else { return Ok((header, r)) };
    if api.versions().contains(&header.api_version) {
        // The client id never is compact, whatever the header's version.
        header.client_id = r.nullable_string(false)?;
        if api.is_flexible(header.api_version) {
            r.skip_tagged_fields()?;
        }
    }
    Ok((header, r))
}

/// Response headers of flexible versions have tagged fields; ApiVersions' never, so that any client can read it.
fn response_header_is_flexible(api: ApiKey, version: i16) -> bool {
    api != ApiKey::ApiVersions && api.is_flexible(version)
}

/// A response with its length, ready to be sent.
pub fn encode_response<M: Message>(
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    response: &M,
) -> Result<Rope, EncodeError> {
    let mut w = Writer::default();
    w.i32(correlation_id);
    if response_header_is_flexible(api, version) {
        w.no_tagged_fields();
    }
    response.encode(&mut w, version)?;
    with_length(w)
}

/// A request with its length, ready to be sent.
pub fn encode_request<R: Request>(
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) -> Result<Rope, EncodeError> {
    let mut w = Writer::default();
    w.i16(R::API_KEY.code());
    w.i16(version);
    w.i32(correlation_id);
    w.nullable_string(client_id, false)?;
    if R::API_KEY.is_flexible(version) {
        w.no_tagged_fields();
    }
    request.encode(&mut w, version)?;
    with_length(w)
}

/// Reads a response frame (without its length): correlation id and body.
pub fn decode_response<R: Request>(version: i16, frame: Bytes) -> Result<(i32, R::Response), DecodeError> {
    let mut r = Reader::new(frame);
    let correlation_id = r.i32()?;
    if response_header_is_flexible(R::API_KEY, version) {
        r.skip_tagged_fields()?;
    }
    Ok((correlation_id, R::Response::decode(&mut r, version)?))
}

fn with_length(w: Writer) -> Result<Rope, EncodeError> {
    let body = w.finish();
    let length = i32::try_from(body.len()).map_err(|_| EncodeError::TooLong(body.len()))?;
    let mut frame = Rope::from(Bytes::copy_from_slice(&length.to_be_bytes()));
    frame.append(body);
    Ok(frame)
}
