//! Tables that somebody else changes while workers run.

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE};
use crate::support::local_service::{LocalService, Written};
use crate::support::wait::wait_for;

fn set(service: &LocalService, app: &str, shard: &str, attribute: &str, value: &Value) {
    let request = json!({
        "TableName": app,
        "Key": {"leaseKey": {"S": shard}},
        "UpdateExpression": "SET #name = :value",
        "ExpressionAttributeNames": {"#name": attribute},
        "ExpressionAttributeValues": {":value": value},
    });
    service.call("UpdateItem", &request);
}

#[test]
fn a_lease_row_of_nonsense_stops_its_shard_alone_until_it_is_mended() {
    let fixture = Fixture::new("--shards 4");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 400);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    let (shard, row) = fixture.service.leases("audit").pop_first().expect("leases");
    set(&fixture.service, "audit", &shard, "leaseCounter", &json!({"S": "many"}));
    fixture.service.write(TABLE, &mut written, 400);
    worker.wait_for_log("the lease cannot be read; its shard waits");
    let named = worker.log().lines().any(|line| line.contains("cannot be read") && line.contains(&shard));
    assert!(named, "the shard is named");

    // The others continue with new records.
    fixture.service.write(TABLE, &mut written, 400);
    let shards = fixture.service.shards(TABLE);
    let of_others = || shards.iter().filter(|other| other.id != shard).flat_map(|other| &other.records);
    wait_for("the other shards' records", || {
        let delivered: Vec<&str> = deliveries.refresh().iter().map(|delivery| &*delivery.sequence_number).collect();
        of_others().all(|number| delivered.contains(&&**number))
    });
    assert!(!deliveries.has_all(&written), "the shard waits");
    assert!(worker.runs());

    let counter: u64 = row.counter.parse().expect("a count");
    set(&fixture.service, "audit", &shard, "leaseCounter", &json!({"N": (counter + 1000).to_string()}));
    deliveries.wait_for_all(&written);
    deliveries.assert_complete(&written, &shards);
    assert_eq!(worker.stop(), 0);
}

#[test]
fn a_checkpoint_of_nonsense_stops_its_shard_alone_from_the_start() {
    let fixture = Fixture::new("--shards 4");
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 400);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    let (shard, row) = fixture.service.leases("audit").pop_last().expect("leases");
    set(&fixture.service, "audit", &shard, "checkpoint", &json!({"S": "SHARD_EDN"}));
    fixture.service.write(TABLE, &mut written, 400);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    worker.wait_for_log("the lease cannot be read; its shard waits");
    assert!(worker.log().lines().any(|line| line.contains("SHARD_EDN") && line.contains(&shard)));
    let own = fixture.service.shards(TABLE).into_iter().find(|content| content.id == shard).expect("the shard");
    let others: u64 = written.0.values().sum::<u64>() - own.records.len() as u64;
    wait_for("the other shards' records", || deliveries.firsts() as u64 >= others);
    assert!(!deliveries.has_all(&written), "the shard waits");

    set(&fixture.service, "audit", &shard, "checkpoint", &json!({"S": row.checkpoint}));
    deliveries.wait_for_all(&written);
    assert_eq!(worker.stop(), 0);
    assert_eq!(deliveries.repeats(), []);
}

#[test]
fn a_deleted_lease_table_holds_up_its_application_alone() {
    let fixture = Fixture::new("--shards 2");
    let (mut deliveries, mut others) = (fixture.deliveries("audit"), fixture.deliveries("other"));
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 200);
    let mut worker = fixture.worker("audit", "w", &deliveries, "");
    let mut other = fixture.worker("other", "w", &others, "");
    deliveries.wait_for_all(&written);
    fixture.service.call("DeleteTable", &json!({"TableName": "audit"}));
    worker.wait_for_log("a call was refused, retrying");
    fixture.service.write(TABLE, &mut written, 200);
    others.wait_for_all(&written);
    assert_eq!(other.stop(), 0);
    assert!(worker.runs(), "it waits two minutes for its table");
    let tables = fixture.service.call("ListTables", &json!({}));
    assert_eq!(tables["TableNames"], json!([TABLE, "audit-Fleet", "other", "other-Fleet"]));
}

#[test]
fn an_application_named_as_a_data_table_is_refused_before_anything_is_written() {
    let fixture = Fixture::new("--shards 1");
    let deliveries = fixture.deliveries("audit");
    let mut worker = fixture.worker(TABLE, "w", &deliveries, "");
    worker.assert_fails(&[
        "table Things belongs to something else",
        "key (S)",
        "leaseKey (S)",
        "Choose another application",
    ]);
    assert_eq!(fixture.service.call("ListTables", &json!({}))["TableNames"], json!([TABLE]), "no fleet table is left");
    for operation in ["PutItem", "UpdateItem", "TransactWriteItems", "CreateTable"] {
        let expected = u64::from(operation == "CreateTable"); // the fixture's own
        assert_eq!(fixture.service.calls(operation), expected, "{operation}");
    }
}
