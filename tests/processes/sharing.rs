//! Who may read what beside whom.

use std::process::Stdio;

use crate::local_service::Written;
use crate::scene::{Scene, TABLE};

#[test]
fn a_second_process_with_the_same_worker_id_is_refused_and_the_first_goes_on() {
    let scene = Scene::new("");
    let mut deliveries = scene.deliveries("audit");
    let mut written = Written::default();
    scene.service.write(TABLE, &mut written, 200);
    let mut first = scene.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    let mut second = scene.worker("audit", "w", &deliveries, "");
    second.assert_fails(&["worker id \"w\"", "in use by another live process"]);
    scene.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(first.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn two_applications_on_one_stream_both_get_everything() {
    let scene = Scene::new("");
    let mut both = ["audit", "search"].map(|app| (app, scene.deliveries(app)));
    let mut written = Written::default();
    let mut workers = both.each_ref().map(|(app, deliveries)| scene.worker(app, "w", deliveries, ""));
    scene.service.write(TABLE, &mut written, 500);
    scene.service.change_shards(TABLE, "split");
    scene.service.write(TABLE, &mut written, 500);
    let shards = scene.service.shards(TABLE);
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
    let scene = Scene::new("");
    scene.service.create_table("Others", true);
    let mut deliveries = scene.deliveries("audit");
    let mut written = Written::default();
    scene.service.write(TABLE, &mut written, 200);
    let mut first = scene.worker("audit", "a", &deliveries, "");
    deliveries.wait_for_all(&written);
    let mut second = scene.worker_on("--table Others", "audit", "b", Stdio::null(), "");
    let (own, other) = (scene.service.stream_arn(TABLE), scene.service.stream_arn("Others"));
    second.assert_fails(&["application \"audit\" reads another stream", &own, &other, "--app"]);
    scene.service.write(TABLE, &mut written, 200);
    deliveries.wait_for_all(&written);
    assert_eq!(first.stop(), 0);
}
