//! Consumer groups: members come and go, nothing is lost, and what is committed outlives a killed broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use strandline_tests::broker::{Broker, Software};
use strandline_tests::clients::Client;
use strandline_tests::process::Running;
use strandline_tests::records::{self, Content, Record};
use strandline_tests::{tools, wait};

use crate::target::{Mode, in_both_modes};

in_both_modes!(confluent_members, kafka_python_members, franz_members, offsets_outlive_a_killed_broker);

const PARTITIONS: i32 = 4;
/// How long a rebalance, or reading on after it, may take. A session of the members is 10 s.
const REBALANCE: Duration = Duration::from_secs(45);

fn confluent_members(mode: Mode) {
    members_share_and_take_over(mode, Client::Confluent);
}

fn kafka_python_members(mode: Mode) {
    members_share_and_take_over(mode, Client::KafkaPython);
}

fn franz_members(mode: Mode) {
    members_share_and_take_over(mode, Client::Franz);
}

/// The partitions that a member was told last.
fn assigned(member: &Running) -> Option<BTreeSet<i32>> {
    let lines = member.lines();
    let last = lines.iter().rev().find_map(|line| line.strip_prefix("assigned "))?;
    Some(last.split(',').filter_map(|p| p.parse().ok()).collect())
}

/// Highest offset committed so far per partition (the next to read), by all `members`.
fn committed(members: &[&Running]) -> BTreeMap<i32, i64> {
    let mut highest = BTreeMap::new();
    for line in members.iter().flat_map(|m| m.lines()) {
        let Some(rest) = line.strip_prefix("committed ") else { continue };
        let (partition, next) = rest.split_once(' ').expect("partition and offset");
        let (partition, next): (i32, i64) = (partition.parse().expect("a number"), next.parse().expect("a number"));
        let entry = highest.entry(partition).or_insert(next);
        *entry = next.max(*entry);
    }
    highest
}

fn produce(broker: &Broker, topic: &str, seed: u64, count: usize) -> Vec<Record> {
    let records = records::generate(seed, count, Content::Binary, 32 << 10);
    Client::Confluent.write(&broker.bootstrap(), topic, "none", &records, PARTITIONS, false);
    records
}

fn await_committed(members: &[&Running], each: i64) {
    wait::until(&format!("all partitions are committed up to {each}"), REBALANCE, || {
        let now = committed(members);
        let done = (0..PARTITIONS).all(|p| now.get(&p) == Some(&each));
        done.then_some(())
    });
}

/// Two members of one group share the partitions; when one leaves, the other goes on where it stopped.
fn members_share_and_take_over(mode: Mode, client: Client) {
    let broker = mode.broker();
    let topic = mode.topic(broker, &format!("group-{client:?}"), PARTITIONS, false);
    let group = format!("{topic}-group");
    let first = client.join(&broker.bootstrap(), &topic, &group);
    let second = client.join(&broker.bootstrap(), &topic, &group);
    let all: BTreeSet<i32> = (0..PARTITIONS).collect();
    wait::until("both members have half the partitions each", REBALANCE, || {
        let (a, b) = (assigned(&first)?, assigned(&second)?);
        (a.len() == 2 && b.len() == 2 && a.union(&b).copied().collect::<BTreeSet<_>>() == all).then_some(())
    });
    let before = produce(broker, &topic, 1, 200);
    await_committed(&[&first, &second], 50);
    let left = first.finish(REBALANCE);
    wait::until("the member that stays has all partitions", REBALANCE, || {
        // Members of cooperative protocols are told only what is new to them.
        let lines = second.lines();
        let told = lines.iter().filter_map(|l| l.strip_prefix("assigned ")).flat_map(|l| l.split(','));
        (told.filter_map(|p| p.parse().ok()).collect::<BTreeSet<i32>>() == all).then_some(())
    });
    let after = produce(broker, &topic, 2, 200);
    await_committed(&[&second], 100);
    let mut seen = records::from_lines(&left.join("\n"));
    seen.extend(records::from_lines(&second.lines().join("\n")));
    seen.sort_by_key(|s| (s.partition, s.offset));
    let mut expected = records::Expected::new();
    records::expect(&mut expected, &before, PARTITIONS);
    records::expect(&mut expected, &after, PARTITIONS);
    records::check(&format!("two members of {client:?}"), &expected, seen, records::Blind::default());
    drop(second.finish(REBALANCE));
}

/// Committed offsets and records are there after SIGKILL and a start from the same directory.
fn offsets_outlive_a_killed_broker(mode: Mode) {
    let mut broker = Broker::start(Software::under_test(), mode.setup());
    let topic = mode.topic(&broker, "restart", PARTITIONS, false);
    let before = produce(&broker, &topic, 3, 400);
    let member = Client::Confluent.join(&broker.bootstrap(), &topic, "survivors");
    await_committed(&[&member], 100);
    drop(member.finish(REBALANCE));
    mode.settle(&broker, &topic, PARTITIONS);
    broker.kill();
    broker.up();
    let described = tools::run(
        tools::CONSUMER_GROUPS,
        &["--bootstrap-server", &broker.bootstrap(), "--describe", "--group", "survivors"],
    );
    let lags: Vec<&str> = described
        .lines()
        .filter(|l| l.contains(&topic))
        .map(|l| l.split_whitespace().nth(3).expect("CURRENT-OFFSET"))
        .collect();
    assert_eq!(lags, ["100"; PARTITIONS as usize], "what was committed:\n{described}");
    let after = produce(&broker, &topic, 4, 40);
    let member = Client::Confluent.join(&broker.bootstrap(), &topic, "survivors");
    await_committed(&[&member], 110);
    let seen = records::from_lines(&member.finish(REBALANCE).join("\n"));
    assert_eq!(seen.len(), after.len(), "it reads on, and nothing twice");
    let mut expected = records::Expected::new();
    records::expect(&mut expected, &before, PARTITIONS);
    records::expect(&mut expected, &after, PARTITIONS);
    let seen = Client::Franz.read(&broker.bootstrap(), &topic, PARTITIONS, before.len() + after.len());
    records::check("after the kill", &expected, seen, records::Blind::default());
}
