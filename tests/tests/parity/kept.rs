//! Answers that differ from Kafka's on purpose, each with its reason. A case that no longer differs must leave the list.
//! A reason that begins with MISSING is work left to do, not a wish.

const KEPT: &[(&str, &str)] = &[
    (
        "DescribeConfigs: keys that set topic defaults",
        "settings of the broker are read at its start; Kafka changes some while it runs",
    ),
    (
        "DescribeConfigs: keys of the broker",
        "types of the broker's own settings are told from their values; tools print the value alone",
    ),
    (
        "IncrementalAlterConfigs: a broker setting that is no number",
        "no broker setting changes while it runs, so its value is not looked at",
    ),
    (
        "IncrementalAlterConfigs: an operation that is not",
        "INVALID_REQUEST with a text; Kafka fails with UNKNOWN_SERVER_ERROR",
    ),
    (
        "DescribeTopicPartitions: an empty name",
        "the invalid name is told for itself; Kafka fails the whole request with UNKNOWN_SERVER_ERROR",
    ),
    ("FindCoordinator: the key type 2", "share groups are not served; the code is the same, Kafka's text is empty"),
    (
        "OffsetForLeaderEpoch: the epoch -2 of an empty partition",
        "no such epoch is; Kafka answers the request's own number and the begin of the log",
    ),
    (
        "Metadata: a null name without an id",
        "UNKNOWN_TOPIC_ID for the one topic; Kafka fails the whole request with UNKNOWN_SERVER_ERROR",
    ),
    ("Metadata: an id and a name each", "both topics are answered; Kafka leaves out those by name"),
    ("Fetch: 200 bytes", "whole batches only: Kafka's answer ends within a batch, which the client throws away"),
    (
        "Fetch: 200 bytes of a partition",
        "whole batches only: Kafka's answer ends within a batch, which the client throws away",
    ),
    (
        "Fetch: 200 bytes of two partitions",
        "whole batches only: Kafka's answer ends within a batch, which the client throws away",
    ),
    (
        "Fetch: a last fetched epoch to come",
        "MISSING: only followers send the last fetched epoch, and there are none yet",
    ),
    (
        "Fetch: the last fetched epoch past the end",
        "MISSING: only followers send the last fetched epoch, and there are none yet",
    ),
    ("Fetch: an isolation level of 5", "taken for read_uncommitted; Kafka fails with UNKNOWN_SERVER_ERROR"),
    ("Fetch: negative bytes", "taken for 0, with the first batch; Kafka fails with UNKNOWN_SERVER_ERROR"),
    ("Produce: a partition twice", "both are appended, in their order; Kafka drops the first in silence"),
    (
        "Produce: producer: an older epoch",
        "an epoch of -1 is no epoch: INVALID_RECORD, as for any producer id without one",
    ),
    (
        "Produce: producer: the same again",
        "a duplicate is told without a time; Kafka tells the time of the first append",
    ),
    (
        "Produce: producer: the one before again",
        "a duplicate is told without a time; Kafka tells the time of the first append",
    ),
    (
        "Produce: a base offset that is not 0",
        "the base offset is the broker's to give, so what the client wrote there is overwritten",
    ),
    ("Produce: a batch and a cut one", "refused whole; Kafka appends the first and drops the rest in silence"),
    (
        "Produce: a codec that it does not have",
        "MISSING: records are not decompressed to be looked at, so a body that no codec reads is stored",
    ),
    ("Produce: an unknown codec", "UNSUPPORTED_COMPRESSION_TYPE; Kafka fails with UNKNOWN_SERVER_ERROR"),
    ("Produce: a producer without epoch", "INVALID_RECORD: its sequences could not be followed; Kafka appends"),
    ("Produce: log append time set", "INVALID_TIMESTAMP; Kafka appends and takes the client's word for its own time"),
];

/// Why `case` differs.
pub fn reason(case: &str) -> Option<&'static str> {
    KEPT.iter().find(|(name, _)| *name == case).map(|(_, reason)| *reason)
}
