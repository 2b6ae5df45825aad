//! A network of namespaces: one for each node of a cluster, on a bridge of this machine, and the faults of its links.
//!
//! Owns the namespaces, links and filters whose names begin with `slch`, and the addresses 10.231.0.0/24. Node n is 10.231.0.n, this
//! process is 10.231.0.254. Needs root and `ip` and `tc` of iproute2; nothing is reachable from outside the machine.
//! Invariants: it refuses to start beside leftovers, so that two runs never share a network; it removes what it made when it is
//! dropped, on a panic too. A killed process leaves the network behind: [`Network::build`] then says how to remove it.
//!
//! A cut is one-way: a filter at the bridge hands one node's packets for another to a link that leads nowhere. The sender is told
//! nothing, and the filter counts, which proves that the fault was felt.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use crate::process::Program;

/// Of every name that is made.
const PREFIX: &str = "slch";
const BRIDGE: &str = "slch-br";
const SINK: &str = "slch-sink";
const SINK_END: &str = "slch-end";
/// The last number of this process's own address.
pub const HOST: u8 = 254;
/// Burst of a slow link, bytes: more than one frame.
const BURST_BYTES: u32 = 16_000;
/// How long a packet may wait in front of a slow link, ms.
const QUEUE_MS: u32 = 500;

/// The network. Dropped = removed; the servers inside must have ended.
#[derive(Debug)]
pub struct Network {
    nodes: u8,
}

impl Network {
    /// Makes namespaces for nodes 1 to `nodes`; panics when a network is there already.
    pub fn build(nodes: u8) -> Self {
        assert!((1..HOST).contains(&nodes), "a network of 1 to {} nodes", HOST - 1);
        refuse_leftovers();
        let network = Network { nodes };
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["link", "set", BRIDGE, "up"]);
        ip(&["address", "add", &format!("{}/24", address(HOST)), "dev", BRIDGE]);
        ip(&["link", "add", SINK, "type", "veth", "peer", "name", SINK_END]);
        ip(&["link", "set", SINK, "up"]);
        ip(&["link", "set", SINK_END, "up"]);
        for node in 1..=nodes {
            let (namespace, link) = (namespace(node), link(node));
            ip(&["netns", "add", &namespace]);
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
            ip(&["link", "set", &link, "master", BRIDGE, "up"]);
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
            ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
            ip(&["-n", &namespace, "address", "add", &format!("{}/24", address(node)), "dev", "eth0"]);
            tc(&["qdisc", "add", "dev", &link, "clsact"]);
        }
        network
    }

    /// The numbers of the nodes.
    pub fn nodes(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.nodes
    }

    /// A program that runs inside a node's namespace; its arguments are still to be added.
    pub fn program(&self, node: u8, path: &Path) -> Program {
        let space = format!("--net=/run/netns/{}", namespace(node));
        Program::new("nsenter").args([space, "--".to_owned(), path.display().to_string()])
    }

    /// From now on nothing that node `from` sends reaches `to`; either may be [`HOST`].
    pub fn cut(&self, from: u8, to: u8) {
        let Hook { link, side, field, peer, priority } = Hook::of(from, to);
        let filter = ["filter", "add", "dev", &link, side, "protocol", "ip", "prio", &priority];
        let action = ["u32", "match", "ip", field, &peer, "action", "mirred", "egress", "redirect", "dev", SINK];
        tc(&[&filter[..], &action[..]].concat());
    }

    /// Ends [`Network::cut`]; how many packets it swallowed.
    pub fn mend(&self, from: u8, to: u8) -> u64 {
        let swallowed = self.swallowed(from, to);
        let Hook { link, side, priority, .. } = Hook::of(from, to);
        tc(&["filter", "del", "dev", &link, side, "protocol", "ip", "prio", &priority]);
        swallowed
    }

    /// How many packets the cut has swallowed so far.
    pub fn swallowed(&self, from: u8, to: u8) -> u64 {
        let Hook { link, side, priority, .. } = Hook::of(from, to);
        let said = tc(&["-s", "filter", "show", "dev", &link, side, "prio", &priority]);
        let packets = said.lines().find(|line| line.trim_start().starts_with("Sent "));
        packets.and_then(|line| line.split_whitespace().nth(3)).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Holds what a node is sent and what it sends to `kilobits` per second.
    pub fn slow(&self, node: u8, kilobits: u32) {
        let (rate, burst, latency) = (format!("{kilobits}kbit"), format!("{BURST_BYTES}"), format!("{QUEUE_MS}ms"));
        let shape = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", &latency];
        tc(&[&["qdisc", "add", "dev", &link(node)], &shape[..]].concat());
        tc(&[&["-n", &namespace(node), "qdisc", "add", "dev", "eth0"], &shape[..]].concat());
    }

    /// Ends [`Network::slow`]; how many packets had to wait.
    pub fn speed_up(&self, node: u8) -> u64 {
        let (namespace, link) = (namespace(node), link(node));
        let said = tc(&["-s", "qdisc", "show", "dev", &link]) + &tc(&["-n", &namespace, "-s", "qdisc", "show"]);
        tc(&["qdisc", "del", "dev", &link, "root"]);
        tc(&["-n", &namespace, "qdisc", "del", "dev", "eth0", "root"]);
        let waits = said.split("overlimits ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        waits.filter_map(|n| n.parse::<u64>().ok()).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for node in self.nodes() {
            // What was never made cannot be removed; the next run looks for leftovers.
            let _ = output("ip", &["netns", "del", &namespace(node)]);
            let _ = output("ip", &["link", "del", &link(node)]);
        }
        let _ = output("ip", &["link", "del", SINK]);
        let _ = output("ip", &["link", "del", BRIDGE]);
    }
}

/// Of a node, or of this process ([`HOST`]).
pub fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 231, 0, node)
}

/// A port of a node, or of this process ([`HOST`]).
pub fn socket(node: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(address(node)), port)
}

fn namespace(node: u8) -> String {
    format!("{PREFIX}{node}")
}

fn link(node: u8) -> String {
    format!("{PREFIX}-{node}")
}

/// Where the packets from one node to another can be taken: as they leave the bridge for the receiver, or, when this process is
/// the receiver, as they enter it.
struct Hook {
    link: String,
    side: &'static str,
    field: &'static str,
    peer: String,
    /// Each filter of a link has its own, so that it can be removed alone.
    priority: String,
}

impl Hook {
    fn of(from: u8, to: u8) -> Self {
        let (node, side, field, peer) =
            if to == HOST { (from, "ingress", "dst", to) } else { (to, "egress", "src", from) };
        Hook { link: link(node), side, field, peer: format!("{}/32", address(peer)), priority: peer.to_string() }
    }
}

fn refuse_leftovers() {
    let links = ip(&["-o", "link"]);
    let named = |line: &str| line.split(": ").nth(1).and_then(|name| name.split('@').next()).map(str::to_owned);
    let links = links.lines().filter_map(named).filter(|name| name.starts_with(PREFIX));
    let spaces = ip(&["netns", "list"]);
    let spaces: Vec<String> = spaces.lines().filter(|line| line.starts_with(PREFIX)).map(str::to_owned).collect();
    let links: Vec<String> = links.collect();
    assert!(
        links.is_empty() && spaces.is_empty(),
        "another run's network is there: links {links:?}, namespaces {spaces:?}. If that run is dead, remove them \
         (ip link del, ip netns del)"
    );
}

fn ip(arguments: &[&str]) -> String {
    well("ip", arguments)
}

fn tc(arguments: &[&str]) -> String {
    well("tc", arguments)
}

fn well(command: &str, arguments: &[&str]) -> String {
    output(command, arguments).unwrap_or_else(|why| panic!("{command} {}: {why}", arguments.join(" ")))
}

fn output(command: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(command).args(arguments).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
