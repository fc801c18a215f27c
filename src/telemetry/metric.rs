//! Metrics as types: a handle knows its kind, its labels and their values, and can be used in no other way.
//!
//! Handles go through the `metrics` facade: a program that installs no recorder pays next to nothing.

use metrics::{Key, Label as Pair, Level, Metadata, SharedString, Unit};

use super::scope;

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Kinds of metrics, as Prometheus has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

/// When a metric has something to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// On every worker, soon after its start.
    Always,
    /// On the leader alone.
    ByLeader,
    /// Once its event has happened. Counters with fixed label values and histograms start at zero before.
    OnEvent,
    /// When series for each shard are asked for (`--metrics-per-shard`).
    PerShard,
    /// In the program `shardkeeper`, not in the library within another one.
    ByProgram,
}

/// The readers whom a metric serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Operators: it is on the dashboard.
    Dashboard,
    /// Those who look for the cause of something.
    Debugging,
}

/// The part of a worker that a metric describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The backlog.
    Lag,
    /// Records and pages.
    Throughput,
    /// The user's processor.
    Processor,
    /// Leases.
    Leases,
    /// The stream's shards.
    Shards,
    /// Calls of the services.
    Api,
    /// Memory and the like.
    Resources,
    /// The worker as a whole.
    Worker,
}

/// A label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Name.
    pub name: &'static str,
    /// All values it may have; empty when they are not fixed.
    pub values: &'static [&'static str],
}

/// The description of a metric.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(any(test, feature = "internals")),
    expect(dead_code, reason = "some fields are for docs and tests alone")
)]
pub struct Metric {
    /// Name, as Prometheus sees it.
    pub name: &'static str,
    /// Kind, which its handle sets.
    pub kind: Kind,
    /// Unit.
    pub unit: Unit,
    /// Help text.
    pub help: &'static str,
    /// Labels, besides `app` and `table`.
    pub labels: &'static [Label],
    /// Upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
    /// When it has something to show.
    pub shown: Shown,
    /// The readers whom it serves.
    pub audience: Audience,
    /// The part of a worker that it describes.
    pub topic: Topic,
}

pub(super) const fn metric(topic: Topic, name: &'static str, unit: Unit) -> Metric {
    Metric {
        name,
        kind: Kind::Gauge,
        unit,
        help: "",
        labels: &[],
        buckets: &[],
        shown: Shown::Always,
        audience: Audience::Dashboard,
        topic,
    }
}

impl Metric {
    pub(super) const fn labels(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    pub(super) const fn buckets(self, buckets: &'static [f64]) -> Self {
        Self { buckets, ..self }
    }

    pub(super) const fn shown(self, shown: Shown) -> Self {
        Self { shown, ..self }
    }

    pub(super) const fn for_debugging(self) -> Self {
        Self { audience: Audience::Debugging, ..self }
    }

    pub(super) const fn help(self, help: &'static str) -> Self {
        Self { help, ..self }
    }

    const fn of_kind(self, kind: Kind, labels: usize) -> Self {
        assert!(self.labels.len() == labels, "the handle's type says how many labels it has");
        assert!(self.buckets.is_empty() != matches!(kind, Kind::Histogram), "histograms alone have buckets");
        Self { kind, ..self }
    }

    fn key(&self, values: &[&'static str]) -> Key {
        let pair = |(label, value): (&Label, &&'static str)| {
            let is_known = label.values.is_empty() || label.values.contains(value);
            debug_assert!(is_known, "{}: {value} is no value of {}", self.name, label.name);
            Pair::from_static_parts(label.name, value)
        };
        let mut labels: Vec<Pair> = self.labels.iter().zip(values).map(pair).collect();
        scope::add_labels(&mut labels);
        if labels.is_empty() {
            return Key::from_static_name(self.name); // nothing to allocate
        }
        Key::from_parts(self.name, labels)
    }
}

/// A counter with `N` labels. Counters hold whole numbers, so callers carry over what is less than one of a unit.
#[derive(Debug)]
pub struct Counter<const N: usize = 0>(Metric);

impl<const N: usize> Counter<N> {
    pub(super) const fn new(metric: Metric) -> Self {
        Self(metric.of_kind(Kind::Counter, N))
    }

    /// The metric's description.
    pub const fn metric(&self) -> &Metric {
        &self.0
    }

    pub(crate) fn inc(&self, labels: [&'static str; N]) {
        self.add(labels, 1);
    }

    pub(crate) fn add(&self, labels: [&'static str; N], number: u64) {
        self.register(labels).increment(number);
    }

    /// Raises the counter to a total that was counted elsewhere.
    #[cfg(feature = "cli")]
    pub(crate) fn raise_to(&self, labels: [&'static str; N], total: u64) {
        self.register(labels).absolute(total);
    }

    fn register(&self, labels: [&'static str; N]) -> metrics::Counter {
        let key = self.0.key(&labels);
        scope::with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
    }
}

/// A gauge with `N` labels.
#[derive(Debug)]
pub struct Gauge<const N: usize = 0>(Metric);

impl<const N: usize> Gauge<N> {
    pub(super) const fn new(metric: Metric) -> Self {
        Self(metric.of_kind(Kind::Gauge, N))
    }

    /// The metric's description.
    pub const fn metric(&self) -> &Metric {
        &self.0
    }

    /// Sets the gauge; NaN says that the value is no longer known.
    pub(crate) fn set(&self, labels: [&'static str; N], value: f64) {
        let key = self.0.key(&labels);
        scope::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA)).set(value);
    }
}

/// A histogram with `N` labels.
#[derive(Debug)]
pub struct Histogram<const N: usize = 0>(Metric);

impl<const N: usize> Histogram<N> {
    pub(super) const fn new(metric: Metric) -> Self {
        Self(metric.of_kind(Kind::Histogram, N))
    }

    /// The metric's description.
    pub const fn metric(&self) -> &Metric {
        &self.0
    }

    pub(crate) fn record(&self, labels: [&'static str; N], value: f64) {
        let key = self.0.key(&labels);
        scope::with_recorder(|recorder| recorder.register_histogram(&key, &METADATA)).record(value);
    }
}

/// Counters with more combinations of label values than this begin with the first that happens.
const MOST_SERIES_AT_ZERO: usize = 16;

impl Metric {
    /// Tells the recorder about the metric, and begins the series of a counter or histogram at zero, unless they are many
    /// or not fixed.
    pub(super) fn describe(&self) {
        let series = self.series();
        scope::with_recorder(|recorder| {
            let (name, unit, help) = (self.name.into(), Some(self.unit), SharedString::const_str(self.help));
            match self.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => recorder.describe_histogram(name, unit, help),
            }
            if series.len() > MOST_SERIES_AT_ZERO {
                return;
            }
            for values in series {
                let key = self.key(&values);
                match self.kind {
                    Kind::Counter => drop(recorder.register_counter(&key, &METADATA)),
                    Kind::Histogram => drop(recorder.register_histogram(&key, &METADATA)),
                    Kind::Gauge => {}
                }
            }
        });
    }

    /// Says of a gauge of a worker that its values are no longer known.
    pub(super) fn clear(&self) {
        if self.kind != Kind::Gauge || matches!(self.shown, Shown::ByProgram | Shown::PerShard) {
            return;
        }
        for values in self.series() {
            let key = self.key(&values);
            scope::with_recorder(|recorder| recorder.register_gauge(&key, &METADATA)).set(f64::NAN);
        }
    }

    /// The values of the labels of each series; none when they are not fixed.
    fn series(&self) -> Vec<Vec<&'static str>> {
        let mut series: Vec<Vec<&'static str>> = vec![Vec::new()];
        for label in self.labels {
            let with = |values: &Vec<&'static str>, value: &'static str| [values.as_slice(), &[value]].concat();
            series =
                series.iter().flat_map(|values| label.values.iter().map(move |value| with(values, value))).collect();
        }
        series
    }
}
