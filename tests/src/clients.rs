//! The clients of the zoo: how each is told to write records and to read a topic from offset 0.

use std::time::Duration;

use crate::process::{self, Program, Running};
use crate::records::{self, Blob, Record, Seen};
use crate::{place, tools};

/// How long one client may write or read one topic.
const CLIENT: Duration = Duration::from_secs(180);

/// The codecs that every client knows.
pub const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// kcat: librdkafka 2.0.
    Kcat,
    /// Kafka's console producer and consumer: the Java client.
    Console,
    /// confluent-kafka: a newer librdkafka, under Python.
    Confluent,
    /// kafka-python: pure Python.
    KafkaPython,
    /// aiokafka: Python, asyncio.
    AioKafka,
    /// franz-go: pure Go.
    Franz,
}

impl Client {
    /// The clients that take any bytes.
    pub const BINARY: [Client; 4] = [Client::Confluent, Client::KafkaPython, Client::AioKafka, Client::Franz];

    /// Records as this client can write them: kafka-python refuses null header values.
    pub fn writable(self, mut records: Vec<Record>) -> Vec<Record> {
        if self == Client::KafkaPython {
            for (_, value) in records.iter_mut().flat_map(|record| &mut record.headers) {
                value.get_or_insert_default();
            }
        }
        records
    }

    /// One of the programs under `tests/clients`, which all take the same commands.
    fn program(self, command: &str, options: &[(&str, &str)]) -> Program {
        let python = |library: &str| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/client.py");
            Program::new(place::installed("python/bin/python")).args([script, library])
        };
        let program = match self {
            Client::Confluent => python("confluent-kafka"),
            Client::KafkaPython => python("kafka-python"),
            Client::AioKafka => python("aiokafka"),
            Client::Franz => Program::new(place::installed("bin/franz")),
            Client::Kcat | Client::Console => panic!("{self:?} has a command line of its own"),
        };
        program.args([command]).args(options.iter().map(|(k, v)| format!("{k}={v}")))
    }

    /// Writes records, spread over partitions in turn; the offsets it was told, in the order of the records.
    ///
    /// For the clients of [`Client::BINARY`].
    pub fn write(
        self,
        bootstrap: &str,
        topic: &str,
        codec: &str,
        records: &[Record],
        partitions: i32,
        idempotent: bool,
    ) -> Vec<i64> {
        let idempotence = if idempotent { "true" } else { "false" };
        let largest = records.iter().filter_map(|r| r.value.as_ref().map(Vec::len)).max().unwrap_or(0);
        let large = if largest > 900_000 { "true" } else { "false" };
        let options = [
            ("bootstrap", bootstrap),
            ("topic", topic),
            ("codec", codec),
            ("idempotence", idempotence),
            ("large", large),
        ];
        let program = self.program("produce", &options);
        let out = process::run_well(&program, records::to_lines(records, partitions).as_bytes(), CLIENT);
        let text = String::from_utf8(out).expect("places are text");
        let offsets: Vec<i64> = text
            .lines()
            .map(|l| l.split(' ').nth(1).and_then(|o| o.parse().ok()).expect("partition and offset"))
            .collect();
        assert_eq!(offsets.len(), records.len(), "{self:?} was told the place of each record");
        offsets
    }

    /// Writes text records to the only partition of a topic; what it wrote, as its command line can say it.
    pub fn write_text(self, bootstrap: &str, topic: &str, codec: &str, records: &[Record]) -> Vec<Record> {
        match self {
            Client::Kcat => write_by_kcat(bootstrap, topic, codec, records),
            Client::Console => write_by_console(bootstrap, topic, codec, records),
            _ => {
                self.write(bootstrap, topic, codec, records, 1, false);
                records.to_vec()
            }
        }
    }

    /// Reads `count` records, from offset 0 of every partition.
    pub fn read(self, bootstrap: &str, topic: &str, partitions: i32, count: usize) -> Vec<Seen> {
        match self {
            Client::Kcat => read_by_kcat(bootstrap, topic, count),
            Client::Console => read_by_console(bootstrap, topic, count),
            _ => {
                let (partitions, count) = (partitions.to_string(), count.to_string());
                let options =
                    [("bootstrap", bootstrap), ("topic", topic), ("partitions", &partitions), ("count", &count)];
                let out = process::run_well(&self.program("consume", &options), b"", CLIENT);
                records::from_lines(&String::from_utf8(out).expect("hex is text"))
            }
        }
    }

    /// Joins a group; its lines are the records it got, `committed <partition> <next offset>` and `assigned <partitions>`.
    pub fn join(self, bootstrap: &str, topic: &str, group: &str) -> Running {
        Running::start(&self.program("member", &[("bootstrap", bootstrap), ("topic", topic), ("group", group)]))
    }
}

const KCAT: &str = "kcat";

/// kcat sends all records of a run with the same headers, and cannot set timestamps: one run for each set of headers.
fn write_by_kcat(bootstrap: &str, topic: &str, codec: &str, records: &[Record]) -> Vec<Record> {
    let mut written = Vec::new();
    for (n, part) in records.chunks(records.len().div_ceil(2)).enumerate() {
        let headers = [("run".to_owned(), Some(n.to_string().into_bytes()))];
        let mut input = Vec::new();
        for record in part {
            input.extend_from_slice(record.key.as_deref().unwrap_or_default());
            input.push(b'\t');
            input.extend_from_slice(record.value.as_deref().unwrap_or_default());
            input.push(b'\n');
            written.push(Record { timestamp: None, headers: headers.to_vec(), ..record.clone() });
        }
        let header = format!("run={n}");
        let program = Program::new(KCAT)
            .args(["-P", "-q", "-b", bootstrap, "-t", topic, "-p", "0", "-z", codec, "-K", "\t", "-Z", "-H", &header])
            .args(["-X", "acks=all"]);
        process::run_well(&program, &input, CLIENT);
    }
    written
}

/// The format has lengths, so that any bytes can be read back; header values are shown as text.
fn read_by_kcat(bootstrap: &str, topic: &str, count: usize) -> Vec<Seen> {
    let count = count.to_string();
    let program = Program::new(KCAT)
        .args(["-C", "-q", "-e", "-b", bootstrap, "-t", topic, "-o", "beginning", "-c", &count])
        .args(["-X", "fetch.message.max.bytes=12582912", "-X", "check.crcs=true"])
        .args(["-f", "%p %o %T %K %S %h\\n%k%s\\n"]);
    let out = process::run_well(&program, b"", CLIENT);
    let mut rest = &out[..];
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').expect("a line");
        let line = std::str::from_utf8(&rest[..end]).expect("text");
        rest = &rest[end + 1..];
        let fields: Vec<&str> = line.splitn(6, ' ').collect();
        let mut take = |field: &str| -> Blob {
            let length = usize::try_from(field.parse::<i64>().expect("a length")).ok()?;
            let (blob, after) = rest.split_at(length);
            rest = after;
            Some(blob.to_vec())
        };
        let (key, value) = (take(fields[3]), take(fields[4]));
        assert_eq!(rest.first(), Some(&b'\n'), "kcat's lengths are right");
        rest = &rest[1..];
        seen.push(Seen {
            partition: fields[0].parse().expect("a partition"),
            offset: fields[1].parse().expect("an offset"),
            record: Record { timestamp: fields[2].parse().ok(), key, value, headers: shown_headers(fields[5], '=') },
        });
    }
    seen
}

fn shown_headers(text: &str, separator: char) -> Vec<(String, Blob)> {
    text.split(',')
        .filter(|header| !header.is_empty())
        .map(|header| {
            let (name, value) = header.split_once(separator).expect("name and value");
            (name.to_owned(), (value != "NULL").then(|| value.as_bytes().to_vec()))
        })
        .collect()
}

fn shown(blob: &Blob) -> &str {
    blob.as_ref().map_or("NULL", |bytes| std::str::from_utf8(bytes).expect("the console takes text"))
}

fn write_by_console(bootstrap: &str, topic: &str, codec: &str, records: &[Record]) -> Vec<Record> {
    let mut input = String::new();
    for record in records {
        let headers: Vec<String> = record.headers.iter().map(|(n, v)| format!("{n}:{}", shown(v))).collect();
        let headers = if headers.is_empty() { "NULL".to_owned() } else { headers.join(",") };
        input += &format!("{headers}\t{}\t{}\n", shown(&record.key), shown(&record.value));
    }
    let arguments = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        topic,
        "--compression-codec",
        codec,
        "--request-required-acks",
        "all",
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "parse.headers=true",
        "--reader-property",
        "null.marker=NULL",
    ];
    tools::run_on(tools::CONSOLE_PRODUCER, &arguments, input.as_bytes());
    records.iter().map(|record| Record { timestamp: None, ..record.clone() }).collect()
}

fn read_by_console(bootstrap: &str, topic: &str, count: usize) -> Vec<Seen> {
    let count = count.to_string();
    let mut arguments =
        vec!["--bootstrap-server", bootstrap, "--topic", topic, "--from-beginning", "--max-messages", &count];
    arguments.extend(["--timeout-ms", "60000"]);
    for property in
        ["print.key=true", "print.timestamp=true", "print.partition=true", "print.offset=true", "print.headers=true"]
    {
        arguments.extend(["--formatter-property", property]);
    }
    arguments.extend(["--formatter-property", "null.literal=NULL"]);
    let out = tools::run(tools::CONSOLE_CONSUMER, &arguments);
    let nullable = |text: &str| (text != "NULL").then(|| text.as_bytes().to_vec());
    out.lines()
        .filter(|line| line.contains("\tOffset:"))
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let number =
                |field: &str| field.split_once(':').and_then(|(_, n)| n.parse::<i64>().ok()).expect("name:number");
            let headers = if fields[3] == "NO_HEADERS" { Vec::new() } else { shown_headers(fields[3], ':') };
            Seen {
                partition: i32::try_from(number(fields[1])).expect("a partition"),
                offset: number(fields[2]),
                record: Record {
                    timestamp: Some(number(fields[0])),
                    key: nullable(fields[4]),
                    value: nullable(fields[5]),
                    headers,
                },
            }
        })
        .collect()
}
