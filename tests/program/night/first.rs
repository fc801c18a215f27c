//! The night of an on-call engineer: handlers that fail, workers that die, records that are lost.

use serde_json::{Value, json};

use super::{APP, Manner, Night, Scene, TABLE, wait_for};

const DEPLOYED: &str = "a deployment, a roll-over and a scale-in";
const HANDLER: &str = "the handler is dead";
const KILLED: &str = "a worker is killed and not replaced";
const THROTTLED: &str = "reading is throttled";
const RECORD: &str = "one record fails and is dead-lettered";
const STORE: &str = "dead letters cannot be stored";
const GONE: &str = "all workers are gone";
const TRIMMED: &str = "records are trimmed before they are read";

pub const SCENES: &[Scene] = &[
    Scene { name: DEPLOYED, fires: &[], pages: &[], beside: &[] },
    Scene {
        name: HANDLER,
        fires: &["ShardkeeperShardsHalted", "ShardkeeperNotReady"],
        pages: &["ShardkeeperShardsHalted"],
        beside: &["ShardkeeperLagHigh"],
    },
    Scene {
        name: KILLED,
        fires: &["ShardkeeperShardsUnowned", "ShardkeeperTooFewWorkers"],
        pages: &[],
        beside: &["ShardkeeperLagHigh"],
    },
    Scene {
        name: THROTTLED,
        fires: &["ShardkeeperThrottled"],
        pages: &[],
        beside: &["ShardkeeperNotReady", "ShardkeeperLagHigh"],
    },
    Scene {
        name: RECORD,
        fires: &["ShardkeeperShardsHalted", "ShardkeeperRecordsGivenUp"],
        pages: &["ShardkeeperShardsHalted"],
        beside: &["ShardkeeperNotReady", "ShardkeeperLagHigh", "ShardkeeperShardsUnowned"],
    },
    Scene {
        name: STORE,
        fires: &["ShardkeeperDeadLettersFailing"],
        pages: &["ShardkeeperDeadLettersFailing"],
        beside: &[
            "ShardkeeperNotReady",
            "ShardkeeperShardsHalted",
            "ShardkeeperShardsStuck",
            "ShardkeeperLagHigh",
            "ShardkeeperRecordsGivenUp",
        ],
    },
    Scene {
        name: GONE,
        fires: &["ShardkeeperNoWorkers"],
        pages: &["ShardkeeperNoWorkers"],
        beside: &["ShardkeeperRecordsGivenUp", "ShardkeeperShardsUnowned", "ShardkeeperLagHigh"],
    },
    Scene {
        name: TRIMMED,
        fires: &["ShardkeeperDataGap"],
        pages: &["ShardkeeperDataGap"],
        beside: &["ShardkeeperShardsUnowned", "ShardkeeperLagHigh"],
    },
];

#[test]
fn a_night_of_faults_calls_a_person_once_for_each_and_its_runbooks_end_it() {
    // A new leader takes half-read shards for as old as they are: at most four hours in AWS, and minutes here.
    let Some(mut night) = Night::new(SCENES, 600) else { return };
    for number in 0..3 {
        night.world.stop_worker(&format!("--worker-id w-{number}"));
        night.start(number, "");
    }
    night.world.service.change_shards(TABLE, "rollover");
    night.world.write(30);
    night.world.stop_worker("--worker-id w-2");
    night.prometheus.wait("two workers", "sum(shardkeeper_ready) == 2 and max(shardkeeper_workers_alive) == 2");
    night.start(2, "");
    night.over();

    night.begin(HANDLER);
    night.world.handler.set(Manner::Failing);
    night.world.write(30);
    night.fires_all();
    let waits = night.status()["waits"].clone();
    assert!(waits[0]["text"].as_str().expect("a wait").contains("has tried"), "{waits}");
    night.runbook("not-ready");
    night.world.handler.set(Manner::Well);
    night.over();

    night.begin(KILLED);
    night.world.kill_worker("--worker-id w-2");
    night.fires("ShardkeeperShardsUnowned");
    // No row is broken.
    night.runbook_part("shards-unowned", "shardkeeper status");
    wait_for("the death to be kept", || {
        let ends = night.status()["ends"].clone();
        ends.as_array()
            .is_some_and(|ends| ends.iter().any(|end| end["worker"] == "w-2" && end["was_found_dead"] == true))
    });
    night.fires_all();
    night.runbook("too-few-workers");
    night.start(2, "");
    night.over();

    night.begin(THROTTLED);
    // More would hold up single shards too: retries are as slow here as in a fleet of ordinary pace.
    let rule = json!({"share": 0.12, "code": "ThrottlingException", "operations": ["GetRecords"]});
    night.world.service.faults(&json!({"rules": [rule]}));
    night.fires_all();
    night.runbook("throttled");
    night.world.service.faults(&json!({}));
    night.over();

    night.begin(RECORD);
    night.world.handler.set(Manner::Failing);
    night.world.write(1);
    night.fires("ShardkeeperShardsHalted");
    let status = night.status();
    let halted = status["shards"].as_array().expect("shards").iter().filter(|shard| shard["halted"] != Value::Null);
    assert_eq!(halted.count(), 1, "{status}");
    // Its runbook restarts the workers with a limit; the other replays when the handler is repaired.
    night.runbook("shards-halted");
    night.fires_all();
    assert_eq!(night.world.letters().len(), 1);
    night.world.handler.set(Manner::Well);
    night.runbook("records-given-up");
    night.over();

    night.begin(STORE);
    night.world.service.call("DeleteTable", &json!({"TableName": format!("{APP}-DeadLetters")}));
    night.world.handler.set(Manner::Failing);
    night.world.write(1);
    night.fires_all();
    night.runbook("dead-letters-failing");
    assert_eq!(night.world.letters().len(), 1, "the store is repaired");
    night.world.handler.set(Manner::Well);
    night.over();

    night.begin(GONE);
    (0..3).for_each(|number| night.world.kill_worker(&format!("--worker-id w-{number}")));
    night.fires_all();
    let status = night.status();
    assert_eq!(status["remarks"][0], "no worker is alive: nothing is read");
    assert!(status["trim_headroom_at_least_ms"].as_u64().is_some_and(|left| left > 23 * 3_600_000), "{status}");
    night.runbook("no-workers");
    night.world.write(10);
    (0..3).for_each(|number| night.start(number, ""));
    night.over();

    night.begin(TRIMMED);
    night.world.stop_workers();
    night.world.write(20);
    night.world.service.change_shards(TABLE, "trim");
    (0..3).for_each(|number| night.start(number, ""));
    night.fires_all();
    assert!(night.world.logs().contains("gap: records were trimmed before they were read"), "no line of the gap");
    night.runbook("data-gap");
    night.over();
    night.end();
}
