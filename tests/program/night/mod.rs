//! Two scripted nights: one fault after the other on a fleet of three that a real Prometheus and a real Alertmanager
//! watch. For each fault: the alerts that fire, the one that calls a person, the commands of its runbook as they stand
//! there, the state afterwards, and that no other alert fires.

mod alertmanager;
mod first;
mod second;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde_json::Value;

use self::alertmanager::Alertmanager;
use crate::documents::world::{APP, Manner, TABLE, World};
use crate::prometheus_server::{Prometheus, free_address};
use crate::support::tools;
use crate::support::wait::{now, wait_for};
use crate::walkthrough;

/// A fault, or a calm time.
struct Scene {
    name: &'static str,
    /// The alerts that fire for it.
    fires: &'static [&'static str],
    /// Those of them that call a person.
    pages: &'static [&'static str],
    /// Alerts that may fire beside them: they follow from the fault, if it lasts.
    beside: &'static [&'static str],
}

struct Night {
    world: World,
    prometheus: Prometheus,
    alertmanager: Alertmanager,
    addresses: [SocketAddr; 3],
    scenes: std::slice::Iter<'static, Scene>,
    scene: &'static Scene,
    began: SystemTime,
    record: String,
}

#[test]
fn every_alert_is_made_to_fire_in_a_scene() {
    let rules = include_str!("../../../observability/prometheus/rules.yml");
    let alerts: BTreeSet<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let scenes = || first::SCENES.iter().chain(second::SCENES);
    let fired: BTreeSet<&str> = scenes().flat_map(|scene| scene.fires).copied().collect();
    assert!(alerts.len() > 10);
    assert_eq!(fired, alerts);
    let paged: BTreeSet<&str> = scenes().flat_map(|scene| scene.pages).copied().collect();
    let pages = rules.split("- alert: ").skip(1).filter(|rule| rule.contains("severity: page"));
    let pages: BTreeSet<&str> = pages.filter_map(|rule| rule.lines().next()).collect();
    assert_eq!(paged, pages, "each alert that is to call a person does");
}

impl Night {
    /// A fleet of three at work, or nothing without the programs that this needs. Trim headroom is low when the oldest
    /// change is `old_s` seconds old.
    fn new(scenes: &'static [Scene], old_s: u32) -> Option<Self> {
        let (prometheus, alertmanager) = (tools::find("prometheus")?, tools::find("prometheus-alertmanager")?);
        let path = walkthrough::tools()?.into_string().expect("a PATH in UTF-8");
        let mut world = World::new(&path);
        let addresses = [world.metrics, free_address(), free_address()];
        let alertmanager = Alertmanager::start(&alertmanager);
        let prometheus = Prometheus::start(&prometheus, &addresses, Some(alertmanager.address), old_s);
        world.alertmanager = Some(alertmanager.address);
        world.create_table(TABLE);
        let mut rest = scenes.iter();
        let scene = rest.next().expect("a first scene");
        let mut night = Self {
            world,
            prometheus,
            alertmanager,
            addresses,
            scenes: rest,
            scene,
            began: now(),
            record: String::new(),
        };
        (0..3).for_each(|number| night.start(number, ""));
        night.prometheus.wait("three ready workers", "sum(shardkeeper_ready) == 3");
        night.world.write(30);
        night.record.push_str(&format!("night: {}\n", scene.name));
        Some(night)
    }

    /// Starts a worker that wants three in the fleet.
    fn start(&mut self, number: usize, flags: &str) {
        let (address, handler) = (self.addresses[number], self.world.handler.address);
        let line = format!(
            "shardkeeper run --table {TABLE} --app {APP} --worker-id w-{number} --to http://{handler}/ --metrics-addr \
             {address} --unready-after 2s --lease-duration 8s --min-workers 3 --idle-poll 100ms \
             --checkpoint-interval 500ms {flags}"
        );
        self.world.run(&line).expect("a worker that works");
    }

    /// Begins the next scene.
    fn begin(&mut self, name: &str) {
        self.scene = self.scenes.next().expect("a further scene");
        assert_eq!(self.scene.name, name);
        self.began = now();
        self.record.push_str(&format!("night: {name}\n"));
    }

    fn fires(&self, alert: &str) {
        assert!(self.scene.fires.contains(&alert), "{alert} is none of this scene");
        wait_for(&format!("{alert} to fire"), || self.fired().contains(alert));
    }

    /// Waits until all alerts of the scene have fired, and the person is called whom they are to call.
    fn fires_all(&mut self) {
        let Scene { fires, pages, beside, .. } = self.scene;
        fires.iter().for_each(|alert| self.fires(alert));
        let mut called = BTreeSet::new();
        wait_for(&format!("calls for {pages:?}"), || {
            called.extend(self.alertmanager.take_calls());
            pages.iter().all(|page| called.contains(*page))
        });
        self.check_calls(&called, beside);
    }

    fn check_calls(&self, called: &BTreeSet<String>, beside: &[&str]) {
        let is_expected = |alert: &str| self.scene.pages.contains(&alert) || beside.contains(&alert);
        let wrong: Vec<_> = called.iter().filter(|alert| !is_expected(alert)).collect();
        assert!(wrong.is_empty(), "a person was called for {wrong:?}\n{}", self.record);
    }

    /// The age of the scene.
    fn seconds(&self) -> u64 {
        now().duration_since(self.began).unwrap_or_default().as_secs()
    }

    /// All alerts that have fired since the scene began.
    fn fired(&self) -> BTreeSet<String> {
        self.prometheus.alerts_within(self.seconds().max(1))
    }

    /// Runs the commands of a runbook as they stand there.
    fn runbook(&mut self, name: &str) {
        self.runbook_part(name, "");
    }

    /// Runs those commands of a runbook that begin like this.
    fn runbook_part(&mut self, name: &str, start: &str) {
        let commands = crate::documents::commands_of(&format!("docs/runbooks/{name}.md"));
        for command in commands.into_iter().filter(|command| command.starts_with(start)) {
            let outcome = self.world.run(&command).unwrap_or_else(|error| panic!("{name}: {error}"));
            self.record.push_str(&format!("  {name}: {command}: {outcome:?}\n"));
        }
    }

    /// The number of the worker that leads.
    fn leader(&self) -> usize {
        let status = self.status();
        let id = status["leader"]["worker"].as_str().and_then(|id| id.strip_prefix("w-"));
        id.expect("a leader").parse().expect("a number")
    }

    fn stop_leader(&mut self) -> usize {
        let leader = self.leader();
        self.world.stop_worker(&format!("--worker-id w-{leader}"));
        leader
    }

    fn status(&self) -> Value {
        self.world.status().expect("a status")
    }

    /// Waits for the end of the scene, and checks that nothing fired and nobody was called for another cause.
    fn over(&mut self) {
        wait_for("the alerts to end", || self.prometheus.alerts().is_empty());
        self.prometheus
            .wait("everything to be read", r#"sum(shardkeeper:group_shards{state=~"unowned|owner_silent"}) == 0"#);
        let Scene { fires, beside, .. } = self.scene;
        // What follows from a fault may outlast it, as lag does, and is no longer inhibited then.
        self.check_calls(&self.alertmanager.take_calls(), beside);
        let fired = self.fired();
        let wrong: Vec<_> = fired
            .iter()
            .filter(|alert| !fires.contains(&alert.as_str()) && !beside.contains(&alert.as_str()))
            .collect();
        assert!(wrong.is_empty(), "these fired too: {wrong:?}\n{}", self.record);
        self.record.push_str(&format!("  fired: {fired:?}; over after {} s\n", self.seconds()));
    }

    /// Past the test's captured output: the record of what was done and seen.
    fn end(mut self) {
        assert!(self.scenes.next().is_none(), "a scene was left out");
        std::io::stderr().write_all(self.record.as_bytes()).expect("standard error");
    }
}
