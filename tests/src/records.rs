//! Records as the suites write and expect them, and the text form in which clients are handed them and hand them back:
//! `<partition> <offset> <timestamp> <key> <value> <name>:<value>;...`, bytes in hex, `-` = null, `.` = empty.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::random::Random;

/// Nullable bytes.
pub type Blob = Option<Vec<u8>>;

/// One record; `timestamp` is ms since the epoch, `None` = whatever the producer sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub timestamp: Option<i64>,
    pub key: Blob,
    pub value: Blob,
    pub headers: Vec<(String, Blob)>,
}

/// What a topic should hold: per partition, from offset 0 without a gap.
pub type Expected = BTreeMap<i32, Vec<Record>>;

/// A record as a consumer saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub record: Record,
}

/// The bytes that records may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Letters and digits only, never empty: fit for tools that work by line.
    Text,
    /// Anything, with null and empty keys and values and null header values.
    Binary,
}

/// `count` records with values of 1 byte to `largest` bytes, about evenly spread over the powers of two.
pub fn generate(seed: u64, count: usize, content: Content, largest: usize) -> Vec<Record> {
    let mut random = Random::new(seed);
    let powers = u64::from(usize::BITS - largest.leading_zeros());
    (0..count)
        .map(|n| {
            let power = random.below(powers);
            let size = usize::try_from((1 << power) + random.below(1 << power)).expect("fits").min(largest);
            let kind = random.below(16);
            let binary = content == Content::Binary;
            Record {
                // 2024-01-01 and rising, with repeats.
                timestamp: Some(1_704_067_200_000 + (n as i64) * 5 / 2),
                key: match kind {
                    0 | 1 => None,
                    2 if binary => Some(Vec::new()),
                    _ => Some(blob(&mut random, content, 1 + n % 40)),
                },
                value: match kind {
                    3 => None,
                    4 if binary => Some(Vec::new()),
                    _ => Some(blob(&mut random, content, size)),
                },
                headers: headers(&mut random, content),
            }
        })
        .collect()
}

fn blob(random: &mut Random, content: Content, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    if content == Content::Text {
        const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
        for byte in &mut bytes {
            *byte = LETTERS[usize::from(*byte & 63)];
        }
    }
    bytes
}

fn headers(random: &mut Random, content: Content) -> Vec<(String, Blob)> {
    (0..random.below(4))
        .map(|n| {
            let value = match random.below(6) {
                0 if content == Content::Binary => None,
                1 if content == Content::Binary => Some(Vec::new()),
                _ => Some(blob(random, Content::Text, 1 + n as usize * 7)),
            };
            // A name twice is allowed.
            (format!("h{}", random.below(3)), value)
        })
        .collect()
}

fn encode(bytes: &Blob) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes) if bytes.is_empty() => ".".to_owned(),
        Some(bytes) => bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("a digit"));
            text.push(char::from_digit(u32::from(byte & 15), 16).expect("a digit"));
            text
        }),
    }
}

fn decode(text: &str) -> Blob {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).expect("a hex digit");
    match text {
        "-" => None,
        "." => Some(Vec::new()),
        _ => Some(text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()),
    }
}

/// The lines that a client program reads: `records` go to partitions in turn, `partitions` of them.
pub fn to_lines(records: &[Record], partitions: i32) -> String {
    let mut text = String::new();
    for (record, partition) in records.iter().zip((0..partitions).cycle()) {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(n, v)| format!("{}:{}", encode(&Some(n.clone().into_bytes())), encode(v)))
            .collect();
        let headers = if headers.is_empty() { ".".to_owned() } else { headers.join(";") };
        let timestamp = record.timestamp.expect("generated records have one");
        let (key, value) = (encode(&record.key), encode(&record.value));
        writeln!(text, "{partition} -1 {timestamp} {key} {value} {headers}").expect("into memory");
    }
    text
}

/// Reads back what a client program printed; lines of other forms are its remarks and are left out.
pub fn from_lines(text: &str) -> Vec<Seen> {
    text.lines().filter_map(from_line).collect()
}

/// One line as a client program prints it.
pub fn from_line(line: &str) -> Option<Seen> {
    let fields: Vec<_> = line.split(' ').collect();
    let [partition, offset, timestamp, key, value, headers] = fields[..] else { return None };
    let headers = match headers {
        "." => Vec::new(),
        some => some
            .split(';')
            .map(|header| {
                let (name, value) = header.split_once(':').expect("name:value");
                (String::from_utf8(decode(name).unwrap_or_default()).expect("a text"), decode(value))
            })
            .collect(),
    };
    Some(Seen {
        partition: partition.parse().ok()?,
        offset: offset.parse().ok()?,
        record: Record { timestamp: timestamp.parse().ok(), key: decode(key), value: decode(value), headers },
    })
}

/// Adds `records`, spread as [`to_lines`] spreads them.
pub fn expect(expected: &mut Expected, records: &[Record], partitions: i32) {
    for (record, partition) in records.iter().zip((0..partitions).cycle()) {
        expected.entry(partition).or_default().push(record.clone());
    }
}

/// How many records there are in all.
pub fn total(expected: &Expected) -> usize {
    expected.values().map(Vec::len).sum()
}

/// What a reader cannot show, so that it is not compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blind {
    /// An empty key or value reads as null.
    pub empty_is_null: bool,
}

/// Panics unless `seen` is `expected`: every record once, in order, without a gap, byte for byte.
pub fn check(who: &str, expected: &Expected, seen: Vec<Seen>, blind: Blind) {
    let mut by_partition: BTreeMap<i32, Vec<Seen>> = BTreeMap::new();
    for one in seen {
        by_partition.entry(one.partition).or_default().push(one);
    }
    for (partition, want) in expected {
        let got = by_partition.remove(partition).unwrap_or_default();
        for (n, (want, got)) in want.iter().zip(&got).enumerate() {
            let place = format!("{who}, partition {partition}, record {n}");
            assert_eq!(got.offset, n as i64, "{place}: offsets have no gap and no repeat");
            let mut want = want.clone();
            if want.timestamp.is_none() {
                want.timestamp = got.record.timestamp;
            }
            if blind.empty_is_null {
                want.key = want.key.filter(|k| !k.is_empty());
                want.value = want.value.filter(|v| !v.is_empty());
            }
            assert!(want == got.record, "{place}: {}, wanted {}", brief(&got.record), brief(&want));
        }
        assert_eq!(got.len(), want.len(), "{who}, partition {partition}: the number of records");
    }
    assert!(by_partition.is_empty(), "{who}: records in partitions {:?}", by_partition.keys());
}

fn brief(record: &Record) -> String {
    let text = format!("{:?} {} {} {:?}", record.timestamp, encode(&record.key), encode(&record.value), record.headers);
    if text.len() <= 400 { text } else { format!("{}... ({} characters)", &text[..400], text.len()) }
}
