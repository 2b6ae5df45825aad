//! What a broken log would show: each operator breaks a good history in one place and names what must be found.

#![expect(clippy::ptr_arg, reason = "one signature for all operators, and some of them insert lines")]

use strandline_tests::history::op::{Action, Key, Micro, Op, Query, Seen, Slice, Stage, Value};
use strandline_tests::history::report::Kind;
use strandline_tests::random::Random;

/// Breaks a history; false = there is nothing in it to break.
pub type Operator = fn(&mut Vec<Op>, &mut Random) -> bool;

/// Name, operator, and the kinds of which one must be found.
pub const ALL: &[(&str, Operator, &[Kind])] = &[
    ("an acknowledged value is gone", drop_value, &[Kind::Unseen]),
    ("the last reader misses a value", drop_from_last_reader, &[Kind::IntPollSkip, Kind::PollSkip]),
    ("two values change places", swap_values, &[Kind::InconsistentOffsets]),
    ("two records come in the wrong order", swap_records, &[Kind::IntNonmonotonicPoll]),
    ("a record comes twice", repeat, &[Kind::IntNonmonotonicPoll]),
    ("a poll comes twice", repeat_poll, &[Kind::NonmonotonicPoll]),
    ("a value is written twice", write_again, &[Kind::Duplicate]),
    ("an acknowledgement names another's offset", shift_acknowledgement, &[Kind::InconsistentOffsets]),
    ("a value that was not written is shown", show_failed, &[Kind::G1a]),
    ("a read comes before its write", read_early, &[Kind::G1cRealtime]),
    ("a high watermark goes back", lower_high_watermark, &[Kind::HwRegression]),
    ("a log start goes back", raise_first_start, &[Kind::StartRegression]),
    ("a read passes the last stable offset", lower_last_stable, &[Kind::LsoLeak]),
    ("a leader epoch changes", change_epoch, &[Kind::EpochDivergence]),
    ("a time query is off by one", shift_answer, &[Kind::ListOffsetsLie]),
    ("a group's position is forgotten", forget_position, &[Kind::CommitRegression]),
    ("a partition has two owners", second_owner, &[Kind::DoubleOwner]),
];

fn slices(op: &mut Op) -> impl Iterator<Item = &mut Slice> {
    let micros = match &mut op.action {
        Action::Send(micros) | Action::Poll(micros) | Action::Txn(micros) => micros.as_mut_slice(),
        _ => &mut [],
    };
    let polls = micros.iter_mut().filter_map(|micro| match micro {
        Micro::Poll(slices) => Some(slices),
        Micro::Send(..) => None,
    });
    polls.flatten()
}

/// The slices of ok polls.
fn ok_slices(history: &mut [Op]) -> Vec<&mut Slice> {
    history.iter_mut().filter(|op| op.stage == Stage::Ok).flat_map(slices).collect()
}

/// The process that reads everything at the end.
fn last_reader(history: &[Op]) -> u32 {
    history.iter().map(|op| op.process).max().expect("a history has lines")
}

/// The records of the last reader that have one behind them in the same slice.
fn last_reads(history: &mut [Op], wanted: usize) -> Vec<&mut Slice> {
    let reader = last_reader(history);
    let own = history.iter_mut().filter(|op| op.process == reader && op.stage == Stage::Ok);
    own.flat_map(slices).filter(|slice| slice.records.len() >= wanted).collect()
}

fn pick<T>(mut all: Vec<T>, random: &mut Random) -> Option<T> {
    let count = all.len() as u64;
    (count > 0).then(|| all.swap_remove(usize::try_from(random.below(count)).expect("an index")))
}

/// Partition, value and offset of the sends of a stage.
fn sent(history: &[Op], stage: Stage) -> Vec<(Key, Value, Option<i64>)> {
    let mut found = Vec::new();
    for micro in history.iter().filter(|op| op.stage == stage).flat_map(|op| op.action.micros()) {
        if let Micro::Send(key, sent) = micro {
            found.extend(sent.iter().map(|one| (key.clone(), one.value, one.offset)));
        }
    }
    found
}

fn drop_value(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let Some((key, value, _)) = pick(sent(history, Stage::Ok), random) else { return false };
    for slice in history.iter_mut().flat_map(slices).filter(|slice| slice.key == key) {
        slice.records.retain(|seen| seen.value != value);
    }
    true
}

fn drop_from_last_reader(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let acknowledged: Vec<_> = sent(history, Stage::Ok);
    let Some(slice) = pick(last_reads(history, 3), random) else { return false };
    // One that the acknowledgement names: else nobody knows that it is missing.
    let known = |seen: &Seen| acknowledged.iter().any(|(key, value, _)| *key == slice.key && *value == seen.value);
    let Some(at) = (1..slice.records.len() - 1).find(|n| known(&slice.records[*n])) else { return false };
    slice.records.remove(at);
    true
}

fn swap_values(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let acknowledged: Vec<_> = sent(history, Stage::Ok);
    let Some(slice) = pick(last_reads(history, 2), random) else { return false };
    let known = |seen: &Seen| acknowledged.iter().any(|(key, value, _)| *key == slice.key && *value == seen.value);
    if !known(&slice.records[0]) {
        return false;
    }
    let first = slice.records[0].value;
    slice.records[0].value = slice.records[1].value;
    slice.records[1].value = first;
    true
}

fn swap_records(history: &mut Vec<Op>, random: &mut Random) -> bool {
    pick(last_reads(history, 2), random).map(|slice| slice.records.swap(0, 1)).is_some()
}

fn repeat(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let again = |slice: &mut Slice| slice.records.insert(1, slice.records[0].clone());
    pick(last_reads(history, 1), random).map(again).is_some()
}

fn repeat_poll(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let reader = last_reader(history);
    let read = |op: &Op| {
        op.process == reader && op.stage == Stage::Ok && slices(&mut op.clone()).any(|s| !s.records.is_empty())
    };
    let all: Vec<usize> = (0..history.len()).filter(|n| read(&history[*n])).collect();
    let Some(at) = pick(all, random) else { return false };
    let pair = [history[at - 1].clone(), history[at].clone()];
    history.splice(at + 1..at + 1, pair);
    renumber(history);
    true
}

fn renumber(history: &mut [Op]) {
    for (index, op) in (0..).zip(history) {
        op.index = index;
    }
}

fn write_again(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let end = ok_slices(history).iter().flat_map(|slice| slice.records.iter().map(|seen| seen.offset)).max();
    let Some(slice) = pick(last_reads(history, 1), random) else { return false };
    let again = Seen { offset: end.expect("something was read") + 10, ..slice.records[0].clone() };
    slice.records.push(again);
    true
}

fn shift_acknowledgement(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let mut all = Vec::new();
    for op in history.iter_mut().filter(|op| op.stage == Stage::Ok) {
        let (Action::Send(micros) | Action::Txn(micros)) = &mut op.action else { continue };
        let sends = micros.iter_mut().filter_map(|micro| match micro {
            Micro::Send(_, sent) if sent.len() > 1 => Some(sent),
            _ => None,
        });
        all.extend(sends);
    }
    pick(all, random).map(|sent| sent[0].offset = sent[1].offset).is_some()
}

fn show_failed(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let Some((key, value, _)) = pick(sent(history, Stage::Fail), random) else { return false };
    let slices = last_reads(history, 1).into_iter().filter(|slice| slice.key == key).collect();
    pick(slices, random).map(|slice| slice.records[0].value = value).is_some()
}

fn read_early(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let all = sent(history, Stage::Ok).into_iter().filter(|(_, _, offset)| offset.is_some()).collect();
    let Some((key, value, Some(offset))) = pick(all, random) else { return false };
    let mut action = Action::Poll(vec![Micro::Poll(vec![Slice::new(key, vec![Seen::new(offset, value)])])]);
    let process = last_reader(history) + 1;
    for stage in [Stage::Ok, Stage::Invoke] {
        let op = Op { index: 0, time: 0, process, stage, action: action.clone(), rebalance_log: Vec::new() };
        history.insert(0, op);
        action = Action::Poll(vec![Micro::Poll(Vec::new())]);
    }
    renumber(history);
    true
}

fn lower_high_watermark(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let lower = |slice: &mut Slice| slice.high_watermark = Some(0);
    pick(last_reads(history, 1), random).map(lower).is_some()
}

fn raise_first_start(history: &mut Vec<Op>, _: &mut Random) -> bool {
    let last: Vec<Key> = last_reads(history, 1).iter().map(|slice| slice.key.clone()).collect();
    let first = ok_slices(history).into_iter().find(|slice| last.contains(&slice.key) && slice.log_start.is_some());
    first.map(|slice| slice.log_start = Some(1)).is_some()
}

fn lower_last_stable(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let lower = |slice: &mut Slice| slice.last_stable_offset = Some(slice.records[0].offset);
    pick(last_reads(history, 1), random).map(lower).is_some()
}

fn change_epoch(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let reader = last_reader(history);
    let others = history.iter_mut().filter(|op| op.process != reader && op.stage == Stage::Ok).flat_map(slices);
    let read = others.filter(|slice| !slice.records.is_empty()).collect();
    let change = |slice: &mut Slice| slice.records[0].leader_epoch = slice.records[0].leader_epoch.map(|e| e + 1);
    pick(read, random).map(change).is_some()
}

fn shift_answer(history: &mut Vec<Op>, random: &mut Random) -> bool {
    // A query that surely missed something: asked at the end, for the time before everything.
    let acknowledged = sent(history, Stage::Ok);
    let Some((key, _, Some(first))) = pick(acknowledged, random) else { return false };
    let time = history.last().expect("a history has lines").time;
    let (index, process) = (history.len() as u64, last_reader(history) + 1);
    let action = Action::ListOffsets { key, query: Query::Timestamp(0), offset: first + 1 };
    for (n, stage) in (0..).zip([Stage::Invoke, Stage::Ok]) {
        let action = action.clone();
        history.push(Op { index: index + n, time, process, stage, action, rebalance_log: Vec::new() });
    }
    true
}

fn forget_position(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let mut known: Vec<Key> = Vec::new();
    let mut told = Vec::new();
    for op in history.iter_mut().filter(|op| op.stage == Stage::Ok) {
        match &mut op.action {
            Action::Commit { positions, .. } => {
                known.extend(positions.iter().filter(|p| p.offset > 0).map(|p| p.key.clone()));
            }
            Action::Committed { positions, .. } => {
                told.extend(positions.iter_mut().filter(|p| p.offset > 0 && known.contains(&p.key)));
            }
            _ => {}
        }
    }
    pick(told, random).map(|position| position.offset = -1).is_some()
}

fn second_owner(history: &mut Vec<Op>, random: &mut Random) -> bool {
    let given =
        |op: &&Op| op.stage == Stage::Ok && matches!(&op.action, Action::Rebalance { keys, .. } if !keys.is_empty());
    let all: Vec<Op> = history.iter().filter(given).cloned().collect();
    let Some(op) = pick(all, random) else { return false };
    history.push(Op { process: last_reader(history) + 1, ..op });
    renumber(history);
    true
}
