//! Bugs put in on purpose, to see that the checker finds them: each changes what a process says to the service, what
//! it hears and when, or what its processors do, and leaves the worker's code alone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use shardkeeper::internals::model::checkpoint::Checkpoint;
use shardkeeper::internals::model::out_of_order_acks::OutOfOrderAcks;
use shardkeeper_local::{Answer, Request};

use super::delivery::DeliveryScenario;
use super::faults::Kind;
use super::history::Ms;
use super::scenario::{Action, Scenario};
use super::service::{APP, Service};

/// The age of the leaders' view of the fleet, where that is the bug.
const STALE_BY: Ms = 1_200;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Writes to leases carry no condition.
    UnconditionalWrites,
    /// Checkpoints run ahead of what is done.
    HastyCheckpoints,
    /// Children's leases don't name their parents.
    OrphanedChildren,
    /// Every second process's clock runs so slowly that it still reads when others have long taken it for dead.
    SlowClocks,
    /// Processors pass over some records and call them done.
    SkippedRecords,
    /// Leaders take leases from workers that were dead some time before the leases' rows were read.
    StaleProofs,
    /// Workers start on leases that name them without waiting for the write by which they take them up.
    UnclaimedStarts,
    /// Dead letters are said to be kept some time before they are.
    EarlyDeadLetters,
    /// Records of one item look like those of different ones.
    SplitItems,
    /// Checkpoints are written where what is done beyond them ends, whatever is open before.
    PassedHoles,
}

impl Bug {
    /// Makes the scenario one in which the bug shows.
    pub fn sharpen(self, scenario: &mut Scenario) {
        if self == Self::OrphanedChildren {
            scenario.generations_before = 4;
            scenario.slowest_record = Duration::from_millis(100);
        }
        if matches!(self, Self::StaleProofs | Self::UnclaimedStarts) {
            // Workers that come to life again just as they are taken for dead, and nothing else.
            scenario.workers = 4;
            scenario.lease_duration = Duration::from_secs(2);
            scenario.pauses = [2_500; 5];
            scenario.actions = (0..30).map(|time| (1_500 + time * 500, Action::Pause)).collect();
        }
        if matches!(self, Self::EarlyDeadLetters | Self::SplitItems | Self::PassedHoles) {
            scenario.delivery = DeliveryScenario::new(scenario.seed);
            scenario.delivery.concurrency = 4;
            scenario.slowest_record = Duration::from_millis(20);
        }
        if self == Self::UnclaimedStarts {
            scenario.actions.extend((0..8).map(|time| (1_600 + time * 2_000, Action::Fault(Kind::SlowTakeOver))));
            scenario.actions.sort();
        }
    }

    /// Changes a request on its way.
    pub fn distort_request(self, request: &mut Request) {
        let Ok(mut body) = serde_json::from_slice::<Value>(&request.body) else { return };
        match self {
            Self::UnconditionalWrites if request.operation() == "UpdateItem" && body["TableName"] == APP => {
                let Some(members) = body.as_object_mut() else { return };
                members.remove("ConditionExpression");
                let values = members.get_mut("ExpressionAttributeValues").and_then(Value::as_object_mut);
                if let Some(values) = values {
                    values.retain(|name, _| !name.starts_with(":seen_"));
                }
            }
            Self::HastyCheckpoints if request.operation() == "UpdateItem" && body["TableName"] == APP => {
                let checkpoint = body.pointer_mut("/ExpressionAttributeValues/:checkpoint/S");
                let Some(checkpoint) = checkpoint else { return };
                let Some(position) = checkpoint.as_str().and_then(|digits| digits.parse::<u128>().ok()) else { return };
                *checkpoint = (position + 3).to_string().into();
            }
            Self::OrphanedChildren => {
                let is_put = |item: &Value| item["TableName"] == APP && !item["Item"].is_null();
                if is_put(&body) {
                    orphan(&mut body);
                }
                let items = body.get_mut("TransactItems").and_then(Value::as_array_mut);
                for put in items.into_iter().flatten().filter_map(|item| item.get_mut("Put")) {
                    if is_put(put) {
                        orphan(put);
                    }
                }
            }
            Self::PassedHoles if request.operation() == "UpdateItem" && body["TableName"] == APP => {
                let values = &mut body["ExpressionAttributeValues"];
                let Some(done) = values[":shardkeeperDone"]["S"].as_str() else { return };
                let base = done.split(' ').next().and_then(|base| Checkpoint::parse(base).ok());
                let Some(done) = base.and_then(|base| OutOfOrderAcks::parse(done, &base)) else { return };
                if values[":checkpoint"].is_null() {
                    return;
                }
                values[":checkpoint"]["S"] = done.through.to_string().into();
            }
            _ => return,
        }
        request.body = body.to_string().into();
    }

    /// Changes an answer on its way back.
    pub fn distort_answer(self, request: &Request, answer: &mut Answer) {
        if self != Self::SplitItems || request.operation() != "GetRecords" || answer.status != 200 {
            return;
        }
        let Ok(mut page) = serde_json::from_slice::<Value>(&answer.body) else { return };
        for record in page["Records"].as_array_mut().into_iter().flatten() {
            let position = record["dynamodb"]["SequenceNumber"].clone();
            record["dynamodb"]["Keys"]["other"] = json!({"S": position});
        }
        answer.body = page.to_string().into();
    }

    /// The rate of a process's clock, in millionths of the true time, where that is the bug.
    pub fn clock_ppm(self) -> Option<u64> {
        (self == Self::SlowClocks).then_some(100_000)
    }

    /// One record in how many is passed over by processors.
    pub fn passes_over(self) -> Option<u64> {
        (self == Self::SkippedRecords).then_some(40)
    }
}

/// The memory of bugs that change a process's answers or their time.
#[derive(Debug, Default)]
pub struct Interference {
    /// The fleet table as it was.
    scans: VecDeque<(Ms, Answer)>,
    /// Claims that their process takes for done, by process and lease.
    claims: BTreeMap<(usize, String), Vec<Request>>,
}

impl Interference {
    /// Carries a call out as the bug has it.
    pub fn carry(&mut self, bug: Bug, now: Ms, process: usize, request: &Request, service: &mut Service) -> Answer {
        match bug {
            Bug::StaleProofs => self.look_late(now, process, request, service),
            Bug::UnclaimedStarts => self.claim_late(process, request, service),
            _ => service.carry(process, request),
        }
    }

    /// Leaders prove workers dead by scans of the fleet table: these show what was some time ago.
    fn look_late(&mut self, now: Ms, process: usize, request: &Request, service: &mut Service) -> Answer {
        let answer = service.carry(process, request);
        let is_scan = request.operation() == "Scan" && table(request).is_some_and(|table| table != APP);
        if !is_scan || answer.status != 200 {
            return answer;
        }
        self.scans.push_back((now, answer));
        while self.scans.get(1).is_some_and(|(at, _)| at + STALE_BY <= now) {
            self.scans.pop_front();
        }
        self.scans[0].1.clone()
    }

    /// A write that raises the counter and changes nothing else is answered at once, and carried out when its process
    /// next writes to the lease.
    fn claim_late(&mut self, process: usize, request: &Request, service: &mut Service) -> Answer {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let key = |item: &Value| item["Key"]["leaseKey"]["S"].as_str().map(ToOwned::to_owned);
        let is_claim = body["TableName"] == APP && body["UpdateExpression"] == "SET leaseCounter = :counter";
        if let (true, Some(lease)) = (is_claim, key(&body)) {
            self.claims.entry((process, lease)).or_default().push(request.clone());
            return Answer { status: 200, body: "{}".into(), request_id: "claimed".into() };
        }
        let items = body["TransactItems"].as_array().into_iter().flatten();
        let updates = items.map(|item| &item["Update"]).chain([&body]);
        for lease in updates.filter_map(key) {
            for claim in self.claims.remove(&(process, lease)).into_iter().flatten() {
                service.carry(process, &claim);
            }
        }
        service.carry(process, request)
    }
}

fn table(request: &Request) -> Option<String> {
    let body: Value = serde_json::from_slice(&request.body).ok()?;
    body["TableName"].as_str().map(ToOwned::to_owned)
}

fn orphan(put: &mut Value) {
    if let Some(item) = put["Item"].as_object_mut() {
        item.remove("parentShardId");
    }
}
