//! Counters of a node, and the page that Prometheus reads, under the names of Kafka's JMX exporter (docs/OPERATIONS.md).
//!
//! Owns counters by topic and by request. Everything else is read from its owner when the page is asked for, so that an
//! idle partition costs nothing.

mod cluster;
mod latency;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use strandline_controller::NodeId;
use strandline_log::config::NO_LIMIT;
use strandline_protocol::api::ApiKey;

use crate::broker::Broker;
use crate::clock;
use crate::metrics::latency::{Latency, QUANTILES, Summary};
use crate::partition::Partition;

/// API keys that are counted: all below.
const REQUEST_KINDS: usize = 128;

/// Counters of one topic.
#[derive(Debug, Default)]
pub struct TopicCounters {
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    replication_in: AtomicU64,
    replication_out: AtomicU64,
    reassignment_in: AtomicU64,
    reassignment_out: AtomicU64,
}

/// Counters of a node.
#[derive(Debug)]
pub struct Metrics {
    pub connections: AtomicI64,
    topics: ArcSwap<imbl::HashMap<Arc<str>, Arc<TopicCounters>>>,
    /// By API key.
    requests: [AtomicU64; REQUEST_KINDS],
    /// From the last byte of a request to the last byte of its answer, by API key.
    request_times: Box<[Latency]>,
    remote_read_times: Latency,
    failed_produce: AtomicU64,
    failed_fetch: AtomicU64,
    pages: Pages,
}

/// What makes the page of something else that runs in this process.
type OtherPage = Box<dyn Fn() -> Box<dyn Collector> + Send + Sync>;

/// Pages of others.
#[derive(Default)]
struct Pages(parking_lot::Mutex<Vec<OtherPage>>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            connections: AtomicI64::new(0),
            topics: ArcSwap::default(),
            requests: [const { AtomicU64::new(0) }; REQUEST_KINDS],
            request_times: std::iter::repeat_with(Latency::new).take(REQUEST_KINDS).collect(),
            remote_read_times: Latency::new(),
            failed_produce: AtomicU64::new(0),
            failed_fetch: AtomicU64::new(0),
            pages: Pages::default(),
        }
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Metrics {
    /// Adds the page of something else that runs in this process: of the worker in `strandline dev`.
    pub fn add_page(&self, page: OtherPage) {
        self.pages.0.lock().push(page);
    }

    /// Counts a request.
    pub fn request(&self, api: ApiKey) {
        if let Some(counter) = usize::try_from(api.code()).ok().and_then(|code| self.requests.get(code)) {
            add(counter, 1);
        }
    }

    /// A request was answered to the last byte.
    pub fn answered(&self, api_key: i16, took: Duration) {
        if let Some(times) = usize::try_from(api_key).ok().and_then(|code| self.request_times.get(code)) {
            times.add(took);
        }
    }

    /// A read of the tier has ended, well or not.
    pub fn remote_read(&self, took: Duration) {
        self.remote_read_times.add(took);
    }

    fn requests_of(&self, api: ApiKey) -> u64 {
        let counter = usize::try_from(api.code()).ok().and_then(|code| self.requests.get(code));
        counter.map_or(0, |c| c.load(Ordering::Relaxed))
    }

    fn topic(&self, name: &Arc<str>) -> Arc<TopicCounters> {
        if let Some(counters) = self.topics.load().get(name) {
            return Arc::clone(counters);
        }
        self.topics.rcu(|topics| {
            let mut topics = imbl::HashMap::clone(topics);
            topics.entry(Arc::clone(name)).or_default();
            topics
        });
        self.topics.load().get(name).cloned().unwrap_or_default()
    }

    pub fn produced(&self, topic: &Arc<str>, bytes: u64, records: u64) {
        let counters = self.topic(topic);
        add(&counters.bytes_in, bytes);
        add(&counters.messages_in, records);
    }

    pub fn fetched(&self, topic: &Arc<str>, bytes: u64) {
        if bytes > 0 {
            add(&self.topic(topic).bytes_out, bytes);
        }
    }

    /// Record bytes that came from a leader; `moving`: to a replica that a reassignment adds.
    pub fn replicated_in(&self, topic: &Arc<str>, bytes: u64, moving: bool) {
        let counters = self.topic(topic);
        add(&counters.replication_in, bytes);
        add(&counters.reassignment_in, if moving { bytes } else { 0 });
    }

    /// Record bytes that were given to a follower; `moving` as above.
    pub fn replicated_out(&self, topic: &Arc<str>, bytes: u64, moving: bool) {
        let counters = self.topic(topic);
        add(&counters.replication_out, bytes);
        add(&counters.reassignment_out, if moving { bytes } else { 0 });
    }

    pub fn failed_produce(&self) {
        add(&self.failed_produce, 1);
    }

    pub fn failed_fetch(&self) {
        add(&self.failed_fetch, 1);
    }
}

/// The whole page. `controller_leader` is the active controller, as far as this node knows.
pub fn exposition(broker: &Arc<Broker>, controller_leader: Option<NodeId>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page { broker: Arc::clone(broker), controller_leader }));
    broker.metrics.pages.0.lock().iter().for_each(|page| registry.register_collector(page()));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

struct Page {
    broker: Arc<Broker>,
    controller_leader: Option<NodeId>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

type Labels = Vec<(&'static str, String)>;

/// One metric with all its label sets.
struct Family<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Family<'_, '_> {
    fn counters(&mut self, name: &str, help: &str, values: &[(Labels, u64)]) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, &[(Vec::new(), value)])
    }

    fn gauges(&mut self, name: &str, help: &str, values: &[(Labels, i64)]) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn floats(&mut self, name: &str, help: &str, values: &[(Labels, f64)]) -> fmt::Result {
        let mut encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    /// Quantiles as gauges, the count beside them: as Kafka's JMX exporter tells a timer.
    fn times(&mut self, name: &str, help: &str, values: &[(Labels, Summary)]) -> fmt::Result {
        let mut quantiles = Vec::with_capacity(values.len() * QUANTILES.len());
        for (labels, summary) in values {
            for ((quantile, _), ms) in QUANTILES.iter().zip(summary.quantiles_ms) {
                let mut labels = labels.clone();
                labels.push(("quantile", (*quantile).to_owned()));
                quantiles.push((labels, ms));
            }
        }
        self.floats(name, help, &quantiles)?;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let counts: Vec<_> = values.iter().map(|(labels, summary)| (labels.clone(), count(summary.count))).collect();
        self.gauges(&format!("{name}_count"), help, &counts)
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.gauges(name, help, &[(Vec::new(), value)])
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let broker = &self.broker;
        let mut page = Family { encoder: &mut encoder };
        topics(broker, &mut page)?;
        requests(broker, &mut page)?;
        node(broker, &mut page)?;
        cluster::page(broker, self.controller_leader, &mut page)?;
        partitions(broker, &mut page)?;
        tier(broker, &mut page)?;
        groups(broker, &mut page)
    }
}

fn topic_label(topic: &str) -> Labels {
    vec![("topic", topic.to_owned())]
}

fn topics(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let topics = broker.metrics.topics.load();
    let mut sorted: Vec<_> = topics.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(b.0));
    let of = |value: fn(&TopicCounters) -> &AtomicU64| -> Vec<(Labels, u64)> {
        sorted.iter().map(|(name, c)| (topic_label(name), value(c).load(Ordering::Relaxed))).collect()
    };
    let prefix = "kafka_server_brokertopicmetrics";
    page.counters(&format!("{prefix}_messagesin"), "Records appended", &of(|c| &c.messages_in))?;
    page.counters(&format!("{prefix}_bytesin"), "Record bytes appended", &of(|c| &c.bytes_in))?;
    page.counters(&format!("{prefix}_bytesout"), "Record bytes sent to consumers", &of(|c| &c.bytes_out))?;
    let help = "Record bytes fetched from leaders";
    page.counters(&format!("{prefix}_replicationbytesin"), help, &of(|c| &c.replication_in))?;
    let help = "Record bytes given to followers";
    page.counters(&format!("{prefix}_replicationbytesout"), help, &of(|c| &c.replication_out))?;
    let help = "Of those fetched, bytes for replicas that a reassignment adds";
    page.counters(&format!("{prefix}_reassignmentbytesin"), help, &of(|c| &c.reassignment_in))?;
    let help = "Of those given, bytes for replicas that a reassignment adds";
    page.counters(&format!("{prefix}_reassignmentbytesout"), help, &of(|c| &c.reassignment_out))
}

fn requests(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let m = &broker.metrics;
    let prefix = "kafka_server_brokertopicmetrics";
    page.counter(&format!("{prefix}_totalproducerequests"), "Produce requests", m.requests_of(ApiKey::Produce))?;
    page.counter(&format!("{prefix}_totalfetchrequests"), "Fetch requests", m.requests_of(ApiKey::Fetch))?;
    let failed = m.failed_produce.load(Ordering::Relaxed);
    page.counter(
        &format!("{prefix}_failedproducerequests"),
        "Partitions of produce requests that were refused",
        failed,
    )?;
    let failed = m.failed_fetch.load(Ordering::Relaxed);
    page.counter(&format!("{prefix}_failedfetchrequests"), "Partitions of fetch requests that were refused", failed)?;
    let all: Vec<(Labels, u64)> = ApiKey::ALL
        .iter()
        .filter(|api| api.is_served())
        .map(|api| (vec![("request", format!("{api:?}"))], m.requests_of(*api)))
        .collect();
    page.counters("kafka_network_requestmetrics_requests", "Requests by kind", &all)?;
    let now = clock::now_ms();
    let mut times: Vec<(Labels, Summary)> = Vec::new();
    for api in ApiKey::ALL.iter().filter(|api| api.is_served() && m.requests_of(**api) > 0) {
        let Some(latency) = usize::try_from(api.code()).ok().and_then(|code| m.request_times.get(code)) else {
            continue;
        };
        let summary = latency.summary(now);
        // Kafka tells fetches of consumers and of followers apart, and dashboards ask for the former.
        if *api == ApiKey::Fetch {
            times.push((vec![("request", "FetchConsumer".to_owned())], summary.clone()));
        }
        times.push((vec![("request", format!("{api:?}"))], summary));
    }
    let help = "Milliseconds from a request's last byte to its answer's, of the last minutes";
    page.times("kafka_network_requestmetrics_totaltimems", help, &times)
}

fn node(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let hosted = broker.partitions.all();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let offline = hosted.iter().filter(|p| p.dir.is_offline()).count() + (broker.partitions.count() - hosted.len());
    let dirs = broker.partitions.dirs().iter().filter(|d| d.is_offline()).count();
    let connections = broker.metrics.connections.load(Ordering::Relaxed);
    page.gauge("kafka_server_socket_server_metrics_connection_count", "Client connections", connections)?;
    page.gauge(
        "kafka_server_replicamanager_leadercount",
        "Partitions led",
        count(hosted.iter().filter(|p| p.leads()).count()),
    )?;
    page.gauge("kafka_server_replicamanager_partitioncount", "Partitions hosted", count(broker.partitions.count()))?;
    page.gauge(
        "kafka_controller_kafkacontroller_offlinepartitionscount",
        "Partitions that nobody serves",
        count(offline),
    )?;
    page.gauge("kafka_log_logmanager_offlinelogdirectorycount", "Log directories offline", count(dirs))?;
    page.counter(
        "strandline_log_damaged_logs",
        "Logs that were found damaged",
        broker.partitions.losses().damaged_count(),
    )?;
    page.gauge(
        "kafka_server_fetchsessioncache_numincrementalfetchsessions",
        "Fetch sessions",
        count(broker.sessions.count()),
    )?;
    page.gauge(
        "kafka_server_fetchsessioncache_numincrementalfetchpartitionscached",
        "Partitions in fetch sessions",
        count(broker.sessions.partitions()),
    )?;
    if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors", count(fds.count()))?;
    }
    Ok(())
}

fn partition_labels(p: &Partition) -> Labels {
    vec![("topic", p.topic.to_string()), ("partition", p.tp.partition.to_string())]
}

fn partitions(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let mut hosted = broker.partitions.all();
    hosted.sort_by(|a, b| (&a.topic, a.tp.partition).cmp(&(&b.topic, b.tp.partition)));
    let mut columns: [Vec<(Labels, i64)>; 6] = Default::default();
    let mut per_topic: BTreeMap<Arc<str>, i64> = BTreeMap::new();
    for p in &hosted {
        let (offsets, size, segments) = {
            let log = p.log();
            (log.offsets(), log.size_bytes(), log.segment_count())
        };
        let values = [
            i64::try_from(size).unwrap_or(i64::MAX),
            offsets.log_start,
            offsets.log_end,
            i64::try_from(segments).unwrap_or(i64::MAX),
            offsets.high_watermark,
            offsets.local_log_start,
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push((partition_labels(p), value));
        }
        *per_topic.entry(Arc::clone(&p.topic)).or_default() += 1;
    }
    page.gauges("kafka_log_log_size", "Bytes of the local log", &columns[0])?;
    page.gauges("kafka_log_log_logstartoffset", "First offset that can be read, from either tier", &columns[1])?;
    page.gauges("kafka_log_log_logendoffset", "Offset of the next record", &columns[2])?;
    page.gauges("kafka_log_log_numlogsegments", "Local segments", &columns[3])?;
    page.gauges("kafka_topic_partition_current_offset", "Offset up to which consumers can read", &columns[4])?;
    page.gauges("kafka_topic_partition_oldest_offset", "First offset that can be read", &columns[1])?;
    page.gauges("kafka_log_log_locallogstartoffset", "First offset in the local log", &columns[5])?;
    let counts: Vec<_> = per_topic.iter().map(|(topic, n)| (topic_label(topic), *n)).collect();
    page.gauges("kafka_topic_partitions", "Partitions of a topic", &counts)
}

/// What one topic has waiting for the tier.
#[derive(Default)]
struct Lag {
    copy_bytes: i64,
    copy_segments: i64,
    delete_bytes: i64,
    delete_segments: i64,
    remote_bytes: i64,
}

fn lags(broker: &Broker) -> BTreeMap<Arc<str>, Lag> {
    let now = clock::now_ms();
    let mut lags: BTreeMap<Arc<str>, Lag> = BTreeMap::new();
    for p in broker.partitions.all() {
        let config = p.config();
        if !config.remote_storage_enable || p.remote.is_none() {
            continue;
        }
        let pointer = p.pointer();
        let lag = lags.entry(Arc::clone(&p.topic)).or_default();
        lag.remote_bytes += i64::try_from(pointer.remote_bytes).unwrap_or(i64::MAX);
        let from = p.highest_copied().map_or(0, |highest| highest + 1);
        for segment in p.log().segments().iter().filter(|s| !s.active && s.next_offset > from) {
            lag.copy_bytes += i64::try_from(segment.size_bytes).unwrap_or(0);
            lag.copy_segments += 1;
        }
        let expired = config.retention_ms != NO_LIMIT
            && pointer.has_live()
            && pointer.oldest_max_timestamp > 0
            && pointer.oldest_max_timestamp <= now.saturating_sub(config.retention_ms);
        if expired {
            lag.delete_segments += 1;
            lag.delete_bytes += i64::try_from(pointer.remote_bytes).unwrap_or(0);
        }
    }
    lags
}

fn tier(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let Some(tier) = &broker.tier else { return Ok(()) };
    let m = tier.log.metrics();
    let prefix = "kafka_server_brokertopicmetrics_remote";
    for (name, help, counter) in [
        ("copybytes", "Bytes copied to the tier", &m.copy_bytes),
        ("copyrequests", "Segments whose copy was begun", &m.copy_requests),
        ("copyerrors", "Copies that failed", &m.copy_errors),
        ("fetchbytes", "Bytes read from the tier for consumers", &m.fetch_bytes),
        ("fetchrequests", "Remote reads", &m.fetch_requests),
        ("fetcherrors", "Remote reads that failed", &m.fetch_errors),
        ("deleterequests", "Objects whose deletion was asked for", &m.delete_requests),
        ("deleteerrors", "Deletions that failed", &m.delete_errors),
    ] {
        page.counter(&format!("{prefix}{name}"), help, counter.get())?;
    }
    for (name, help, counter) in [
        ("strandline_tier_chunk_cache_hits", "Chunks found in the cache", &m.chunk_hits),
        ("strandline_tier_chunk_cache_misses", "Chunks fetched from the store", &m.chunk_misses),
        ("strandline_tier_chunk_cache_evictions", "Chunk files dropped from the cache", &m.chunks_evicted),
        ("strandline_tier_chunk_cache_releases", "Chunks read and dropped from memory, no file", &m.chunks_released),
        ("strandline_tier_chunk_cache_writes", "Chunks written to files", &m.chunk_files_written),
        ("strandline_tier_store_chunk_bytes", "Chunk bytes that came from the store", &m.store_chunk_bytes),
        ("strandline_tier_store_chunk_gets", "Ranged reads of the store", &m.store_chunk_gets),
        ("strandline_tier_store_calls", "Calls to the store, tries included", &m.store_calls),
        ("strandline_tier_store_retries", "Calls to the store that were tried again", &m.store_retries),
        ("strandline_tier_store_timeouts", "Calls to the store that were not answered in time", &m.store_timeouts),
        ("strandline_tier_corrupt_objects", "Objects whose hash was wrong", &m.corrupt_objects),
        ("strandline_tier_advances_refused", "Moves of a pointer that were refused", &m.advances_refused),
    ] {
        page.counter(name, help, counter.get())?;
    }
    let prefix_readers = "kafka_log_remote_remotestoragethreadpool_remotelogreader";
    let load = tier.log.reader_load();
    let waiting = i64::try_from(load.waiting).unwrap_or(i64::MAX);
    page.gauge(&format!("{prefix_readers}taskqueuesize"), "Chunks asked for that wait for memory", waiting)?;
    let idle = load.free as f64 / load.budget.max(1) as f64;
    page.floats(
        &format!("{prefix_readers}avgidlepercent"),
        "Free part of the memory for chunks asked for, 0 to 1",
        &[(Vec::new(), idle)],
    )?;
    let times = broker.metrics.remote_read_times.summary(clock::now_ms());
    let help = "Milliseconds of reads of the tier, of the last minutes";
    page.times(&format!("{prefix_readers}fetchrateandtimems"), help, &[(Vec::new(), times)])?;
    let cached = i64::try_from(tier.log.chunk_cache_bytes()).unwrap_or(i64::MAX);
    page.gauge("strandline_tier_chunk_cache_bytes", "Bytes of chunk files on local disk", cached)?;
    let lags = lags(broker);
    let of = |value: fn(&Lag) -> i64| -> Vec<(Labels, i64)> {
        lags.iter().map(|(topic, lag)| (topic_label(topic), value(lag))).collect()
    };
    page.gauges(&format!("{prefix}copylagbytes"), "Bytes of closed segments not yet copied", &of(|l| l.copy_bytes))?;
    page.gauges(&format!("{prefix}copylagsegments"), "Closed segments not yet copied", &of(|l| l.copy_segments))?;
    page.gauges(
        &format!("{prefix}deletelagbytes"),
        "Remote bytes of partitions with expired segments",
        &of(|l| l.delete_bytes),
    )?;
    page.gauges(
        &format!("{prefix}deletelagsegments"),
        "Partitions with expired remote segments",
        &of(|l| l.delete_segments),
    )?;
    page.gauges(&format!("{prefix}logsizebytes"), "Live bytes in the tier", &of(|l| l.remote_bytes))
}

fn groups(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let mut members = Vec::new();
    let mut current = Vec::new();
    let mut lag = Vec::new();
    let (mut current_sums, mut lag_sums) = (Vec::new(), Vec::new());
    let image = broker.image();
    for group in broker.groups.snapshot() {
        let label = vec![("consumergroup", group.group_id.clone())];
        members.push((label.clone(), i64::try_from(group.members.len()).unwrap_or(i64::MAX)));
        let committed = group.offsets.iter().flat_map(|(topic, by_partition)| {
            by_partition.iter().map(move |(partition, committed)| (topic, partition, committed.offset))
        });
        let mut sums: BTreeMap<&String, (i64, i64)> = BTreeMap::new();
        for (topic, partition, offset) in committed {
            let sum = sums.entry(topic).or_default();
            sum.0 += offset;
            let mut labels = label.clone();
            labels.push(("topic", topic.clone()));
            labels.push(("partition", partition.to_string()));
            current.push((labels.clone(), offset));
            let hosted = image.topic(topic).and_then(|t| broker.partitions.leading(t.id, *partition).ok());
            if let Some(p) = hosted {
                let behind = (p.offsets().high_watermark - offset).max(0);
                sum.1 += behind;
                lag.push((labels, behind));
            }
        }
        for (topic, (offsets, behind)) in sums {
            let mut labels = label.clone();
            labels.push(("topic", topic.clone()));
            current_sums.push((labels.clone(), offsets));
            lag_sums.push((labels, behind));
        }
    }
    page.gauges("kafka_consumergroup_members", "Members of a group", &members)?;
    page.gauges("kafka_consumergroup_current_offset", "Committed offset of a group", &current)?;
    page.gauges("kafka_consumergroup_lag", "Records that a group has not committed", &lag)?;
    page.gauges("kafka_consumergroup_current_offset_sum", "Committed offsets of a topic, added up", &current_sums)?;
    page.gauges("kafka_consumergroup_lag_sum", "Records of a topic that a group has not committed", &lag_sums)
}
