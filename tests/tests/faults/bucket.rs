//! A bucket that may be read and not written: produce goes on, the metrics and the log say so, and copying catches up.

use std::time::Duration;

use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::http::metric;
use strandline_tests::load::Pattern;
use strandline_tests::minio::Minio;
use strandline_tests::wait;

use crate::scene::{BUCKET, alone, await_freed, make_topic, read_all, write};

const RECORDS: i64 = 30_000;
/// How long the metrics and the log may take to tell.
const TOLD: Duration = Duration::from_secs(30);
/// How long copying may take once it is allowed: the longest back-off, and the work.
const CATCH_UP: Duration = Duration::from_secs(120);
const LAG: &str = "kafka_server_brokertopicmetrics_remotecopylagbytes";
const ERRORS: &str = "kafka_server_brokertopicmetrics_remotecopyerrors_total";

#[test]
fn that_cannot_be_written() {
    let _turn = alone();
    let minio = Minio::start();
    minio.make_bucket(BUCKET);
    minio.mc(&["admin", "user", "add", "store", "reader", "reader-secret"]);
    minio.mc(&["admin", "policy", "attach", "store", "readonly", "--user", "reader"]);
    let mut setup = Setup::default().set("tier.url", &format!("s3://{BUCKET}/prefix"));
    setup.environment = Minio::environment(minio.address);
    for (key, value) in &mut setup.environment {
        match key.as_str() {
            "AWS_ACCESS_KEY_ID" => *value = "reader".to_owned(),
            "AWS_SECRET_ACCESS_KEY" => *value = "reader-secret".to_owned(),
            _ => {}
        }
    }
    let mut broker = Broker::start(Software::Strandline, setup);
    make_topic(&broker, 1, RECORDS);
    let pattern = Pattern::new(43);
    write(&broker, &pattern, 1, 0..RECORDS / 2);

    let (lag, errors) = wait::until("the metrics tell of the failing copies", TOLD, || {
        let page = broker.metrics();
        let (lag, errors) = (metric(&page, LAG, "")?, metric(&page, ERRORS, "")?);
        (lag > 0.0 && errors > 0.0).then_some((lag, errors))
    });
    write(&broker, &pattern, 1, RECORDS / 2..RECORDS);
    wait::until("the metrics rise", TOLD, || {
        let page = broker.metrics();
        (metric(&page, LAG, "")? > lag && metric(&page, ERRORS, "")? > errors).then_some(())
    });
    let log = broker.server().log_text();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains(BUCKET)), "a WARN names the bucket");

    minio.mc(&["admin", "policy", "attach", "store", "readwrite", "--user", "reader"]);
    await_freed(&broker, 1, CATCH_UP);
    wait::until("the lag is gone", TOLD, || (metric(&broker.metrics(), LAG, "")? < lag).then_some(()));
    read_all(&broker, &pattern, 1, RECORDS);
}
