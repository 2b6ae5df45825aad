//! Differential: Kafka's own codec (`kafka-clients`, `kafka-group-coordinator`) reads what we write and writes the
//! same bytes. Needs `java` 17 or later and `KAFKA_LIBS`, a directory with Kafka 4.3.1's jars.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::cases::for_each_sample;

/// The directory of Kafka's jars; `None` = skip, which only `STRANDLINE_ALLOW_SKIPS=1` allows.
fn kafka_libs() -> Option<String> {
    match std::env::var("KAFKA_LIBS") {
        Ok(libs) => Some(libs),
        Err(_) if std::env::var("STRANDLINE_ALLOW_SKIPS").as_deref() == Ok("1") => {
            eprintln!("skipped: KAFKA_LIBS names no directory with Kafka's jars");
            None
        }
        Err(_) => panic!("set KAFKA_LIBS to a directory with Kafka 4.3.1's jars, or STRANDLINE_ALLOW_SKIPS=1"),
    }
}

/// Runs a Java source file on `input`; gives its lines.
fn java(libs: &str, source: &str, input: Vec<u8>) -> Vec<String> {
    let path = format!("{}/tests/java/{source}", env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new("java")
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &format!("{libs}/*"), &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("java starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("java runs");
    feeder.join().expect("no panic").expect("java reads all");
    assert!(output.status.success(), "java failed");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

#[test]
fn kafkas_codec_reads_what_we_write_and_writes_the_same() {
    let Some(libs) = kafka_libs() else { return };
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for_each_sample(5, 25, |case, version, bytes| {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        writeln!(input, "{} {version} {hex}", case.name).expect("into memory");
        expected.push((case.name, version, hex));
    });
    let lines = java(&libs, "Recode.java", input);
    assert_eq!(lines.len(), expected.len());
    let mut failures: Vec<_> = expected
        .iter()
        .zip(&lines)
        .filter(|((_, _, ours), theirs)| ours != *theirs)
        .map(|((name, version, ours), theirs)| format!("{name} {version}: ours {ours}, theirs {theirs}"))
        .collect();
    failures.dedup_by_key(|f| f.split(':').next().map(str::to_owned));
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}
