//! `strandline`: a node, and the tools to use one.
//!
//! Parses the command line and hands over; see `cli` for the commands and `node` for what a node is.

use std::process::ExitCode;

use clap::Parser;
use strandline::cli;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
