//! The controller: the product's decisions over one committed list of records. Consensus itself is not simulated here.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_controller::ImageUpdate;
use strandline_controller::decide::{Decision, Defaults, decide};
use strandline_controller::image::MetadataImage;
use strandline_controller::record::{MetadataRecord, PartitionRecord};
use strandline_controller::request::{Request, Response};
use strandline_protocol::ids::{BrokerEpoch, BrokerId, TopicPartition};
use strandline_protocol::remote_pointer::RemotePointer;

/// The committed log and what it replays to.
pub struct Controller {
    pub image: Arc<MetadataImage>,
    /// Entry n has index n + 1.
    pub log: Vec<ImageUpdate>,
    defaults: Defaults,
    beats: BTreeMap<BrokerId, (BrokerEpoch, i64)>,
    /// Nobody is judged by silence before this time plus a session.
    led_since_ms: i64,
    /// Answers nothing before this time.
    pub away_until_ms: i64,
}

impl Controller {
    pub fn new(defaults: Defaults) -> Self {
        Controller {
            image: Arc::default(),
            log: Vec::new(),
            defaults,
            beats: BTreeMap::new(),
            led_since_ms: 0,
            away_until_ms: 0,
        }
    }

    /// Decides, commits and answers.
    pub fn handle(&mut self, request: &Request, now_ms: i64) -> Response {
        if let Request::Heartbeat(beat) = request {
            self.beats.insert(beat.broker_id, (beat.broker_epoch, now_ms));
        }
        let Decision { records, response } = decide(&self.image, &self.defaults, request, now_ms);
        let (index, outcomes) = self.commit(records);
        match response {
            Response::RegisterBroker(Ok(-1)) => Response::RegisterBroker(Ok(index as i64)),
            Response::Advance(_) => Response::Advance(outcomes),
            other => other,
        }
    }

    fn commit(
        &mut self,
        records: Vec<MetadataRecord>,
    ) -> (u64, Vec<strandline_protocol::remote_pointer::AdvanceOutcome>) {
        if records.is_empty() {
            return (self.image.index, Vec::new());
        }
        let mut image = MetadataImage::clone(&self.image);
        let index = image.index + 1;
        let outcomes = records.iter().filter_map(|record| image.replay(record, index)).collect();
        image.index = index;
        self.image = Arc::new(image);
        self.log.push(ImageUpdate { image: Arc::clone(&self.image), records: Arc::new(records) });
        (index, outcomes)
    }

    /// Another controller takes over: what it heard of brokers is forgotten.
    pub fn fail_over(&mut self, until_ms: i64) {
        self.away_until_ms = until_ms;
        self.led_since_ms = until_ms;
    }

    /// Brokers that were not heard of for a session.
    pub fn silent(&self, now_ms: i64, session_ms: i64) -> Vec<(BrokerId, BrokerEpoch)> {
        let heard = |id: BrokerId, epoch: BrokerEpoch| {
            self.beats.get(&id).filter(|(of, _)| *of == epoch).map_or(self.led_since_ms, |(_, at)| *at)
        };
        let unfenced = self.image.brokers.values().filter(|b| !b.fenced);
        unfenced
            .filter(|b| now_ms - heard(b.broker_id, b.broker_epoch).max(self.led_since_ms) > session_ms)
            .map(|b| (b.broker_id, b.broker_epoch))
            .collect()
    }

    pub fn record(&self, tp: TopicPartition) -> Option<&PartitionRecord> {
        self.image.partitions.get(&tp).map(|p| &p.record)
    }

    pub fn pointer(&self, tp: TopicPartition) -> RemotePointer {
        self.image.partitions.get(&tp).map(|p| p.pointer).unwrap_or_default()
    }
}
