//! The layer of `tracing` that makes [events](super) of log lines.

use std::fmt::Debug;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;

use super::{EVENTS, Event, cut, kind};
use crate::consumer::WallClock;

/// Makes events of the worker's log lines.
#[derive(Clone, Copy, Debug)]
pub struct EventLayer;

impl EventLayer {
    /// The log lines that may be events: this program's own, except those for engineers alone.
    pub fn lines() -> Targets {
        Targets::new().with_target("shardkeeper", Level::INFO)
    }
}

impl<S: Subscriber> Layer<S> for EventLayer {
    fn on_event(&self, line: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        line.record(&mut fields);
        let level = match *line.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            _ => "info",
        };
        if let Some(kind) = kind(level, &fields.text) {
            let at_ms = WallClock::System.now_ms();
            let Fields { text, shard, details } = fields;
            EVENTS.push(Event { id: 0, at_ms, kind, level, shard, text: cut(text), details });
        }
    }
}

/// The fields of a log line.
#[derive(Default)]
struct Fields {
    text: String,
    shard: Option<String>,
    details: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.text = value,
            "shard" => self.shard = Some(cut(value)),
            name => drop(self.details.insert(name.to_owned(), cut(value).into())),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.details.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.details.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.details.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.details.insert(field.name().to_owned(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A `%value` comes as its Display form.
        self.add(field, format!("{value:?}"));
    }
}
