//! Produce, InitProducerId, DescribeProducers.

use bytes::{Bytes, BytesMut};
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::api_versions_request::ApiVersionsRequest;
use strandline_protocol::messages::describe_producers_request::{DescribeProducersRequest, TopicRequest};
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use strandline_protocol::messages::produce_response::ProduceResponse;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_protocol::rope::Records;
use strandline_tests::wait;

use crate::pair::{BEGIN_MS, Side, batch_at};
use crate::table::Table;

/// Last version that names topics by name.
const BY_NAME: i16 = 12;

fn data(index: i32, records: Option<Bytes>) -> PartitionProduceData {
    PartitionProduceData { index, records: records.map(Records::Bytes) }
}

/// One topic's data, by name or by id as the version has it.
fn produce(side: &Side, version: i16, topic: &str, partitions: Vec<PartitionProduceData>) -> ProduceRequest {
    let mut data = TopicProduceData { partition_data: partitions, ..Default::default() };
    if version > BY_NAME {
        data.topic_id = side.id(topic)
    } else {
        data.name = topic.to_owned()
    }
    ProduceRequest { acks: -1, timeout_ms: 20_000, topic_data: vec![data], ..Default::default() }
}

/// A batch of a producer, its CRC right.
fn sequenced(producer_id: i64, epoch: i16, sequence: i32, count: i32) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch, builder.base_sequence) = (producer_id, epoch, sequence);
    for _ in 0..count {
        builder.append(wait::wall_clock_ms(), Some(b"k"), Some(b"v"), &[]);
    }
    builder.build()
}

fn one(timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(timestamp, key, value, &[]);
    builder.build()
}

fn marked(change: impl Fn(&mut RecordBatchBuilder)) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    builder.append(BEGIN_MS, Some(b"key!"), Some(b"v"), &[]);
    change(&mut builder);
    builder.build()
}

fn changed(at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(&batch_at(BEGIN_MS, 3)[..]);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    batch.freeze()
}

/// The same with the CRC made right again.
fn changed_well(at: usize, bytes: &[u8]) -> Bytes {
    with_crc(BytesMut::from(&changed(at, bytes)[..]))
}

/// CRC-32C, bit by bit: small batches only.
fn with_crc(mut batch: BytesMut) -> Bytes {
    let mut crc = u32::MAX;
    for byte in &batch[21..] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    batch[17..21].copy_from_slice(&(!crc).to_be_bytes());
    batch.freeze()
}

/// A message set of the old formats: one message without key.
fn old_format(magic: u8) -> Bytes {
    let mut message = vec![magic, 0];
    if magic == 1 {
        message.extend(BEGIN_MS.to_be_bytes());
    }
    message.extend((-1_i32).to_be_bytes());
    message.extend(1_i32.to_be_bytes());
    message.push(b'v');
    let mut crc = u32::MAX;
    for byte in &message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let mut set = 0_i64.to_be_bytes().to_vec();
    set.extend((message.len() as i32 + 4).to_be_bytes());
    set.extend((!crc).to_be_bytes());
    set.extend(message);
    Bytes::from(set)
}

fn two(a: &Bytes, b: &Bytes) -> Bytes {
    let mut both = BytesMut::from(&a[..]);
    both.extend_from_slice(b);
    both.freeze()
}

pub fn request(side: &Side, version: i16, topic: &str, records: Option<Bytes>) -> ProduceRequest {
    produce(side, version, topic, vec![data(0, records)])
}

/// Kafka answers partitions in no order.
fn in_order(answer: &mut ProduceResponse) {
    answer.responses.iter_mut().for_each(|t| t.partition_responses.sort_by_key(|p| p.index));
}

#[test]
fn produce_whole_requests() {
    let mut table = Table::new();
    table.pair.topic("produce-a", 2, &[]);
    table.pair.topic("produce-twice", 1, &[]);
    let good = || Some(batch_at(BEGIN_MS, 3));
    table.all("acks=all", |side, v| produce(side, v, "produce-a", vec![data(0, good())]));
    table.all("acks=1", |side, v| ProduceRequest { acks: 1, ..produce(side, v, "produce-a", vec![data(0, good())]) });
    for acks in [5, -2, 2, i16::MIN] {
        table.all(&format!("acks={acks}"), |side, v| ProduceRequest {
            acks,
            ..produce(side, v, "produce-a", vec![data(0, good())])
        });
    }
    table.with(
        "two partitions",
        3..=13,
        |side, v| produce(side, v, "produce-a", vec![data(1, good()), data(0, good())]),
        in_order,
    );
    table.with(
        "a partition twice",
        3..=13,
        |side, v| produce(side, v, "produce-twice", vec![data(0, good()), data(0, good())]),
        in_order,
    );
    table.all("an unknown partition", |side, v| produce(side, v, "produce-a", vec![data(7, good())]));
    table.all("a negative partition", |side, v| produce(side, v, "produce-a", vec![data(-1, good())]));
    table.with(
        "a good and an unknown partition",
        3..=13,
        |side, v| produce(side, v, "produce-a", vec![data(0, good()), data(7, good())]),
        in_order,
    );
    table.some("an unknown topic", 3..=12, |side, v| produce(side, v, "produce-none", vec![data(0, good())]));
    table.some("an invalid topic", 3..=12, |side, v| produce(side, v, "a b", vec![data(0, good())]));
    table.some("an unknown topic id", 13..=13, |_, _| ProduceRequest {
        acks: 1,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            topic_id: uuid::Uuid::from_u128(3),
            partition_data: vec![data(0, good())],
            ..Default::default()
        }],
        ..Default::default()
    });
    table.all("no topics", |_, _| ProduceRequest { acks: -1, timeout_ms: 1000, ..Default::default() });
    table.all("no partitions", |side, v| produce(side, v, "produce-a", Vec::new()));
    table.all("a transactional id without a transaction", |side, v| ProduceRequest {
        transactional_id: Some("t".to_owned()),
        ..produce(side, v, "produce-a", vec![data(0, good())])
    });
    table.all("a timeout of 0", |side, v| ProduceRequest {
        timeout_ms: 0,
        acks: 1,
        ..produce(side, v, "produce-a", vec![data(0, good())])
    });
    for (name, partition, batch) in [
        ("good", 0, batch_at(BEGIN_MS, 1)),
        ("refused", 0, changed(30, &[9])),
        ("of an unknown partition", 9, batch_at(BEGIN_MS, 1)),
    ] {
        for version in [3, 9, 13] {
            table.effect(&format!("Produce: acks=0, {name}"), version, |side, connection| {
                let request = ProduceRequest {
                    acks: 0,
                    ..produce(side, version, "produce-a", vec![data(partition, Some(batch.clone()))])
                };
                connection.send(version, &request)?;
                let after = connection.call(0, &ApiVersionsRequest::default())?;
                Ok(format!("the next answer has error {}", after.error_code))
            });
        }
    }
    table.finish();
}

/// [`refusals`] where one side may take what the other refuses, so that the offsets of later cases differ.
fn refusals_alone(answer: &mut ProduceResponse) {
    refusals(answer);
    for part in answer.responses.iter_mut().flat_map(|t| &mut t.partition_responses) {
        part.base_offset = part.base_offset.min(0);
    }
}

#[test]
fn produce_batches() {
    let mut table = Table::new();
    table.pair.topic("batch-a", 1, &[]);
    let good = batch_at(BEGIN_MS, 3);
    let cases = vec![
        ("no records", Some(Bytes::new())),
        ("a flipped bit", Some(changed(80, &[0xff]))),
        ("a wrong CRC", Some(changed(17, &[1, 2, 3, 4]))),
        ("magic 0", Some(old_format(0))),
        ("magic 1", Some(old_format(1))),
        ("magic 3", Some(changed(16, &[3]))),
        ("magic 2 with a negative length", Some(changed(8, &(-1_i32).to_be_bytes()))),
        ("a length longer than the request", Some(changed(8, &1000_i32.to_be_bytes()))),
        ("a length shorter than a header", Some(changed(8, &20_i32.to_be_bytes()))),
        ("a cut batch", Some(good.slice(..good.len() - 1))),
        ("a cut header", Some(good.slice(..40))),
        ("a few bytes", Some(good.slice(..5))),
        ("two batches", Some(two(&good, &good))),
        ("a batch and a cut one", Some(two(&good, &good.slice(..30)))),
        ("an old and a new format", Some(two(&old_format(1), &good))),
        ("a new and an old format", Some(two(&good, &old_format(1)))),
        ("a count that is too large", Some(changed_well(57, &9_i32.to_be_bytes()))),
        ("a count of 0", Some(changed_well(57, &0_i32.to_be_bytes()))),
        ("a negative count", Some(changed_well(57, &(-3_i32).to_be_bytes()))),
        ("a last offset that is too large", Some(changed_well(23, &9_i32.to_be_bytes()))),
        ("a last offset that is too small", Some(changed_well(23, &1_i32.to_be_bytes()))),
        ("a negative last offset", Some(changed_well(23, &(-1_i32).to_be_bytes()))),
        ("a base offset that is not 0", Some(changed(0, &77_i64.to_be_bytes()))),
        ("a leader epoch", Some(changed(12, &5_i32.to_be_bytes()))),
        ("log append time set", Some(changed_well(21, &0x08_i16.to_be_bytes()))),
        ("an unknown codec", Some(changed_well(21, &0x07_i16.to_be_bytes()))),
        ("a codec that it does not have", Some(changed_well(21, &0x04_i16.to_be_bytes()))),
        ("a control batch", Some(marked(|b| b.control = true))),
        ("a transactional batch", Some(marked(|b| b.transactional = true))),
        (
            "a transactional batch of a producer",
            Some(marked(|b| (b.transactional, b.producer_id, b.producer_epoch, b.base_sequence) = (true, 4000, 0, 0))),
        ),
        (
            "a producer without sequence",
            Some(marked(|b| (b.producer_id, b.producer_epoch, b.base_sequence) = (4000, 0, -1))),
        ),
        (
            "a producer without epoch",
            Some(marked(|b| (b.producer_id, b.producer_epoch, b.base_sequence) = (4000, -1, 0))),
        ),
        (
            "no producer but a sequence",
            Some(marked(|b| (b.producer_id, b.producer_epoch, b.base_sequence) = (-1, -1, 5))),
        ),
        ("1.5 MiB", Some(one(BEGIN_MS, None, Some(&vec![7; 1_500_000])))),
        ("a null value", Some(one(BEGIN_MS, None, None))),
        ("a timestamp of -1", Some(one(-1, None, Some(b"v")))),
        ("two hours ahead", Some(one(wait::wall_clock_ms() + 7_200_000, None, Some(b"v")))),
        ("before 1970", Some(one(-5, None, Some(b"v")))),
    ];
    for (name, records) in cases {
        for version in [3, 8, 13] {
            table.with(
                name,
                version..=version,
                |side, v| produce(side, v, "batch-a", vec![data(0, records.clone())]),
                refusals_alone,
            );
        }
    }
    table.finish();
}

/// Of what is refused, the code and the records at fault are compared. Strandline says in words what is wrong where Kafka says
/// nothing, and tells no log start offset, which Kafka tells for some errors and not for others.
fn refusals(answer: &mut ProduceResponse) {
    for part in answer.responses.iter_mut().flat_map(|t| &mut t.partition_responses).filter(|p| p.error_code != 0) {
        part.error_message = None;
        part.log_start_offset = -1;
        // Messages about timestamps tell the clock's value.
        for error in part.record_errors.iter_mut().filter_map(|e| e.batch_index_error_message.as_mut()) {
            if error.starts_with("Timestamp ") {
                *error = "Timestamp out of range".to_owned();
            }
        }
    }
}

#[test]
fn produce_by_topic_settings() {
    let mut table = Table::new();
    table.pair.topic("keyed", 1, &[("cleanup.policy", "compact")]);
    table.pair.topic("stamped", 1, &[("message.timestamp.type", "LogAppendTime")]);
    table.pair.topic(
        "bounded",
        1,
        &[("message.timestamp.before.max.ms", "3600000"), ("message.timestamp.after.max.ms", "1000")],
    );
    table.pair.topic("short", 1, &[("max.message.bytes", "100")]);
    table.pair.topic("gzipped", 1, &[("compression.type", "gzip")]);
    let mut mixed = RecordBatchBuilder::new(Compression::None);
    mixed.append(BEGIN_MS, Some(b"k"), Some(b"v"), &[]);
    mixed.append(BEGIN_MS, None, Some(b"v"), &[]);
    mixed.append(BEGIN_MS, None, Some(b"v"), &[]);
    let mixed = mixed.build();
    let now = wait::wall_clock_ms();
    let cases = vec![
        ("a key where keys are needed", "keyed", one(BEGIN_MS, Some(b"k"), Some(b"v"))),
        ("no key where keys are needed", "keyed", one(BEGIN_MS, None, Some(b"v"))),
        ("an empty key where keys are needed", "keyed", one(BEGIN_MS, Some(b""), Some(b"v"))),
        ("some keys where keys are needed", "keyed", mixed),
        ("log append time", "stamped", batch_at(BEGIN_MS, 2)),
        ("too old", "bounded", batch_at(now - 7_200_000, 3)),
        ("too new", "bounded", batch_at(now + 7_200_000, 3)),
        ("in time", "bounded", batch_at(now - 60_000, 3)),
        ("without timestamp where they are bounded", "bounded", one(-1, None, Some(b"v"))),
        ("too large", "short", one(BEGIN_MS, None, Some(&[1; 200]))),
        ("a small and a large", "short", two(&one(BEGIN_MS, None, Some(b"v")), &one(BEGIN_MS, None, Some(&[1; 200])))),
        ("small enough", "short", one(BEGIN_MS, None, Some(b"v"))),
    ];
    for (name, topic, batch) in cases {
        for version in [3, 8, 13] {
            table.with(
                name,
                version..=version,
                |side, v| produce(side, v, topic, vec![data(0, Some(batch.clone()))]),
                refusals,
            );
        }
    }
    table.finish();
}

pub fn describe(topics: &[(&str, &[i32])]) -> DescribeProducersRequest {
    let topic = |(name, partitions): &(&str, &[i32])| TopicRequest {
        name: (*name).to_owned(),
        partition_indexes: partitions.to_vec(),
    };
    DescribeProducersRequest { topics: topics.iter().map(topic).collect() }
}

#[test]
fn producers() {
    let mut table = Table::new();
    table.pair.topic("sequence", 3, &[]);
    let cases: Vec<(&str, i32, Bytes)> = vec![
        ("a first sequence that is not 0", 1, sequenced(700, 0, 5, 1)),
        ("a first sequence", 0, sequenced(700, 0, 0, 3)),
        ("the same again", 0, sequenced(700, 0, 0, 3)),
        ("the next", 0, sequenced(700, 0, 3, 2)),
        ("the one before again", 0, sequenced(700, 0, 0, 3)),
        ("a part of one again", 0, sequenced(700, 0, 1, 2)),
        ("a gap", 0, sequenced(700, 0, 9, 1)),
        ("an older epoch", 0, sequenced(700, -1, 0, 1)),
        ("a new epoch that does not begin at 0", 0, sequenced(700, 2, 4, 1)),
        ("a new epoch", 0, sequenced(700, 2, 0, 1)),
        ("the old epoch", 0, sequenced(700, 1, 0, 1)),
        ("two batches of a producer", 0, two(&sequenced(700, 2, 1, 1), &sequenced(700, 2, 2, 1))),
        ("two producers", 0, two(&sequenced(701, 0, 0, 1), &sequenced(702, 0, 0, 1))),
        ("a sequence behind the last", 2, sequenced(703, 0, i32::MAX, 1)),
    ];
    for (name, partition, batch) in &cases {
        table.with(
            &format!("producer: {name}"),
            9..=9,
            |side, v| produce(side, v, "sequence", vec![data(*partition, Some(batch.clone()))]),
            refusals,
        );
    }
    table.with(
        "of a partition with producers",
        0..=0,
        |_, _| describe(&[("sequence", &[0])]),
        |answer| {
            for producers in answer.topics.iter_mut().flat_map(|t| &mut t.partitions).map(|p| &mut p.active_producers) {
                producers.sort_by_key(|p| p.producer_id);
                producers.iter_mut().for_each(|p| p.last_timestamp = p.last_timestamp.min(1));
            }
        },
    );
    table.all("of partitions that are not", |_, _| describe(&[("sequence", &[1, 9, -1]), ("producers-none", &[0])]));
    table.all("of an invalid topic", |_, _| describe(&[("a b", &[0])]));
    table.all("of nothing", |_, _| describe(&[]));
    table.all("of no partitions", |_, _| describe(&[("sequence", &[])]));
    table.finish();
}

pub fn init(id: Option<&str>, timeout: i32) -> InitProducerIdRequest {
    InitProducerIdRequest {
        transactional_id: id.map(str::to_owned),
        transaction_timeout_ms: timeout,
        ..Default::default()
    }
}

#[test]
fn init_producer_id() {
    let mut table = Table::new();
    let anonymous = |answer: &mut strandline_protocol::messages::init_producer_id_response::InitProducerIdResponse| {
        answer.producer_id = answer.producer_id.min(0);
    };
    table.with("without transactions", 0..=5, |_, _| init(None, i32::MAX), anonymous);
    table.with("with a timeout of 0", 0..=5, |_, _| init(None, 0), anonymous);
    table.with("with a negative timeout", 0..=5, |_, _| init(None, -1), anonymous);
    table.with("an empty transactional id", 0..=5, |_, _| init(Some(""), 1000), anonymous);
    table.with(
        "a producer id",
        3..=5,
        |_, _| InitProducerIdRequest { producer_id: 5, producer_epoch: 0, ..init(None, 1000) },
        anonymous,
    );
    table.with(
        "a producer id without epoch",
        3..=5,
        |_, _| InitProducerIdRequest { producer_id: 5, ..init(None, 1000) },
        anonymous,
    );
    table.with(
        "an epoch without producer id",
        3..=5,
        |_, _| InitProducerIdRequest { producer_epoch: 5, ..init(None, 1000) },
        anonymous,
    );
    table.finish();
}
