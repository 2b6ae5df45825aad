//! What must not be told, and where connectors must not go; and what the worker counts.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_tests::connect::{Rest, Worker};
use strandline_tests::{http, place, wait};

use crate::plugins::{bad_config, bad_plugins};
use crate::scene::{ARRIVE, await_lines, broker, file_sink, produce, topic};

fn write(path: &Path, text: &str) {
    std::fs::File::create(path).expect("a file").write_all(text.as_bytes()).expect("a file");
}

/// Every secret of the test has this in it.
const CANARY: &str = "canary-93d1";

fn await_trace(rest: Rest, name: &str) -> String {
    wait::until(&format!("the task of {name} fails"), ARRIVE, || {
        let (_, status) = rest.get(&format!("/connectors/{name}/status"));
        let task = &status["tasks"][0];
        (task["state"] == "FAILED").then(|| task["trace"].as_str().unwrap_or_default().to_owned())
    })
}

/// All that can be asked of a worker about its connectors.
fn everything(rest: Rest, admin: SocketAddr, names: &[&str]) -> String {
    let mut all = vec![http::get(admin, "/metrics").expect("metrics").body];
    let mut ask = |method: &str, path: &str, body: Option<&Value>| all.push(rest.answer(method, path, body).body);
    for path in [
        "/",
        "/connectors",
        "/connectors?expand=info&expand=status",
        "/connector-plugins?connectorsOnly=false",
        "/admin/loggers",
    ] {
        ask("GET", path, None);
    }
    for name in names {
        for part in ["", "/config", "/status", "/tasks", "/tasks/0/status", "/topics", "/offsets"] {
            ask("GET", &format!("/connectors/{name}{part}"), None);
        }
        // What was read is written back, and stays what it was.
        let config = rest.get(&format!("/connectors/{name}/config")).1;
        ask("PUT", &format!("/connectors/{name}/config"), Some(&config));
        ask("PATCH", &format!("/connectors/{name}/config"), Some(&json!({ "tasks.max": "1" })));
    }
    all.join("\n")
}

#[test]
fn secrets_are_in_no_answer_no_log_and_no_metric() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 200);
    let secrets = place::directory("secrets");
    write(&secrets.join("keys.properties"), &format!("key={CANARY}-from-a-file\nhost=127.0.0.1:1"));
    write(&secrets.join("token"), &format!("{CANARY}-from-a-directory"));
    let at = secrets.display().to_string();
    let admin = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
    let provider = "org.apache.kafka.common.config.provider";
    let mut worker = Worker::start(
        &broker.bootstrap(),
        "g",
        &[
            ("plugin.path", &bad_plugins().display().to_string()),
            ("admin.listener", &format!("http://{admin}")),
            ("config.providers", "file,secrets,env"),
            ("config.providers.file.class", &format!("{provider}.FileConfigProvider")),
            ("config.providers.file.param.allowed.paths", &at),
            ("config.providers.secrets.class", &format!("{provider}.DirectoryConfigProvider")),
            ("config.providers.secrets.param.allowed.paths", &at),
            ("config.providers.env.class", &format!("{provider}.EnvVarConfigProvider")),
            ("config.providers.env.param.allowlist.pattern", "NOTHING_.*"),
        ],
    );
    let rest = worker.rest;
    let put = |name: &str, config: &Value, expected: u16| {
        let answer = rest.answer("PUT", &format!("/connectors/{name}/config"), Some(config));
        assert_eq!(answer.status, expected, "{name}: {}", answer.body);
        assert!(!answer.body.contains(CANARY), "{}", answer.body);
        answer.body
    };
    // A store that nobody answers for: its errors are told over and over.
    let endpoint = format!("http://joe:{CANARY}-in-a-url@${{file:{at}/keys.properties:host}}");
    let store = json!({
        "connector.class": "object-store", "topics": "orders", "s3.bucket.name": "b", "s3.region": "us-east-1", "flush.size": "1",
        "aws.s3.endpoint": endpoint, "aws.access.key.id": format!("{CANARY}-id"),
        "aws.secret.access.key": format!("${{file:{at}/keys.properties:key}}"),
        "consumer.override.sasl.jaas.config": format!("{CANARY}-jaas"),
    });
    put("store", &store, 201);
    // A plugin that tells its secret, which came from a file.
    let mut plugin = bad_config("bad-py", "tell", &place::directory("out").join("file"));
    plugin["token"] = json!(format!("${{secrets:{at}:token}}"));
    put("plugin", &plugin, 201);
    // A value that may not be read, and one that is wrong once it is there.
    let mut denied = file_sink("orders", &place::directory("sink").join("out"), 1);
    denied["file"] = json!("${env:HOME}");
    put("denied", &denied, 201);
    let mut wrong = file_sink("orders", &place::directory("sink").join("out"), 1);
    wrong["errors.retry.timeout"] = json!(format!("${{secrets:{at}:token}}"));
    put("wrong", &wrong, 201);
    let mut refused = store.clone();
    refused["flush.size"] = json!(format!("{CANARY}-no-number"));
    refused["flush.size"] = json!("0");
    refused["connector.class"] = json!("nothing-like-this");
    put("refused", &refused, 400);
    let validated = rest.answer("PUT", "/connector-plugins/object-store/config/validate", Some(&store)).body;
    assert!(!validated.contains(CANARY) && validated.contains("[hidden]"), "{validated}");

    let told = await_trace(rest, "plugin");
    assert!(told.contains("refused: [hidden]"), "{told}");
    let told = await_trace(rest, "denied");
    assert!(told.contains("file: ${env:HOME} cannot be resolved") && told.contains("allowlist.pattern"), "{told}");
    let told = await_trace(rest, "wrong");
    assert!(told.contains("Invalid value [hidden] for configuration errors.retry.timeout"), "{told}");
    let log = wait::until("the store is tried again", ARRIVE, || {
        Some(worker.server().log_text()).filter(|log| log.contains("is tried again") && log.contains("the token is"))
    });
    assert!(log.contains("connector=\"store\"") || log.contains("connector=store"), "the lines name their task: {log}");
    let all = everything(rest, admin, &["store", "plugin", "denied", "wrong"]);
    assert!(!all.contains(CANARY), "{all}");
    let kept = rest.get("/connectors/store/config").1;
    assert!(kept["aws.s3.endpoint"].as_str().unwrap().starts_with("http://joe:[hidden]@${file:"), "{kept}");
    wait::until("it is tried again with what it had", ARRIVE, || {
        let log = worker.server().log_text();
        (log.matches("is tried again").count() > 2).then_some(())
    });
    let log = worker.server().log_text();
    assert!(!log.contains(CANARY), "{log}");
    worker.stop();
}

#[test]
fn connectors_go_where_the_list_says() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 20);
    let allowed = place::directory("allowed");
    let list = format!("file://{},s3://*,10.0.0.0/8", allowed.display());
    let worker = Worker::start(&broker.bootstrap(), "g", &[("connect.url.allowlist", &list)]);
    let put = |name: &str, config: &Value| worker.rest.call("PUT", &format!("/connectors/{name}/config"), Some(config));
    let refused = |config: &Value, words: &str| {
        let (status, answer) = put("no", config);
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains("connect.url.allowlist") && message.contains(words), "{answer}");
    };
    refused(&file_sink("orders", &place::directory("other").join("out"), 1), "below no file:///directory");
    let store = |endpoint: &str| {
        json!({
            "connector.class": "object-store", "topics": "orders", "s3.bucket.name": "b", "s3.region": "us-east-1",
            "aws.s3.endpoint": endpoint, "aws.access.key.id": "a", "aws.secret.access.key": "b", "flush.size": "1",
        })
    };
    refused(&store("http://127.0.0.1:9000"), "127.0.0.1");
    refused(&store("http:169.254.169.254"), "link-local");
    // A name is judged by its addresses, when the task starts.
    assert_eq!(put("by-name", &store("http://localhost:9000")).0, 201);
    let told = await_trace(worker.rest, "by-name");
    assert!(told.starts_with("aws.s3.endpoint: localhost (") && told.contains("connect.url.allowlist"), "{told}");
    assert_eq!(put("yes", &file_sink("orders", &allowed.join("out"), 1)).0, 201);
    await_lines(&allowed.join("out"), "first", 20);

    let open = Worker::start(&broker.bootstrap(), "h", &[]);
    let path = "/connector-plugins/object-store/config/validate";
    let mut config = store("http://[::ffff:169.254.169.254]/");
    config["name"] = json!("x");
    let (_, answer) = open.rest.call("PUT", path, Some(&config));
    assert_eq!(answer["error_count"], 1, "{answer}");
    config["aws.s3.endpoint"] = json!("http://127.0.0.1:9000");
    assert_eq!(open.rest.call("PUT", path, Some(&config)).1["error_count"], 0);
}

#[test]
fn a_worker_counts_what_its_tasks_do() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 20);
    let admin = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
    let worker = Worker::start(&broker.bootstrap(), "g", &[("admin.listener", &format!("http://{admin}"))]);
    let file = place::directory("sink").join("out");
    worker.rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 1)));
    await_lines(&file, "first", 20);
    let expected = [
        "kafka_connect_worker_connector_count 1",
        "kafka_connect_worker_task_count 1",
        "kafka_connect_connector_status{connector=\"archive\",status=\"running\"} 1",
        "kafka_connect_connector_task_status{connector=\"archive\",task=\"0\",status=\"running\"} 1",
        "kafka_connect_worker_connector_running_task_count{connector=\"archive\"} 1",
        "kafka_connect_worker_connector_failed_task_count{connector=\"archive\"} 0",
        "kafka_connect_sink_task_sink_record_read_total{connector=\"archive\",task=\"0\"} 20",
        "kafka_connect_sink_task_sink_record_send_total{connector=\"archive\",task=\"0\"} 20",
        "kafka_connect_sink_task_sink_record_lag_max{connector=\"archive\",task=\"0\"} 0",
        "kafka_connect_task_error_total_record_failures{connector=\"archive\",task=\"0\"} 0",
        "strandline_connect_task_open_files{connector=\"archive\",task=\"0\"} 1",
        "strandline_connect_task_committed_offset{connector=\"archive\",task=\"0\",topic=\"orders\",partition=\"0\"} 20",
    ];
    let mut page = String::new();
    wait::until("the page says so", Duration::from_secs(20), || {
        page = http::get(admin, "/metrics").ok()?.body.replace("{}", "");
        expected.iter().all(|line| page.lines().any(|l| l == *line)).then_some(())
    });
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert_eq!(http::get(admin, "/health").unwrap().status, 200);
}
