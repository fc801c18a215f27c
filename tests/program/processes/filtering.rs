//! Workers that deliver only what passes their filters.

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;

/// The first three records of each key.
const FIRST_THREE: &str = r#"{"dynamodb":{"NewImage":{"n":{"N":[{"numeric":["<=",3]}]}}}}"#;

#[test]
fn only_what_matches_is_delivered_and_the_rest_moves_the_position_on() {
    let fixture = Fixture::new("--shards 2");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    // More than a page a shard, the later ones with nothing that matches.
    fixture.service.write(TABLE, &mut written, 4_500);
    let flags = format!("--until-caught-up --events insert,modify --filter {FIRST_THREE}");
    let mut worker = fixture.worker("audit", "w", &deliveries, &flags);
    assert_eq!(worker.exit_code(), 0, "{}", worker.log());
    let passed: u64 = written.0.values().map(|n| (*n).min(3)).sum();
    assert!(deliveries.refresh().iter().all(|delivery| delivery.n <= 3));
    assert_eq!(deliveries.firsts() as u64, passed);
    assert_eq!(deliveries.repeats(), []);
    let filtered = written.0.values().sum::<u64>() - passed;
    assert!(worker.log().contains(&format!("\"filtered\":{filtered},")), "{}", worker.log());

    let leases = fixture.service.leases("audit");
    for shard in fixture.service.shards(TABLE) {
        assert!(shard.records.len() > 1_000, "{} has few records", shard.id);
        assert_eq!(leases[&shard.id].checkpoint, *shard.records.last().expect("a record"));
    }
}

#[test]
fn a_filter_that_cannot_match_the_stream_is_refused_at_the_start() {
    let fixture = Fixture::new("");
    let deliveries = fixture.deliveries("audit");
    let filter = r#"{"dynamodb":{"OldImage":{"n":{"N":["1"]}}}}"#;
    let mut worker = fixture.worker("audit", "w", &deliveries, &format!("--filter {filter}"));
    assert_eq!(worker.exit_code(), 64, "{}", worker.log());
    let log = worker.log();
    let expected =
        format!("the filter {filter} cannot work on this stream: dynamodb.OldImage: the stream's view type is");
    assert!(log.contains(&expected), "{log}");
}
