//! The recorder behind the export: counters and gauges as their last values, histograms as OpenTelemetry's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use crate::telemetry::WorkerTelemetry;
use crate::telemetry::catalogue::{self, Kind, Metric};

/// The name of the instrumentation scope.
const SCOPE: &str = "shardkeeper";

/// The recorder of one worker's metrics.
pub struct OtlpRecorder {
    registry: Arc<Registry<Key, Series>>,
    /// The attributes of all series.
    common: [KeyValue; 2],
}

/// Makes the storage of a series when it is first recorded.
struct Series {
    histograms: BTreeMap<&'static str, Histogram<f64>>,
    common: [KeyValue; 2],
}

/// One series of a histogram; nothing of a name that is not in the catalogue.
struct Observations {
    histogram: Option<Histogram<f64>>,
    attributes: Vec<KeyValue>,
}

impl OtlpRecorder {
    /// A recorder of all metrics, which the provider's reader shows with these attributes.
    pub fn new(provider: &SdkMeterProvider, app: &str, table: &str) -> Self {
        let meter = provider.meter(SCOPE);
        let common = [KeyValue::new("app", app.to_owned()), KeyValue::new("table", table.to_owned())];
        let all = || catalogue::ALL.iter().copied();
        let histograms = all().filter(|metric| metric.kind == Kind::Histogram);
        let histograms = histograms.map(|metric| (metric.name, histogram(&meter, metric))).collect();
        let registry = Arc::new(Registry::new(Series { histograms, common: common.clone() }));
        // An observable instrument lives as long as its meter: the handles may go.
        for metric in all().filter(|metric| metric.name != catalogue::SHARD_LAG.metric().name) {
            let (registry, common) = (Arc::clone(&registry), common.clone());
            match metric.kind {
                Kind::Counter => {
                    let builder = meter.u64_observable_counter(metric.name).with_description(metric.help);
                    let show = builder.with_unit(unit(metric)).with_callback(move |observer| {
                        registry.visit_counters(|key, value| {
                            if key.name() == metric.name {
                                observer.observe(value.load(Ordering::Relaxed), &attributes(&common, key));
                            }
                        });
                    });
                    show.build();
                }
                Kind::Gauge => {
                    let builder = meter.f64_observable_gauge(metric.name).with_description(metric.help);
                    let show = builder.with_unit(unit(metric)).with_callback(move |observer| {
                        registry.visit_gauges(|key, value| {
                            let value = f64::from_bits(value.load(Ordering::Relaxed));
                            // One that isn't known is left out.
                            if key.name() == metric.name && !value.is_nan() {
                                observer.observe(value, &attributes(&common, key));
                            }
                        });
                    });
                    show.build();
                }
                Kind::Histogram => {}
            }
        }
        Self { registry, common }
    }

    /// Shows the lag of each shard that the worker reads, too.
    pub fn show_shards(&self, provider: &SdkMeterProvider, telemetry: WorkerTelemetry) {
        let (metric, common) = (catalogue::SHARD_LAG.metric(), self.common.clone());
        let meter = provider.meter(SCOPE);
        let builder = meter.f64_observable_gauge(metric.name).with_description(metric.help);
        let show = builder.with_unit(unit(metric)).with_callback(move |observer| {
            for (shard, lag) in telemetry.shard_lags() {
                let shard = KeyValue::new("shard", shard.to_string());
                observer.observe(lag.as_secs_f64(), &[common.as_slice(), &[shard]].concat());
            }
        });
        show.build();
    }
}

impl Recorder for OtlpRecorder {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.registry.get_or_create_counter(key, |counter| Counter::from_arc(Arc::clone(counter)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.registry.get_or_create_gauge(key, |gauge| Gauge::from_arc(Arc::clone(gauge)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        self.registry.get_or_create_histogram(key, |found| metrics::Histogram::from_arc(Arc::clone(found)))
    }
}

impl Storage<Key> for Series {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Observations>;

    fn counter(&self, _: &Key) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &Key) -> Self::Gauge {
        Arc::new(AtomicU64::new(f64::NAN.to_bits()))
    }

    fn histogram(&self, key: &Key) -> Self::Histogram {
        let histogram = self.histograms.get(key.name()).cloned();
        Arc::new(Observations { histogram, attributes: attributes(&self.common, key) })
    }
}

impl HistogramFn for Observations {
    fn record(&self, value: f64) {
        if let Some(histogram) = &self.histogram {
            histogram.record(value, &self.attributes);
        }
    }
}

fn histogram(meter: &Meter, metric: &Metric) -> Histogram<f64> {
    let builder = meter.f64_histogram(metric.name).with_description(metric.help).with_unit(unit(metric));
    builder.with_boundaries(metric.buckets.to_vec()).build()
}

/// A unit as OpenTelemetry writes it.
fn unit(metric: &Metric) -> &'static str {
    match metric.unit {
        Unit::Seconds => "s",
        Unit::Bytes => "By",
        _ => "1",
    }
}

fn attributes(common: &[KeyValue], key: &Key) -> Vec<KeyValue> {
    let own = key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned()));
    common.iter().cloned().chain(own).collect()
}
