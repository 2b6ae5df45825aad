//! Runs a command beside a MinIO and an HDFS of its own, and tells it where they are.
//!
//! `STRANDLINE_TEST_S3_URL` with `AWS_*` and `STRANDLINE_TEST_HDFS_URL` name them to tiering's conformance suite. Owns
//! nothing: the servers are the harness's and die with this process.

use std::process::{Command, ExitCode};

use strandline_tests::hdfs::Hdfs;
use strandline_tests::minio::Minio;

const BUCKET: &str = "conformance";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("with_stores: write the command that is to run beside the stores");
        return ExitCode::from(2);
    };
    let minio = Minio::start();
    minio.make_bucket(BUCKET);
    let hdfs = Hdfs::start();
    let status = Command::new(&program)
        .args(words)
        .envs(Minio::environment(minio.address))
        .env("STRANDLINE_TEST_S3_URL", format!("s3://{BUCKET}/prefix"))
        .env("STRANDLINE_TEST_HDFS_URL", hdfs.url("conformance"))
        .status();
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("with_stores: cannot run {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
}
