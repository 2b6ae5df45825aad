//! Leaderships go back to preferred replicas by themselves.

use strandline_tests::wait;

use crate::nodes::{AGREED, Cluster, alone};

#[test]
fn a_broker_that_comes_back_leads_again_without_being_asked() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[("leader.imbalance.check.interval.seconds", "2")]);
    cluster.create_topic("balanced", 6, &[]);
    let preferred = |cluster: &Cluster| {
        let led = cluster.partitions("balanced");
        led.iter().filter(|p| p.replica_nodes.first() == Some(&p.leader_id)).count()
    };
    cluster.node(2).stop();
    assert!(preferred(&cluster) < 6, "others lead what node 2 led");
    cluster.node(2).up();
    cluster.node(2).await_serving();
    wait::until("preferred replicas lead", AGREED, || (preferred(&cluster) == 6).then_some(()));
}
