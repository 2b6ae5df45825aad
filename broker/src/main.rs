//! `strandline`: a node, and the tools to use one. Parses the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    strandline::cli::run(strandline::cli::Cli::parse())
}
