//! Plugins as people use them: the examples run and conform; one that misbehaves ends its own task and nothing else, and goes on without a
//! gap once it is mended.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use strandline_connectors::conformance::{self, Seen, Subject};
use strandline_connectors::plugin::{Isolation, Launcher, PluginKind, discover};
use strandline_connectors::registry::SinkKind;
use strandline_connectors::sink::{Sink, SinkError};
use strandline_tests::broker::{Broker, strandline_command};
use strandline_tests::connect::{Rest, Worker};
use strandline_tests::process::{Program, run_well};
use strandline_tests::{place, wait};

use crate::dev::Dev;
use crate::scene::{ARRIVE, await_lines, broker, file_sink, lines, produce, topic};

const BUILD: Duration = Duration::from_secs(120);
const EXAMPLES: [&str; 3] = ["c", "rust", "python"];

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Builds an example as its page says; returns its directory.
fn built(language: &str, into: &Path) -> PathBuf {
    let directory = into.join(language);
    let script = tree(&format!("connectors/examples/{language}/build.sh"));
    let program = Program::new(script)
        .args([directory.display().to_string()])
        .env("PYTHON", place::installed("python/bin/python").display().to_string());
    run_well(&program, b"", BUILD);
    directory
}

/// The lines "partition offset length" of a file.
fn seen(file: &Path) -> Vec<Seen> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let numbers = |line: &str| -> Vec<i64> { line.split(' ').map(|n| n.parse().expect("a number")).collect() };
    let one = |n: Vec<i64>| Seen {
        partition: i32::try_from(n[0]).expect("a partition"),
        offset: n[1],
        length: n.get(2).copied(),
    };
    text.lines().map(|line| one(numbers(line))).collect()
}

fn offsets(file: &Path, partition: i32) -> BTreeSet<i64> {
    seen(file).iter().filter(|s| s.partition == partition).map(|s| s.offset).collect()
}

/// Waits until every offset below `end` of a partition is in the file, and sees that there are no others.
fn await_offsets(file: &Path, partition: i32, end: i64) {
    wait::until(&format!("offsets to {end} of partition {partition} in {}", file.display()), ARRIVE, || {
        (offsets(file, partition) == (0..end).collect::<BTreeSet<i64>>()).then_some(())
    });
}

struct Example {
    kind: Arc<dyn SinkKind>,
    directory: PathBuf,
}

#[async_trait]
impl Subject for Example {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        let file = self.directory.join("out").display().to_string();
        conformance::sink_of(&self.kind, &conformance::settings(&[("file", &file)]), &self.directory)
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        Ok(seen(&self.directory.join("out")))
    }
}

#[test]
fn the_examples_conform() {
    let plugins = place::directory("plugins");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let everywhere = EXAMPLES.map(|language| (language, Isolation::Process));
    let inside = ["c", "rust"].map(|language| (language, Isolation::InProcess));
    for (language, isolation) in everywhere.into_iter().chain(inside) {
        let manifest = discover::read(&built(language, &plugins)).unwrap();
        let launcher = Launcher { isolation, ..Launcher::of(place::strandline()) };
        let kind: Arc<dyn SinkKind> = Arc::new(PluginKind::new(manifest, launcher));
        let fresh = || -> Box<dyn Subject> {
            Box::new(Example { kind: Arc::clone(&kind), directory: place::directory("example") })
        };
        let faults = runtime.block_on(conformance::check(fresh));
        assert_eq!(faults, Vec::<String>::new(), "{language} {isolation:?}");
    }
}

#[test]
fn examples_are_short_and_run_beside_a_development_node() {
    let plugins = place::directory("plugins");
    for language in EXAMPLES {
        built(language, &plugins);
        let source = std::fs::read_dir(tree(&format!("connectors/examples/{language}"))).unwrap();
        let source = source.flatten().map(|e| e.path()).find(|p| p.file_stem().is_some_and(|s| s == "sink")).unwrap();
        assert!(std::fs::read_to_string(source).unwrap().lines().count() < 60, "{language}");
    }
    let dev = Dev::with(&["--plugin-path", &plugins.display().to_string()]);
    let _server = dev.up();
    let listed = dev.connector(&["plugins"]);
    let expected = ["com.example.LineFileInC", "com.example.LineFileInRust", "com.example.LineFileInPython"];
    assert!(expected.iter().all(|class| listed.contains(class)), "{listed}");
    let (status, invalid) = dev.rest.call(
        "PUT",
        "/connector-plugins/line-file-c/config/validate",
        Some(&json!({ "name": "c", "connector.class": "line-file-c", "topics": "greetings" })),
    );
    assert_eq!((status, &invalid["error_count"]), (200, &json!(1)), "{invalid}");
    dev.produce("one\ntwo!\n");
    for language in EXAMPLES {
        let config = json!({
            "connector.class": format!("line-file-{language}"), "topics": "greetings", "file": dev.file(language),
        });
        let path = format!("/connectors/{language}/config");
        assert_eq!(dev.rest.call("PUT", &path, Some(&config)).0, 201);
    }
    for language in EXAMPLES {
        dev.rest.await_state(language, "RUNNING", 1);
        await_offsets(&dev.file(language), 0, 2);
        assert_eq!(std::fs::read_to_string(dev.file(language)).unwrap(), "0 0 3\n0 1 4\n", "{language}");
    }
    dev.produce("crash\n");
    for language in EXAMPLES {
        let status = await_task_failure(&dev.rest, language);
        let first = status.lines().next().unwrap();
        assert!(first.contains("signal 6 (SIGABRT") && first.contains("restart the task"), "{language}: {status}");
    }
}

/// The reason of task 0's failure.
fn await_task_failure(rest: &Rest, name: &str) -> String {
    wait::until(&format!("the task of {name} fails"), Duration::from_secs(60), || {
        let (_, status) = rest.get(&format!("/connectors/{name}/tasks/0/status"));
        (status["state"] == "FAILED").then(|| status["trace"].as_str().unwrap_or_default().to_owned())
    })
}

/// Plugins that misbehave, in a directory for `plugin.path`.
pub fn bad_plugins() -> PathBuf {
    let plugins = place::directory("bad-plugins");
    let config = json!([
        { "name": "file", "type": "string", "required": true, "documentation": "Where offsets go." },
        { "name": "mode", "type": "string", "required": true, "documentation": "What goes wrong." },
        { "name": "at", "type": "long", "default": "100", "documentation": "The offset at which it does." },
        { "name": "token", "type": "password", "documentation": "A secret." },
    ]);
    for (name, kind, file) in [("bad-py", "executable", "bad.py"), ("bad-c", "library", "bad.so")] {
        let directory = plugins.join(name);
        std::fs::create_dir_all(&directory).expect("the test's directory is writable");
        let manifest = json!({
            "name": name, "class": format!("com.example.{name}"), "version": "1", "kind": kind, "file": file,
            "config": config, "memory.max": 512 << 20, "call.timeout.ms": 10_000, "restarts.max": 1,
        });
        let mut text =
            std::fs::File::create(directory.join("connector.json")).expect("the test's directory is writable");
        text.write_all(manifest.to_string().as_bytes()).expect("the test's directory is writable");
    }
    std::fs::copy(tree("tests/plugins/bad.py"), plugins.join("bad-py/bad.py"))
        .expect("the test's directory is writable");
    let (source, include) = (tree("tests/plugins/bad.c"), tree("connectors/include"));
    let library = plugins.join("bad-c/bad.so");
    let words = ["-std=c11", "-D_DEFAULT_SOURCE", "-w", "-shared", "-fPIC", "-I"].map(str::to_owned);
    let more = [include, "-o".into(), library, source].map(|p| p.display().to_string());
    run_well(&Program::new("cc").args(words).args(more), b"", BUILD);
    plugins
}

/// A mode, its plugin and what the first line of the reason has to say.
const MODES: [(&str, &str, &str); 18] = [
    ("bad-py", "abort", "signal 6 (SIGABRT"),
    ("bad-py", "exit", "exit status 3"),
    ("bad-py", "orphan", "exit status 3"),
    ("bad-py", "flood", "did not answer within 10000 ms"),
    ("bad-py", "raise", "exit status 1"),
    ("bad-py", "hang", "did not answer within 10000 ms"),
    ("bad-py", "leak", "exit status 1"),
    ("bad-py", "close", "closed its standard input or output"),
    ("bad-py", "garbage", "wrote \"written 10 r"),
    ("bad-py", "half", "after half an answer"),
    ("bad-py", "lie-length", "announced an answer of 2147483647 bytes"),
    ("bad-py", "no-json", "what is no answer"),
    ("bad-py", "number", "answered call"),
    ("bad-py", "lie-offset", "named offset"),
    ("bad-c", "abort", "signal 6 (SIGABRT"),
    ("bad-c", "segfault", "signal 11 (SIGSEGV"),
    ("bad-c", "leak", "signal 11 (SIGSEGV"),
    ("bad-c", "code", "returned 99"),
];

fn name_of(plugin: &str, mode: &str) -> String {
    format!("{plugin}-{mode}")
}

pub fn bad_config(plugin: &str, mode: &str, file: &Path) -> Value {
    json!({ "connector.class": plugin, "mode": mode, "topics": "orders", "file": file.display().to_string() })
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc is readable").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |one: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{one}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    numbers.filter(|one| parent(one) == Some(pid)).collect()
}

/// Lines of one batch.
const BATCH: usize = 2_000;

/// Milliseconds that the lines of one batch take from production to the file.
fn time_of(broker: &Broker, file: &Path, prefix: &str) -> i64 {
    let begin = wait::wall_clock_ms();
    produce(broker, "orders", 1, prefix, BATCH);
    await_lines(file, prefix, BATCH);
    wait::wall_clock_ms() - begin
}

fn median(mut all: Vec<i64>) -> i64 {
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
fn a_plugin_that_misbehaves_ends_its_task_alone_and_goes_on_without_a_gap() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let plugins = bad_plugins();
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let rest = worker.rest;
    let out = place::directory("out");
    let healthy = out.join("healthy");
    rest.call("PUT", "/connectors/healthy/config", Some(&file_sink("orders", &healthy, 1)));
    rest.await_state("healthy", "RUNNING", 1);
    time_of(&broker, &healthy, "warm");
    let alone: Vec<i64> = (0..6).map(|n| time_of(&broker, &healthy, &format!("alone {n}"))).collect();
    let file = |plugin: &str, mode: &str| out.join(name_of(plugin, mode));
    for (plugin, mode, _) in MODES {
        let path = format!("/connectors/{}/config", name_of(plugin, mode));
        let (status, made) = rest.call("PUT", &path, Some(&bad_config(plugin, mode, &file(plugin, mode))));
        assert_eq!(status, 201, "{made}");
    }
    // Until the last of them has failed: they crash, leak, flood and hang meanwhile.
    let has_failed = |name: &str| rest.get(&format!("/connectors/{name}/tasks/0/status")).1["state"] == "FAILED";
    let mut beside = Vec::new();
    while beside.len() < 6 || !MODES.iter().all(|(plugin, mode, _)| has_failed(&name_of(plugin, mode))) {
        beside.push(time_of(&broker, &healthy, &format!("beside {}", beside.len())));
        assert!(beside.len() < 500, "some do not fail");
    }
    let batches = 1 + alone.len() + beside.len() + 1;
    for (plugin, mode, words) in MODES {
        let reason = await_task_failure(&rest, &name_of(plugin, mode));
        let first = reason.lines().next().unwrap_or_default();
        assert!(first.contains(words) && first.contains("restart the task"), "{plugin} {mode}: {reason}");
    }
    let (alone, times, beside) = (median(alone), beside.len(), median(beside));
    eprintln!(
        "{BATCH} lines: {alone} ms alone, {beside} ms beside {} plugins that fail (median of {times})",
        MODES.len()
    );
    // The machine is theirs too: starting processes costs what it costs, but nobody waits for them.
    assert!(beside < alone * 3 + 500, "{alone} ms alone, {beside} ms beside plugins that fail");
    rest.await_state("healthy", "RUNNING", 1);
    assert!(lines(&healthy).values().all(|n| *n == 1), "the healthy connector was disturbed");
    let pid = worker.server().pid();
    wait::until("no process is left", ARRIVE, || children(pid).is_empty().then_some(()));
    let orphan = std::fs::read_to_string(out.join("bad-py-orphan.orphan")).unwrap();
    assert!(!Path::new(&format!("/proc/{orphan}")).exists(), "a process that a plugin started outlives it");
    for (plugin, mode, _) in MODES {
        std::fs::File::create(out.join(format!("{}.fixed", name_of(plugin, mode)))).unwrap();
        let path = format!("/connectors/{}/restart?includeTasks=true&onlyFailed=true", name_of(plugin, mode));
        assert_eq!(rest.call("POST", &path, None).0, 202);
    }
    produce(&broker, "orders", 1, "after", BATCH);
    for (plugin, mode, _) in MODES {
        await_offsets(&file(plugin, mode), 0, i64::try_from(batches * BATCH).unwrap());
        rest.await_state(&name_of(plugin, mode), "RUNNING", 1);
    }
    assert_eq!(children(pid).len(), MODES.len());
    worker.stop();
}

#[test]
fn a_library_runs_in_the_worker_if_that_is_told_so() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let plugins = bad_plugins().display().to_string();
    let settings = [("plugin.path", &*plugins), ("plugin.isolation", "in-process")];
    let mut worker = Worker::start(&broker.bootstrap(), "g", &settings);
    let (rest, out) = (worker.rest, place::directory("out"));
    let modes = ["none", "code", "hang"];
    for mode in modes {
        let path = format!("/connectors/{mode}/config");
        let mut config = bad_config("bad-c", mode, &out.join(mode));
        if mode == "none" {
            config["at"] = json!("1000000");
        }
        let (status, made) = rest.call("PUT", &path, Some(&config));
        assert_eq!(status, 201, "{made}");
    }
    produce(&broker, "orders", 1, "first", 200);
    await_offsets(&out.join("none"), 0, 200);
    let code = await_task_failure(&rest, "code");
    assert!(code.contains("returned 99") && code.lines().next().unwrap().contains("restart the task"), "{code}");
    let hang = await_task_failure(&rest, "hang");
    assert!(
        hang.contains("did not answer within 10000 ms") && hang.contains("stays in the worker's process"),
        "{hang}"
    );
    rest.await_state("none", "RUNNING", 1);
    assert_eq!(children(worker.server().pid()), Vec::<u32>::new(), "nothing has a process of its own");
    for mode in ["code", "hang"] {
        std::fs::File::create(out.join(format!("{mode}.fixed"))).unwrap();
        assert_eq!(rest.call("POST", &format!("/connectors/{mode}/restart?includeTasks=true"), None).0, 202);
    }
    produce(&broker, "orders", 1, "after", 200);
    for mode in modes {
        await_offsets(&out.join(mode), 0, 400);
    }
    worker.stop();
}

#[test]
fn a_plugin_that_dies_is_started_again() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 200);
    let plugins = bad_plugins();
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let file = place::directory("out").join("file");
    worker.rest.call("PUT", "/connectors/once/config", Some(&bad_config("bad-py", "once", &file)));
    await_offsets(&file, 0, 200);
    worker.rest.await_state("once", "RUNNING", 1);
    let log = worker.server().log_text();
    assert!(log.contains("restart 1 of 1 of the plugin's process") && log.contains("SIGABRT"), "{log}");
    worker.stop();
}

#[test]
fn a_plugin_that_says_again_or_no_is_heard() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let plugins = bad_plugins();
    let worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let file = place::directory("out").join("file");
    let mut config = bad_config("bad-py", "moody", &file);
    for (key, value) in [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "letters"),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
        ("errors.retry.delay.max.ms", "300"),
        ("consumer.override.max.poll.records", "50"),
    ] {
        config[key] = json!(value);
    }
    worker.rest.call("PUT", "/connectors/moody/config", Some(&config));
    produce(&broker, "orders", 1, "first", 200);
    let expected: BTreeSet<i64> = (0..200).filter(|offset| *offset != 100).collect();
    wait::until("all but the rejected one arrive", ARRIVE, || (offsets(&file, 0) == expected).then_some(()));
    worker.rest.await_state("moody", "RUNNING", 1);
    let address = broker.bootstrap();
    let read = strandline_command(
        &["consume", "-b", &address, "letters", "--from-beginning", "--max-messages", "1", "--json"],
        ARRIVE,
    );
    let letter: Value = serde_json::from_slice(&read).unwrap();
    assert_eq!(letter["value"], "first 100", "{letter}");
    assert!(letter["headers"].to_string().contains("mood 4"), "{letter}");
}

#[test]
fn a_library_that_cannot_be_used_fails_its_task_with_what_to_do() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let plugins = bad_plugins();
    let library = plugins.join("bad-c/bad.so");
    let worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let compiled = |text: &str| {
        let source = plugins.join("source.c");
        std::fs::File::create(&source).unwrap().write_all(text.as_bytes()).unwrap();
        let paths = [&library, &source].map(|p| p.display().to_string());
        run_well(&Program::new("cc").args(["-shared", "-fPIC", "-o"]).args(paths), b"", BUILD);
    };
    let fails = |name: &str, words: &str| {
        let path = format!("/connectors/{name}/config");
        worker.rest.call("PUT", &path, Some(&bad_config("bad-c", "none", &plugins.join("file"))));
        let reason = await_task_failure(&worker.rest, name);
        let first = reason.lines().next().unwrap();
        assert!(first.contains(words) && first.contains("restart the task"), "{reason}");
    };
    compiled("unsigned strandline_sink_abi(void) { return 2; }");
    fails("newer", "built for version 2");
    compiled("unsigned strandline_sink_abi(void) { return 1; }");
    fails("partial", "does not export strandline_sink_start");
    compiled("int nothing;");
    fails("other", "does not export strandline_sink_abi");
    std::fs::File::create(&library).unwrap().write_all(b"no library").unwrap();
    fails("text", "cannot be loaded");
}

#[test]
fn a_plugin_ends_with_its_worker() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 200);
    let plugins = bad_plugins();
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let out = place::directory("out");
    for (plugin, mode) in [("bad-py", "hang"), ("bad-c", "hang"), ("bad-py", "none"), ("bad-c", "none")] {
        let file = out.join(name_of(plugin, mode));
        if mode == "none" {
            std::fs::File::create(out.join(format!("{}.fixed", name_of(plugin, mode)))).unwrap();
        }
        worker.rest.call("PUT", &format!("/connectors/{plugin}-{mode}/config"), Some(&bad_config(plugin, mode, &file)));
    }
    let pid = worker.server().pid();
    let all = wait::until("they run", ARRIVE, || Some(children(pid)).filter(|all| all.len() == 4));
    worker.kill();
    let is_there = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    wait::until("they have ended", ARRIVE, || (!all.iter().any(is_there)).then_some(()));
}

#[test]
fn a_secret_in_what_a_plugin_says_is_blotted_out() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 200);
    let plugins = bad_plugins();
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &plugins.display().to_string())]);
    let mut config = bad_config("bad-py", "tell", &place::directory("out").join("file"));
    config["token"] = json!("canary-7b1f");
    worker.rest.call("PUT", "/connectors/secret/config", Some(&config));
    let reason = await_task_failure(&worker.rest, "secret");
    assert!(reason.contains("refused: [hidden]") && reason.contains("correct what the plugin"), "{reason}");
    let log = wait::until("its words are in the log", ARRIVE, || {
        Some(worker.server().log_text()).filter(|log| log.contains("the token is"))
    });
    assert!(log.contains("the token is [hidden]") && !log.contains("canary-7b1f"), "{log}");
    let shown = worker.rest.get("/connectors/secret").1.to_string();
    assert!(!shown.contains("canary-7b1f"), "{shown}");
}

#[test]
fn a_plugin_that_cannot_be_used_is_a_warning() {
    let broker = broker();
    let plugins = bad_plugins();
    std::fs::remove_file(plugins.join("bad-c/bad.so")).unwrap();
    let paths = format!("{},/nowhere/plugins", plugins.display());
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &paths)]);
    let (_, listed) = worker.rest.get("/connector-plugins");
    let has = |class: &str| listed.as_array().unwrap().iter().any(|p| p["class"] == class);
    assert!(has("com.example.bad-py") && !has("com.example.bad-c"), "{listed}");
    let log = worker.server().log_text();
    assert!(log.contains("bad-c is left out") && log.contains("build the plugin first"), "{log}");
    assert!(log.contains("/nowhere/plugins"), "{log}");
}
