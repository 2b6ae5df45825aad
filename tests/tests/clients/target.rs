//! What the tests run against: one node for each mode, shared by the tests of this process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::wire;

/// How long copying and freeing may take.
const TIERED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No tier.
    Local,
    /// Tiered topics that keep nothing but the active segment.
    Tiered,
}

impl Mode {
    /// How a node of this mode is set up.
    pub fn setup(self) -> Setup {
        match self {
            Mode::Local => Setup::default().set("remote.log.storage.system.enable", "false").set("tier.url", ""),
            Mode::Tiered => Setup::default(),
        }
    }

    /// The node that the tests of this process share. It dies with the process.
    pub fn broker(self) -> &'static Broker {
        static LOCAL: OnceLock<Broker> = OnceLock::new();
        static TIERED: OnceLock<Broker> = OnceLock::new();
        let cell = match self {
            Mode::Local => &LOCAL,
            Mode::Tiered => &TIERED,
        };
        cell.get_or_init(|| Broker::start(Software::under_test(), self.setup()))
    }

    /// A topic's settings. `large` = records above 1 MiB.
    pub fn configs(self, large: bool) -> Vec<(&'static str, &'static str)> {
        // The records are of 2024; by default they would be too old to keep.
        let mut configs = vec![("retention.ms", "-1")];
        configs.push(("segment.bytes", if large { "16777216" } else { "1048576" }));
        if large {
            configs.push(("max.message.bytes", "10485760"));
        }
        if self == Mode::Tiered {
            configs.extend([("remote.storage.enable", "true"), ("local.retention.ms", "1")]);
        }
        configs
    }

    /// A new topic on `broker`, named after `base`.
    pub fn topic(self, broker: &Broker, base: &str, partitions: i32, large: bool) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{base}.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let created = broker.connection().create_topic(&name, partitions, &self.configs(large));
        created.unwrap_or_else(|(code, text)| panic!("{name} is created: {code} {text:?}"));
        name
    }

    /// In tiered mode, waits until each partition has given local segments away.
    pub fn settle(self, broker: &Broker, topic: &str, partitions: i32) {
        if self == Mode::Tiered {
            wire::await_tiered(broker.address, topic, partitions, TIERED);
        }
    }
}

/// Makes of each function of a mode two tests, `local::name` and `tiered::name`.
macro_rules! in_both_modes {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test] fn $name() { super::$name($crate::target::Mode::Local) })*
        }
        mod tiered {
            $(#[test] fn $name() { super::$name($crate::target::Mode::Tiered) })*
        }
    };
}
pub(crate) use in_both_modes;
