//! Groups: positions that do not go back within a generation, partitions that have one owner in it.

use std::collections::{BTreeMap, HashMap};

use super::op::{Action, Key, Stage};
use super::report::{Kind, Report};
use super::versions::Versions;

/// A commit that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Committed {
    invoked: i64,
    completed: i64,
    generation: i32,
    offset: i64,
}

/// commit-regression, double-owner.
pub fn check(versions: &Versions<'_>, report: &mut Report) {
    let mut commits: BTreeMap<(&str, &Key), Vec<Committed>> = BTreeMap::new();
    let mut owners: HashMap<(&str, i32, &Key), u32> = HashMap::new();
    for operation in versions.operations.iter().filter(|o| o.stage == Stage::Ok) {
        match operation.action {
            Action::Commit { group, generation, positions } => {
                for position in positions {
                    let known = commits.entry((group, &position.key)).or_default();
                    let commit = Committed {
                        invoked: operation.invoked,
                        completed: operation.completed,
                        generation: *generation,
                        offset: position.offset,
                    };
                    held_against(known, &commit, Some(*generation), &position.key, report);
                    known.push(commit);
                }
            }
            Action::Committed { group, positions } => {
                for position in positions {
                    let known = commits.get(&(group.as_str(), &position.key)).map_or(&[][..], Vec::as_slice);
                    let (invoked, completed) = (operation.invoked, operation.completed);
                    let told = Committed { invoked, completed, generation: -1, offset: position.offset };
                    held_against(known, &told, None, &position.key, report);
                }
            }
            Action::Rebalance { group, generation, keys } => {
                for key in keys {
                    let owner = *owners.entry((group, *generation, key)).or_insert(operation.process);
                    if owner != operation.process {
                        report.add(Kind::DoubleOwner, Some(key), || {
                            let now = operation.process;
                            format!("processes {owner} and {now} own it in generation {generation} of {group}")
                        });
                    }
                }
            }
            _ => {}
        }
    }
}

/// A position may not lie in front of one that was committed before it was asked for, in the same or the newest generation.
fn held_against(known: &[Committed], told: &Committed, generation: Option<i32>, key: &Key, report: &mut Report) {
    let before = || known.iter().filter(|commit| commit.completed < told.invoked);
    let Some(generation) = generation.or_else(|| before().map(|commit| commit.generation).max()) else { return };
    let Some(most) = before().filter(|commit| commit.generation == generation).max_by_key(|commit| commit.offset)
    else {
        return;
    };
    if told.offset < most.offset {
        report.add(Kind::CommitRegression, Some(key), || {
            let (then, now) = (most.completed, told.completed);
            format!("line {then} committed {}, line {now} came after it with {}", most.offset, told.offset)
        });
    }
}
