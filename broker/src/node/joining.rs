//! How a node's configuration says that it comes to its cluster, and which cluster that is.
//!
//! Owns the translation of settings into a `Formation`. Does not own what follows from it (`strandline_controller`).

use std::net::SocketAddr;

use strandline_controller::request::{Refused, Request, Response};
use strandline_controller::{ControllerHandle, Formation};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::uuid_to_base64;
use uuid::Uuid;

use super::NodeError;
use crate::config::NodeConfig;

/// How this node comes to its cluster; `bound` is where it takes messages of controllers.
pub(super) fn formation(config: &NodeConfig, bound: Option<SocketAddr>) -> Formation {
    let me = u64::try_from(config.node_id).expect("node ids are not negative");
    let by_address = !config.bootstrap_controllers.is_empty();
    let own = config.controller_listeners.first().map_or(0, |l| l.port);
    let listed = config.bootstrap_controllers.iter().find(|a| is_own(a, config, own));
    let own_address = || listed.cloned().unwrap_or_else(|| own_address(config, bound));
    if config.roles.controller && config.voters.contains_key(&me) {
        // Without named voters a node names itself: it is alone, unless other addresses are told.
        let named = config.voters.len() > 1 || !by_address;
        if named || (listed.is_some() && config.bootstrap_controllers.len() == 1) {
            return Formation::Voters(config.voters.clone());
        }
        return Formation::Bootstrap { own_address: own_address(), bootstrap: config.bootstrap_controllers.clone() };
    }
    let voters = || config.voters.iter().filter(|(id, _)| **id != me).map(|(_, address)| address.clone()).collect();
    let controllers = if by_address { config.bootstrap_controllers.clone() } else { voters() };
    Formation::Follower { own_address: own_address(), controllers }
}

/// Where controllers send messages to this node: the host by which other brokers know it, the port that is bound.
fn own_address(config: &NodeConfig, bound: Option<SocketAddr>) -> String {
    let of_controller = |name: &str| config.controller_listeners.iter().any(|l| l.name == name);
    let advertised = config.advertised.iter().find(|l| of_controller(&l.name));
    let named = |host: &str| (!host.is_empty() && host != "0.0.0.0").then(|| host.to_owned());
    let host = advertised
        .and_then(|l| named(&l.host))
        .or_else(|| config.controller_listeners.first().and_then(|l| named(&l.host)))
        .or_else(|| {
            config.advertised.iter().find(|l| l.name == config.inter_broker_listener).and_then(|l| named(&l.host))
        })
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{host}:{}", bound.map_or(0, |address| address.port()))
}

/// Whether a controller's address is this node's: its port and, where it says one, a host of this node.
fn is_own(address: &str, config: &NodeConfig, port: u16) -> bool {
    let Some((host, p)) = address.rsplit_once(':') else { return false };
    let hosts =
        config.controller_listeners.iter().chain(&config.listeners).chain(&config.advertised).map(|l| l.host.as_str());
    p.parse() == Ok(port) && hosts.into_iter().any(|h| h == host)
}

/// The cluster's id: what its metadata says, else what this node's directories or settings say, else a new one.
pub(super) async fn name_cluster(controller: &ControllerHandle, known: Option<String>) -> Result<String, NodeError> {
    let proposed = known.clone().unwrap_or_else(|| uuid_to_base64(Uuid::new_v4()));
    loop {
        match controller.request(Request::NameCluster { cluster_id: proposed.clone() }).await {
            Ok(Response::NameCluster(id)) => {
                return match known {
                    Some(known) if known != id => Err(NodeError::MixedClusters(known, id)),
                    _ => Ok(id),
                };
            }
            Ok(_) => return Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer").into()),
            Err(error) => tracing::info!(%error, "the cluster's id is not known yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Properties;

    fn config(text: &str) -> NodeConfig {
        let mut properties = Properties::default();
        properties.add_text(text, "test").unwrap();
        NodeConfig::from_properties(&properties, |_| None).unwrap()
    }

    const BOUND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7000);

    fn of(text: &str) -> Formation {
        formation(&config(text), Some(BOUND))
    }

    #[test]
    fn a_node_alone_and_named_voters_are_voters() {
        assert!(matches!(of("node.id=1\n"), Formation::Voters(voters) if voters.len() == 1));
        let named = "listeners=PLAINTEXT://a:9092,CONTROLLER://a:9093\ncontroller.quorum.voters=1@a:9093,2@b:9093\n";
        assert!(matches!(of(&format!("node.id=1\n{named}")), Formation::Voters(voters) if voters.len() == 2));
        let Formation::Follower { own_address, controllers } = of(&format!("node.id=4\n{named}")) else {
            panic!("who is not named follows")
        };
        assert_eq!((own_address.as_str(), controllers.len()), ("a:7000", 2));
    }

    #[test]
    fn addresses_alone_are_asked() {
        let text = "node.id=1\nlisteners=PLAINTEXT://a:9092,CONTROLLER://a:9093\n";
        let listed = of(&format!("{text}controller.quorum.bootstrap.servers=a:9093,b:9093\n"));
        assert!(matches!(listed, Formation::Bootstrap { own_address, .. } if own_address == "a:9093"));
        assert!(matches!(of(&format!("{text}controller.quorum.bootstrap.servers=a:9093\n")), Formation::Voters(_)));
        let elsewhere = of(&format!("{text}controller.quorum.bootstrap.servers=b:9093,c:9093\n"));
        assert!(matches!(elsewhere, Formation::Bootstrap { own_address, .. } if own_address == "a:7000"));
    }

    #[test]
    fn a_broker_alone_follows() {
        let text =
            "process.roles=broker\nnode.id=5\nlisteners=PLAINTEXT://:9092\nadvertised.listeners=PLAINTEXT://e:9092\n";
        for controllers in ["controller.quorum.bootstrap.servers=a:9093", "controller.quorum.voters=1@a:9093"] {
            let Formation::Follower { own_address, controllers } = of(&format!("{text}{controllers}\n")) else {
                panic!("{controllers}")
            };
            assert_eq!((own_address.as_str(), controllers.as_slice()), ("e:7000", &["a:9093".to_owned()][..]));
        }
    }
}
