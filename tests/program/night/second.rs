//! The night of an engineer who looks after what workers need: listings, handlers that are slow, and the fleet table.

use std::time::Duration;

use serde_json::json;

use super::{APP, Manner, Night, Scene};
use crate::support::wait::let_last;

const LISTING: &str = "shards cannot be listed";
const HUNG: &str = "the handler hangs";
const SLOW: &str = "the handler is too slow";
const LEADER: &str = "the leader is killed";
const CUT_OFF: &str = "the fleet table is out of reach";

pub const SCENES: &[Scene] = &[
    Scene {
        name: LISTING,
        fires: &["ShardkeeperDiscoveryOld"],
        pages: &[],
        beside: &["ShardkeeperThrottled", "ShardkeeperTooFewWorkers", "ShardkeeperLagHigh"],
    },
    Scene {
        name: HUNG,
        fires: &["ShardkeeperShardsStuck", "ShardkeeperNotReady"],
        pages: &["ShardkeeperShardsStuck"],
        beside: &["ShardkeeperLagHigh"],
    },
    Scene {
        name: SLOW,
        fires: &["ShardkeeperLagHigh", "ShardkeeperTrimHeadroomLow"],
        pages: &["ShardkeeperLagHigh", "ShardkeeperTrimHeadroomLow"],
        beside: &[],
    },
    Scene {
        name: LEADER,
        fires: &["ShardkeeperNoLeader"],
        pages: &[],
        beside: &[
            "ShardkeeperShardsUnowned",
            "ShardkeeperTooFewWorkers",
            "ShardkeeperLagHigh",
            "ShardkeeperTrimHeadroomLow",
        ],
    },
    Scene {
        name: CUT_OFF,
        fires: &["ShardkeeperFleetCutOff", "ShardkeeperHeartbeatLate"],
        pages: &["ShardkeeperFleetCutOff"],
        beside: &[
            "ShardkeeperNoLeader",
            "ShardkeeperNotReady",
            "ShardkeeperShardsUnowned",
            "ShardkeeperLagHigh",
            "ShardkeeperTrimHeadroomLow",
        ],
    },
];

#[test]
fn what_holds_a_fleet_up_from_outside_calls_a_person_once_for_each_cause() {
    let Some(mut night) = Night::new(SCENES, 35) else { return };
    let rule = json!({"share": 1, "code": "ThrottlingException", "operations": ["DescribeStream"]});
    night.world.service.faults(&json!({"rules": [rule]}));
    // The next leader never had a listing.
    let leader = night.stop_leader();
    // A fleet lists its shards each minute.
    let_last(Duration::from_secs(60));
    night.fires_all();
    night.runbook("discovery-old");
    night.world.service.faults(&json!({}));
    night.start(leader, "");
    night.over();

    night.begin(HUNG);
    night.world.handler.set(Manner::Hanging);
    night.world.write(4);
    night.fires_all();
    night.runbook("shards-stuck");
    night.world.handler.set(Manner::Well);
    night.over();

    night.begin(SLOW);
    for number in 0..3 {
        night.world.stop_worker(&format!("--worker-id w-{number}"));
        night.start(number, "--batch-size 1");
    }
    night.world.handler.set(Manner::Slow(Duration::from_secs(1)));
    night.world.write(160);
    night.fires_all();
    night.runbook("lag-high");
    night.runbook("trim-headroom-low");
    night.world.handler.set(Manner::Well);
    night.over();

    night.begin(LEADER);
    let leader = night.leader();
    night.world.kill_worker(&format!("--worker-id w-{leader}"));
    night.fires_all();
    night.runbook("no-leader");
    night.start(leader, "");
    night.over();

    night.begin(CUT_OFF);
    let rule = json!({"share": 1, "effect": "drop", "tables": [format!("{APP}-Fleet")]});
    night.world.service.faults(&json!({"rules": [rule]}));
    night.fires_all();
    night.runbook("fleet-cut-off");
    night.world.service.faults(&json!({}));
    night.over();
    night.end();
}
