//! The two brokers, started once for all tests of this binary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::wire::Connection;
use uuid::Uuid;

/// The newest version of Metadata that takes names.
const METADATA: i16 = 12;
/// 2024-01-01 in ms: records of the cases have this timestamp and later.
pub const BEGIN_MS: i64 = 1_704_067_200_000;

/// One of the two brokers, as a case sees it.
#[derive(Debug)]
pub struct Side {
    pub software: Software,
    pub address: SocketAddr,
    cluster_id: String,
    /// Ids of topics that the cases made, by name.
    ids: Mutex<BTreeMap<String, Uuid>>,
    /// Held so that it lives as long as the process.
    broker: Mutex<Broker>,
}

impl Side {
    fn start(software: Software) -> Self {
        let setup = Setup::default()
            .set("auto.create.topics.enable", "true")
            .set("num.partitions", "2")
            // Records of the cases are old.
            .set("log.retention.ms", "-1")
            .set("group.min.session.timeout.ms", "1000");
        let broker = Broker::start(software, setup);
        let none = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        let answer = broker.connection().call(METADATA, &none).unwrap_or_else(|e| panic!("Metadata: {}", e.0));
        let cluster_id = answer.cluster_id.expect("a cluster has an id");
        Side { software, address: broker.address, cluster_id, ids: Mutex::default(), broker: Mutex::new(broker) }
    }

    pub fn connection(&self) -> Connection {
        Connection::open(self.address).unwrap_or_else(|e| panic!("{:?} takes connections: {}", self.software, e.0))
    }

    pub fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> MutexGuard<'_, BTreeMap<String, Uuid>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a topic that [`Pair::topic`] made.
    pub fn id(&self, topic: &str) -> Uuid {
        *self.ids().get(topic).unwrap_or_else(|| panic!("{topic} was made by the test"))
    }

    /// `text` with what is this broker's own replaced by what it stands for.
    pub fn neutral(&self, text: &str) -> String {
        let mut text = text.replace(&format!("port: {}", self.address.port()), "port: <port>");
        text = text.replace(&self.cluster_id, "<cluster id>");
        for (name, id) in &*self.ids() {
            text = text.replace(&id.to_string(), &format!("<id of {name}>"));
        }
        text
    }

    /// Notes the id of a topic.
    pub fn learn(&self, topic: &str) {
        let wanted = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![wanted]), ..Default::default() };
        let answer = self.connection().call(METADATA, &request).unwrap_or_else(|e| panic!("Metadata: {}", e.0));
        self.ids().insert(topic.to_owned(), answer.topics[0].topic_id);
    }
}

/// Kafka and Strandline.
#[derive(Debug)]
pub struct Pair {
    pub kafka: Side,
    pub strandline: Side,
}

impl Pair {
    /// The pair of this process; the first call starts both.
    pub fn get() -> &'static Pair {
        static PAIR: OnceLock<Pair> = OnceLock::new();
        PAIR.get_or_init(|| Pair { kafka: Side::start(Software::Kafka), strandline: Side::start(Software::Strandline) })
    }

    pub fn sides(&self) -> [&Side; 2] {
        [&self.kafka, &self.strandline]
    }

    /// Makes the same topic on both.
    pub fn topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        for side in self.sides() {
            let made = side.connection().create_topic(name, partitions, configs);
            assert_eq!(made, Ok(()), "{:?} makes {name}", side.software);
            side.learn(name);
        }
    }

    /// Appends the same batches to both.
    pub fn produce(&self, topic: &str, partition: i32, batches: &[Bytes]) {
        for side in self.sides() {
            let mut connection = side.connection();
            for batch in batches {
                let answer = connection.produce(topic, partition, batch.clone());
                let answer = answer.unwrap_or_else(|e| panic!("{:?}: produce: {}", side.software, e.0));
                assert_eq!(answer.error_code, 0, "{:?}: {:?}", side.software, answer.error_message);
            }
        }
    }
}

/// A batch of `count` records with keys, timestamps from `timestamp` on, 10 ms apart.
pub fn batch_at(timestamp: i64, count: i32) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in 0..count {
        builder.append(timestamp + 10 * i64::from(n), Some(&n.to_be_bytes()), Some(b"value"), &[]);
    }
    builder.build()
}
