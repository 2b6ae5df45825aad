//! What goes wrong, and when.

use strandline_controller::request::{ElectLeaders, ElectionKind, Reassignment, Request};
use strandline_protocol::ids::BrokerId;

use super::swarm::Misfortune;
use super::world::{CONTROLLER, Event, TOPIC, World};

impl World {
    pub(super) fn nemesis(&mut self) {
        if self.healed {
            return;
        }
        let mean = self.swarm.nemesis_ms;
        let pause = (mean / 3 + self.streams.nemesis.below(mean + mean / 3)) as i64;
        self.at(pause, Event::Nemesis);
        let kind = Misfortune::ALL[self.streams.nemesis.below(Misfortune::ALL.len() as u64) as usize];
        if !self.allows(kind) {
            return;
        }
        let victim = 1 + self.streams.nemesis.below(self.swarm.brokers as u64) as BrokerId;
        let victim = if self.streams.nemesis.below(2) == 0 { self.leader_id().unwrap_or(victim) } else { victim };
        let fired = self.strike(kind, victim);
        if let Some(name) = fired {
            self.fire(name);
            self.trace.note(self.now_ms, format_args!("nemesis: {name} {victim}"));
        }
    }

    fn strike(&mut self, kind: Misfortune, victim: BrokerId) -> Option<&'static str> {
        let (now, tp) = (self.now_ms, self.tp);
        let random = &mut self.streams.nemesis;
        let span = 100 + random.below(2_500) as i64;
        let other = random.below(self.swarm.brokers as u64 + 1) as BrokerId;
        let draw = random.word();
        match kind {
            Misfortune::Crash | Misfortune::CrashInside | Misfortune::FailedSync => {
                return self.break_disk(kind, victim, draw);
            }
            Misfortune::PowerLoss => {
                let up = self.up();
                up.iter().for_each(|id| self.crash(*id));
                return (!up.is_empty()).then_some("power loss");
            }
            Misfortune::Shutdown => {
                self.nodes.get_mut(&victim)?.up.as_mut()?.wants_shutdown = true;
                return Some("shutdown");
            }
            Misfortune::CutLink => {
                self.cuts.insert((victim, other), now + span);
                if !draw.is_multiple_of(3) {
                    self.cuts.insert((other, victim), now + span);
                }
                return (victim != other).then_some("cut link");
            }
            Misfortune::SlowMetadata => self.nodes.get_mut(&victim)?.slow_until_ms = now + span,
            Misfortune::ControllerAway => self.controller.fail_over(now + span / 2),
            Misfortune::LostHeartbeats => self.nodes.get_mut(&victim)?.mute_until_ms = now + span,
            Misfortune::DeleteRecords => {
                let leader = self.leader_id()?;
                self.delete_records(leader);
            }
            Misfortune::Reassign => return self.reassign(draw),
            Misfortune::PreferredElection => return self.elect(ElectionKind::Preferred),
            Misfortune::UncleanElection => {
                self.controller.record(tp).filter(|r| r.leader < 0)?;
                return self.elect(ElectionKind::Unclean);
            }
            Misfortune::FalseFence => {
                let broker_epoch = self.controller.image.brokers.get(&victim)?.broker_epoch;
                return self.operator(Request::Fence { broker_id: victim, broker_epoch }).then_some("false fence");
            }
        }
        Some(match kind {
            Misfortune::SlowMetadata => "slow metadata",
            Misfortune::ControllerAway => "controller away",
            Misfortune::LostHeartbeats => "lost heartbeats",
            _ => "delete records",
        })
    }

    /// Power, or a sync, goes at one node.
    fn break_disk(&mut self, kind: Misfortune, victim: BrokerId, draw: u64) -> Option<&'static str> {
        // Where acknowledgements do not wait for a sync, power goes at one node, and at no other until that one is in sync again.
        if !self.swarm.synced {
            let enough = self.controller.record(self.tp)?.isr.len() >= self.swarm.min_insync as usize;
            if !self.unclean.is_empty() || !enough {
                return None;
            }
            self.unclean.insert(victim);
        }
        let node = self.nodes.get(&victim)?;
        node.up.as_ref()?;
        match kind {
            Misfortune::CrashInside if self.swarm.synced => node.disk.crash_at(node.disk.operations() + draw % 40),
            Misfortune::FailedSync if self.swarm.synced => {
                node.disk.fail_next_sync();
                return Some("failed sync");
            }
            _ => {
                self.crash(victim);
                return Some("crash");
            }
        }
        None
    }

    fn reassign(&mut self, draw: u64) -> Option<&'static str> {
        let record = self.controller.record(self.tp)?;
        let replicas = if draw.is_multiple_of(4) && record.is_reassigning() {
            None
        } else {
            let all: Vec<BrokerId> = (1..=self.swarm.brokers).collect();
            let shift = (draw / 7) as usize % all.len();
            let factor = self.swarm.replication_factor as usize;
            Some((0..factor).map(|n| all[(n + shift) % all.len()]).collect())
        };
        let moves = vec![Reassignment { topic: TOPIC.to_owned(), partition: 0, replicas }];
        self.operator(Request::Reassign { moves }).then_some("reassign")
    }

    fn elect(&mut self, kind: ElectionKind) -> Option<&'static str> {
        let request = Request::ElectLeaders(ElectLeaders { kind, partitions: None });
        self.operator(request).then_some(if kind == ElectionKind::Preferred {
            "preferred election"
        } else {
            "unclean election"
        })
    }

    /// An operator asks the controller, from nowhere: no answer is waited for.
    fn operator(&mut self, request: Request) -> bool {
        if self.controller.away_until_ms > self.now_ms {
            return false;
        }
        self.at(
            1,
            Event::Deliver(super::world::Message::Ask { from: CONTROLLER, life: 0, id: 0, request: Box::new(request) }),
        );
        true
    }
}
