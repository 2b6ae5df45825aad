//! Every client writes with every codec, and every client reads what every client has written, byte for byte.

use strandline_tests::clients::{CODECS, Client};
use strandline_tests::random::Random;
use strandline_tests::records::{self, Blind, Content, Expected, Record};

use crate::target::{Mode, in_both_modes};

in_both_modes!(kcat, console, confluent, kafka_python, aiokafka, franz, large_records, idempotent_producers);

/// Text records of up to 16 KiB by one codec: above 1 MiB, so that an uncompressed run alone fills a segment.
const TEXTS: usize = 600;
const TEXT_LARGEST: usize = 16 << 10;
/// Binary records of up to 64 KiB by one codec.
const BINARIES: usize = 240;
const BINARY_LARGEST: usize = 64 << 10;
const PARTITIONS: i32 = 2;

fn kcat(mode: Mode) {
    texts_are_read_by_all(mode, Client::Kcat);
}

fn console(mode: Mode) {
    texts_are_read_by_all(mode, Client::Console);
}

fn confluent(mode: Mode) {
    bytes_are_read_by_all(mode, Client::Confluent);
}

fn kafka_python(mode: Mode) {
    bytes_are_read_by_all(mode, Client::KafkaPython);
}

fn aiokafka(mode: Mode) {
    bytes_are_read_by_all(mode, Client::AioKafka);
}

fn franz(mode: Mode) {
    bytes_are_read_by_all(mode, Client::Franz);
}

fn texts_are_read_by_all(mode: Mode, writer: Client) {
    let broker = mode.broker();
    let topic = mode.topic(broker, &format!("texts-{writer:?}"), 1, false);
    let mut expected = Expected::new();
    for (seed, codec) in CODECS.into_iter().enumerate() {
        let records = records::generate(seed as u64, TEXTS, Content::Text, TEXT_LARGEST);
        let written = writer.write_text(&broker.bootstrap(), &topic, codec, &records);
        records::expect(&mut expected, &written, 1);
    }
    mode.settle(broker, &topic, 1);
    for reader in [Client::Kcat, Client::Console].into_iter().chain(Client::BINARY) {
        let seen = reader.read(&broker.bootstrap(), &topic, 1, records::total(&expected));
        records::check(&format!("{reader:?} reading {writer:?}"), &expected, seen, Blind::default());
    }
}

fn bytes_are_read_by_all(mode: Mode, writer: Client) {
    let broker = mode.broker();
    let topic = mode.topic(broker, &format!("bytes-{writer:?}"), PARTITIONS, false);
    let mut expected = Expected::new();
    for (seed, codec) in CODECS.into_iter().enumerate() {
        let records = writer.writable(records::generate(100 + seed as u64, BINARIES, Content::Binary, BINARY_LARGEST));
        let told = writer.write(&broker.bootstrap(), &topic, codec, &records, PARTITIONS, false);
        let before = expected.get(&0).map_or(0, Vec::len) as i64;
        let wanted: Vec<i64> = (0..BINARIES as i64).map(|n| before + n / i64::from(PARTITIONS)).collect();
        assert_eq!(told, wanted, "{writer:?} was told the offsets");
        records::expect(&mut expected, &records, PARTITIONS);
    }
    mode.settle(broker, &topic, PARTITIONS);
    for reader in Client::BINARY {
        let seen = reader.read(&broker.bootstrap(), &topic, PARTITIONS, records::total(&expected));
        records::check(&format!("{reader:?} reading {writer:?}"), &expected, seen, Blind::default());
    }
}

/// Records of 1 MiB to 8 MiB, in segments of 16 MiB.
fn large_records(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "large", 1, true);
    let mut expected = Expected::new();
    let runs = [
        (Client::Confluent, "none"),
        (Client::Confluent, "zstd"),
        (Client::KafkaPython, "gzip"),
        (Client::AioKafka, "snappy"),
        (Client::Franz, "lz4"),
        (Client::Franz, "none"),
    ];
    for (seed, (writer, codec)) in runs.into_iter().enumerate() {
        let mut random = Random::new(seed as u64);
        let records: Vec<Record> = [1 << 20, 1, 5 << 19, 8 << 20]
            .into_iter()
            .map(|size: usize| {
                let mut value = vec![0; size];
                random.fill(&mut value);
                let headers = vec![("size".to_owned(), Some(size.to_string().into_bytes()))];
                Record { timestamp: Some(1_704_067_200_000), key: Some(vec![0, 255]), value: Some(value), headers }
            })
            .collect();
        writer.write(&broker.bootstrap(), &topic, codec, &records, 1, false);
        records::expect(&mut expected, &records, 1);
    }
    mode.settle(broker, &topic, 1);
    for reader in Client::BINARY {
        let seen = reader.read(&broker.bootstrap(), &topic, 1, records::total(&expected));
        records::check(&format!("{reader:?} reading large records"), &expected, seen, Blind::default());
    }
}

fn idempotent_producers(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "idempotent", PARTITIONS, false);
    let mut expected = Expected::new();
    for (seed, writer) in Client::BINARY.into_iter().enumerate() {
        let records = writer.writable(records::generate(200 + seed as u64, BINARIES, Content::Binary, BINARY_LARGEST));
        writer.write(&broker.bootstrap(), &topic, "none", &records, PARTITIONS, true);
        records::expect(&mut expected, &records, PARTITIONS);
    }
    mode.settle(broker, &topic, PARTITIONS);
    let seen = Client::Confluent.read(&broker.bootstrap(), &topic, PARTITIONS, records::total(&expected));
    records::check("idempotent producers", &expected, seen, Blind::default());
}
