//! ApiVersions, and requests of APIs and versions that are not served.

use crate::line::Line;
use strandline_protocol::api::{ApiKey, advertised};
use strandline_protocol::messages::api_versions_request::ApiVersionsRequest;
use strandline_protocol::messages::api_versions_response::ApiVersionsResponse;

use crate::table::Table;

pub fn request(name: &str, version: &str) -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: name.to_owned(), client_software_version: version.to_owned() }
}

/// Only the APIs that Strandline has: the others are a difference by design, which `lists_exactly` pins down.
fn ours_only(answer: &mut ApiVersionsResponse) {
    answer.api_keys.retain(|api| advertised().iter().any(|(ours, _)| ours.code() == api.api_key));
    answer.api_keys.sort_by_key(|api| api.api_key);
    // Features are versions of Kafka's own metadata records.
    answer.supported_features.clear();
    answer.finalized_features.clear();
}

#[test]
fn api_versions() {
    let mut table = Table::new();
    table.with(
        "plain",
        ApiKey::ApiVersions.served_versions(),
        |_, v| if v >= 3 { request("parity", "1.0") } else { ApiVersionsRequest::default() },
        ours_only,
    );
    for (name, software, version) in [
        ("an empty name", "", "1"),
        ("an empty version", "a", ""),
        ("a name that begins with a dash", "-a", "1"),
        ("a name with a space", "a b", "1"),
        ("a version that ends with a dot", "a", "1."),
        ("a name with a dash and a dot inside", "a-b.c", "1-2.3"),
        ("a name with an underscore", "a_b", "1"),
    ] {
        table.with(name, 3..=4, |_, _| request(software, version), ours_only);
    }
    for version in [5, 100, -1, i16::MAX] {
        table.effect("ApiVersions: a version that is not served", version, |_, connection| {
            raw(connection, ApiKey::ApiVersions.code(), version, |frame| {
                let (_, mut answer) = strandline_protocol::frame::decode_response::<ApiVersionsRequest>(0, frame)
                    .map_err(|e| format!("answer: {e}"))?;
                ours_only(&mut answer);
                // Kafka 4 tells only its own range, or all of them.
                Ok(format!("{answer:#?}"))
            })
        });
    }
    table.finish();
}

/// Sends a header alone.
fn raw(
    connection: &mut Line,
    api: i16,
    version: i16,
    read: impl Fn(bytes::Bytes) -> Result<String, String>,
) -> Result<String, String> {
    let mut frame = Vec::new();
    frame.extend(api.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    // No client id, no tagged fields, room for empty fields.
    frame.extend((-1_i16).to_be_bytes());
    frame.extend([0; 8]);
    let mut bytes = (frame.len() as i32).to_be_bytes().to_vec();
    bytes.extend(frame);
    connection.send_raw(&bytes)?;
    read(connection.receive_raw()?)
}

#[test]
fn what_is_not_served_closes_the_connection() {
    let mut table = Table::new();
    for api in ApiKey::ALL.iter().copied().filter(|api| api.is_served() && *api != ApiKey::ApiVersions) {
        let versions = api.served_versions();
        for version in [versions.start() - 1, versions.end() + 1, -1] {
            let name = format!("{api:?}: a version that is not served");
            table.effect(&name, version, |_, connection| {
                raw(connection, api.code(), version, |frame| Ok(format!("an answer of {} bytes", frame.len())))
            });
        }
    }
    for api in [-1, 1000, i16::MAX, 4, 5, 6, 7] {
        table.effect("an API that is not known", api, |_, connection| {
            raw(connection, api, 0, |frame| Ok(format!("an answer of {} bytes", frame.len())))
        });
    }
    table.finish();
}

#[test]
fn the_listed_apis_are_the_served_ones() {
    let pair = crate::pair::Pair::get();
    let answer = pair.strandline.connection().call(4, &request("parity", "1")).expect("an answer");
    let listed: Vec<i16> = answer.api_keys.iter().map(|api| api.api_key).collect();
    let served: Vec<i16> = ApiKey::ALL.iter().filter(|api| api.is_served()).map(|api| api.code()).collect();
    assert_eq!(listed, served);
}
