//! Kafka's verifiable producer and consumer: the Java client as Kafka's own system tests drive it.

use std::time::Duration;

use strandline_tests::process::Running;
use strandline_tests::tools;
use strandline_tests::wait;

use crate::target::{Mode, in_both_modes};

in_both_modes!(verifiable_producer_and_consumer);

const RECORDS: usize = 20_000;
const LEAVE: Duration = Duration::from_secs(30);

fn verifiable_producer_and_consumer(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "verifiable", 1, false);
    let bootstrap = broker.bootstrap();
    // Filler ahead of the numbers, so that in tiered mode reading begins in the tier.
    let filler: String = (0..20_000).map(|n| format!("{n:0100}\n")).collect();
    let written = ["--bootstrap-server", &bootstrap, "--topic", &topic];
    tools::run_on(tools::CONSOLE_PRODUCER, &written, filler.as_bytes());
    let count = RECORDS.to_string();
    let told = tools::run(
        tools::VERIFIABLE_PRODUCER,
        &["--bootstrap-server", &bootstrap, "--topic", &topic, "--max-messages", &count, "--acks", "-1"],
    );
    let acknowledged = told.lines().filter(|line| line.contains("\"name\":\"producer_send_success\"")).count();
    assert_eq!(acknowledged, RECORDS, "every record was acknowledged");
    mode.settle(broker, &topic, 1);
    let group = format!("verifiable-{mode:?}");
    let consumer = Running::start(&tools::java(
        tools::VERIFIABLE_CONSUMER,
        &[
            "--bootstrap-server",
            &bootstrap,
            "--topic",
            &topic,
            "--group-id",
            &group,
            "--reset-policy",
            "earliest",
            "--verbose",
        ],
    ));
    let numbers = |lines: &[String]| -> Vec<u64> {
        let texts = lines.iter().filter(|line| line.contains("\"name\":\"record_data\""));
        texts.filter_map(|line| line.split("\"value\":\"").nth(1)?.split('"').next()?.parse().ok()).collect()
    };
    let seen = wait::until("the verifiable consumer has read all", tools::TOOL, || {
        let seen = numbers(&consumer.lines());
        (seen.len() >= RECORDS + 20_000).then_some(seen)
    });
    let wanted: Vec<u64> = (0..20_000).chain(0..RECORDS as u64).collect();
    assert_eq!(seen, wanted, "every record once and in order");
    wait::until("its offsets are committed", LEAVE, || {
        let committed = consumer.lines().iter().filter(|l| l.contains("\"name\":\"offsets_committed\"")).count();
        (committed > 0).then_some(())
    });
}
