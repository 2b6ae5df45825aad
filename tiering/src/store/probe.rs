//! The check behind `strandline tier check URL`: does this store do all that the tier asks of one, and how fast.
//!
//! Owns: the steps and their order. Does not own: printing.

use bytes::Bytes;
use std::time::Duration;
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
    /// What went wrong, and what to do about it.
    pub error: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct ProbeReport {
    pub steps: Vec<ProbeStep>,
}

impl ProbeReport {
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.error.is_none())
    }

    /// Records a step; true if the next ones make sense.
    fn record(&mut self, name: &'static str, bytes: u64, began: Instant, result: Result<(), StoreError>) -> bool {
        let error = result.err().map(|error| advice(&error));
        let good = error.is_none();
        self.steps.push(ProbeStep { name, took: began.elapsed(), bytes, error });
        good
    }
}

fn advice(error: &StoreError) -> String {
    let what_next = match error {
        StoreError::Denied { .. } => {
            "check the access key, the secret key and that the policy allows put, get, list and delete below the prefix"
        }
        StoreError::NotFound { .. } => "check that the bucket exists and that its name and the prefix are right",
        StoreError::TimedOut { .. } => {
            "check the endpoint, the port and the network between this machine and the store"
        }
        StoreError::Failed { reason, .. } if reason.contains("BadScheme") || reason.contains("URL scheme") => {
            "the endpoint is plain http: set aws_allow_http=true (AWS_ALLOW_HTTP)"
        }
        StoreError::Failed { .. } => "check the endpoint and the region; the text above is the store's own",
        StoreError::WrongLength { .. } => "the store does not return what was put: do not use it",
    };
    format!("{error}; {what_next}")
}

const SMALL: u64 = 4 * 1024;
const PART: u64 = 8 * 1024 * 1024;

impl Store {
    /// Puts, reads, lists and deletes objects of its own below `probe/<id>/`, and leaves none behind.
    pub async fn probe(&self, id: Uuid) -> ProbeReport {
        let mut report = ProbeReport::default();
        let folder = format!("probe/{}", id.simple());
        let (small, large) = (format!("{folder}/small"), format!("{folder}/large"));

        let began = Instant::now();
        let put = self.put(&small, pattern(SMALL, 1)).await;
        if !report.record("put", SMALL, began, put) {
            return report;
        }
        let began = Instant::now();
        let put = self.put_again(&small).await;
        report.record("put again", SMALL, began, put);

        let began = Instant::now();
        let uploaded = self.upload_two_parts(&large).await;
        if report.record("multipart", PART + SMALL, began, uploaded) {
            let began = Instant::now();
            let range = self.read_across_parts(&large).await;
            report.record("ranged get", SMALL, began, range);
        }
        let began = Instant::now();
        let listed = self.list_both(&folder).await;
        report.record("list", 0, began, listed);

        let began = Instant::now();
        let deleted = async {
            self.delete(&large).await?;
            self.delete(&small).await?;
            self.delete(&small).await
        };
        let deleted = deleted.await;
        report.record("delete", 0, began, deleted);
        report
    }

    async fn put_again(&self, key: &str) -> Result<(), StoreError> {
        self.put(key, pattern(SMALL, 1)).await?;
        same(key, &self.get(key, SMALL).await?, &pattern(SMALL, 1))
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
