//! Which call a request is: a pure function of method, path and query.
//!
//! Owns the paths of Kafka Connect's REST API, and its answers to what is none of them.

use super::answer::Failure;

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Root,
    Health,
    OpenApi { yaml: bool },
    List { status: bool, info: bool, expand: bool },
    Create,
    Get(String),
    Delete(String),
    Config(String),
    PutConfig(String),
    PatchConfig(String),
    Status(String),
    Tasks(String),
    TaskStatus(String, u32),
    Restart { connector: String, include_tasks: bool, only_failed: bool },
    RestartTask(String, u32),
    Pause(String),
    Resume(String),
    Stop(String),
    Topics(String),
    ResetTopics(String),
    Offsets(String),
    AlterOffsets(String),
    ResetOffsets(String),
    Plugins { connectors_only: bool },
    PluginConfig(String),
    Validate(String),
    Loggers,
    Logger(String),
    SetLogger { logger: String, cluster: bool },
}

impl Call {
    /// Whether it changes what the group knows, and so goes through the leader.
    pub fn needs_leader(&self) -> bool {
        matches!(
            self,
            Call::Create
                | Call::Delete(_)
                | Call::PutConfig(_)
                | Call::PatchConfig(_)
                | Call::Restart { .. }
                | Call::RestartTask(..)
                | Call::Pause(_)
                | Call::Resume(_)
                | Call::Stop(_)
                | Call::AlterOffsets(_)
                | Call::ResetOffsets(_)
        )
    }
}

/// `%41` is `A`; an escape that is none is left as it is.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match after {
            [high, low, behind @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high * 16 + low);
                    rest = behind;
                }
                _ => bytes.push(*first),
            },
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn query_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decoded(&value.replace('+', " ")))
    })
}

fn flag(query: &str, name: &str) -> bool {
    query_values(query, name).any(|v| v.eq_ignore_ascii_case("true"))
}

/// Which call it is.
pub fn parse(method: &str, path: &str, query: &str) -> Result<Call, Failure> {
    let segments: Vec<String> = path.trim_matches('/').split('/').map(decoded).collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [""] => only(method, &[("GET", Call::Root)]),
        ["health"] => only(method, &[("GET", Call::Health)]),
        ["openapi.json"] => only(method, &[("GET", Call::OpenApi { yaml: false })]),
        ["openapi.yaml"] => only(method, &[("GET", Call::OpenApi { yaml: true })]),
        ["connectors"] => {
            let expands: Vec<String> = query_values(query, "expand").collect();
            let has = |name: &str| expands.iter().any(|e| e == name);
            let list = Call::List { status: has("status"), info: has("info"), expand: !expands.is_empty() };
            only(method, &[("GET", list), ("POST", Call::Create)])
        }
        ["connectors", name, rest @ ..] => connector(method, (*name).to_owned(), rest, query),
        ["connector-plugins"] => {
            // Kafka Connect's default is to name connectors alone.
            let connectors_only = !query_values(query, "connectorsOnly").any(|v| v.eq_ignore_ascii_case("false"));
            only(method, &[("GET", Call::Plugins { connectors_only })])
        }
        ["connector-plugins", name, "config"] => only(method, &[("GET", Call::PluginConfig((*name).to_owned()))]),
        ["connector-plugins", name, "config", "validate"] => {
            only(method, &[("PUT", Call::Validate((*name).to_owned()))])
        }
        ["admin", "loggers"] => only(method, &[("GET", Call::Loggers)]),
        ["admin", "loggers", name] => {
            let cluster = query_values(query, "scope").any(|s| s.eq_ignore_ascii_case("cluster"));
            let set = Call::SetLogger { logger: (*name).to_owned(), cluster };
            only(method, &[("GET", Call::Logger((*name).to_owned())), ("PUT", set)])
        }
        _ => Err(Failure::no_such_path()),
    }
}

fn connector(method: &str, name: String, rest: &[&str], query: &str) -> Result<Call, Failure> {
    let task = |text: &str| text.parse::<u32>().map_err(|_| Failure::no_such_path());
    match rest {
        [] => only(method, &[("GET", Call::Get(name.clone())), ("DELETE", Call::Delete(name))]),
        ["config"] => only(
            method,
            &[
                ("GET", Call::Config(name.clone())),
                ("PUT", Call::PutConfig(name.clone())),
                ("PATCH", Call::PatchConfig(name)),
            ],
        ),
        ["status"] => only(method, &[("GET", Call::Status(name))]),
        ["tasks"] => only(method, &[("GET", Call::Tasks(name))]),
        ["tasks", number, "status"] => only(method, &[("GET", Call::TaskStatus(name, task(number)?))]),
        ["tasks", number, "restart"] => only(method, &[("POST", Call::RestartTask(name, task(number)?))]),
        ["restart"] => {
            let (include_tasks, only_failed) = (flag(query, "includeTasks"), flag(query, "onlyFailed"));
            only(method, &[("POST", Call::Restart { connector: name, include_tasks, only_failed })])
        }
        ["pause"] => only(method, &[("PUT", Call::Pause(name))]),
        ["resume"] => only(method, &[("PUT", Call::Resume(name))]),
        ["stop"] => only(method, &[("PUT", Call::Stop(name))]),
        ["topics"] => only(method, &[("GET", Call::Topics(name))]),
        ["topics", "reset"] => only(method, &[("PUT", Call::ResetTopics(name))]),
        ["offsets"] => only(
            method,
            &[
                ("GET", Call::Offsets(name.clone())),
                ("PATCH", Call::AlterOffsets(name.clone())),
                ("DELETE", Call::ResetOffsets(name)),
            ],
        ),
        _ => Err(Failure::no_such_path()),
    }
}

fn only(method: &str, calls: &[(&str, Call)]) -> Result<Call, Failure> {
    let found = calls.iter().find(|(m, _)| *m == method || (method == "HEAD" && *m == "GET"));
    found.map(|(_, call)| call.clone()).ok_or_else(Failure::wrong_method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_kafka_connect_is_known() {
        for (method, path, call) in [
            ("GET", "/", Call::Root),
            ("GET", "/health", Call::Health),
            ("GET", "/connectors/", Call::List { status: false, info: false, expand: false }),
            ("POST", "/connectors", Call::Create),
            ("DELETE", "/connectors/a", Call::Delete("a".to_owned())),
            ("GET", "/connectors/a%20b%2Fc/config", Call::Config("a b/c".to_owned())),
            ("PATCH", "/connectors/a/config", Call::PatchConfig("a".to_owned())),
            ("GET", "/connectors/a/tasks/3/status", Call::TaskStatus("a".to_owned(), 3)),
            ("POST", "/connectors/a/tasks/3/restart", Call::RestartTask("a".to_owned(), 3)),
            ("PUT", "/connectors/a/topics/reset", Call::ResetTopics("a".to_owned())),
            ("PATCH", "/connectors/a/offsets", Call::AlterOffsets("a".to_owned())),
            ("PUT", "/connector-plugins/F/config/validate", Call::Validate("F".to_owned())),
        ] {
            assert_eq!(parse(method, path, "").unwrap(), call);
        }
        let list = parse("GET", "/connectors", "expand=status&expand=info").unwrap();
        assert_eq!(list, Call::List { status: true, info: true, expand: true });
        let restart = parse("POST", "/connectors/a/restart", "includeTasks=true").unwrap();
        assert_eq!(restart, Call::Restart { connector: "a".to_owned(), include_tasks: true, only_failed: false });
    }

    #[test]
    fn what_is_none_of_them_is_told_so() {
        assert_eq!(parse("GET", "/nonsense", "").unwrap_err().status, 404);
        assert_eq!(parse("POST", "/connectors/a/status", "").unwrap_err().status, 405);
        assert_eq!(parse("GET", "/connectors/a/tasks/x/status", "").unwrap_err().status, 404);
    }

    #[test]
    fn a_broken_escape_is_left_as_it_is() {
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%41"), "%zzA");
    }
}
