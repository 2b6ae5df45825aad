//! `strandline topic tiers`: where a topic's records lie, drawn from the node's own map.

use std::io;
use std::time::Duration;

use serde_json::Value;
use strandline_client::Cluster;
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::bootstrap::{check, human_bytes};

/// Width of a strip, in characters.
const STRIP: usize = 64;
/// The map of a topic is at most this long, in bytes.
const MAP_BYTES_MAX: u64 = 64 << 20;
const DEADLINE: Duration = Duration::from_secs(30);
const BROKER_RESOURCE: i8 = 4;

/// Prints the map of one topic.
pub(super) async fn show(
    cluster: &Cluster,
    topic: &str,
    admin: Option<&str>,
    as_json: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let metadata = cluster.metadata(Some(&[topic]), false).await?;
    if let Some(found) = metadata.topics.first() {
        check(topic, found.error_code, None)?;
    }
    let address = match admin {
        Some(url) => host_and_port(url),
        None => find_admin(cluster, metadata.brokers.first().map_or(1, |b| b.node_id)).await?,
    };
    let body = get(&address, &format!("/tiers/{topic}")).await?;
    let map: Value = serde_json::from_str(&body)?;
    if as_json {
        println!("{map}");
    } else {
        draw(&map);
    }
    Ok(())
}

fn host_and_port(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

async fn find_admin(cluster: &Cluster, node_id: i32) -> Result<String, Box<dyn std::error::Error>> {
    let resource = DescribeConfigsResource {
        resource_type: BROKER_RESOURCE,
        resource_name: node_id.to_string(),
        configuration_keys: Some(vec!["admin.listener".to_owned()]),
        ..Default::default()
    };
    let response = cluster.ask(&DescribeConfigsRequest { resources: vec![resource], ..Default::default() }).await?;
    let configs = response.results.into_iter().flat_map(|r| r.configs);
    let found = configs.filter_map(|c| c.value).find(|v| !v.is_empty() && v != "none");
    found
        .map(|url| host_and_port(&url))
        .ok_or_else(|| "the node has no admin.listener; name one with --admin URL".into())
}

/// A small GET; the admin listener speaks plain HTTP/1.1 and closes when asked to.
async fn get(address: &str, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAP_BYTES_MAX).read_to_end(&mut answer).await?;
        String::from_utf8(answer).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await;
    let answer = answer
        .map_err(|_| format!("{address} did not answer within {DEADLINE:?}"))?
        .map_err(|e| format!("the admin listener at {address} cannot be reached: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status == "200" {
        Ok(body.to_owned())
    } else {
        Err(format!("{address}{path}: {status}: {}", body.trim()).into())
    }
}

fn number(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or(0)
}

fn draw(map: &Value) {
    println!(
        "{}   {} remote  {} both  {} local  {} waiting for upload",
        map["topic"].as_str().unwrap_or_default(),
        glyph("remote"),
        glyph("both"),
        glyph("local"),
        glyph("uploading")
    );
    for p in map["partitions"].as_array().into_iter().flatten() {
        let (start, end) = (number(p, "log_start_offset"), number(p, "log_end_offset"));
        let segments: Vec<&Value> = p["segments"].as_array().into_iter().flatten().collect();
        println!("{:>5} {:>12} {} {}", number(p, "partition"), start, strip(&segments, start, end), end);
        let bytes = |key| human_bytes(u64::try_from(number(p, key)).unwrap_or(0));
        println!(
            "      {} in {} segments remote · {} in {} segments local · local from {} · copied up to {}",
            bytes("remote_bytes"),
            number(p, "remote_segments"),
            bytes("local_bytes"),
            number(p, "local_segments"),
            number(p, "local_log_start_offset"),
            p["highest_copied_offset"].as_i64().map_or_else(|| "nothing".to_owned(), |o| o.to_string()),
        );
    }
}

fn glyph(state: &str) -> char {
    match state {
        "remote" => '░',
        "both" => '▒',
        "local" => '█',
        "uploading" => '▚',
        _ => '?',
    }
}

/// Each character stands for an equal share of the offsets.
fn strip(segments: &[&Value], start: i64, end: i64) -> String {
    let span = (end - start).max(1);
    (0..STRIP)
        .map(|i| {
            let offset = start + span * i64::try_from(i).unwrap_or(0) / i64::try_from(STRIP).unwrap_or(1);
            let holder =
                segments.iter().find(|s| number(s, "base_offset") <= offset && offset <= number(s, "last_offset"));
            holder.and_then(|s| s["state"].as_str()).map_or('·', glyph)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_strip_shows_each_share_of_the_offsets() {
        let remote = json!({ "base_offset": 0, "last_offset": 49, "state": "remote" });
        let local = json!({ "base_offset": 50, "last_offset": 99, "state": "local" });
        let drawn: Vec<char> = strip(&[&remote, &local], 0, 100).chars().collect();
        assert_eq!(drawn.len(), STRIP);
        assert_eq!((drawn[0], drawn[31], drawn[32], drawn[63]), ('░', '░', '█', '█'));
        assert_eq!(host_and_port("http://127.0.0.1:9644/metrics"), "127.0.0.1:9644");
    }
}
