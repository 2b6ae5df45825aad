//! Cycles of dependencies between operations.
//!
//! Edges: ww = the writers of adjacent values of a version order; wr = a value's writer to each of its readers; process = an
//! operation to the next of its process; realtime = an operation to those that began after it had ended. Real time is a chain of
//! instants, one for each completion, so that the graph stays linear in the history.

use std::collections::HashMap;

use super::op::Stage;
use super::report::{Kind, Report};
use super::rules::Rules;
use super::versions::{Versions, reads};

/// Operations of a cycle named in a report.
const NAMED_MAX: usize = 12;

/// Successors of each node; a node is an operation, or an instant behind them.
type Graph = Vec<Vec<usize>>;

/// From a node to a node.
type Edge = (usize, usize);

/// What to look for: dependencies, an order of operations that is added to them, and how many instants that has.
type Case<'a> = (Kind, &'a [Edge], &'a [Edge], usize);

/// G0 and G1c, with process and with real time.
pub fn check(versions: &Versions<'_>, rules: &Rules, report: &mut Report) {
    let count = versions.operations.len();
    let ww = write_edges(versions);
    let wr = read_edges(versions);
    let process = process_edges(versions);
    let (instants, realtime) = realtime_edges(versions);
    let dependencies: Vec<_> = if rules.write_order_edges { ww.iter().chain(&wr).copied().collect() } else { wr };
    let none: &[Edge] = &[];
    let cases: [Case<'_>; 6] = [
        (Kind::G0, &ww, none, 0),
        (Kind::G0Process, &ww, &process, 0),
        (Kind::G0Realtime, &ww, &realtime, instants),
        (Kind::G1c, &dependencies, none, 0),
        (Kind::G1cProcess, &dependencies, &process, 0),
        (Kind::G1cRealtime, &dependencies, &realtime, instants),
    ];
    let mut plain = [false; 2];
    for (n, (kind, edges, order, more)) in cases.into_iter().enumerate() {
        // A cycle without the added order is the stronger finding, and would be found again with it.
        if plain[n / 3] {
            continue;
        }
        let mut graph: Graph = vec![Vec::new(); count + more];
        for (from, to) in edges.iter().chain(order) {
            graph[*from].push(*to);
        }
        for component in components(&graph) {
            plain[n / 3] = true;
            report.add(kind, None, || named(versions, &component));
        }
    }
}

fn named(versions: &Versions<'_>, component: &[usize]) -> String {
    let mut lines: Vec<i64> =
        component.iter().filter_map(|node| versions.operations.get(*node)).map(|o| o.name()).collect();
    lines.sort_unstable();
    let more = lines.len().saturating_sub(NAMED_MAX);
    lines.truncate(NAMED_MAX);
    format!("lines {lines:?} and {more} more depend on each other")
}

fn write_edges(versions: &Versions<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for partition in versions.partitions.values() {
        let writer = |values: &[u64]| {
            let (writer, _) = values.first().and_then(|value| partition.writers.get(value))?;
            versions.happened[*writer].then_some(*writer)
        };
        let writers: Vec<usize> = partition.versions().filter_map(|(_, values)| writer(values)).collect();
        edges.extend(writers.windows(2).map(|pair| (pair[0], pair[1])).filter(|(from, to)| from != to));
    }
    edges
}

fn read_edges(versions: &Versions<'_>) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (reader, operation) in versions.operations.iter().enumerate().filter(|(_, o)| o.stage == Stage::Ok) {
        for slice in reads(operation) {
            let writers = &versions.partition(&slice.key).writers;
            let mut last = None;
            for (writer, _) in slice.records.iter().filter_map(|seen| writers.get(&seen.value)) {
                // A batch has one writer: one edge is enough.
                if last != Some(*writer) && *writer != reader {
                    edges.push((*writer, reader));
                    last = Some(*writer);
                }
            }
        }
    }
    edges
}

fn process_edges(versions: &Versions<'_>) -> Vec<Edge> {
    let mut last: HashMap<u32, usize> = HashMap::new();
    let mut edges = Vec::new();
    for (n, operation) in versions.operations.iter().enumerate().filter(|(n, _)| versions.happened[*n]) {
        if operation.invoked >= 0 {
            edges.extend(last.insert(operation.process, n).map(|before| (before, n)));
        }
    }
    edges
}

/// How many instants there are, and the edges through them.
fn realtime_edges(versions: &Versions<'_>) -> (usize, Vec<Edge>) {
    let count = versions.operations.len();
    let mut edges = Vec::new();
    // Operations are in the order of their completions, so that an instant's number is its operation's.
    let completed: Vec<i64> = versions.operations.iter().map(|o| o.completed).collect();
    for (n, operation) in versions.operations.iter().enumerate() {
        if n > 0 {
            edges.push((count + n - 1, count + n));
        }
        // What has no known end precedes nothing; what has no known beginning follows nothing.
        if operation.completed != i64::MAX && operation.stage == Stage::Ok {
            edges.push((n, count + n));
        }
        let before = completed.partition_point(|line| *line < operation.invoked);
        if before > 0 && versions.happened[n] {
            edges.push((count + before - 1, n));
        }
    }
    (count, edges)
}

/// The strongly connected components of more than one node, by Tarjan's algorithm, without recursion.
pub fn components(graph: &Graph) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let (mut index, mut low) = (vec![UNSEEN; graph.len()], vec![UNSEEN; graph.len()]);
    let (mut on_stack, mut stack, mut found) = (vec![false; graph.len()], Vec::new(), Vec::new());
    let mut next = 0;
    for root in 0..graph.len() {
        if index[root] != UNSEEN {
            continue;
        }
        // Each frame: a node and how many of its successors were visited.
        let mut frames = vec![(root, 0)];
        while let Some((node, visited)) = frames.pop() {
            if visited == 0 {
                (index[node], low[node]) = (next, next);
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            } else {
                low[node] = low[node].min(low[graph[node][visited - 1]]);
            }
            let rest = &graph[node][visited..];
            let step = rest.iter().position(|to| {
                if index[*to] != UNSEEN && on_stack[*to] {
                    low[node] = low[node].min(index[*to]);
                }
                index[*to] == UNSEEN
            });
            if let Some(step) = step {
                frames.push((node, visited + step + 1));
                frames.push((rest[step], 0));
            } else if low[node] == index[node] {
                let begin = stack.iter().rposition(|n| *n == node).expect("it is on the stack");
                let component = stack.split_off(begin);
                component.iter().for_each(|n| on_stack[*n] = false);
                if component.len() > 1 {
                    found.push(component);
                }
            }
        }
    }
    found
}
