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
    for seed in first..first + number("STRANDLINE_SIM_SEEDS", 1) {
        let began = strandline_tests::wait::now();
        match run_seed(seed) {
            Ok(summary) => eprintln!("{summary:?} in {:?}", began.elapsed()),
            Err(failure) => {
                std::fs::File::create("/tmp/sim-history.jsonl")
                    .map(|mut f| std::io::Write::write_all(&mut f, failure.history.as_bytes()))
                    .unwrap()
                    .unwrap();
                panic!("{failure}");
            }
        }
    }
}
