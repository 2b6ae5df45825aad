//! Random faults, seed after seed.

use strandline_tests::simulation::run::run_seed;

#[test]
fn seeds() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(std::env::var("RUST_LOG").unwrap_or_default())
        .with_writer(std::io::stderr)
        .try_init();
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = number("STRANDLINE_SIM_SEED", 1);
    let mut failed = Vec::new();
    for seed in first..first + number("STRANDLINE_SIM_SEEDS", 1) {
        let began = strandline_tests::wait::now();
        match run_seed(seed) {
            Ok(summary) => eprintln!("{summary:?} in {:?}", began.elapsed()),
            Err(failure) => {
                let path = std::env::temp_dir().join(format!("sim-history-{seed}.jsonl"));
                std::fs::File::create(&path)
                    .map(|mut f| std::io::Write::write_all(&mut f, failure.history.as_bytes()))
                    .unwrap()
                    .unwrap();
                eprintln!("FAILURE {failure}");
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
