//! Faults on the way to the service and back: drawn from a plan, carried out by the service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::emulator::Request;
use crate::error::ServiceError;
use crate::policy::Policy;
use crate::request::Parameters;

/// The fault of one call. The default is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InjectedFault {
    /// Delay of the call on its way to the service.
    pub delay_before: Duration,
    /// Delay of the answer on its way back.
    pub delay_after: Duration,
    /// The outcome of the call.
    pub effect: Effect,
}

/// The outcome of a call.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Effect {
    /// It is carried out and answered.
    #[default]
    None,
    /// It is refused with this error and not carried out.
    Refuse(ServiceError),
    /// The connection breaks before the service sees it.
    LoseCall,
    /// It is carried out, then the connection breaks: the caller cannot know.
    LoseAnswer,
    /// It never reaches the service, and the connection stays silent.
    HangCall,
    /// It is carried out, and the connection stays silent.
    HangAnswer,
    /// It is carried out, and the second half of the answer's body is missing.
    TruncateAnswer,
    /// The connection breaks at once, and this much later the call is carried out all the same.
    ApplyLate(Duration),
}

/// The faults of calls, until the next plan. The default is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultPlan {
    /// Each is drawn for each call in turn; the first that comes up is the call's fault.
    pub rules: Vec<FaultRule>,
    /// Latency by operation; `*` means all others.
    pub latency: BTreeMap<String, Duration>,
    /// Operations refused with AccessDeniedException.
    pub deny: BTreeSet<String>,
    /// Policies by the caller's access key id. Calls that a policy does not allow are refused with
    /// AccessDeniedException; a caller without one may do anything.
    pub policies: BTreeMap<String, Policy>,
    /// Connections that call the tables' API break.
    pub refuse_tables: bool,
    /// Connections that call the streams' API break.
    pub refuse_streams: bool,
    /// Weaknesses of the streams' API.
    pub streams: StreamFaults,
}

/// Weaknesses of the streams' API that readers meet in the field: they hold for every call, by any transport. The
/// default is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamFaults {
    /// DescribeStream calls allowed for the whole account each second, `None` for any number. Beyond:
    /// ThrottlingException.
    pub describe_per_second: Option<u32>,
    /// The age of DescribeStream's answers: shards created since are missing, and shards closed since look open.
    pub stale_listing: Duration,
    /// The age at which GetShardIterator and GetRecords begin to know a shard. Before: ResourceNotFoundException.
    pub young_shard: Duration,
    /// The share, 0 to 1, of GetRecords answers for open shards that lack NextShardIterator.
    pub missing_next_iterator: f64,
    /// Empty pages that a new iterator leads to before the first record.
    pub empty_pages: u32,
}

/// A fault for a share of calls.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    /// The operations it touches; all of them if empty.
    pub operations: BTreeSet<String>,
    /// The tables it touches, with their streams and indexes; all of them if empty.
    pub tables: BTreeSet<String>,
    /// Its life from the time the plan is set; endless if `None`.
    pub lasts: Option<Duration>,
    /// The share of those calls, 0 to 1.
    pub share: f64,
    /// The outcome of a call that meets it.
    pub effect: Effect,
}

impl FaultPlan {
    /// Reads the body of `POST /_local/faults`; every member may be missing:
    ///
    /// ```json
    /// {"rules": [{"share": 0.05, "effect": "error", "code": "InternalServerError", "operations": ["GetRecords"]}],
    ///  "latency_ms": {"GetRecords": 50, "*": 5},
    ///  "deny": ["DescribeStream"],
    ///  "policies": {"ACCESSKEYID": {"Statement": [{"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"}]}},
    ///  "refuse": ["tables", "streams"],
    ///  "streams": {"describe_per_second": 10, "stale_listing_ms": 2000, "young_shard_ms": 5000,
    ///              "missing_next_iterator": 0.1, "empty_pages": 300}}
    /// ```
    ///
    /// A rule without `operations` or `tables` touches all of them, and one with `for_ms` ends after that time: ten seconds
    /// without access to a table are `{"share": 1, "effect": "error", "code": "AccessDeniedException", "tables":
    /// ["Phones"], "for_ms": 10000}`. `streams` has the members of [`StreamFaults`]. Effects: `error` (with `code`, InternalServerError unless given),
    /// `drop` (the connection breaks before the call is carried out), `drop_after` (and after it is), `hang`,
    /// `hang_after`, `truncate` (half of the body is missing). `policies` are IAM's, by access key
    /// id: see [`Policy::from_json`].
    ///
    /// # Errors
    /// A member, effect or type that this does not know, as a ValidationException.
    pub fn from_json(json: &Value) -> Result<Self, ServiceError> {
        let members = Parameters::new(json, &["rules", "latency_ms", "deny", "policies", "refuse", "streams"])?;
        let mut plan = Self::default();
        for rule in members.list("rules")?.into_iter().flatten() {
            plan.rules.push(FaultRule::from_json(rule)?);
        }
        for (operation, millis) in members.map("latency_ms")?.into_iter().flatten() {
            let millis = millis
                .as_u64()
                .ok_or_else(|| ServiceError::validation("latency_ms holds whole numbers of milliseconds"))?;
            plan.latency.insert(operation.clone(), Duration::from_millis(millis));
        }
        plan.deny = words(&members, "deny")?;
        for (caller, policy) in members.map("policies")?.into_iter().flatten() {
            plan.policies.insert(caller.clone(), Policy::from_json(policy)?);
        }
        for service in words(&members, "refuse")? {
            match service.as_str() {
                "tables" => plan.refuse_tables = true,
                "streams" => plan.refuse_streams = true,
                other => {
                    let message = format!("refuse holds \"tables\" and \"streams\", not {other:?}");
                    return Err(ServiceError::validation(message));
                }
            }
        }
        if let Some(streams) = members.value("streams") {
            plan.streams = StreamFaults::from_json(streams)?;
        }
        Ok(plan)
    }

    /// The plan as [`Self::from_json`] reads it.
    pub fn to_json(&self) -> Value {
        let latency: BTreeMap<&String, u64> =
            self.latency.iter().map(|(operation, latency)| (operation, whole_millis(*latency))).collect();
        let mut refuse = Vec::new();
        if self.refuse_tables {
            refuse.push("tables");
        }
        if self.refuse_streams {
            refuse.push("streams");
        }
        let rules: Vec<Value> = self.rules.iter().map(FaultRule::to_json).collect();
        let policies: BTreeMap<&String, &Value> =
            self.policies.iter().map(|(caller, policy)| (caller, policy.to_json())).collect();
        json!({
            "rules": rules,
            "latency_ms": latency,
            "deny": self.deny,
            "policies": policies,
            "refuse": refuse,
            "streams": self.streams.to_json(),
        })
    }

    /// Draws the fault of one call that touches these tables, `age` after the plan was set.
    pub(crate) fn draw(
        &self,
        request: &Request,
        tables: &BTreeSet<String>,
        age: Duration,
        random: &mut Rng,
    ) -> InjectedFault {
        let operation = request.operation();
        let latency = self.latency.get(operation).or_else(|| self.latency.get("*"));
        InjectedFault {
            delay_before: latency.copied().unwrap_or_default(),
            delay_after: Duration::ZERO,
            effect: self.draw_effect(request, tables, age, random),
        }
    }

    fn draw_effect(&self, request: &Request, tables: &BTreeSet<String>, age: Duration, random: &mut Rng) -> Effect {
        let operation = request.operation();
        let refused = if request.is_for_streams() { self.refuse_streams } else { self.refuse_tables };
        if refused {
            return Effect::LoseCall;
        }
        if self.deny.contains(operation) {
            let message = format!("User is not authorized to perform: dynamodb:{operation}");
            return Effect::Refuse(ServiceError::new("AccessDeniedException", message));
        }
        for rule in &self.rules {
            if rule.touches(operation, tables, age) && random.f64() < rule.share {
                return rule.effect.clone();
            }
        }
        Effect::None
    }
}

impl FaultRule {
    /// A rule for this share, 0 to 1, of the calls of all operations.
    pub fn new(share: f64, effect: Effect) -> Self {
        Self { operations: BTreeSet::new(), tables: BTreeSet::new(), lasts: None, share, effect }
    }

    fn from_json(json: &Value) -> Result<Self, ServiceError> {
        let known = ["share", "effect", "code", "operations", "tables", "for_ms"];
        let members = Parameters::new(json, &known)?;
        let share =
            share(&members, "share")?.ok_or_else(|| ServiceError::validation("share must be a number from 0 to 1"))?;
        let code = members.text("code")?.unwrap_or("InternalServerError");
        let effect = match members.text("effect")?.unwrap_or("error") {
            "error" => Effect::Refuse(ServiceError::new(code, "This error was asked for")),
            "drop" => Effect::LoseCall,
            "drop_after" => Effect::LoseAnswer,
            "hang" => Effect::HangCall,
            "hang_after" => Effect::HangAnswer,
            "truncate" => Effect::TruncateAnswer,
            other => {
                let message =
                    format!("effect must be error, drop, drop_after, hang, hang_after or truncate, not {other:?}");
                return Err(ServiceError::validation(message));
            }
        };
        Ok(Self {
            operations: words(&members, "operations")?,
            tables: words(&members, "tables")?,
            lasts: millis(&members, "for_ms")?,
            share,
            effect,
        })
    }

    fn touches(&self, operation: &str, tables: &BTreeSet<String>, age: Duration) -> bool {
        (self.operations.is_empty() || self.operations.contains(operation))
            && (self.tables.is_empty() || !self.tables.is_disjoint(tables))
            && self.lasts.is_none_or(|lasts| age < lasts)
    }

    fn to_json(&self) -> Value {
        let (effect, code) = match &self.effect {
            Effect::Refuse(error) => ("error", Some(error.code())),
            Effect::LoseCall => ("drop", None),
            Effect::LoseAnswer => ("drop_after", None),
            Effect::HangCall => ("hang", None),
            Effect::HangAnswer => ("hang_after", None),
            Effect::TruncateAnswer => ("truncate", None),
            Effect::None => ("none", None),
            Effect::ApplyLate(_) => ("apply_late", None),
        };
        let mut rule = json!({"share": self.share, "effect": effect, "operations": self.operations});
        if let Some(code) = code {
            rule["code"] = code.into();
        }
        if !self.tables.is_empty() {
            rule["tables"] = self.tables.iter().cloned().collect();
        }
        if let Some(lasts) = self.lasts {
            rule["for_ms"] = whole_millis(lasts).into();
        }
        rule
    }
}

impl StreamFaults {
    fn from_json(json: &Value) -> Result<Self, ServiceError> {
        let known =
            ["describe_per_second", "stale_listing_ms", "young_shard_ms", "missing_next_iterator", "empty_pages"];
        let members = Parameters::new(json, &known)?;
        let count = |name: &str| match members.integer(name)? {
            None => Ok(None),
            Some(count) => u32::try_from(count)
                .map(Some)
                .map_err(|_| ServiceError::validation(format!("{name} must be a whole number"))),
        };
        Ok(Self {
            describe_per_second: count("describe_per_second")?,
            stale_listing: millis(&members, "stale_listing_ms")?.unwrap_or_default(),
            young_shard: millis(&members, "young_shard_ms")?.unwrap_or_default(),
            missing_next_iterator: share(&members, "missing_next_iterator")?.unwrap_or_default(),
            empty_pages: count("empty_pages")?.unwrap_or_default(),
        })
    }

    /// The members that differ from none.
    fn to_json(&self) -> Value {
        let none = Self::default();
        let mut members = Map::new();
        let mut put = |name: &str, differs: bool, value: Value| {
            if differs {
                members.insert(name.to_owned(), value);
            }
        };
        put("describe_per_second", self.describe_per_second.is_some(), self.describe_per_second.into());
        put("stale_listing_ms", self.stale_listing != none.stale_listing, whole_millis(self.stale_listing).into());
        put("young_shard_ms", self.young_shard != none.young_shard, whole_millis(self.young_shard).into());
        put("missing_next_iterator", self.missing_next_iterator > 0.0, self.missing_next_iterator.into());
        put("empty_pages", self.empty_pages > 0, self.empty_pages.into());
        Value::Object(members)
    }
}

/// A number from 0 to 1.
fn share(members: &Parameters<'_>, name: &str) -> Result<Option<f64>, ServiceError> {
    match members.number(name)? {
        Some(share) if !(0.0..=1.0).contains(&share) => {
            Err(ServiceError::validation(format!("{name} must be a number from 0 to 1")))
        }
        share => Ok(share),
    }
}

fn millis(members: &Parameters<'_>, name: &str) -> Result<Option<Duration>, ServiceError> {
    match members.integer(name)? {
        None => Ok(None),
        Some(millis) => u64::try_from(millis)
            .map(|millis| Some(Duration::from_millis(millis)))
            .map_err(|_| ServiceError::validation(format!("{name} must be a whole number of milliseconds"))),
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn words(members: &Parameters<'_>, name: &str) -> Result<BTreeSet<String>, ServiceError> {
    let list = members.list(name)?.into_iter().flatten();
    list.map(|word| match word.as_str() {
        Some(word) => Ok(word.to_owned()),
        None => Err(ServiceError::validation(format!("{name} must be a list of strings"))),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request {
        Request { target: target.to_owned(), body: bytes::Bytes::from_static(b"{}") }
    }

    #[test]
    fn a_plan_reads_back_as_it_was_written() {
        let json = json!({
            "rules": [
                {"share": 0.5, "effect": "error", "code": "ThrottlingException", "operations": ["GetRecords"]},
                {"share": 1.0, "effect": "truncate", "operations": [], "tables": ["Phones"], "for_ms": 5000},
            ],
            "streams": {"describe_per_second": 10, "stale_listing_ms": 2000, "young_shard_ms": 5000,
                "missing_next_iterator": 0.5, "empty_pages": 300},
            "latency_ms": {"*": 3},
            "deny": ["Scan"],
            "policies": {"worker": {"Statement": {"Effect": "Allow", "Action": "dynamodb:Get*", "Resource": "*"}}},
            "refuse": ["streams"],
        });
        let plan = FaultPlan::from_json(&json).expect("a good plan");
        assert_eq!(plan.to_json(), json);
    }

    #[test]
    fn a_plan_with_a_mistake_is_refused() {
        for json in [
            json!({"rule": []}),
            json!({"rules": [{"share": 2, "effect": "drop"}]}),
            json!({"rules": [{"share": 1, "effect": "explode"}]}),
            json!({"refuse": ["everything"]}),
            json!({"policies": {"worker": {}}}),
            json!({"latency_ms": {"Scan": "slow"}}),
            json!({"streams": {"missing_next_iterator": 2}}),
            json!({"streams": {"empty_pages": -1}}),
            json!({"rules": [{"share": 1, "effect": "drop", "for_ms": -1}]}),
        ] {
            assert!(FaultPlan::from_json(&json).is_err(), "{json}");
        }
    }

    #[test]
    fn rules_touch_their_operations_only_and_refusal_its_service() {
        let json = json!({
            "rules": [{"share": 1.0, "effect": "drop_after", "operations": ["PutItem"]}],
            "refuse": ["streams"],
            "deny": ["Scan"],
        });
        let plan = FaultPlan::from_json(&json).expect("a good plan");
        let mut random = Rng::with_seed(1);
        let mut effect =
            |target: &str| plan.draw(&request(target), &BTreeSet::new(), Duration::ZERO, &mut random).effect;
        assert_eq!(effect("DynamoDB_20120810.PutItem"), Effect::LoseAnswer);
        assert_eq!(effect("DynamoDB_20120810.GetItem"), Effect::None);
        assert_eq!(effect("DynamoDBStreams_20120810.GetRecords"), Effect::LoseCall);
        let denied = effect("DynamoDB_20120810.Scan");
        assert!(matches!(denied, Effect::Refuse(error) if error.code() == "AccessDeniedException"));
    }

    #[test]
    fn a_rule_touches_its_tables_for_its_time() {
        let json = json!({"rules": [{"share": 1, "effect": "drop", "tables": ["Phones"], "for_ms": 5000}]});
        let plan = FaultPlan::from_json(&json).expect("a good plan");
        let mut random = Rng::with_seed(1);
        let mut effect = |table: &str, seconds| {
            let tables = BTreeSet::from([table.to_owned()]);
            plan.draw(&request("DynamoDB_20120810.Scan"), &tables, Duration::from_secs(seconds), &mut random).effect
        };
        assert_eq!(effect("Phones", 4), Effect::LoseCall);
        assert_eq!(effect("Phones", 5), Effect::None);
        assert_eq!(effect("Others", 0), Effect::None);
    }
}
