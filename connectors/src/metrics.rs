//! What a worker counts, by connector and task, under the names that dashboards of Kafka Connect ask for (docs/CONNECTORS.md).
//!
//! Owns the counters of the tasks that run here, and the page. States are read from what the group knows when the page is asked for.
//! A task that is started anew begins at zero, as Kafka Connect's does. Labels are names of connectors, topics and numbers: never settings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::delivery::Delivery;
use crate::sink::{Held, Offsets, TopicPartition};
use crate::worker::Worker;
use crate::worker::records::TaskId;

/// Where one partition is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// Of the broker, when it was last asked.
    high_watermark: Option<i64>,
    committed: Option<i64>,
}

/// Counters of one task.
#[derive(Debug, Default)]
pub struct TaskMetrics {
    records_read: AtomicU64,
    bytes_read: AtomicU64,
    records_sent: AtomicU64,
    commits: AtomicU64,
    retries: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
    dead_lettered: AtomicU64,
    memory_bytes: AtomicU64,
    spool_bytes: AtomicU64,
    open_files: AtomicU64,
    places: Mutex<BTreeMap<TopicPartition, Place>>,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn set(gauge: &AtomicU64, n: u64) {
    gauge.store(n, Ordering::Relaxed);
}

impl TaskMetrics {
    /// Rows came from a broker, or news that there are none.
    pub fn read(&self, partition: &TopicPartition, records: u64, bytes: u64, high_watermark: i64) {
        add(&self.records_read, records);
        add(&self.bytes_read, bytes);
        if let Some(place) = self.places.lock().get_mut(partition) {
            place.high_watermark = Some(high_watermark);
        }
    }

    /// The sink took rows.
    pub fn sent(&self, records: u64) {
        add(&self.records_sent, records);
    }

    /// These partitions are held from now on, and no others.
    pub fn hold(&self, committed: impl Iterator<Item = (TopicPartition, Option<i64>)>) {
        *self.places.lock() = committed.map(|(p, committed)| (p, Place { high_watermark: None, committed })).collect();
    }

    pub fn committed(&self, offsets: &Offsets) {
        add(&self.commits, 1);
        let mut places = self.places.lock();
        for (partition, offset) in offsets {
            if let Some(place) = places.get_mut(partition) {
                place.committed = Some(*offset);
            }
        }
    }

    /// How the task is now; `rows_bytes` wait in front of the sink.
    pub fn observe(&self, core: &Delivery, held: Held, rows_bytes: u64) {
        set(&self.retries, core.retries());
        set(&self.failures, core.failures());
        set(&self.skipped, core.skipped());
        set(&self.dead_lettered, core.dead_lettered());
        set(&self.memory_bytes, held.memory_bytes + rows_bytes);
        set(&self.spool_bytes, held.spool_bytes);
        set(&self.open_files, held.open_files);
    }

    fn lag_max(&self) -> Option<i64> {
        self.places.lock().values().filter_map(Place::lag).max()
    }
}

impl Place {
    /// Records that are not committed yet.
    fn lag(&self) -> Option<i64> {
        Some((self.high_watermark? - self.committed?).max(0))
    }
}

/// Counters of all tasks that run here.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    tasks: Mutex<BTreeMap<TaskId, Arc<TaskMetrics>>>,
    worker: OnceLock<Weak<Worker>>,
}

impl WorkerMetrics {
    /// New counters, in place of those of the run before.
    pub fn begin(&self, id: &TaskId) -> Arc<TaskMetrics> {
        let fresh = Arc::new(TaskMetrics::default());
        self.tasks.lock().insert(id.clone(), Arc::clone(&fresh));
        fresh
    }

    pub fn end(&self, id: &TaskId) {
        self.tasks.lock().remove(id);
    }

    /// Whose states the page tells.
    pub fn belong_to(&self, worker: &Arc<Worker>) {
        // Only the first one counts; there is no second.
        let _ = self.worker.set(Arc::downgrade(worker));
    }

    /// A page for a registry.
    pub fn page(self: &Arc<Self>) -> Box<dyn Collector> {
        Box::new(Page(Arc::clone(self)))
    }
}

#[derive(Debug)]
struct Page(Arc<WorkerMetrics>);

type Labels = Vec<(&'static str, String)>;
type Values = Vec<(Labels, i64)>;

fn gauges(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, values: &Values) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

/// The ending `_total` is added to the name.
fn counters(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, values: &Values) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        ConstCounter::new(value.unsigned_abs()).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn of_task(id: &TaskId) -> Labels {
    vec![("connector", id.connector.clone()), ("task", id.task.to_string())]
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(worker) = self.0.worker.get().and_then(Weak::upgrade) {
            states(&mut encoder, &worker)?;
        }
        let tasks: Vec<(TaskId, Arc<TaskMetrics>)> =
            self.0.tasks.lock().iter().map(|(id, metrics)| (id.clone(), Arc::clone(metrics))).collect();
        counts(&mut encoder, &tasks)?;
        places(&mut encoder, &tasks)
    }
}

type Counted = (&'static str, &'static str, fn(&TaskMetrics) -> &AtomicU64);

fn counts(encoder: &mut DescriptorEncoder<'_>, tasks: &[(TaskId, Arc<TaskMetrics>)]) -> fmt::Result {
    let of = |value: fn(&TaskMetrics) -> &AtomicU64| -> Values {
        tasks.iter().map(|(id, m)| (of_task(id), signed(value(m).load(Ordering::Relaxed)))).collect()
    };
    let grow: [Counted; 4] = [
        ("kafka_connect_sink_task_sink_record_read", "Records read", |m| &m.records_read),
        ("kafka_connect_sink_task_sink_record_send", "Records that the sink has taken", |m| &m.records_sent),
        ("kafka_connect_sink_task_offset_commit_completion", "Commits of offsets", |m| &m.commits),
        ("strandline_connect_task_read_bytes", "Bytes of keys, values and headers read", |m| &m.bytes_read),
    ];
    for (name, help, value) in grow {
        counters(encoder, name, help, &of(value))?;
    }
    // Their names say what they count as Kafka Connect has them, without the ending of a counter.
    let told: [Counted; 7] = [
        ("kafka_connect_task_error_total_record_failures", "Records that could not be delivered", |m| &m.failures),
        ("kafka_connect_task_error_total_records_skipped", "Of those, records that were passed over", |m| &m.skipped),
        ("kafka_connect_task_error_total_retries", "Calls of the sink that were tried again", |m| &m.retries),
        ("kafka_connect_task_error_deadletterqueue_produce_requests", "Records in the dead letter queue", |m| {
            &m.dead_lettered
        }),
        ("strandline_connect_task_memory_bytes", "Rows in memory", |m| &m.memory_bytes),
        ("strandline_connect_task_spool_bytes", "Rows on the worker's disk", |m| &m.spool_bytes),
        ("strandline_connect_task_open_files", "Files of the sink that are not complete", |m| &m.open_files),
    ];
    for (name, help, value) in told {
        gauges(encoder, name, help, &of(value))?;
    }
    let partitions = tasks.iter().map(|(id, m)| (of_task(id), signed(m.places.lock().len() as u64))).collect();
    gauges(encoder, "kafka_connect_sink_task_partition_count", "Partitions held", &partitions)?;
    let lags = tasks.iter().filter_map(|(id, m)| Some((of_task(id), m.lag_max()?))).collect();
    gauges(encoder, "kafka_connect_sink_task_sink_record_lag_max", "The largest lag of a partition", &lags)
}

fn places(encoder: &mut DescriptorEncoder<'_>, tasks: &[(TaskId, Arc<TaskMetrics>)]) -> fmt::Result {
    let (mut committed, mut lags) = (Values::new(), Values::new());
    for (id, metrics) in tasks {
        for (partition, place) in metrics.places.lock().iter() {
            let mut labels = of_task(id);
            labels.extend([("topic", partition.topic.to_string()), ("partition", partition.partition.to_string())]);
            lags.extend(place.lag().map(|lag| (labels.clone(), lag)));
            committed.extend(place.committed.map(|offset| (labels, offset)));
        }
    }
    gauges(encoder, "strandline_connect_task_committed_offset", "The last committed offset", &committed)?;
    gauges(encoder, "strandline_connect_task_lag", "Records that are not committed yet", &lags)
}

/// Connectors and tasks of this worker, and how they are.
fn states(encoder: &mut DescriptorEncoder<'_>, worker: &Worker) -> fmt::Result {
    let me = &worker.identity.worker_id;
    let (connectors, tasks, by_connector) = worker.topics.with(|image| {
        let own = |state: &str, worker_id: &str| worker_id == me && state != "UNASSIGNED";
        let mut connectors = Values::new();
        let mut by_connector: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for (name, status) in image.connector_status.iter().filter(|(_, s)| own(&s.state, &s.worker_id)) {
            let labels = vec![("connector", name.clone()), ("status", status.state.to_ascii_lowercase())];
            connectors.push((labels, 1));
            by_connector.insert(name.clone(), BTreeMap::new());
        }
        let mut tasks = Values::new();
        for (id, status) in &image.task_status {
            if let Some(counts) = by_connector.get_mut(&id.connector) {
                *counts.entry(status.state.to_ascii_lowercase()).or_default() += 1;
            }
            if own(&status.state, &status.worker_id) {
                let mut labels = of_task(id);
                labels.push(("status", status.state.to_ascii_lowercase()));
                tasks.push((labels, 1));
            }
        }
        (connectors, tasks, by_connector)
    });
    let count = |values: &Values| vec![(Labels::new(), signed(values.len() as u64))];
    gauges(encoder, "kafka_connect_worker_connector_count", "Connectors of this worker", &count(&connectors))?;
    gauges(encoder, "kafka_connect_worker_task_count", "Tasks of this worker", &count(&tasks))?;
    gauges(encoder, "kafka_connect_connector_status", "How a connector is", &connectors)?;
    gauges(encoder, "kafka_connect_connector_task_status", "How a task is", &tasks)?;
    for state in ["running", "failed", "paused", "unassigned", "restarting"] {
        let one = |(name, counts): (&String, &BTreeMap<String, i64>)| {
            (vec![("connector", name.clone())], counts.get(state).copied().unwrap_or(0))
        };
        let values = by_connector.iter().map(one).collect();
        let name = format!("kafka_connect_worker_connector_{state}_task_count");
        gauges(encoder, &name, "Tasks of a connector that are so", &values)?;
    }
    let totals =
        by_connector.iter().map(|(name, counts)| (vec![("connector", name.clone())], counts.values().sum::<i64>()));
    gauges(
        encoder,
        "kafka_connect_worker_connector_total_task_count",
        "Tasks of a connector",
        &totals.collect::<Values>(),
    )
}

/// The page as text.
pub fn exposition(metrics: &Arc<WorkerMetrics>) -> Result<String, fmt::Error> {
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register_collector(metrics.page());
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_tells_what_it_has_done_and_where_it_is() {
        let all = Arc::new(WorkerMetrics::default());
        let id = TaskId { connector: "archive".to_owned(), task: 1 };
        let task = all.begin(&id);
        let partition = TopicPartition::new("orders", 3);
        task.hold([(partition.clone(), Some(5))].into_iter());
        task.read(&partition, 10, 1_000, 20);
        task.sent(10);
        task.committed(&Offsets::from([(partition.clone(), 15), (TopicPartition::new("other", 0), 1)]));
        let page = exposition(&all).unwrap();
        for line in [
            "kafka_connect_sink_task_sink_record_read_total{connector=\"archive\",task=\"1\"} 10",
            "strandline_connect_task_read_bytes_total{connector=\"archive\",task=\"1\"} 1000",
            "kafka_connect_sink_task_sink_record_lag_max{connector=\"archive\",task=\"1\"} 5",
            "strandline_connect_task_committed_offset{connector=\"archive\",task=\"1\",topic=\"orders\",partition=\"3\"} 15",
            "kafka_connect_task_error_total_record_failures{connector=\"archive\",task=\"1\"} 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        assert!(!page.contains("other"), "{page}");
        all.end(&id);
        assert!(!exposition(&all).unwrap().contains("archive"));
    }
}
