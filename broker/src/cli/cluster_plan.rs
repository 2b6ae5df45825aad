//! Which replicas to move: pure, from where they are to where they are to be.
//!
//! Owns the goals: as few moves as even counts need, no two replicas of a partition in one rack where they were in two,
//! and leaders spread as the replicas are. Does not own the moves themselves.

use std::collections::BTreeMap;

/// Where one partition's replicas are; the first is its preferred leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub topic: String,
    pub partition: i32,
    pub replicas: Vec<i32>,
}

/// Brokers that may hold replicas, with their racks.
pub type Racks = BTreeMap<i32, Option<String>>;

/// Placements that change so that every broker has as many replicas, and as many preferred leaders, as the others, give or
/// take one.
pub fn rebalance(now: &[Placement], racks: &Racks) -> Vec<Placement> {
    let mut next = now.to_vec();
    while let Some((index, from, to)) = replica_move(&next, racks) {
        replace(&mut next[index], from, to);
    }
    spread_leaders(&mut next, racks);
    changed(now, next)
}

/// Placements that change so that `node` has no replica. An error names a partition that has nowhere to go.
pub fn empty(now: &[Placement], racks: &Racks, node: i32) -> Result<Vec<Placement>, String> {
    let mut others = racks.clone();
    others.remove(&node);
    let mut next = now.to_vec();
    for index in 0..next.len() {
        if !next[index].replicas.contains(&node) {
            continue;
        }
        let counts = replica_counts(&next, &others);
        let free = others.keys().copied().filter(|id| !next[index].replicas.contains(id));
        let target = free.min_by_key(|id| (shares_rack(&next[index], node, *id, racks), counts[id], *id));
        let Some(target) = target else {
            let Placement { topic, partition, replicas } = &next[index];
            return Err(format!(
                "{topic}-{partition} has {} replicas and no broker is left to take the one of node {node}; \
                 start another broker, or lower the topic's replication factor",
                replicas.len()
            ));
        };
        replace(&mut next[index], node, target);
    }
    spread_leaders(&mut next, &others);
    Ok(changed(now, next))
}

fn changed(now: &[Placement], next: Vec<Placement>) -> Vec<Placement> {
    next.into_iter().zip(now).filter(|(next, now)| next != *now).map(|(next, _)| next).collect()
}

fn replace(placement: &mut Placement, from: i32, to: i32) {
    for id in placement.replicas.iter_mut().filter(|id| **id == from) {
        *id = to;
    }
}

/// Replicas of each broker that may hold some.
fn replica_counts(placements: &[Placement], racks: &Racks) -> BTreeMap<i32, usize> {
    let mut counts: BTreeMap<i32, usize> = racks.keys().map(|id| (*id, 0)).collect();
    for id in placements.iter().flat_map(|p| &p.replicas) {
        if let Some(count) = counts.get_mut(id) {
            *count += 1;
        }
    }
    counts
}

/// Whether `to` in the place of `from` would be a second replica in one rack.
fn shares_rack(placement: &Placement, from: i32, to: i32, racks: &Racks) -> bool {
    let rack = |id: &i32| racks.get(id).and_then(Option::as_ref);
    let Some(wanted) = rack(&to) else { return false };
    placement.replicas.iter().filter(|id| **id != from).any(|id| rack(id) == Some(wanted))
}

/// One move that makes the counts more even, from the fullest broker that can give to the emptiest that can take.
fn replica_move(placements: &[Placement], racks: &Racks) -> Option<(usize, i32, i32)> {
    let counts = replica_counts(placements, racks);
    let mut fullest: Vec<(usize, i32)> = counts.iter().map(|(id, count)| (*count, *id)).collect();
    fullest.sort_unstable();
    for (most, from) in fullest.iter().rev() {
        for (fewest, to) in fullest.iter().take_while(|(count, _)| count + 1 < *most) {
            debug_assert!(fewest + 1 < *most);
            let fits = |p: &Placement| {
                let moves = p.replicas.contains(from) && !p.replicas.contains(to);
                // A rack that is shared already is not made worse.
                moves && (!shares_rack(p, *from, *to, racks) || shares_rack(p, *from, *from, racks))
            };
            if let Some(index) = placements.iter().position(fits) {
                return Some((index, *from, *to));
            }
        }
    }
    None
}

/// Swaps preferred leaders along the shortest chain of brokers from the one with most to one with fewer, until no chain
/// makes the counts more even.
fn spread_leaders(placements: &mut [Placement], racks: &Racks) {
    loop {
        let mut counts: BTreeMap<i32, usize> = racks.keys().map(|id| (*id, 0)).collect();
        for leader in placements.iter().filter_map(|p| p.replicas.first()) {
            *counts.entry(*leader).or_default() += 1;
        }
        let mut fullest: Vec<i32> = counts.keys().copied().collect();
        fullest.sort_by_key(|id| std::cmp::Reverse(counts[id]));
        let chain = fullest.iter().find_map(|from| leader_chain(placements, *from, &counts));
        let Some(chain) = chain else { return };
        for (index, to) in chain {
            let replicas = &mut placements[index].replicas;
            let at = replicas.iter().position(|id| *id == to).expect("the chain goes through replicas");
            replicas.swap(0, at);
        }
    }
}

/// Partitions, with their new first replica, that hand one leadership from `from` to a broker with at least two fewer.
fn leader_chain(placements: &[Placement], from: i32, counts: &BTreeMap<i32, usize>) -> Option<Vec<(usize, i32)>> {
    // Broker -> the partition and the broker through which it was reached.
    let mut reached: BTreeMap<i32, (usize, i32)> = BTreeMap::new();
    let mut frontier = vec![from];
    while let Some(at) = (!frontier.is_empty()).then(|| frontier.remove(0)) {
        for (index, placement) in placements.iter().enumerate().filter(|(_, p)| p.replicas.first() == Some(&at)) {
            for next in placement.replicas.iter().skip(1).copied() {
                if next == from || reached.contains_key(&next) || !counts.contains_key(&next) {
                    continue;
                }
                reached.insert(next, (index, at));
                if counts[&next] + 1 < counts[&from] {
                    return Some(walk_back(&reached, next, from));
                }
                frontier.push(next);
            }
        }
    }
    None
}

fn walk_back(reached: &BTreeMap<i32, (usize, i32)>, end: i32, from: i32) -> Vec<(usize, i32)> {
    let mut chain = Vec::new();
    let mut at = end;
    while at != from {
        let (index, before) = reached[&at];
        chain.push((index, at));
        at = before;
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn racks(ids: impl IntoIterator<Item = i32>) -> Racks {
        ids.into_iter().map(|id| (id, None)).collect()
    }

    fn placements(all: &[&[i32]]) -> Vec<Placement> {
        let place = |(partition, replicas): (i32, &&[i32])| Placement {
            topic: "t".to_owned(),
            partition,
            replicas: replicas.to_vec(),
        };
        (0..).zip(all).map(place).collect()
    }

    fn apply(now: &[Placement], moves: &[Placement]) -> Vec<Placement> {
        let moved = |p: &Placement| moves.iter().find(|m| m.partition == p.partition).unwrap_or(p).clone();
        now.iter().map(moved).collect()
    }

    fn spread(counts: impl IntoIterator<Item = usize>) -> usize {
        let counts: Vec<usize> = counts.into_iter().collect();
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    }

    fn leaders(placements: &[Placement], racks: &Racks) -> Vec<usize> {
        racks.keys().map(|id| placements.iter().filter(|p| p.replicas[0] == *id).count()).collect()
    }

    #[test]
    fn a_new_broker_gets_its_share_with_the_fewest_moves() {
        let now = placements(&[&[1, 2, 3][..]; 8]);
        let racks = racks(1..=4);
        let moves = rebalance(&now, &racks);
        let after = apply(&now, &moves);
        assert_eq!(spread(replica_counts(&after, &racks).into_values()), 0);
        assert_eq!(spread(leaders(&after, &racks)), 0);
        let moved = now.iter().zip(&after).filter(|(a, b)| b.replicas.iter().any(|id| !a.replicas.contains(id)));
        assert_eq!(moved.count(), 6, "a quarter of 24 replicas moves, no more");
        assert!(rebalance(&after, &racks).is_empty(), "what is balanced stays as it is");
    }

    #[test]
    fn a_broker_is_emptied_and_the_others_stay_even() {
        let now = placements(&[&[1, 2, 3], &[2, 3, 4], &[3, 4, 1], &[4, 1, 2]]);
        let moves = empty(&now, &racks(1..=4), 2).unwrap();
        let after = apply(&now, &moves);
        assert!(after.iter().all(|p| !p.replicas.contains(&2) && p.replicas.len() == 3));
        let left = racks([1, 3, 4]);
        assert_eq!(spread(replica_counts(&after, &left).into_values()), 0);
        assert!(spread(leaders(&after, &left)) <= 1);
    }

    #[test]
    fn a_broker_that_nobody_can_stand_in_for_is_not_emptied() {
        let refused = empty(&placements(&[&[1, 2, 3]]), &racks(1..=3), 3).unwrap_err();
        assert!(refused.contains("t-0") && refused.contains("start another broker"), "{refused}");
    }

    #[test]
    fn racks_stay_apart() {
        let rack = |id: i32| Some(if id % 2 == 0 { "even" } else { "odd" }.to_owned());
        let racks: Racks = (1..=4).map(|id| (id, rack(id))).collect();
        let now = placements(&[&[1, 2], &[1, 2], &[2, 1], &[1, 2]]);
        let after = apply(&now, &rebalance(&now, &racks));
        assert_eq!(spread(replica_counts(&after, &racks).into_values()), 0);
        assert!(after.iter().all(|p| racks[&p.replicas[0]] != racks[&p.replicas[1]]), "{after:?}");
    }
}
