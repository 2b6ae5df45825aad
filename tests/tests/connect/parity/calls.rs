//! The calls, in their order: every path and method of the API, with what is right and with what is wrong.

/// One call; `$FILE` in its body is the file that connectors write.
#[derive(Debug)]
pub struct Call {
    pub method: &'static str,
    pub path: &'static str,
    pub body: Option<String>,
    /// What is special about it; empty = nothing.
    note: &'static str,
}

impl Call {
    /// As the table of differences names it.
    pub fn name(&self) -> String {
        let Call { method, path, note, .. } = self;
        if note.is_empty() { format!("{method} {path}") } else { format!("{method} {path}: {note}") }
    }
}

#[derive(Debug)]
pub enum Step {
    Ask(Call),
    /// Waits until a connector and its tasks are in a state.
    Settle {
        name: &'static str,
        state: &'static str,
        tasks: usize,
    },
    /// Waits until a connector has committed this offset of its one partition.
    Committed {
        name: &'static str,
        offset: usize,
    },
}

fn ask(method: &'static str, path: &'static str) -> Step {
    Step::Ask(Call { method, path, body: None, note: "" })
}

fn noted(method: &'static str, path: &'static str, note: &'static str) -> Step {
    Step::Ask(Call { method, path, body: None, note })
}

fn with(method: &'static str, path: &'static str, note: &'static str, body: &str) -> Step {
    Step::Ask(Call { method, path, body: Some(body.to_owned()), note })
}

/// A good configuration's members; others may follow, and win.
const GOOD: &str = r#""connector.class":"org.apache.kafka.connect.file.FileStreamSinkConnector","topics":"orders","file":"$FILE","tasks.max":"2""#;

/// A body for `POST /connectors`.
fn named(name: &str, config: &str, more: &str) -> String {
    format!(r#"{{"name":"{name}","config":{{{config}}}{more}}}"#)
}

fn settle(name: &'static str, state: &'static str, tasks: usize) -> Step {
    Step::Settle { name, state, tasks }
}

/// Before there is a connector.
fn nothing_there() -> Vec<Step> {
    let offset = r#"{"offsets":[{"partition":{"kafka_topic":"t","kafka_partition":0},"offset":{"kafka_offset":1}}]}"#;
    vec![
        ask("GET", "/"),
        ask("GET", "/health"),
        ask("GET", "/nonsense"),
        ask("POST", "/connectors/x/status"),
        ask("GET", "/connectors"),
        ask("GET", "/connectors?expand=status"),
        ask("GET", "/connectors/x"),
        ask("GET", "/connectors/x/config"),
        ask("GET", "/connectors/x/status"),
        ask("GET", "/connectors/x/tasks"),
        ask("GET", "/connectors/x/tasks/0/status"),
        ask("GET", "/connectors/x/tasks/z/status"),
        ask("GET", "/connectors/x/topics"),
        ask("PUT", "/connectors/x/topics/reset"),
        ask("GET", "/connectors/x/offsets"),
        ask("PUT", "/connectors/x/pause"),
        ask("PUT", "/connectors/x/resume"),
        ask("PUT", "/connectors/x/stop"),
        ask("DELETE", "/connectors/x"),
        ask("POST", "/connectors/x/restart"),
        ask("POST", "/connectors/x/restart?includeTasks=true"),
        ask("POST", "/connectors/x/tasks/0/restart"),
        with("PATCH", "/connectors/x/config", "no such connector", r#"{"a":"b"}"#),
        with("PATCH", "/connectors/x/offsets", "no such connector", offset),
        with("PATCH", "/connectors/x/offsets", "empty", "{}"),
        ask("DELETE", "/connectors/x/offsets"),
    ]
}

/// Connectors are made, in wrong ways and in right ones.
fn made() -> Vec<Step> {
    let post = |note, body: String| with("POST", "/connectors", note, &body);
    vec![
        post("not JSON", "not json".to_owned()),
        post("an empty object", "{}".to_owned()),
        post("no config", r#"{"name":"a"}"#.to_owned()),
        post("an empty config", named("a", "", "")),
        post("an unknown class", named("a", r#""connector.class":"nope""#, "")),
        post("another name in the config", named("a", &format!(r#""name":"b",{GOOD}"#), "")),
        post("no tasks", named("a", &GOOD.replace(r#""tasks.max":"2""#, r#""tasks.max":"0""#), "")),
        post("topics twice", named("a", &format!(r#"{GOOD},"topics.regex":"x""#), "")),
        post("an odd initial_state", named("a", GOOD, r#","initial_state":"ODD""#)),
        post("initial_state PAUSED", named("a b/c", GOOD, r#","initial_state":"PAUSED""#)),
        post("right", named("a", GOOD, "")),
        settle("a", "RUNNING", 2),
        Step::Committed { name: "a", offset: super::LINES },
        post("a name that is taken", named("a", GOOD, "")),
        ask("GET", "/connectors"),
        ask("GET", "/connectors/a"),
        ask("GET", "/connectors/a%20b%2Fc"),
        ask("GET", "/connectors/a/config"),
        ask("GET", "/connectors/a/status"),
        ask("GET", "/connectors/a/tasks"),
        ask("GET", "/connectors/a/tasks/0/status"),
        ask("GET", "/connectors/a/tasks/7/status"),
        ask("GET", "/connectors?expand=status&expand=info"),
        ask("GET", "/connectors?expand=odd"),
    ]
}

/// They are changed and restarted.
fn changed() -> Vec<Step> {
    let one = format!("{{{}}}", GOOD.replace(r#""tasks.max":"2""#, r#""tasks.max":"1""#));
    vec![
        with("PUT", "/connectors/a/config", "fewer tasks", &one),
        with("PUT", "/connectors/n/config", "a new one", &format!("{{{GOOD}}}")),
        settle("n", "RUNNING", 2),
        with("PATCH", "/connectors/a/config", "a key more", r#"{"x":"y"}"#),
        with("PATCH", "/connectors/a/config", "a key less", r#"{"x":null}"#),
        settle("a", "RUNNING", 1),
        noted("GET", "/connectors/a/tasks", "one"),
        ask("POST", "/connectors/a/restart"),
        settle("a", "RUNNING", 1),
        ask("POST", "/connectors/a/restart?includeTasks=true&onlyFailed=false"),
        settle("a", "RUNNING", 1),
        ask("POST", "/connectors/a/restart?onlyFailed=true"),
        ask("POST", "/connectors/a/tasks/0/restart"),
        settle("a", "RUNNING", 1),
        ask("POST", "/connectors/a/tasks/7/restart"),
    ]
}

/// They pause and stop; their offsets are set while they stand.
fn stopped() -> Vec<Step> {
    let offsets =
        |partition: &str, offset: &str| format!(r#"{{"offsets":[{{"partition":{{{partition}}},"offset":{offset}}}]}}"#);
    let (partition, one) = (r#""kafka_topic":"orders","kafka_partition":0"#, r#"{"kafka_offset":1}"#);
    let alter = |note, body: String| with("PATCH", "/connectors/a/offsets", note, &body);
    vec![
        ask("PUT", "/connectors/a/pause"),
        settle("a", "PAUSED", 1),
        noted("GET", "/connectors/a/status", "paused"),
        ask("GET", "/connectors/a/topics"),
        ask("PUT", "/connectors/a/topics/reset"),
        // Kafka Connect forgets them a moment after its answer.
        settle("a", "PAUSED", 1),
        noted("GET", "/connectors/a/topics", "after their reset"),
        noted("GET", "/connectors/a/offsets", "paused"),
        alter("paused", offsets(partition, one)),
        noted("DELETE", "/connectors/a/offsets", "paused"),
        ask("PUT", "/connectors/a/stop"),
        settle("a", "STOPPED", 0),
        noted("GET", "/connectors/a/status", "stopped"),
        noted("GET", "/connectors/a/tasks", "stopped"),
        noted("GET", "/connectors/a", "stopped"),
        alter("stopped", offsets(partition, one)),
        alter("no partition", offsets(r#""kafka_topic":"orders""#, one)),
        alter("another key", offsets(partition, r#"{"x":1}"#)),
        alter("a topic that is not", offsets(r#""kafka_topic":"other","kafka_partition":0"#, one)),
        noted("GET", "/connectors/a/offsets", "altered"),
        alter("forgotten", offsets(partition, "null")),
        noted("GET", "/connectors/a/offsets", "forgotten"),
        noted("DELETE", "/connectors/a/offsets", "stopped"),
        noted("GET", "/connectors/a/offsets", "reset"),
        ask("PUT", "/connectors/a/resume"),
        settle("a", "RUNNING", 1),
        ask("DELETE", "/connectors/a"),
        ask("DELETE", "/connectors/n"),
        ask("DELETE", "/connectors/a%20b%2Fc"),
        noted("GET", "/connectors", "all deleted"),
    ]
}

/// Kinds of connectors, their keys, and loggers.
fn beside_connectors() -> Vec<Step> {
    let validate = "/connector-plugins/FileStreamSinkConnector/config/validate";
    vec![
        ask("GET", "/connector-plugins"),
        ask("GET", "/connector-plugins?connectorsOnly=false"),
        ask("GET", "/connector-plugins/FileStreamSinkConnector/config"),
        ask("GET", "/connector-plugins/x/config"),
        with("PUT", validate, "one wrong value", &format!(r#"{{"name":"a",{GOOD},"errors.tolerance":"some"}}"#)),
        with("PUT", validate, "no name", &format!(r#"{{{GOOD},"tasks.max":"no"}}"#)),
        with("PUT", validate, "empty", "{}"),
        with("PUT", "/connector-plugins/nope/config/validate", "", &format!("{{{GOOD}}}")),
        ask("GET", "/admin/loggers"),
        ask("GET", "/admin/loggers/nope"),
        with("PUT", "/admin/loggers/root", "no level of that name", r#"{"level":"loud"}"#),
        with("PUT", "/admin/loggers/root", "empty", "{}"),
        with("PUT", "/admin/loggers/root", "warn", r#"{"level":"warn"}"#),
        with("PUT", "/admin/loggers/root?scope=cluster", "", r#"{"level":"WARN"}"#),
    ]
}

/// All of it.
pub fn steps() -> Vec<Step> {
    [nothing_there(), made(), changed(), stopped(), beside_connectors()].into_iter().flatten().collect()
}
