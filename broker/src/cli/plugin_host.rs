//! `strandline plugin-host`: the process that stands between a worker and one plugin. Started by workers, for nobody to type.

use std::path::PathBuf;
use std::process::ExitCode;

use strandline_connectors::plugin::host::{self, Hosted};
use strandline_connectors::plugin::manifest::Kind;

use super::CommandResult;

/// The usual status of a command that was found and does not run.
const DOES_NOT_RUN: u8 = 126;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum WrittenKind {
    Executable,
    Library,
    Adbc,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The worker's process.
    #[arg(long)]
    parent: u32,
    /// Bytes of address space that the process may use.
    #[arg(long)]
    memory_max: u64,
    #[arg(long)]
    kind: WrittenKind,
    file: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run(args: Args) -> CommandResult {
    let hosted = Hosted {
        parent: args.parent,
        memory_max: args.memory_max,
        kind: match args.kind {
            WrittenKind::Executable => Kind::Executable,
            WrittenKind::Library => Kind::Library,
            WrittenKind::Adbc => Kind::Adbc,
        },
        file: args.file,
        arguments: args.arguments,
    };
    match host::run(&hosted) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(reason) => {
            eprintln!("{reason}");
            Ok(ExitCode::from(DOES_NOT_RUN))
        }
    }
}
