//! Which closed local segments have expired: pure.
//!
//! Owns Kafka's rules by time and by size. Does not own what may be freed (a tiered log is bounded by its pointer).

use strandline_log::SegmentInfo;
use strandline_log::config::NO_LIMIT;

/// Retention of one log. Times in ms, sizes in bytes; -1 = without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalRetention {
    pub retention_ms: i64,
    pub retention_bytes: i64,
    /// Exclusive: nothing above has expired.
    pub high_watermark: i64,
}

/// The offset below which whole closed segments have expired; the first segment's base if none has.
pub fn expired_before(segments: &[SegmentInfo], rule: &LocalRetention, now_ms: i64) -> i64 {
    let Some(first) = segments.first() else { return 0 };
    let mut expired = first.base_offset;
    let total: u64 = segments.iter().map(|s| s.size_bytes).sum();
    let mut excess = match u64::try_from(rule.retention_bytes) {
        Ok(limit) if rule.retention_bytes != NO_LIMIT => total.saturating_sub(limit),
        _ => 0,
    };
    for segment in segments.iter().filter(|s| !s.active) {
        let by_time = rule.retention_ms != NO_LIMIT
            && segment.max_timestamp >= 0
            && now_ms.saturating_sub(segment.max_timestamp) > rule.retention_ms;
        let by_size = excess > 0 && excess >= segment.size_bytes;
        if segment.next_offset > rule.high_watermark || !(by_time || by_size) {
            break;
        }
        excess = excess.saturating_sub(segment.size_bytes);
        expired = segment.next_offset;
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(base_offset: i64, max_timestamp: i64, active: bool) -> SegmentInfo {
        SegmentInfo { base_offset, next_offset: base_offset + 10, size_bytes: 100, max_timestamp, active }
    }

    fn log() -> Vec<SegmentInfo> {
        vec![segment(0, 10, false), segment(10, 20, false), segment(20, 30, true)]
    }

    #[test]
    fn by_time_the_oldest_go_and_the_active_one_stays() {
        let rule = LocalRetention { retention_ms: 5, retention_bytes: NO_LIMIT, high_watermark: 30 };
        for (now, expired) in [(10, 0), (15, 0), (16, 10), (26, 20), (1_000, 20)] {
            assert_eq!(expired_before(&log(), &rule, now), expired, "at {now}");
        }
        let behind = LocalRetention { high_watermark: 15, ..rule };
        assert_eq!(expired_before(&log(), &behind, 1_000), 10);
    }

    #[test]
    fn by_size_only_whole_segments_of_the_excess_go() {
        for (limit, expired) in [(NO_LIMIT, 0), (300, 0), (201, 0), (200, 10), (100, 20), (0, 20)] {
            let rule = LocalRetention { retention_ms: NO_LIMIT, retention_bytes: limit, high_watermark: 30 };
            assert_eq!(expired_before(&log(), &rule, 0), expired, "limit {limit}");
        }
    }
}
