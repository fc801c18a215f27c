//! Bugs put in on purpose, to see that the checker finds them: each changes what a process says to the service, what
//! it hears, or what its processors do, and leaves the worker's code alone.

use std::time::Duration;

use serde_json::Value;
use shardkeeper::local::Request;

use super::scenario::Scenario;
use super::service::APP;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Writes to leases carry no condition.
    UnconditionalWrites,
    /// Checkpoints run ahead of what is done.
    HastyCheckpoints,
    /// Children's leases don't name their parents.
    OrphanedChildren,
    /// Every second process's clock runs so slowly that it goes on when others have long taken it for dead.
    SlowClocks,
    /// Processors pass over some records and call them done.
    SkippedRecords,
}

impl Bug {
    /// Makes the scenario one in which the bug shows.
    pub fn sharpen(self, scenario: &mut Scenario) {
        if self == Self::OrphanedChildren {
            scenario.generations_before = 4;
            scenario.slowest_record = Duration::from_millis(100);
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
            _ => return,
        }
        request.body = body.to_string().into();
    }

    /// How fast a process's clock runs, in millionths of the true time, where that is the bug.
    pub fn clock_ppm(self) -> Option<u64> {
        (self == Self::SlowClocks).then_some(100_000)
    }

    /// One record in how many is passed over by processors.
    pub fn passes_over(self) -> Option<u64> {
        (self == Self::SkippedRecords).then_some(40)
    }
}

fn orphan(put: &mut Value) {
    if let Some(item) = put["Item"].as_object_mut() {
        item.remove("parentShardId");
    }
}
