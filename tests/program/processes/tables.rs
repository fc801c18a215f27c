//! Tables that somebody else changes while workers run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::fixture::{Fixture, TABLE, with_credentials};
use crate::support::http::{self, Answer};
use crate::support::local_service::{LocalService, Written};
use crate::support::rewriter::Rewriter;
use crate::support::wait::wait_for;
use crate::support::{finish, shardkeeper};

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
fn a_table_of_another_program_is_named_by_all_commands_and_nothing_is_made() {
    for (table, is_dead_letters) in [("audit", false), ("audit-Fleet", false), ("audit-DeadLetters", true)] {
        let fixture = Fixture::new("");
        fixture.service.call(
            "CreateTable",
            &json!({
                "TableName": table,
                "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "N"}],
                "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
                "BillingMode": "PAY_PER_REQUEST",
            }),
        );
        let commands: &[&str] = match is_dead_letters {
            false => &[
                "run --table Things",
                "check --table Things",
                "status",
                "replay --from 1h --yes",
                "lease release shardId-1 --yes",
            ],
            true => &[
                "check --table Things --on-failure dead-letter --retry-attempts 1",
                "dead-letters list",
                "dead-letters replay --all --to null",
                "dead-letters purge --all --yes",
            ],
        };
        for line in commands {
            let mut command = shardkeeper();
            with_credentials(&mut command).args(line.split(' ')).args(["--app", "audit"]);
            let finished = finish(command.args(["--endpoint-url", &fixture.service.url()]));
            let told = finished.stdout + &finished.stderr;
            assert_eq!(finished.code, 1, "{line}: {told}");
            assert!(
                told.contains(&format!("table {table} belongs to something else: its key is id (N)")),
                "{line}: {told}"
            );
            assert!(!told.contains("ValidationException") && !told.contains("deploy/iam"), "{line}: {told}");
        }
        assert_eq!(fixture.service.call("ListTables", &json!({}))["TableNames"], json!([TABLE, table]));
    }
}

#[test]
fn tables_that_answer_with_a_proxys_page_are_told_by_the_log() {
    let fixture = Fixture::new("--shards 1");
    let (address, is_away) = (fixture.service.address(), Arc::new(AtomicBool::new(false)));
    let away = Arc::clone(&is_away);
    let proxy = Rewriter::new(move |operation, request| match away.load(Ordering::SeqCst) {
        true => Answer { status: 200, body: json!("<html>log in</html>") },
        false => http::call(address, operation, request),
    });
    let mut deliveries = fixture.deliveries("audit");
    let mut written = Written::default();
    fixture.service.write(TABLE, &mut written, 10);
    let flags = format!("--endpoint-url {} --streams-endpoint-url {}", proxy.url(), fixture.service.url());
    let mut worker = fixture.worker("audit", "w", &deliveries, &flags);
    deliveries.wait_for_all(&written);
    is_away.store(true, Ordering::SeqCst);
    worker.wait_for_log("every call on the table failed, retrying");
    assert!(worker.log().contains("the answer is not the service's (HTTP 200"), "{}", worker.log());
    is_away.store(false, Ordering::SeqCst);
    assert_eq!(worker.stop(), 0);
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
