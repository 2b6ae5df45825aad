//! ApiVersions, and requests of versions that are not served.

use std::sync::Arc;

use strandline_protocol::api::{ApiKey, advertised};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::frame::{FrameError, RequestHeader, encode_response};
use strandline_protocol::messages::api_versions_request::ApiVersionsRequest;
use strandline_protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};

use super::Call;
use crate::broker::Broker;
use crate::net::Reply;

/// Kafka's rule for `client_software_name` and `_version`.
fn valid_software(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(inner)
}

pub(super) async fn handle(_broker: Arc<Broker>, call: Call, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let valid = valid_software(&request.client_software_name) && valid_software(&request.client_software_version);
    if call.version >= 3 && !valid {
        return ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
    }
    answer(ErrorCode::None, |_| true)
}

fn answer(error: ErrorCode, lists: impl Fn(ApiKey) -> bool) -> ApiVersionsResponse {
    let api_keys = advertised()
        .iter()
        .filter(|(api, _)| lists(*api))
        .map(|(api, versions)| ApiVersion {
            api_key: api.code(),
            min_version: *versions.start(),
            max_version: *versions.end(),
            ..Default::default()
        })
        .collect();
    ApiVersionsResponse { error_code: error.code(), api_keys, ..Default::default() }
}

/// An ApiVersions of an unknown version is answered in version 0 with the versions of ApiVersions alone (KIP-511); anything else closes the connection.
pub(super) fn unsupported(api: ApiKey, header: &RequestHeader) -> Reply {
    if api == ApiKey::ApiVersions {
        let response = answer(ErrorCode::UnsupportedVersion, |api| api == ApiKey::ApiVersions);
        if let Ok(rope) = encode_response(ApiKey::ApiVersions, 0, header.correlation_id, &response) {
            return Reply::Now(rope);
        }
    }
    Reply::Close(format!("{api:?} version {} is not served", header.api_version))
}

pub(super) fn unreadable_header(error: &FrameError) -> Reply {
    Reply::Close(format!("unreadable request header: {error}"))
}
