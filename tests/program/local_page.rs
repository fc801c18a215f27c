//! The page of the local service, in a real browser.

use serde_json::json;

use super::admin::ask;
use crate::support::browser::Browser;
use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::Written;
use crate::support::wait::wait_for;

#[test]
fn the_local_service_shows_its_tables_items_shards_and_records_to_a_browser_and_health_to_others() {
    let Some(mut browser) = Browser::start() else { return };
    let fixture = Fixture::new("--shards 2");
    let url = fixture.service.url();
    let address = url.trim_start_matches("http://");
    let health = ask(address, &format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"));
    assert!(health.0 == 200 && health.1.starts_with("healthy: "), "{health:?}");
    browser.open(&url);
    browser.wait_for_text("#name", "the table", |name| name == TABLE);
    assert_eq!(browser.texts("#tables button"), [TABLE]);
    assert_eq!(browser.text("#items-note"), "none");

    fixture.service.write(TABLE, &mut Written::default(), 60);
    fixture.service.change_shards(TABLE, "split");
    let shards = fixture.service.shards(TABLE);
    wait_for("the shards, each below its parent", || {
        browser.texts("#shards > ul > li").len() == 2 && browser.texts("#shards > ul > li > ul > li").len() == 4
    });
    let items = fixture.service.call("Scan", &json!({"TableName": TABLE}))["Count"].to_string();
    assert_eq!(browser.text("#items-note"), items);
    assert_eq!(browser.texts("#items tr").len().to_string(), items);
    let full = shards.iter().max_by_key(|shard| shard.records.len()).expect("shards");
    browser.run("click", json!({"selector": format!("#shards button:text-is('{}')", full.id.trim_start_matches("shardId-").trim_start_matches('0'))}));
    wait_for("the shard's records", || browser.texts("#records td:first-child") == full.records);
    assert_eq!(browser.text("#shard-name"), full.id);
    assert!(browser.text("#records-note").ends_with("its children continue it"));
    for scheme in ["light", "dark"] {
        browser.run("scheme", json!({"value": scheme}));
        assert_eq!(browser.violations(), [""; 0], "{scheme}");
    }
    browser.picture("local");
    assert_eq!(browser.errors(), [""; 0]);
}
