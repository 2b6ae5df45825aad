//! Names of files.

use serde::{Deserialize, Serialize};

use super::encode::extension;
use super::keys::Layout;
use crate::sink::TopicPartition;

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    Text(String),
    Topic,
    Partition { padded: bool },
    StartOffset { padded: bool },
}

/// How a file is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// `<topic>/<folder>/<topic>+<partition>+<offset>.<extension>`, the offset with at least `pad` digits.
    Standard { pad: usize },
    /// As Aiven's sink: below the folder of all topics.
    Template(Vec<Piece>),
}

impl Name {
    /// Reads a template; Err = what is wrong and what is right.
    pub fn template(text: &str) -> Result<Name, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (variable, after) = after.split_once("}}").ok_or("a {{ has no }}")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (variable, parameter) = variable.trim().split_once(':').unwrap_or((variable.trim(), ""));
            let padded = parameter.trim() == "padding=true";
            pieces.push(match variable.trim() {
                "topic" => Piece::Topic,
                "partition" => Piece::Partition { padded },
                "start_offset" => Piece::StartOffset { padded },
                other => return Err(format!("{{{{{other}}}}} is unknown; there are {{{{topic}}}}, {{{{partition}}}} and {{{{start_offset}}}}")),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let has = |wanted: fn(&Piece) -> bool| pieces.iter().any(wanted);
        let unique = has(|p| *p == Piece::Topic)
            && has(|p| matches!(p, Piece::Partition { .. }))
            && has(|p| matches!(p, Piece::StartOffset { .. }));
        let safe = pieces.iter().all(|p| !matches!(p, Piece::Text(t) if t.contains("..") || t.starts_with('/')));
        match (unique, safe) {
            (true, true) => Ok(Name::Template(pieces)),
            (false, _) => {
                Err("it needs {{topic}}, {{partition}} and {{start_offset}}, or files would have the same name"
                    .to_owned())
            }
            (_, false) => Err("it must stay below topics.dir: no .. and no / at its beginning".to_owned()),
        }
    }
}

/// The key of the file whose first row is at `first_offset`, in the folder `folder` ("" = none) of `topic`. Rows that transforms have sent to
/// another topic than their own keep the name of their own: several topics may be sent to one.
pub fn key(layout: &Layout, partition: &TopicPartition, topic: &str, folder: &str, first_offset: i64) -> String {
    let (dir, own, number) = (&layout.topics_dir, &*partition.topic, partition.partition);
    let extension = extension(layout);
    match &layout.name {
        Name::Standard { pad } => {
            let pad = *pad;
            format!("{dir}/{topic}/{folder}/{own}+{number}+{first_offset:0pad$}.{extension}")
        }
        Name::Template(pieces) => {
            let mut name = format!("{dir}/");
            if !folder.is_empty() && !folder.starts_with("partition=") {
                name += &format!("{folder}/");
            }
            for piece in pieces {
                match piece {
                    Piece::Text(text) => name += text,
                    Piece::Topic => name += topic,
                    Piece::Partition { padded: false } => name += &number.to_string(),
                    Piece::Partition { padded: true } => name += &format!("{number:010}"),
                    Piece::StartOffset { padded: false } => name += &first_offset.to_string(),
                    Piece::StartOffset { padded: true } => name += &format!("{first_offset:020}"),
                }
            }
            if topic != own {
                name += &format!("+{own}");
            }
            format!("{name}.{extension}")
        }
    }
}
