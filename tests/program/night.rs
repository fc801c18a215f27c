//! A scripted night: one fault after the other on a fleet of three that a real Prometheus watches. For each fault, the
//! alert that fires, the commands of its runbook as they stand there, the state afterwards, and the alerts that stay
//! silent.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::documents::world::{APP, TABLE, World};
use crate::prometheus_server::{Prometheus, free_address};
use crate::support::tools;
use crate::support::wait::wait_for;
use crate::walkthrough;

/// Alerts that call a person at once for one of the other causes. None of them fires for a fault that is not its own.
const PAGES: [&str; 8] = [
    "ShardkeeperDataGap",
    "ShardkeeperNoWorkers",
    "ShardkeeperFleetCutOff",
    "ShardkeeperShardsStuck",
    "ShardkeeperShardsHalted",
    "ShardkeeperDeadLettersFailing",
    "ShardkeeperTrimHeadroomLow",
    "ShardkeeperRecordsGivenUp",
];

struct Night {
    world: World,
    prometheus: Prometheus,
    addresses: Vec<SocketAddr>,
    /// All alerts that have fired since the present fault began.
    fired: BTreeSet<String>,
    record: String,
}

#[test]
#[ignore = "the alerts of a handler that is dead also tell of no workers"]
fn a_night_of_faults_pages_once_for_each_and_its_runbooks_end_it() {
    let (Some(prometheus), Some(path)) = (tools::find("prometheus"), walkthrough::tools()) else { return };
    let addresses: Vec<SocketAddr> = (0..4).map(|_| free_address()).collect();
    let prometheus = Prometheus::start(&prometheus, &addresses);
    let world = World::new(&path.into_string().expect("a PATH in UTF-8"));
    world.create_table(TABLE);
    let mut night = Night { world, prometheus, addresses, fired: BTreeSet::new(), record: String::new() };
    (0..3).for_each(|number| night.start(number, ""));
    night.prometheus.wait("three ready workers", "sum(shardkeeper_ready) == 3");
    night.write(30);
    night.calm();

    night.fault("the handler is dead");
    night.world.handler.set_failing(true);
    night.write(30);
    night.fires("ShardkeeperShardsHalted");
    let waits = night.world.status().expect("a status")["waits"].clone();
    assert!(waits[0]["text"].as_str().expect("a wait").contains("has tried"), "{waits}");
    night.runbook("shards-halted");
    night.world.handler.set_failing(false);
    night.repaired(&["ShardkeeperShardsHalted"]);

    night.fault("a worker is killed");
    night.world.kill_worker("--worker-id w-2");
    night.fires("ShardkeeperShardsUnowned");
    night.runbook("shards-unowned");
    wait_for("the death to be kept", || {
        let ends = night.world.status().map(|status| status["ends"].clone()).unwrap_or_default();
        ends.as_array()
            .is_some_and(|ends| ends.iter().any(|end| end["worker"] == "w-2" && end["was_found_dead"] == true))
    });
    night.repaired(&[]);
    night.start(2, "");

    night.fault("reading is throttled");
    let rule = json!({"share": 0.5, "code": "ThrottlingException", "operations": ["GetRecords"]});
    night.world.service.faults(&json!({"rules": [rule]}));
    night.fires("ShardkeeperThrottled");
    night.world.service.faults(&json!({}));
    night.repaired(&[]);

    night.fault("one record fails");
    night.world.handler.set_failing(true);
    night.write(1);
    night.fires("ShardkeeperShardsHalted");
    let status = night.world.status().expect("a status");
    let halted = status["shards"].as_array().expect("shards").iter().filter(|shard| shard["halted"] != Value::Null);
    assert_eq!(halted.count(), 1, "{status}");
    // The runbook: restart with a limit, then replay when the handler is repaired.
    night.world.stop_workers();
    (0..3).for_each(|number| night.start(number, "--on-failure dead-letter --retry-attempts 5"));
    night.fires("ShardkeeperRecordsGivenUp");
    assert_eq!(night.world.letters().len(), 1);
    night.world.handler.set_failing(false);
    night.runbook("records-given-up");
    night.repaired(&["ShardkeeperShardsHalted", "ShardkeeperRecordsGivenUp"]);

    night.fault("all workers are gone");
    (0..3).for_each(|number| night.world.kill_worker(&format!("--worker-id w-{number}")));
    night.fires("ShardkeeperNoWorkers");
    let status = night.world.status().expect("a status");
    assert_eq!(status["remarks"][0], "no worker is alive: nothing is read");
    assert!(status["trim_headroom_at_least_ms"].as_u64().is_some_and(|left| left > 23 * 3_600_000), "{status}");
    night.runbook("no-workers");
    night.write(10);
    (0..3).for_each(|number| night.start(number, ""));
    night.repaired(&["ShardkeeperNoWorkers"]);

    night.fault("records are trimmed before they are read");
    night.world.stop_workers();
    night.write(20);
    night.world.service.change_shards(TABLE, "trim");
    (0..3).for_each(|number| night.start(number, ""));
    night.fires("ShardkeeperDataGap");
    assert!(night.world.logs().contains("gap: records were trimmed before they were read"), "no line of the gap");
    night.runbook("data-gap");
    night.repaired(&["ShardkeeperDataGap"]);

    std::io::stderr().write_all(night.record.as_bytes()).expect("standard error");
}

impl Night {
    fn start(&mut self, number: usize, flags: &str) {
        let (address, handler) = (self.addresses[number], self.world.handler.address);
        let line = format!(
            "shardkeeper run --table {TABLE} --app {APP} --worker-id w-{number} --to http://{handler}/ --metrics-addr \
             {address} --unready-after 2s --idle-poll 100ms --checkpoint-interval 500ms {flags}"
        );
        self.world.run(&line).expect("a worker that works");
    }

    fn write(&self, count: u32) {
        self.world.write(count);
    }

    fn calm(&mut self) {
        self.prometheus.wait_for_alerts(&[]);
    }

    fn fault(&mut self, what: &str) {
        self.fired.clear();
        self.record.push_str(&format!("night: {what}\n"));
    }

    fn fires(&mut self, alert: &str) {
        wait_for(&format!("{alert} to fire"), || {
            self.fired.extend(self.prometheus.alerts());
            self.fired.contains(alert)
        });
        self.record.push_str(&format!("  fires: {alert}\n"));
    }

    /// Runs the commands of a runbook as they stand there.
    fn runbook(&mut self, name: &str) {
        for command in crate::documents::commands_of(&format!("docs/runbooks/{name}.md")) {
            let outcome = self.world.run(&command).unwrap_or_else(|error| panic!("{name}: {error}"));
            self.record.push_str(&format!("  {name}: {command}: {outcome:?}\n"));
        }
    }

    /// Waits for the end of the fault, and checks that no page called for another cause.
    fn repaired(&mut self, expected: &[&str]) {
        wait_for("the alerts to end", || {
            let now = self.prometheus.alerts();
            self.fired.extend(now.clone());
            now.is_empty()
        });
        self.prometheus
            .wait("everything to be read", r#"sum(shardkeeper:group_shards{state=~"unowned|owner_silent"}) == 0"#);
        let wrong: Vec<&str> =
            PAGES.into_iter().filter(|alert| self.fired.contains(*alert) && !expected.contains(alert)).collect();
        assert_eq!(wrong, [""; 0], "these fired too: {:?}\n{}", self.fired, self.record);
        let silent: Vec<&str> = PAGES.into_iter().filter(|alert| !self.fired.contains(*alert)).collect();
        self.record.push_str(&format!("  fired in all: {:?}\n  silent: {}\n", self.fired, silent.join(", ")));
    }
}
