//! Which local segments may go. Pure.
//!
//! Owns: Kafka's rules of `retention.ms` and `retention.bytes`, for a whole log and for the local part of a tiered one.
//! Does not own: remote bytes, deletion itself. Invariants: segments go oldest first and whole; none that ends above the
//! bound; by size, never so many that less than `retention_bytes` remain.

use crate::config::NO_LIMIT;
use crate::log::SegmentInfo;

/// What may be kept, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Milliseconds since a segment's largest timestamp; -1 = no limit.
    pub retention_ms: i64,
    /// Bytes; -1 = no limit.
    pub retention_bytes: i64,
}

/// The offset before which all segments may be deleted (exclusive), for a log without a tier. Nothing at or above the high
/// watermark goes. With `active_may_roll` the active segment may go too: the caller rolls it first.
pub fn expired_before(
    segments: &[SegmentInfo],
    high_watermark: i64,
    limits: RetentionLimits,
    active_may_roll: bool,
    now_ms: i64,
) -> Option<i64> {
    let mut excess = match limits.retention_bytes {
        NO_LIMIT => 0,
        bytes => {
            let total: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
            total.saturating_sub(bytes.max(0) as u64)
        }
    };
    let mut end = None;
    for segment in segments {
        let by_size = segment.size_bytes > 0 && segment.size_bytes <= excess;
        let by_time = limits.retention_ms != NO_LIMIT
            && segment.max_timestamp >= 0
            && now_ms.saturating_sub(segment.max_timestamp) > limits.retention_ms;
        let free_to_go = segment.next_offset <= high_watermark
            && (!segment.active || active_may_roll)
            && segment.next_offset > segment.base_offset;
        if !free_to_go || !(by_size || by_time) {
            break;
        }
        excess = excess.saturating_sub(segment.size_bytes);
        end = Some(segment.next_offset);
    }
    end
}

/// The same for the local part of a tiered log: nothing goes that is not copied, nor at or above the last stable offset,
/// nor the active segment.
pub fn local_expired_before(
    segments: &[SegmentInfo],
    highest_copied_offset: i64,
    last_stable: i64,
    limits: RetentionLimits,
    now_ms: i64,
) -> Option<i64> {
    let bound = highest_copied_offset.saturating_add(1).min(last_stable);
    expired_before(segments, bound, limits, false, now_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segments(sizes: &[u64], times: &[i64]) -> Vec<SegmentInfo> {
        let info = |at: usize| SegmentInfo {
            base_offset: 10 * at as i64,
            next_offset: 10 * at as i64 + 10,
            size_bytes: sizes[at],
            max_timestamp: times[at],
            active: at + 1 == sizes.len(),
        };
        (0..sizes.len()).map(info).collect()
    }

    fn limits(retention_ms: i64, retention_bytes: i64) -> RetentionLimits {
        RetentionLimits { retention_ms, retention_bytes }
    }

    #[test]
    fn kafkas_rules() {
        let four = segments(&[100, 100, 100, 50], &[10, 20, 5, 30]);
        let go = |limits, now| expired_before(&four, 40, limits, true, now);
        assert_eq!(go(limits(-1, -1), 1_000), None);
        // By time a segment goes only after all older ones.
        assert_eq!(go(limits(10, -1), 20), None);
        assert_eq!(go(limits(10, -1), 21), Some(10));
        assert_eq!(go(limits(10, -1), 31), Some(30));
        assert_eq!(go(limits(10, -1), 41), Some(40));
        assert_eq!(expired_before(&four, 40, limits(10, -1), false, 41), Some(30));
        // By size what remains is at least the limit.
        assert_eq!(go(limits(-1, 350), 0), None);
        assert_eq!(go(limits(-1, 251), 0), None);
        assert_eq!(go(limits(-1, 250), 0), Some(10));
        assert_eq!(go(limits(-1, 0), 0), Some(40));
        // The bound holds.
        assert_eq!(expired_before(&four, 29, limits(-1, 0), true, 0), Some(20));
        assert_eq!(local_expired_before(&four, 19, 40, limits(-1, 0), 0), Some(20));
        assert_eq!(local_expired_before(&four, 39, 19, limits(-1, 0), 0), Some(10));
        assert_eq!(local_expired_before(&four, -1, 40, limits(0, 0), 1_000), None);
    }

    #[test]
    fn a_segment_of_unknown_age_stays() {
        let two = segments(&[10, 10], &[-1, 5]);
        assert_eq!(expired_before(&two, 20, limits(0, -1), true, 1_000), None);
    }

    proptest! {
        #[test]
        fn only_what_the_rules_allow_goes(
            sizes in proptest::collection::vec(0u64..200, 1..8),
            seed in proptest::collection::vec(-1i64..100, 8),
            high_watermark in 0i64..90,
            ms in -1i64..60, bytes in -1i64..800, now in 0i64..150,
        ) {
            let all = segments(&sizes, &seed[..sizes.len()]);
            if let Some(end) = expired_before(&all, high_watermark, limits(ms, bytes), false, now) {
                prop_assert!(end <= high_watermark);
                let kept: u64 = all.iter().filter(|s| s.base_offset >= end).map(|s| s.size_bytes).sum();
                prop_assert!(all.iter().filter(|s| s.base_offset < end).all(|s| !s.active));
                let all_old = all.iter().filter(|s| s.base_offset < end)
                    .all(|s| ms >= 0 && s.max_timestamp >= 0 && now - s.max_timestamp > ms);
                prop_assert!(all_old || bytes >= 0);
                let last = all.iter().rfind(|s| s.base_offset < end).unwrap();
                let old = ms >= 0 && last.max_timestamp >= 0 && now - last.max_timestamp > ms;
                prop_assert!(old || kept >= bytes as u64);
            }
        }
    }
}
