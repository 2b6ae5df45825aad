//! A worker's answers as text for people.

use serde_json::Value;

use super::bootstrap::table;

/// Lines of a trace that are shown.
const TRACE_LINES: usize = 4;

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// "3 RUNNING, 1 FAILED"
fn tasks_in_short(tasks: &[Value]) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for task in tasks {
        let state = text(&task["state"]);
        match counts.iter_mut().find(|(s, _)| *s == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    let parts: Vec<String> = counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

pub fn list(all: &Value) -> String {
    let mut rows = table(&["connector", "state", "tasks", "class"]);
    for (name, one) in all.as_object().into_iter().flatten() {
        let status = &one["status"];
        rows.add_row([
            name.clone(),
            text(&status["connector"]["state"]),
            tasks_in_short(items(&status["tasks"])),
            text(&one["info"]["config"]["connector.class"]),
        ]);
    }
    rows.to_string()
}

pub fn status(status: &Value) -> String {
    let mut lines = vec![format!(
        "{}  {}  on {}",
        text(&status["name"]),
        text(&status["connector"]["state"]),
        text(&status["connector"]["worker_id"])
    )];
    let trace = |of: &Value, lines: &mut Vec<String>| {
        for line in of["trace"].as_str().unwrap_or("").lines().take(TRACE_LINES) {
            lines.push(format!("    {line}"));
        }
    };
    trace(&status["connector"], &mut lines);
    for task in items(&status["tasks"]) {
        lines.push(format!("  task {}  {}  on {}", task["id"], text(&task["state"]), text(&task["worker_id"])));
        trace(task, &mut lines);
    }
    lines.join("\n")
}

pub fn offsets(answer: &Value) -> String {
    if let Some(message) = answer["message"].as_str() {
        return message.to_owned();
    }
    let mut rows = table(&["topic", "partition", "offset"]);
    for one in items(&answer["offsets"]) {
        rows.add_row([
            text(&one["partition"]["kafka_topic"]),
            text(&one["partition"]["kafka_partition"]),
            text(&one["offset"]["kafka_offset"]),
        ]);
    }
    rows.to_string()
}

pub fn plugins(all: &Value) -> String {
    let mut rows = table(&["class", "type", "version"]);
    for one in items(all) {
        rows.add_row([text(&one["class"]), text(&one["type"]), text(&one["version"])]);
    }
    rows.to_string()
}

pub fn validation(answer: &Value) -> String {
    let mut lines = Vec::new();
    for one in items(&answer["configs"]) {
        for error in items(&one["value"]["errors"]) {
            lines.push(format!("{}: {}", text(&one["value"]["name"]), text(error)));
        }
    }
    if lines.is_empty() { "nothing is wrong with it".to_owned() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_task_says_why() {
        let shown = status(&json!({
            "name": "c", "connector": { "state": "RUNNING", "worker_id": "w:1" },
            "tasks": [{ "id": 0, "state": "FAILED", "worker_id": "w:1", "trace": "do this\nbecause" }],
        }));
        assert!(shown.contains("task 0  FAILED  on w:1\n    do this\n    because"), "{shown}");
    }

    #[test]
    fn tasks_are_counted_by_state() {
        let tasks = json!([{ "state": "RUNNING" }, { "state": "FAILED" }, { "state": "RUNNING" }]);
        assert_eq!(tasks_in_short(items(&tasks)), "2 RUNNING, 1 FAILED");
        assert_eq!(tasks_in_short(&[]), "none");
    }
}
