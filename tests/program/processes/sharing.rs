//! Applications beside each other on one stream.

use std::process::Stdio;

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;

#[test]
fn a_second_process_with_the_same_worker_id_is_refused_and_the_first_goes_on() {
    let fixture = Fixture::new("");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut first = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    let mut second = fixture.worker("audit", "w", &deliveries, "");
    second.assert_fails(&["worker id \"w\"", "in use by another live process"]);
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(first.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn two_applications_on_one_stream_both_get_everything() {
    let fixture = Fixture::new("");
    let mut both = ["audit", "search"].map(|app| (app, fixture.deliveries(app)));
    let mut written = Written::default();
    let mut workers = both.each_ref().map(|(app, deliveries)| fixture.worker(app, "w", deliveries, ""));
    fixture.service.write(TABLE, &mut written, 500);
    fixture.service.change_shards(TABLE, "split");
    fixture.service.write(TABLE, &mut written, 500);
    let shards = fixture.service.shards(TABLE);
    for (_, deliveries) in &mut both {
        deliveries.wait_for_all(&written);
        deliveries.assert_complete(&written, &shards);
        assert_eq!(deliveries.repeats(), []);
    }
    for worker in &mut workers {
        assert_eq!(worker.stop(), 0);
    }
}

#[test]
fn an_application_that_has_a_stream_is_refused_another() {
    let fixture = Fixture::new("");
    fixture.service.create_table("Others", true);
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut first = fixture.worker("audit", "a", &deliveries, "");
    deliveries.wait_for_all(&written);
    let mut second = fixture.worker_on("--table Others", "audit", "b", Stdio::null(), "");
    let (own, other) = (fixture.service.stream_arn(TABLE), fixture.service.stream_arn("Others"));
    second.assert_fails(&["application \"audit\" reads another stream", &own, &other, "choose another application"]);
    fixture.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(first.stop(), 0);
}
