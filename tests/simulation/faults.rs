//! Faults between the processes and the service: windows of time in which a share of calls meets a fault.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use fastrand::Rng;
use serde_json::{Value, json};
use shardkeeper_local::{Answer, Request, ServiceError};

use super::history::Ms;
use super::process::EPOCH_MS;
use super::service::APP;

/// For how long a stale listing may not know a shard yet.
const STALE_FOR: Ms = 8_000;

/// The kinds of faults of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Refused as one of too many.
    Throttled,
    /// A fault of the service, not carried out.
    ServerError,
    /// The connection breaks on the way there.
    LostCall,
    /// The connection breaks on the way back: carried out.
    LostAnswer,
    /// Carried out long after its caller has timed out.
    Late,
    /// Silence; not carried out.
    Silent,
    /// Silence; carried out.
    SilentAfter,
    /// Half of the answer's body is missing.
    Truncated,
    /// The answer's body is something else.
    Malformed,
    /// Slow both ways.
    Slow,
    /// The same, for take-overs of leases alone. Not drawn: a scenario that needs it asks for it.
    SlowTakeOver,
    /// A page of GetRecords without the records that are there.
    EmptyPage,
    /// A listing in which the newest shards are missing, up to an age, and closed ones look open.
    StaleListing,
    /// The tables cannot be reached.
    NoTables,
    /// The stream cannot be reached.
    NoStreams,
    /// A part of the service does not know a young shard yet: neither its iterators nor its records. This kind and those
    /// below are not drawn: they belong to the conditions of the field.
    YoungShard,
    /// A page of an open shard without the iterator of the next one.
    NoNextIterator,
    /// One shard in two shows no records, for page after page.
    EmptyShard,
    /// The tables refuse the caller.
    DeniedTables,
    /// The stream refuses the caller.
    DeniedStreams,
    /// Hints to other workers are refused.
    LostHint,
    /// Writes to leases are refused as too many.
    ThrottledLease,
}

/// All kinds that are drawn.
pub const KINDS: [Kind; 14] = [
    Kind::Throttled,
    Kind::ServerError,
    Kind::LostCall,
    Kind::LostAnswer,
    Kind::Late,
    Kind::Silent,
    Kind::SilentAfter,
    Kind::Truncated,
    Kind::Malformed,
    Kind::Slow,
    Kind::EmptyPage,
    Kind::StaleListing,
    Kind::NoTables,
    Kind::NoStreams,
];

/// Some time in which calls meet a fault.
#[derive(Clone, Debug)]
pub struct Window {
    pub kind: Kind,
    /// The share of calls that meet it.
    pub share: f64,
    /// Whose calls; everybody's if not given.
    pub process: Option<usize>,
    pub from: Ms,
    pub until: Ms,
}

/// The fate of one call.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The delays of the request and of the answer.
    pub there: Ms,
    pub back: Ms,
    pub kind: Option<Kind>,
    /// The refusal, for the kinds that refuse.
    pub refusal: Option<ServiceError>,
}

impl Fate {
    pub fn name(&self) -> &'static str {
        match self.kind {
            None => "carried",
            Some(Kind::Throttled) => "throttled",
            Some(Kind::ServerError) => "server error",
            Some(Kind::LostCall) => "lost",
            Some(Kind::LostAnswer) => "answer lost",
            Some(Kind::Late) => "late",
            Some(Kind::Silent) => "silent",
            Some(Kind::SilentAfter) => "carried, silent",
            Some(Kind::Truncated) => "truncated",
            Some(Kind::Malformed) => "malformed",
            Some(Kind::Slow | Kind::SlowTakeOver) => "slow",
            Some(Kind::EmptyPage) => "empty page",
            Some(Kind::StaleListing) => "stale listing",
            Some(Kind::NoTables | Kind::NoStreams) => "cut off",
            Some(Kind::YoungShard) => "unknown shard",
            Some(Kind::NoNextIterator) => "no next iterator",
            Some(Kind::EmptyShard) => "empty shard",
            Some(Kind::DeniedTables | Kind::DeniedStreams) => "denied",
            Some(Kind::LostHint | Kind::ThrottledLease) => "throttled",
        }
    }
}

/// Draws what becomes of a call that is made at `now`.
pub fn draw(windows: &[Window], now: Ms, process: usize, request: &Request, rng: &mut Rng) -> Fate {
    let mut fate = Fate { there: 1 + rng.u64(..) % 6, back: 1 + rng.u64(..) % 6, kind: None, refusal: None };
    let mine = |window: &&Window| {
        (window.from..window.until).contains(&now) && window.process.is_none_or(|only| only == process)
    };
    for window in windows.iter().filter(mine) {
        if !touches(window.kind, now, request) || rng.f64() >= window.share {
            continue;
        }
        fate.kind = Some(window.kind);
        match window.kind {
            Kind::Throttled | Kind::LostHint | Kind::ThrottledLease => fate.refusal = Some(throttle(request)),
            Kind::YoungShard => fate.refusal = Some(ServiceError::new("ResourceNotFoundException", "no such shard")),
            Kind::DeniedTables | Kind::DeniedStreams => {
                fate.refusal = Some(ServiceError::new("AccessDeniedException", "simulated"));
            }
            Kind::ServerError => fate.refusal = Some(ServiceError::new("InternalServerError", "simulated")),
            Kind::Slow | Kind::SlowTakeOver => {
                fate.there += rng.u64(..) % 2500;
                fate.back += rng.u64(..) % 2500;
            }
            Kind::Late => fate.there += rng.u64(..) % 12_000,
            _ => {}
        }
        break;
    }
    fate
}

fn touches(kind: Kind, now: Ms, request: &Request) -> bool {
    match kind {
        Kind::EmptyPage | Kind::NoNextIterator => request.operation() == "GetRecords",
        Kind::EmptyShard => {
            let is_touched = |shard: String| shard.bytes().map(u64::from).sum::<u64>().is_multiple_of(2);
            request.operation() == "GetRecords" && shard_of(request).is_some_and(is_touched)
        }
        Kind::YoungShard => {
            let shard = shard_of(request);
            shard.and_then(|shard| born(&shard)).is_some_and(|born| now < born + STALE_FOR)
        }
        Kind::StaleListing => request.operation() == "DescribeStream",
        Kind::SlowTakeOver => is_take_over(request),
        Kind::NoTables | Kind::DeniedTables => !request.is_for_streams(),
        Kind::NoStreams | Kind::DeniedStreams => request.is_for_streams(),
        Kind::LostHint => request.operation() == "UpdateItem" && body(request)["UpdateExpression"] == "ADD inbox :keys",
        Kind::ThrottledLease => {
            let is_lease_write = |body: &Value| body["TableName"] == APP || body["TransactItems"].is_array();
            matches!(request.operation(), "UpdateItem" | "TransactWriteItems") && is_lease_write(&body(request))
        }
        _ => true,
    }
}

/// Whether a lease goes from one owner to another by this write.
fn is_take_over(request: &Request) -> bool {
    let body = body(request);
    let owner = |name: &str| body["ExpressionAttributeValues"][name]["S"].as_str().map(ToOwned::to_owned);
    request.operation() == "UpdateItem" && owner(":leaseOwner").is_some() && owner(":seen_leaseOwner").is_some()
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

/// The shard that a call asks for an iterator of, or reads by one.
fn shard_of(request: &Request) -> Option<String> {
    let asked = body(request)["ShardId"].as_str().map(ToOwned::to_owned);
    asked.or_else(|| Some(iterator_of(request)?.shard))
}

/// The iterator that a call reads by.
pub fn iterator_of(request: &Request) -> Option<ShardIterator> {
    ShardIterator::read(body(request)["ShardIterator"].as_str()?)
}

/// The content of a shard iterator of the local service.
pub struct ShardIterator {
    pub shard: String,
    pub issued: Ms,
}

impl ShardIterator {
    fn read(text: &str) -> Option<Self> {
        let sealed = URL_SAFE_NO_PAD.decode(text.split_once("|1|")?.1).ok()?;
        let fields = String::from_utf8(sealed).ok()?;
        let mut fields = fields.split('|');
        let shard = fields.next()?.to_owned();
        let issued = fields.nth(1)?.parse::<u64>().ok()?.checked_sub(EPOCH_MS)?;
        Some(Self { shard, issued })
    }
}

fn throttle(request: &Request) -> ServiceError {
    let code = match request.operation() {
        "GetRecords" => "LimitExceededException",
        "DescribeStream" | "GetShardIterator" => "ThrottlingException",
        "PutItem" | "UpdateItem" => "ProvisionedThroughputExceededException",
        _ => "RequestLimitExceeded",
    };
    ServiceError::new(code, "simulated")
}

/// Changes the answer of a call, made at `now`, as its fault has it.
pub fn distort(kind: Kind, now: Ms, request: &Request, answer: &mut Answer, rng: &mut Rng) {
    if answer.status != 200 {
        return;
    }
    match kind {
        Kind::Truncated => answer.body.truncate(answer.body.len() / 2),
        Kind::Malformed => {
            let bodies = ["", "{", "null", "[]", "<html>", r#"{"Records":[{"dynamodb":7}],"Item":"x","Items":3}"#];
            let pick = usize::try_from(rng.u64(..)).unwrap_or_default() % bodies.len();
            answer.body = Bytes::from_static(bodies[pick].as_bytes());
        }
        Kind::EmptyPage | Kind::EmptyShard => {
            // A page that has no next one is the shard's end: it stays as it is.
            let Ok(page) = serde_json::from_slice::<Value>(&answer.body) else { return };
            let Ok(asked) = serde_json::from_slice::<Value>(&request.body) else { return };
            if !page["NextShardIterator"].is_null() {
                let empty = json!({"Records": [], "NextShardIterator": asked["ShardIterator"]});
                answer.body = empty.to_string().into();
            }
        }
        Kind::NoNextIterator => {
            let Ok(mut page) = serde_json::from_slice::<Value>(&answer.body) else { return };
            page["NextShardIterator"] = Value::Null;
            answer.body = page.to_string().into();
        }
        Kind::StaleListing => {
            let Ok(mut page) = serde_json::from_slice::<Value>(&answer.body) else { return };
            hide_news(&mut page, now, rng);
            answer.body = page.to_string().into();
        }
        _ => {}
    }
}

/// Hides the newest shards of a page, never an old one or one whose child is shown, and the ends of some closed ones.
fn hide_news(page: &mut Value, now: Ms, rng: &mut Rng) {
    let Some(shards) = page["StreamDescription"]["Shards"].as_array_mut() else { return };
    let hidden = usize::try_from(rng.u64(..)).unwrap_or_default() % (shards.len() + 1);
    for _ in 0..hidden {
        let is_parent = |id: &Value| shards.iter().any(|shard| shard["ParentShardId"] == *id);
        let Some(last) = shards.last() else { break };
        let is_old = last["ShardId"].as_str().and_then(born).is_none_or(|born| born + STALE_FOR < now);
        if is_old || last["ParentShardId"].is_null() || is_parent(&last["ShardId"]) {
            break;
        }
        shards.pop();
    }
    for shard in shards {
        if rng.f64() < 0.5
            && let Some(range) = shard["SequenceNumberRange"].as_object_mut()
        {
            range.remove("EndingSequenceNumber");
        }
    }
}

/// When a shard was made: its id says so.
fn born(shard: &str) -> Option<Ms> {
    let id = shard.strip_prefix("shardId-")?;
    id.split('-').next()?.parse::<u64>().ok()?.checked_sub(EPOCH_MS)
}
