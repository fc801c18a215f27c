//! The page of real workers in a real browser, held to `/status` and to what happened.

use std::io;
use std::process::{ChildStdout, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::admin::{ANY_PORT, address_of, get};
use crate::support::browser::Browser;
use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;

const SENTENCE: &str = "#sentence";

/// The answer of a worker's `/status`.
fn status(address: &str) -> Value {
    let (code, body) = get(address, "/status");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The workers and their shards, as `/status` has them.
fn shares(address: &str) -> Vec<(String, String)> {
    let status = status(address);
    let workers = status["workers"].as_array().expect("an array").iter();
    workers.map(|worker| (worker["id"].as_str().unwrap_or_default().to_owned(), worker["shards"].to_string())).collect()
}

/// The same, as the page has them.
fn shown_shares(browser: &mut Browser) -> Vec<(String, String)> {
    let names = browser.texts("#workers td:first-child code");
    names.into_iter().zip(browser.texts("#workers td:nth-child(3)")).collect()
}

fn drain(mut stdout: ChildStdout) -> JoinHandle<io::Result<u64>> {
    std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()))
}

#[test]
fn the_page_shows_load_a_kill_a_stuck_processor_and_calm_as_they_are() {
    let Some(mut browser) = Browser::start() else { return };
    let fixture = Fixture::new("--shards 4");
    let deliveries = fixture.deliveries("app");
    // Long enough for the page to see a worker between its death and the take-over.
    let flags = format!("{ANY_PORT} --lease-duration 8s");
    let first = fixture.worker("app", "first", &deliveries, &flags);
    let address = address_of(&first);
    let mut second = fixture.worker("app", "second", &deliveries, &flags);
    let source = format!("--table {TABLE}");
    let mut third = fixture.worker_on(&source, "app", "third", Stdio::piped(), &flags);

    // Calm.
    browser.open(&format!("http://{address}/"));
    browser.wait_for_text(SENTENCE, "calm", |text| text.starts_with("All is well: 3 workers read 4 shards"));
    wait_for("the page's workers to be the status's", || shown_shares(&mut browser) == shares(&address));
    assert_eq!(browser.text("#title"), format!("app on {TABLE}"));
    assert_eq!(browser.text("#worker-count"), "3 of 3");
    let leader = status(&address)["leader"]["worker"].as_str().expect("a leader").to_owned();
    assert_eq!(browser.text("#leader"), format!("led by {leader}"));
    wait_for("this worker's events", || {
        browser.texts("#events tr[data-kind=lease_taken]").iter().any(|row| row.contains("first"))
    });

    // By keyboard: the map tells each shard, and the detail is the chosen one's.
    browser.run("press", json!({"selector": "#map", "key": "End"}));
    let last = status(&address)["shards"][3]["id"].as_str().expect("an id").to_owned();
    assert!(browser.attribute("#map", "aria-valuetext").starts_with(&format!("{last}, reading by ")));
    assert_eq!(browser.text("#detail dd:first-of-type"), last);
    browser.run("press", json!({"selector": "#map", "key": "ArrowLeft"}));
    assert_eq!(browser.attribute("#map", "aria-valuenow"), "2");
    let mut reached = Vec::new();
    for _ in 0..30 {
        browser.run("press", json!({"key": "Tab"}));
        reached.push(browser.run("focus", json!({})).as_str().unwrap_or_default().to_owned());
    }
    for id in ["filter", "of", "map", "only-trouble"] {
        assert!(reached.iter().any(|focused| focused == id), "Tab never reached {id}: {reached:?}");
    }

    // Light and dark, wide and narrow.
    for (scheme, width) in [("light", 1280), ("dark", 1280), ("dark", 360)] {
        browser.run("scheme", json!({"value": scheme}));
        browser.run("size", json!({"width": width, "height": 900}));
        assert_eq!(browser.violations(), [""; 0], "{scheme} {width}");
        assert_eq!(browser.run("overflow", json!({})), 0, "{scheme} {width}");
    }
    browser.run("scheme", json!({"value": "light"}));
    browser.run("size", json!({"width": 1280, "height": 900}));

    // A roll-over: the parent knows its children, and they lead back to it.
    fixture.service.change_shards(TABLE, "split");
    let lineage = |browser: &mut Browser| -> Vec<Value> {
        let titles = browser.run("read", json!({"selector": "#detail button", "attribute": "title"}));
        titles.as_array().expect("an array").clone()
    };
    wait_for("a child, and the way to its parent", || {
        browser.run("press", json!({"selector": "#map", "key": "End"}));
        lineage(&mut browser).len() == 1
    });
    let child = json!(browser.text("#detail dd:first-of-type"));
    let parent = lineage(&mut browser).remove(0);
    let shards = status(&address)["shards"].as_array().expect("an array").clone();
    let shard = shards.iter().find(|shard| shard["id"] == child).expect("it is listed");
    assert_eq!(shard["parents"], json!([parent]));
    browser.run("click", json!({"selector": "#detail button"}));
    assert_eq!(json!(browser.text("#detail dd:first-of-type")), parent);
    assert!(lineage(&mut browser).contains(&child));

    // A kill: who is gone, and who took over.
    second.kill();
    // The sentence tells of it until the take-over, which a page that is drawn late may not see; the events stay.
    wait_for("the kill", || {
        browser.text(SENTENCE).contains("worker second shows no sign of life")
            || browser.texts("#events tr[data-kind=worker_end]").iter().any(|row| row.contains("second"))
    });
    browser.picture("page-kill");
    wait_for("the take-over", || {
        let rows = browser.texts("#events tr").concat();
        rows.contains("taken over from second") || rows.contains("lease taken")
    });
    wait_for("the end", || browser.texts("#events tr[data-kind=worker_end]").iter().any(|row| row.contains("second")));
    browser.wait_for_text(SENTENCE, "calm", |text| text.starts_with("All is well: 2 workers"));
    wait_for("the page's workers to be the status's", || shown_shares(&mut browser) == shares(&address));

    // Load, of which the third worker's processor takes nothing any more: nobody reads its standard output.
    fixture.service.write(TABLE, &mut Written::default(), 20_000);
    browser.wait_for_text(SENTENCE, "the stuck processor", |text| text.contains("not return"));
    browser.picture("page-stuck");
    let troubles = browser.text("#troubles");
    assert!(troubles.contains("docs/runbooks/shards-stuck.md"), "{troubles}");
    assert!(browser.text("#waits").contains("processor call has not returned"));
    wait_for("the load in the curve", || !browser.attribute("#rate-curve", "aria-label").contains("highest 0/s"));

    let reader = drain(third.take_stdout());
    browser.wait_for_text(SENTENCE, "calm", |text| text.starts_with("All is well: 2 workers"));
    assert_eq!(browser.text("#waits"), "Nothing: every shard that can be read is being read.");
    assert_eq!(browser.errors(), [""; 0]);
    assert_eq!(third.stop(), 0);
    reader.join().expect("it does not panic").expect("the pipe ends");
}

#[test]
fn five_thousand_shards_are_light_and_nothing_that_a_worker_reports_becomes_markup() {
    let Some(mut browser) = Browser::start() else { return };
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("app");
    let worker = fixture.worker("app", "w", &deliveries, ANY_PORT);
    let address = address_of(&worker);
    let mut many = Value::Null;
    wait_for("a shard that is read", || {
        many = serde_json::from_str(&get(&address, "/status").1).unwrap_or_default();
        many["totals"]["shards"]["reading"] == 1
    });
    let hostile = "<img src=x onerror=\"document.title='taken over'\">";
    let shard = many["shards"][0].clone();
    let shards = (0..5_000).map(|n| {
        let mut shard = shard.clone();
        shard["id"] = format!("shardId-{:020}-{n:08x}", 1_700_000_000_000_u64 + n).into();
        shard["parents"] = if n > 0 {
            json!([format!("shardId-{:020}-{:08x}", 1_700_000_000_000_u64 + n / 2, n / 2)])
        } else {
            json!([])
        };
        shard["owner"] = hostile.into();
        shard["lag_at_most_ms"] = (n * 100).into();
        shard
    });
    many["shards"] = shards.collect();
    many["totals"]["shards"]["reading"] = 5_000.into();
    many["remarks"] = json!([hostile]);
    many["waits"] =
        json!([{"shard": shard["id"], "state": "reading", "for_shard": null, "for_worker": null, "text": hostile}]);
    many["workers"][0]["id"] = hostile.into();
    let body = many.to_string();
    browser.run("answer", json!({"path": "status", "body": body}));
    browser.open(&format!("http://{address}/"));
    wait_for("all shards to be drawn", || {
        browser.run("read", json!({"selector": "#map", "attribute": "data-drawn"}))[0] == "5000"
    });

    let drawing = browser.run("draw", json!({"body": body}));
    println!("5000 shards are drawn in {drawing} ms");
    let weight = browser.run("weight", json!({}));
    println!("and weigh {weight}");
    assert!(weight["heap"].as_u64().is_some_and(|bytes| bytes < 50_000_000), "{weight}");
    assert!(weight["nodes"].as_u64().is_some_and(|nodes| nodes < 2_000), "an element for each shard: {weight}");

    assert!(browser.text("#waits").contains(hostile));
    assert!(browser.text("#troubles").contains(hostile));
    assert_eq!(browser.texts("img"), [""; 0]);
    assert_eq!(browser.text("title"), "app – shardkeeper");
    assert_eq!(browser.errors(), [""; 0]);
}
