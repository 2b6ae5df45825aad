//! `strandline connector`: Kafka Connect's REST API from the command line.
//!
//! Owns the calls and what is printed of their answers; a refusal is printed as the worker worded it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::CommandResult;
use super::bootstrap::block_on;
use super::connector_view as view;
use super::dlq;

/// A connector's file is at most this long, bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A worker's REST API.
    #[arg(long, default_value = "http://127.0.0.1:8083", global = true)]
    url: String,
    /// The worker's answer as it is.
    #[arg(long, global = true)]
    json: bool,
    /// How long one call may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 90, global = true)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a connector from a JSON file, or changes it to what the file says.
    #[command(visible_alias = "create")]
    Apply {
        /// `{"name", "config"}`, or the settings alone with their name. `-` is standard input.
        file: PathBuf,
    },
    /// All connectors and how they are.
    List,
    /// How a connector and its tasks are, and why one has failed.
    Status { name: String },
    /// Stops reading; tasks keep their seats.
    Pause { name: String },
    /// Goes on after a pause or a stop.
    Resume { name: String },
    /// Ends the tasks; the settings stay.
    Stop { name: String },
    /// Starts the connector and its tasks anew.
    Restart {
        name: String,
        /// This task alone.
        #[arg(long)]
        task: Option<u32>,
        /// Only what has failed.
        #[arg(long, conflicts_with = "task")]
        only_failed: bool,
    },
    /// Deletes a connector. What it has delivered stays.
    Delete { name: String },
    /// The committed offsets of a connector; changed while it is stopped.
    Offsets {
        name: String,
        /// Sets one: TOPIC:PARTITION=OFFSET. May be given again.
        #[arg(long, value_name = "TOPIC:PARTITION=OFFSET", conflicts_with = "reset")]
        set: Vec<String>,
        /// Forgets all: it begins anew.
        #[arg(long)]
        reset: bool,
    },
    /// Says what is wrong with a file, key by key, and changes nothing.
    Validate { file: PathBuf },
    /// The kinds of connectors that the workers know.
    Plugins,
    /// Records that a connector has put aside: what they are, why, and back to their topic.
    Dlq(dlq::Args),
}

pub fn run(args: Args) -> CommandResult {
    block_on(async {
        let client = Client::builder().timeout(Duration::from_secs(args.timeout)).no_proxy().build()?;
        let api = Api { client, url: args.url.trim_end_matches('/').to_owned() };
        if let Command::Dlq(wanted) = &args.command {
            let topic = match wanted.connector()? {
                Some(name) => dlq::topic_of(name, &api.get(&connector(name, "/config")).await?)?,
                None => wanted.topic_given(),
            };
            return dlq::run(wanted, &topic, Duration::from_secs(args.timeout), args.json).await;
        }
        carry_out(&api, args.command, args.json).await
    })
}

struct Api {
    client: Client,
    url: String,
}

impl Api {
    /// Status and body; a refusal is an error with the worker's words.
    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome<(u16, Value)> {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.map_err(|e| {
            format!(
                "no worker answers at {}: {e}; start one (strandline connect, strandline dev) or say --url",
                self.url
            )
        })?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status >= 400 {
            let message = value["message"].as_str().map_or(text, str::to_owned);
            return Err(format!("{message} ({status})").into());
        }
        Ok((status, value))
    }

    async fn get(&self, path: &str) -> Outcome<Value> {
        Ok(self.call(Method::GET, path, None).await?.1)
    }
}

fn connector(name: &str, rest: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let escaped: String =
        name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    format!("/connectors/{escaped}{rest}")
}

fn read(file: &Path) -> Outcome<Value> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::Read::take(std::io::stdin(), FILE_BYTES_MAX))?
    } else {
        let failed = |e: std::io::Error| format!("{}: {e}", file.display());
        if std::fs::metadata(file).map_err(failed)?.len() > FILE_BYTES_MAX {
            return Err(format!("{} is longer than {FILE_BYTES_MAX} bytes", file.display()).into());
        }
        std::fs::read_to_string(file).map_err(failed)?
    };
    Ok(serde_json::from_str(&text).map_err(|e| format!("{} is not JSON: {e}", file.display()))?)
}

/// Name and settings of a file of either form.
fn named(posted: &Value) -> Outcome<(String, Value)> {
    let config = posted.get("config").filter(|c| c.is_object()).unwrap_or(posted);
    let name = posted["name"].as_str().or_else(|| config["name"].as_str());
    let name = name.map(str::trim).filter(|n| !n.is_empty());
    Ok((name.ok_or("the file has no name: add \"name\"")?.to_owned(), config.clone()))
}

async fn carry_out(api: &Api, command: Command, as_json: bool) -> CommandResult {
    let say = |answer: &Value, text: String| {
        if as_json { println!("{answer}") } else { println!("{text}") }
    };
    match command {
        Command::Apply { file } => apply(api, &read(&file)?, as_json).await?,
        Command::List => {
            let all = api.get("/connectors?expand=status&expand=info").await?;
            say(&all, view::list(&all));
        }
        Command::Status { name } => {
            let status = api.get(&connector(&name, "/status")).await?;
            say(&status, view::status(&status));
        }
        Command::Pause { name } => {
            change(api, Method::PUT, &connector(&name, "/pause"), &name, "pauses", as_json).await?
        }
        Command::Resume { name } => {
            change(api, Method::PUT, &connector(&name, "/resume"), &name, "runs", as_json).await?
        }
        Command::Stop { name } => change(api, Method::PUT, &connector(&name, "/stop"), &name, "stops", as_json).await?,
        Command::Delete { name } => {
            change(api, Method::DELETE, &connector(&name, ""), &name, "is deleted", as_json).await?
        }
        Command::Restart { name, task, only_failed } => {
            let path = match task {
                Some(task) => connector(&name, &format!("/tasks/{task}/restart")),
                None => connector(&name, &format!("/restart?includeTasks=true&onlyFailed={only_failed}")),
            };
            change(api, Method::POST, &path, &name, "restarts", as_json).await?;
        }
        Command::Offsets { name, set, reset } => {
            let path = connector(&name, "/offsets");
            let answer = match (reset, set.is_empty()) {
                (true, _) => api.call(Method::DELETE, &path, None).await?.1,
                (false, true) => api.get(&path).await?,
                (false, false) => api.call(Method::PATCH, &path, Some(&offsets(&set)?)).await?.1,
            };
            say(&answer, view::offsets(&answer));
        }
        Command::Validate { file } => return validate(api, &read(&file)?, as_json).await,
        // Asked of the cluster, not of a worker.
        Command::Dlq(_) => {}
        Command::Plugins => {
            let all = api.get("/connector-plugins").await?;
            say(&all, view::plugins(&all));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(api: &Api, method: Method, path: &str, name: &str, what: &str, as_json: bool) -> Outcome<()> {
    let (status, answer) = api.call(method, path, None).await?;
    if as_json {
        println!("{}", if answer.is_null() { json!({ "status": status }) } else { answer });
    } else {
        println!("{name} {what}");
    }
    Ok(())
}

async fn apply(api: &Api, posted: &Value, as_json: bool) -> Outcome<()> {
    let (name, config) = named(posted)?;
    let exists = api.get("/connectors").await?.as_array().is_some_and(|all| all.iter().any(|n| *n == name.as_str()));
    // An initial state is for a connector that is not there yet.
    let (status, answer) = if posted["initial_state"].is_string() && !exists {
        api.call(Method::POST, "/connectors", Some(posted)).await?
    } else {
        api.call(Method::PUT, &connector(&name, "/config"), Some(&config)).await?
    };
    if as_json {
        println!("{answer}");
    } else {
        let tasks = answer["tasks"].as_array().map_or(0, Vec::len);
        println!("{name} is {} with {tasks} task(s)", if status == 201 { "made" } else { "changed" });
        println!("strandline connector status {name} shows how it is");
    }
    Ok(())
}

fn offsets(set: &[String]) -> Outcome<Value> {
    let mut all = Vec::new();
    for text in set {
        let parsed = text.split_once('=').and_then(|(place, offset)| {
            let (topic, partition) = place.rsplit_once(':')?;
            Some((topic, partition.parse::<i32>().ok()?, offset.parse::<i64>().ok()?))
        });
        let (topic, partition, offset) =
            parsed.ok_or_else(|| format!("{text} is not of the form TOPIC:PARTITION=OFFSET"))?;
        all.push(json!({
            "partition": { "kafka_topic": topic, "kafka_partition": partition },
            "offset": { "kafka_offset": offset },
        }));
    }
    Ok(json!({ "offsets": all }))
}

async fn validate(api: &Api, posted: &Value, as_json: bool) -> CommandResult {
    let config = posted.get("config").filter(|c| c.is_object()).unwrap_or(posted);
    let mut config = config.clone();
    if config["name"].is_null() {
        config["name"] = posted["name"].clone();
    }
    let class = config["connector.class"].as_str().unwrap_or("").to_owned();
    if class.is_empty() {
        return Err("the file has no connector.class: strandline connector plugins names those that are there".into());
    }
    let path = format!("/connector-plugins/{class}/config/validate");
    let answer = api.call(Method::PUT, &path, Some(&config)).await?.1;
    if as_json {
        println!("{answer}");
    } else {
        println!("{}", view::validation(&answer));
    }
    Ok(if answer["error_count"] == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_either_form_has_a_name() {
        let whole = json!({ "name": "a", "config": { "topics": "t" } });
        assert_eq!(named(&whole).unwrap(), ("a".to_owned(), json!({ "topics": "t" })));
        let flat = json!({ "name": "a", "topics": "t" });
        assert_eq!(named(&flat).unwrap(), ("a".to_owned(), flat.clone()));
        assert!(named(&json!({ "topics": "t" })).is_err());
    }

    #[test]
    fn offsets_are_read_from_their_short_form() {
        let body = offsets(&["a:b:3=7".to_owned()]).unwrap();
        assert_eq!(body["offsets"][0]["partition"], json!({ "kafka_topic": "a:b", "kafka_partition": 3 }));
        assert!(offsets(&["a=7".to_owned()]).is_err());
    }
}
