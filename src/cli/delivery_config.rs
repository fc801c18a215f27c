//! How records come to their handler, and what follows when they fail: the settings of that part of `shardkeeper run`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::layers::Layers;
use super::setting::{Default, Kind, Setting};
use super::value;
use crate::consumer::{self, FailurePolicy};
use crate::dead_letters::target::DeadLetterTarget as Place;
use crate::model::batcher::{MOST_BYTES, MOST_RECORDS};
use crate::options::WorkerOptions;

/// See the file's head. Valid throughout: what makes no sense together was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// How often records that failed are tried again; none: for ever.
    pub retry_attempts: Option<u32>,
    /// From which age on records that failed are given up.
    pub max_record_age: Option<Duration>,
    /// Whether failing batches are cut to find the record that fails.
    pub bisect: bool,
    /// What follows when a limit is reached.
    pub on_failure: OnFailure,
    /// Where dead letters are kept.
    pub dead_letters: Place,
    /// How long one call of the handler may take.
    pub handler_timeout: Option<Duration>,
    /// The most records of a batch.
    pub batch_size: Option<usize>,
    /// The most bytes of a batch.
    pub batch_bytes: Option<usize>,
    /// How long a batch waits to fill.
    pub batch_window: Option<Duration>,
    /// The most batches at once, over all shards.
    pub concurrency: Option<usize>,
    /// The most batches of one shard at once.
    pub shard_concurrency: usize,
}

/// What follows when a record has used up its attempts or its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Its shard waits, and tries on.
    Halt,
    /// It is kept as a dead letter.
    DeadLetter,
    /// It is passed over.
    Skip,
}

const FAILURES: &str = "When records fail";
const BATCHES: &str = "Batches and concurrency";

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) const RETRY_ATTEMPTS: Setting<u32> =
    Setting::new("retry-attempts", "N", |text| value::whole(text, 0, 10_000)).group(FAILURES).kind(Kind::Integer).help(
        "How often the same records are tried again before --on-failure applies: 0 to 10000; without it, for ever.",
    );

pub(super) const MAX_RECORD_AGE: Setting<Duration> =
    Setting::new("max-record-age", "DURATION", |text| value::duration(text, SECOND, DAY))
        .group(FAILURES)
        .help("From which age on --on-failure applies to records that have failed: 1s to 24h; without it, none.");

pub(super) const BISECT: Setting<bool> = Setting::new("bisect", "true|false", value::switch)
    .group(FAILURES)
    .default(Default::Value("true"))
    .help("Whether a batch that fails is cut in half again and again, until only the record at fault is left.");

pub(super) const ON_FAILURE: Setting<OnFailure> = Setting::new("on-failure", "halt|dead-letter|skip", |text| {
    let words = [("halt", OnFailure::Halt), ("dead-letter", OnFailure::DeadLetter), ("skip", OnFailure::Skip)];
    value::one_of(text, &words)
})
.group(FAILURES)
.default(Default::Value("halt"))
.help(
    "What follows when a limit is reached: the shard waits and tries on, and nothing is lost; the record becomes a dead \
     letter; or it is passed over, which the log tells.",
);

pub(super) const DEAD_LETTERS: Setting<Place> = Setting::new("dead-letters", "table|file:PATH|sqs:URL", Place::parse)
    .group(FAILURES)
    .default(Default::Value("table"))
    .help(
        "Where records are kept that are given up by --on-failure dead-letter: in a DynamoDB table, the application's \
         name and -DeadLetters; in a file of this worker's own, a line of JSON each; or in an SQS queue (a program \
         built with the feature sqs).",
    );

pub(super) const HANDLER_TIMEOUT: Setting<Duration> = Setting::new("handler-timeout", "DURATION", |text| {
    value::duration(text, Duration::from_millis(10), Duration::from_secs(3600))
})
.group(FAILURES)
.help("How long one delivery may take before it counts as failed: 10ms to 1h; without it, any time.");

pub(super) const BATCH_SIZE: Setting<usize> =
    Setting::new("batch-size", "N", |text| value::whole(text, 1, MOST_RECORDS))
        .group(BATCHES)
        .kind(Kind::Integer)
        .help("The most records of a batch: 1 to 10000; without it, what the service sends at once, up to 1000.");

pub(super) const BATCH_BYTES: Setting<usize> = Setting::new("batch-bytes", "SIZE", |text| {
    let size = value::bytes(text, 1)?;
    let size = usize::try_from(size).ok().filter(|size| *size <= MOST_BYTES);
    size.ok_or_else(|| format!("{text} is too much: at most {MOST_BYTES} bytes"))
})
.group(BATCHES)
.kind(Kind::Size)
.help("The most bytes of a batch, up to 4MiB; a single record may be larger.");

pub(super) const BATCH_WINDOW: Setting<Duration> = Setting::new("batch-window", "DURATION", |text| {
    value::duration(text, Duration::from_millis(1), Duration::from_secs(300))
})
.group(BATCHES)
.help("How long a batch waits to fill up to --batch-size or --batch-bytes: 1ms to 5m; without it, not at all.");

pub(super) const CONCURRENCY: Setting<NonZeroU32> =
    Setting::new("concurrency", "N", value::count).group(BATCHES).kind(Kind::Integer).help(
        "The most deliveries at once, of one shard and of all together. Records of one item stay in order and come one \
         delivery after the other, those of different items do not. Without it, one for each shard.",
    );

pub(super) const SHARD_CONCURRENCY: Setting<NonZeroU32> =
    Setting::new("shard-concurrency", "N", value::count).group(BATCHES).kind(Kind::Integer).help(
        "The most deliveries of one shard at once, where that is less than --concurrency, or without any limit over all \
         shards.",
    );

impl DeliveryConfig {
    /// What `layers` say, good only if they note no mistake.
    pub(super) fn from_layers(layers: &mut Layers) -> Self {
        let count = |count: NonZeroU32| usize::try_from(count.get()).unwrap_or(usize::MAX);
        let concurrency = layers.optional(&CONCURRENCY).map(count);
        let config = Self {
            retry_attempts: layers.optional(&RETRY_ATTEMPTS),
            max_record_age: layers.optional(&MAX_RECORD_AGE),
            bisect: layers.value(&BISECT),
            on_failure: layers.value(&ON_FAILURE),
            dead_letters: layers.value(&DEAD_LETTERS),
            handler_timeout: layers.optional(&HANDLER_TIMEOUT),
            batch_size: layers.optional(&BATCH_SIZE),
            batch_bytes: layers.optional(&BATCH_BYTES),
            batch_window: layers.optional(&BATCH_WINDOW),
            concurrency,
            shard_concurrency: layers.optional(&SHARD_CONCURRENCY).map(count).or(concurrency).unwrap_or(1),
        };
        config.refuse_nonsense(layers);
        config
    }

    fn refuse_nonsense(&self, layers: &mut Layers) {
        let has_limit = self.retry_attempts.is_some() || self.max_record_age.is_some();
        if self.on_failure != OnFailure::Halt && !has_limit {
            let place = layers.place_of(&ON_FAILURE.about);
            let limits = "--retry-attempts or --max-record-age";
            layers.add_mistake(format!("{place}: nothing is given up without a limit; give {limits} too"));
        }
        if self.batch_window.is_some() && self.batch_size.is_none() && self.batch_bytes.is_none() {
            let place = layers.place_of(&BATCH_WINDOW.about);
            let sizes = "--batch-size or --batch-bytes";
            layers.add_mistake(format!("{place}: a batch without a size has nothing to fill up to; give {sizes} too"));
        }
        if self.concurrency.is_some_and(|most| self.shard_concurrency > most) {
            let (shard, all) = (layers.place_of(&SHARD_CONCURRENCY.about), layers.place_of(&CONCURRENCY.about));
            layers.add_mistake(format!("{shard}: is more than {all} allows over all shards"));
        }
    }

    /// What is wrong with an application's name for the place where its dead letters go, if anything.
    pub fn mistake_in_name(&self, app: &str) -> Option<String> {
        let has_letters = self.on_failure == OnFailure::DeadLetter;
        has_letters.then(|| self.dead_letters.mistake_in_name(app)).flatten()
    }

    /// The same as a failure policy; `on_failure` is what its word stands for.
    pub fn policy(&self, on_failure: consumer::OnFailure) -> FailurePolicy {
        FailurePolicy {
            attempts: self.retry_attempts.map(|retries| retries + 1),
            max_record_age: self.max_record_age,
            bisect: self.bisect,
            handler_timeout: self.handler_timeout,
            on_failure,
            ..FailurePolicy::default()
        }
    }

    /// Tells a worker about batches and concurrency.
    pub fn apply(&self, options: &mut WorkerOptions) {
        options.batch_size = self.batch_size;
        options.batch_bytes = self.batch_bytes;
        options.batch_window = self.batch_window.unwrap_or_default();
        options.concurrency = self.concurrency;
        options.shard_concurrency = self.shard_concurrency;
    }
}
