//! The check behind `strandline tier check URL`: does this store do all that the tier asks of one, and how fast.
//!
//! Owns: the steps and their order, what to do about each failure. Does not own: printing, the clock. A crash leaves objects
//! below `probe/`, which nothing refers to.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::encoding::hash;

/// One thing that was tried.
#[derive(Debug, Clone)]
pub struct ProbeStep {
    pub name: &'static str,
    pub took: Duration,
    pub bytes: u64,
    /// What went wrong, and which setting to look at.
    pub error: Option<String>,
    /// Worth knowing, and no failure.
    pub note: Option<String>,
}

/// All steps, in their order; those that make no sense after a failure are missing.
#[derive(Debug, Clone, Default)]
pub struct ProbeReport {
    pub steps: Vec<ProbeStep>,
    /// Of [`LATENCY_GETS`] small gets.
    pub latency: Option<ProbeLatency>,
    /// This machine's clock less the store's, milliseconds; a store tells whole seconds.
    pub clock_skew_ms: Option<i64>,
}

/// Times from a small get's begin to its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeLatency {
    pub median: Duration,
    pub worst: Duration,
}

impl ProbeReport {
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.error.is_none())
    }

    /// Records a step; true if the next ones make sense.
    fn record(
        &mut self,
        name: &'static str,
        bytes: u64,
        took: Duration,
        result: Result<Option<String>, String>,
    ) -> bool {
        let (note, error) = match result {
            Ok(note) => (note, None),
            Err(error) => (None, Some(error)),
        };
        let good = error.is_none();
        self.steps.push(ProbeStep { name, took, bytes, error, note });
        good
    }
}

const SMALL: u64 = 4 * 1024;
const PART: u64 = 8 * 1024 * 1024;
/// Small gets whose times are told.
pub const LATENCY_GETS: usize = 10;
/// Clocks farther apart are warned of, milliseconds: S3 refuses signatures from 15 minutes on, and times of objects mislead.
pub const CLOCK_SKEW_MAX_MS: i64 = 5_000;

const NOT_NEEDED: &str = "the tier does not need it: every key is written once, under a uuid";

/// A run of the check.
struct Probe<'a> {
    store: &'a Store,
    report: ProbeReport,
}

impl Store {
    /// Puts, reads, lists and deletes objects of its own below `probe/<id>/`, and leaves none behind. `now_ms` is this machine's
    /// clock, milliseconds since 1970.
    pub async fn probe(&self, id: Uuid, now_ms: &(dyn Fn() -> i64 + Sync)) -> ProbeReport {
        let folder = format!("probe/{}", id.simple());
        let (small, large) = (format!("{folder}/small"), format!("{folder}/large"));
        let mut probe = Probe { store: self, report: ProbeReport::default() };
        if !probe.step("credentials", 0, self.ask_for_nothing(&format!("{folder}/none"))).await {
            return probe.report;
        }
        if !probe.step("put", SMALL, self.put(&small, pattern(SMALL, 1))).await {
            return probe.report;
        }
        probe.create_only(&small, &format!("{folder}/created")).await;
        probe.step("overwrite", SMALL, self.put_over(&small)).await;
        if probe.step("multipart", PART + SMALL, self.upload_two_parts(&large)).await {
            probe.step("ranged get", SMALL, self.read_across_parts(&large)).await;
        }
        probe.step("list", 0, self.list_both(&folder)).await;
        probe.latency(&small).await;
        probe.clock_skew(&folder, now_ms).await;
        let keys = ["small", "large", "created", "clock"].map(|name| format!("{folder}/{name}"));
        probe.step("delete", 0, self.delete_twice(&keys)).await;
        probe.report
    }

    /// The first call says whether the store is there and lets us in.
    async fn ask_for_nothing(&self, key: &str) -> Result<(), StoreError> {
        match self.get(key, SMALL).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn put_over(&self, key: &str) -> Result<(), StoreError> {
        self.put(key, pattern(SMALL, 4)).await?;
        same(key, &self.get(key, SMALL).await?, &pattern(SMALL, 4))
    }

    async fn upload_two_parts(&self, key: &str) -> Result<(), StoreError> {
        let mut upload = self.begin_multipart(key).await?;
        for (bytes, seed) in [(PART, 2), (SMALL, 3)] {
            let part = upload.put_part(pattern(bytes, seed).into());
            self.once("upload a part", key, bytes, part).await?;
        }
        self.once("complete upload", key, PART, upload.complete()).await?;
        self.check_len(key, PART + SMALL).await
    }

    async fn read_across_parts(&self, key: &str) -> Result<(), StoreError> {
        let half = SMALL / 2;
        let bytes = self.get_range(key, PART - half..PART + half).await?;
        let mut expected = pattern(PART, 2).slice((PART - half) as usize..).to_vec();
        expected.extend_from_slice(&pattern(SMALL, 3)[..half as usize]);
        same(key, &bytes, &expected)
    }

    async fn list_both(&self, folder: &str) -> Result<(), StoreError> {
        let listed = self.list_matching(folder, 10, |_| true).await?;
        if listed.len() < 2 {
            return Err(StoreError::NotFound { key: format!("{folder}/ (in the answer to a list)") });
        }
        Ok(())
    }

    /// A key that is not there any more is deleted as well.
    async fn delete_twice(&self, keys: &[String; 4]) -> Result<(), StoreError> {
        for key in keys.iter().chain(keys) {
            self.delete(key).await?;
        }
        Ok(())
    }
}

impl Probe<'_> {
    async fn step(
        &mut self,
        name: &'static str,
        bytes: u64,
        call: impl Future<Output = Result<(), StoreError>>,
    ) -> bool {
        let began = Instant::now();
        let result = call.await.map(|()| None).map_err(|error| self.advice(&error));
        self.report.record(name, bytes, began.elapsed(), result)
    }

    fn advice(&self, error: &StoreError) -> String {
        format!("{error}; {}", what_next(self.store.name(), error))
    }

    /// If-None-Match: `there` must stay what it is, `new` must appear. A store without it is as good.
    async fn create_only(&mut self, there: &str, new: &str) {
        let began = Instant::now();
        let note = match (self.create(new).await, self.create(there).await) {
            (Ok(()), Err(object_store::Error::AlreadyExists { .. })) => None,
            (Ok(()), Ok(())) => Some(format!("ignored: what was there was overwritten; {NOT_NEEDED}")),
            (Err(error), _) | (_, Err(error)) => Some(format!("not supported ({error}); {NOT_NEEDED}")),
        };
        self.report.record("create-only put", SMALL, began.elapsed(), Ok(note));
    }

    /// One try: a second one would find what the first has made.
    async fn create(&self, key: &str) -> object_store::Result<()> {
        let store = self.store;
        let (path, payload) = (store.path(key), PutPayload::from_bytes(pattern(SMALL, 1)));
        let put = store.inner.put_opts(&path, payload, PutOptions::from(PutMode::Create));
        match tokio::time::timeout(store.deadline(SMALL), put).await {
            Ok(put) => put.map(drop),
            Err(_) => {
                Err(object_store::Error::Generic { store: "create-only put", source: "no answer in time".into() })
            }
        }
    }

    async fn latency(&mut self, key: &str) {
        let began = Instant::now();
        let mut times = Vec::with_capacity(LATENCY_GETS);
        for _ in 0..LATENCY_GETS {
            let began = Instant::now();
            if let Err(error) = self.store.get(key, SMALL).await {
                let error = self.advice(&error);
                self.report.record("latency", 0, began.elapsed(), Err(error));
                return;
            }
            times.push(began.elapsed());
        }
        times.sort_unstable();
        let latency = ProbeLatency { median: times[LATENCY_GETS / 2], worst: times[LATENCY_GETS - 1] };
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let note = format!("median {:.1} ms, worst {:.1} ms", ms(latency.median), ms(latency.worst));
        self.report.latency = Some(latency);
        self.report.record("latency", 0, began.elapsed(), Ok(Some(note)));
    }

    /// Compares the time that the store gives an object with this machine's before and after the put.
    async fn clock_skew(&mut self, folder: &str, now_ms: &(dyn Fn() -> i64 + Sync)) {
        let began = Instant::now();
        let key = format!("{folder}/clock");
        let (store, before) = (self.store, now_ms());
        let put = store.put(&key, pattern(SMALL, 5)).await;
        let after = now_ms();
        let path = store.path(&key);
        let told = async {
            put?;
            let head = store.once("head", &key, 0, async { store.inner.head(&path).await }).await?;
            Ok(head.last_modified.timestamp_millis())
        };
        let result = match told.await {
            Ok(told) => {
                let skew = skew_ms(before, after, told);
                self.report.clock_skew_ms = Some(skew);
                let far = skew.abs() > CLOCK_SKEW_MAX_MS;
                let warning = "this machine's clock and the store's differ: set one of them by NTP";
                Ok(Some(if far { format!("{skew} ms; {warning}") } else { format!("{skew} ms") }))
            }
            Err(error) => Err(self.advice(&error)),
        };
        self.report.record("clock skew", 0, began.elapsed(), result);
    }
}

/// How far this machine's clock is ahead; 0 while the store's time may lie between the two of ours. The store may have cut off
/// the part of a second.
fn skew_ms(before: i64, after: i64, told: i64) -> i64 {
    const CUT_MS: i64 = 999;
    if told > after { after - told } else { (before - told - CUT_MS).max(0) }
}

/// Which setting to look at. The names are the broker's; S3's are also read from the environment.
fn what_next(url: &str, error: &StoreError) -> &'static str {
    let scheme = url.split("://").next().unwrap_or_default();
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match (scheme, error) {
        (_, StoreError::WrongLength { .. }) => "the store does not return what was put: do not use it",
        ("file", _) => "check that the directory in tier.url exists, is writable by this user and has room",
        ("hdfs", StoreError::Denied { .. }) => {
            "check the owner and the mode of the directory in tier.url, and HADOOP_USER_NAME or the Kerberos ticket"
        }
        ("hdfs", _) => {
            "check host and port of the NameNode in tier.url, that it has left safe mode, and that this machine reaches the \
             DataNodes"
        }
        _ if says(&["InvalidAccessKeyId"]) => "tier.access.key.id (AWS_ACCESS_KEY_ID) is not known to the store",
        _ if says(&["SignatureDoesNotMatch"]) => {
            "tier.secret.access.key (AWS_SECRET_ACCESS_KEY) is not the secret of tier.access.key.id"
        }
        _ if says(&["RequestTimeTooSkewed"]) => "this machine's clock is wrong: set it by NTP",
        _ if says(&[
            "AuthorizationHeaderMalformed",
            "PermanentRedirect",
            "BareRedirect",
            "IllegalLocationConstraint",
        ]) =>
        {
            "tier.region (AWS_REGION) is not the bucket's region"
        }
        _ if says(&["BadScheme", "URL scheme", "scheme is not"]) => {
            "the endpoint is plain http: set tier.allow.http=true (AWS_ALLOW_HTTP)"
        }
        (_, StoreError::Denied { .. }) => {
            "check tier.access.key.id and tier.secret.access.key (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and that the policy \
             allows put, get, list and delete below the prefix of tier.url"
        }
        (_, StoreError::NotFound { .. }) => "check that the bucket in tier.url exists, and its prefix",
        (_, StoreError::TimedOut { .. }) => {
            "check tier.endpoint (AWS_ENDPOINT_URL) and the network between this machine and the store"
        }
        (_, StoreError::Failed { .. }) => {
            "check tier.endpoint (AWS_ENDPOINT_URL) and tier.region (AWS_REGION); the text before is the store's own"
        }
    }
}

fn same(key: &str, found: &[u8], expected: &[u8]) -> Result<(), StoreError> {
    if hash(found) == hash(expected) {
        return Ok(());
    }
    let reason = "the bytes that came back are not the ones that were put".to_owned();
    Err(StoreError::Failed { call: "get", key: key.to_owned(), reason })
}

fn pattern(bytes: u64, seed: u64) -> Bytes {
    (0..bytes).map(|i| (i.wrapping_mul(31).wrapping_add(seed) >> 3) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skew_is_told_only_where_the_store_cannot_have_cut_it_off() {
        assert_eq!(skew_ms(10_500, 10_600, 10_000), 0);
        assert_eq!(skew_ms(10_500, 10_600, 10_600), 0);
        assert_eq!(skew_ms(10_500, 10_600, 16_600), -6_000);
        assert_eq!(skew_ms(20_500, 20_600, 10_000), 9_501);
    }

    #[test]
    fn a_failure_names_the_setting() {
        let denied = |reason: &str| StoreError::Denied { call: "put", key: "k".into(), reason: reason.to_owned() };
        let failed = |reason: &str| StoreError::Failed { call: "put", key: "k".into(), reason: reason.to_owned() };
        for (url, error, word) in [
            ("s3://b", denied("<Code>InvalidAccessKeyId</Code>"), "tier.access.key.id"),
            ("s3://b", denied("<Code>SignatureDoesNotMatch</Code>"), "tier.secret.access.key"),
            ("s3://b", denied("<Code>AccessDenied</Code>"), "policy"),
            ("s3://b", denied("<Code>RequestTimeTooSkewed</Code>"), "clock"),
            ("s3://b", failed("<Code>AuthorizationHeaderMalformed</Code>"), "tier.region"),
            ("s3://b", failed("builder error: URL scheme is not allowed"), "tier.allow.http"),
            ("s3://b", failed("connection refused"), "tier.endpoint"),
            ("s3://b", StoreError::NotFound { key: "k".into() }, "tier.url"),
            ("hdfs://h:1", denied("x"), "HADOOP_USER_NAME"),
            ("file:///d", failed("No space left"), "tier.url"),
        ] {
            let advice = what_next(url, &error);
            assert!(advice.contains(word), "{error}: {advice}");
        }
    }
}
