//! The API's own description, OpenAPI 3.1: `GET /openapi.json` and `/openapi.yaml`.
//!
//! Owns the words and shapes of every call, in one table. The tests hold it to the router: every call has its row, and every row its call.

use serde_json::{Map, Value, json};

use super::answer::Answer;

/// A row: one method of one path.
struct Operation {
    id: &'static str,
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    /// Query parameters: name, type, what they do.
    query: &'static [(&'static str, &'static str, &'static str)],
    /// The schema of the body it takes.
    body: Option<&'static str>,
    /// What it answers when all is well: status, and the schema of the body if there is one.
    answer: (u16, Option<&'static str>),
    /// Statuses of refusals.
    refused: &'static [u16],
}

const fn get(id: &'static str, path: &'static str, summary: &'static str, body: &'static str) -> Operation {
    Operation { id, method: "get", path, summary, query: &[], body: None, answer: (200, Some(body)), refused: &[404] }
}

const fn change(
    method: &'static str,
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    status: u16,
) -> Operation {
    Operation { id, method, path, summary, query: &[], body: None, answer: (status, None), refused: &[404, 409, 500] }
}

impl Operation {
    const fn query(self, query: &'static [(&'static str, &'static str, &'static str)]) -> Operation {
        Operation { query, ..self }
    }

    const fn body(self, body: &'static str) -> Operation {
        Operation { body: Some(body), ..self }
    }

    const fn answers(self, body: &'static str) -> Operation {
        Operation { answer: (self.answer.0, Some(body)), ..self }
    }

    const fn refuses(self, refused: &'static [u16]) -> Operation {
        Operation { refused, ..self }
    }
}

const EXPAND: (&str, &str, &str) =
    ("expand", "array", "status, info or both: an object with these of each connector, instead of names.");

/// Every call.
const OPERATIONS: [Operation; 30] = [
    get("root", "/", "Version of the worker, id of its Kafka cluster.", "Root").refuses(&[]),
    get("health", "/health", "Whether the worker has its seat in the group; 503 while it has none.", "Health")
        .refuses(&[503]),
    get("openApiJson", "/openapi.json", "This description.", "Any").refuses(&[]),
    get("openApiYaml", "/openapi.yaml", "This description.", "Any").refuses(&[]),
    get("listConnectors", "/connectors", "The connectors' names, or more of each.", "Connectors")
        .query(&[EXPAND])
        .refuses(&[]),
    change("post", "createConnector", "/connectors", "Makes a connector.", 201)
        .body("NewConnector")
        .answers("Connector")
        .refuses(&[400, 409, 500]),
    get("getConnector", "/connectors/{connector}", "Settings and tasks.", "Connector"),
    change(
        "delete",
        "deleteConnector",
        "/connectors/{connector}",
        "Stops and deletes a connector; its group's offsets stay.",
        204,
    ),
    get("getConnectorConfig", "/connectors/{connector}/config", "Settings, passwords masked.", "Settings"),
    change(
        "put",
        "putConnectorConfig",
        "/connectors/{connector}/config",
        "Replaces the settings, or makes the connector (201).",
        200,
    )
    .body("Settings")
    .answers("Connector")
    .refuses(&[400, 409, 500]),
    change(
        "patch",
        "patchConnectorConfig",
        "/connectors/{connector}/config",
        "Changes single settings; null takes one away.",
        200,
    )
    .body("SettingsPatch")
    .answers("Connector")
    .refuses(&[400, 404, 409, 500]),
    get("getConnectorStatus", "/connectors/{connector}/status", "States of the connector and of its tasks.", "Status"),
    get("getTasks", "/connectors/{connector}/tasks", "Tasks with their settings.", "Tasks"),
    get(
        "getTaskStatus",
        "/connectors/{connector}/tasks/{task}/status",
        "State of a task, with the reason if it failed.",
        "TaskStatus",
    ),
    change(
        "post",
        "restartConnector",
        "/connectors/{connector}/restart",
        "Restarts the connector; 202 and the planned states with a parameter.",
        204,
    )
    .query(&[("includeTasks", "boolean", "Its tasks too."), ("onlyFailed", "boolean", "Only what has failed.")]),
    change("post", "restartTask", "/connectors/{connector}/tasks/{task}/restart", "Restarts a task.", 204),
    change("put", "pauseConnector", "/connectors/{connector}/pause", "Tasks stay and deliver nothing.", 202),
    change("put", "resumeConnector", "/connectors/{connector}/resume", "Undoes pause and stop.", 202),
    change("put", "stopConnector", "/connectors/{connector}/stop", "Ends the tasks; offsets can be changed then.", 204),
    get("getConnectorTopics", "/connectors/{connector}/topics", "Topics that it has read.", "Topics").refuses(&[403]),
    change(
        "put",
        "resetConnectorTopics",
        "/connectors/{connector}/topics/reset",
        "Forgets which topics it has read.",
        202,
    )
    .refuses(&[403, 500]),
    get("getOffsets", "/connectors/{connector}/offsets", "How far its group is.", "Offsets"),
    change(
        "patch",
        "alterOffsets",
        "/connectors/{connector}/offsets",
        "Sets offsets of a stopped connector; an offset of null forgets.",
        200,
    )
    .body("Offsets")
    .answers("Message")
    .refuses(&[400, 404, 409, 500]),
    change(
        "delete",
        "resetOffsets",
        "/connectors/{connector}/offsets",
        "Forgets all offsets of a stopped connector.",
        200,
    )
    .answers("Message")
    .refuses(&[400, 404, 409, 500]),
    get("listPlugins", "/connector-plugins", "Kinds of connectors.", "Plugins")
        .query(&[("connectorsOnly", "boolean", "false: also converters and transformations. Default: true.")])
        .refuses(&[]),
    get("getPluginConfig", "/connector-plugins/{plugin}/config", "Keys of a kind.", "KeyDefinitions"),
    change(
        "put",
        "validateConfig",
        "/connector-plugins/{plugin}/config/validate",
        "What settings get wrong, key by key.",
        200,
    )
    .body("Settings")
    .answers("Validation")
    .refuses(&[400]),
    get("listLoggers", "/admin/loggers", "Levels of what is logged.", "Loggers").refuses(&[]),
    get("getLogger", "/admin/loggers/{logger}", "The level of one logger.", "Logger"),
    change(
        "put",
        "setLogger",
        "/admin/loggers/{logger}",
        "Sets a level: the names it holds for; 204 if it is for the cluster.",
        200,
    )
    .query(&[("scope", "string", "worker (default) or cluster.")])
    .body("Level")
    .answers("Names")
    .refuses(&[400, 404, 500]),
];

/// Parameters in a path, in their order.
fn in_path(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let path = in_path(operation.path).map(|name| {
        let kind = if name == "task" { "integer" } else { "string" };
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": kind } })
    });
    let query = operation.query.iter().map(|(name, kind, description)| {
        let schema = match *kind {
            "array" => json!({ "type": "array", "items": { "type": "string", "enum": ["status", "info"] } }),
            kind => json!({ "type": kind }),
        };
        json!({ "name": name, "in": "query", "description": description, "schema": schema })
    });
    path.chain(query).collect()
}

fn described(operation: &Operation) -> Value {
    let (status, body) = operation.answer;
    let mut answers = Map::new();
    let right = match body {
        Some(body) => json!({ "description": "Done.", "content": content(body) }),
        None => json!({ "description": "Done." }),
    };
    answers.insert(status.to_string(), right);
    for status in operation.refused {
        let refused = json!({ "description": "Refused; the message says why.", "content": content("Error") });
        answers.insert(status.to_string(), refused);
    }
    let mut told = json!({
        "operationId": operation.id, "summary": operation.summary, "parameters": parameters(operation), "responses": answers,
    });
    if let Some(body) = operation.body {
        told["requestBody"] = json!({ "required": true, "content": content(body) });
    }
    told
}

fn schemas() -> Value {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer" });
    let list = |of: &Value| json!({ "type": "array", "items": of });
    let object = |of: Value| json!({ "type": "object", "properties": of });
    let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let state =
        || json!({ "type": "string", "enum": ["RUNNING", "PAUSED", "STOPPED", "FAILED", "UNASSIGNED", "RESTARTING"] });
    let one_state = object(json!({ "state": state(), "worker_id": text, "trace": text, "version": text }));
    let offset = object(json!({
        "partition": object(json!({ "kafka_topic": text, "kafka_partition": number })),
        "offset": { "type": ["object", "null"], "properties": { "kafka_offset": number } },
    }));
    let task_id = object(json!({ "connector": text, "task": number }));
    json!({
        "Any": {},
        "Error": object(json!({ "error_code": number, "message": text })),
        "Root": object(json!({ "version": text, "commit": text, "kafka_cluster_id": text })),
        "Health": object(json!({ "status": text, "message": text })),
        "Connectors": { "oneOf": [list(&text), { "type": "object" }] },
        "Settings": texts,
        "SettingsPatch": { "type": "object", "additionalProperties": { "type": ["string", "null"] } },
        "NewConnector": object(json!({
            "name": text, "config": texts, "initial_state": { "type": "string", "enum": ["RUNNING", "PAUSED", "STOPPED"] },
        })),
        "Connector": object(json!({ "name": text, "config": texts, "tasks": list(&task_id), "type": text })),
        "Status": object(json!({ "name": text, "connector": one_state, "tasks": list(&reference("TaskStatus")), "type": text })),
        "TaskStatus": object(json!({ "id": number, "state": state(), "worker_id": text, "trace": text, "version": text })),
        "Tasks": list(&object(json!({ "id": task_id, "config": texts }))),
        "Topics": { "type": "object", "additionalProperties": object(json!({ "topics": list(&text) })) },
        "Offsets": object(json!({ "offsets": list(&offset) })),
        "Message": object(json!({ "message": text })),
        "Plugins": list(&object(json!({ "class": text, "type": text, "version": text }))),
        "KeyDefinitions": list(&json!({ "type": "object" })),
        "Validation": object(json!({ "name": text, "error_count": number, "groups": list(&text), "configs": list(&json!({ "type": "object" })) })),
        "Loggers": { "type": "object", "additionalProperties": reference("Logger") },
        "Logger": object(json!({ "level": { "type": ["string", "null"] }, "last_modified": { "type": ["integer", "null"] } })),
        "Level": object(json!({ "level": text })),
        "Names": list(&text),
    })
}

/// The description.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Strandline's connector worker",
            "description": "Kafka Connect's REST API.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

/// The answer to both calls; YAML is made of the same value.
pub fn answer(yaml: bool) -> Answer {
    let document = document();
    if !yaml {
        return Answer::ok(document);
    }
    let mut text = String::new();
    block(&document, 0, &mut text);
    Answer { text: Some(("application/yaml", text)), ..Answer::empty(200) }
}

/// A value as a block of YAML; what is short and empty is written as JSON, which YAML contains.
fn block(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    let nested = |value: &Value| match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    let entry = |head: String, value: &Value, out: &mut String| {
        out.push_str(&pad);
        out.push_str(&head);
        if nested(value) {
            out.push('\n');
            block(value, indent + 2, out);
        } else {
            out.push(' ');
            out.push_str(&value.to_string());
            out.push('\n');
        }
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| entry(format!("{}:", json!(key)), value, out)),
        Value::Array(list) => list.iter().for_each(|value| entry("-".to_owned(), value, out)),
        scalar => {
            out.push_str(&pad);
            out.push_str(&scalar.to_string());
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::{Call, parse};
    use super::*;

    /// The row's id of a call: one more call does not compile without its row.
    fn operation(call: &Call) -> &'static str {
        match call {
            Call::Root => "root",
            Call::Health => "health",
            Call::OpenApi { yaml: false } => "openApiJson",
            Call::OpenApi { yaml: true } => "openApiYaml",
            Call::List { .. } => "listConnectors",
            Call::Create => "createConnector",
            Call::Get(_) => "getConnector",
            Call::Delete(_) => "deleteConnector",
            Call::Config(_) => "getConnectorConfig",
            Call::PutConfig(_) => "putConnectorConfig",
            Call::PatchConfig(_) => "patchConnectorConfig",
            Call::Status(_) => "getConnectorStatus",
            Call::Tasks(_) => "getTasks",
            Call::TaskStatus(..) => "getTaskStatus",
            Call::Restart { .. } => "restartConnector",
            Call::RestartTask(..) => "restartTask",
            Call::Pause(_) => "pauseConnector",
            Call::Resume(_) => "resumeConnector",
            Call::Stop(_) => "stopConnector",
            Call::Topics(_) => "getConnectorTopics",
            Call::ResetTopics(_) => "resetConnectorTopics",
            Call::Offsets(_) => "getOffsets",
            Call::AlterOffsets(_) => "alterOffsets",
            Call::ResetOffsets(_) => "resetOffsets",
            Call::Plugins { .. } => "listPlugins",
            Call::PluginConfig(_) => "getPluginConfig",
            Call::Validate(_) => "validateConfig",
            Call::Loggers => "listLoggers",
            Call::Logger(_) => "getLogger",
            Call::SetLogger { .. } => "setLogger",
        }
    }

    fn filled(path: &str) -> String {
        path.replace("{task}", "3").replace("{connector}", "c").replace("{plugin}", "p").replace("{logger}", "l")
    }

    #[test]
    fn the_table_is_what_the_router_knows() {
        let paths: std::collections::BTreeSet<&str> = OPERATIONS.iter().map(|o| o.path).collect();
        for path in paths {
            for method in ["get", "post", "put", "patch", "delete"] {
                let row = OPERATIONS.iter().find(|o| o.path == path && o.method == method).map(|o| o.id);
                let call = parse(&method.to_ascii_uppercase(), &filled(path), "");
                assert_eq!(call.as_ref().ok().map(operation), row, "{method} {path}");
            }
        }
    }

    #[test]
    fn every_row_has_an_id_of_its_own_and_schemas_that_are_there() {
        let ids: std::collections::BTreeSet<&str> = OPERATIONS.iter().map(|o| o.id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        let schemas = schemas();
        for operation in &OPERATIONS {
            for schema in operation.body.into_iter().chain(operation.answer.1) {
                assert!(schemas[schema].is_object(), "{}: {schema}", operation.id);
            }
        }
    }

    #[test]
    fn yaml_says_the_same() {
        let mut text = String::new();
        block(&json!({ "a": [1, { "b": [] }], "c: d": "x\ny" }), 0, &mut text);
        assert_eq!(text, "\"a\":\n  - 1\n  -\n    \"b\": []\n\"c: d\": \"x\\ny\"\n");
    }
}
