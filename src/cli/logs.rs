//! Logs on standard error.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::config::did_you_mean;
use super::events::layer::EventLayer;
use crate::telemetry::scope::SPANS;

/// The options of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub filter: Filter,
    pub format: Format,
}

/// A filter of log lines, known to be well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As it was given.
    text: String,
    /// In `tracing-subscriber`'s notation.
    directives: String,
}

impl Filter {
    /// The filter of lines, without the spans that telemetry alone reads.
    fn for_lines(&self) -> EnvFilter {
        EnvFilter::new(format!("{},{SPANS}=off", self.directives))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A line for people, colored on a terminal.
    Human,
    /// One JSON object per line, with the fields at the top level.
    Json,
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = text.to_ascii_lowercase();
        let filter = |directives: String| Ok(Filter { text: text.to_owned(), directives });
        match level.as_str() {
            "off" | "error" | "warn" => return filter(level),
            "info" | "debug" | "trace" => return filter(format!("warn,shardkeeper={level}")),
            _ => {}
        }
        // The notation takes a lone misspelt level for a module's name, and then logs everything of that module.
        if !text.contains(['=', ',']) {
            let hint = did_you_mean(&level, LEVELS);
            return Err(format!(
                "{text:?} is neither a level ({}) nor a filter such as info,aws_sdk_dynamodb=debug{hint}",
                LEVELS.join(", ")
            ));
        }
        match EnvFilter::try_new(text) {
            Ok(_) => filter(text.to_owned()),
            Err(error) => Err(format!("{text:?} is not a filter of logs: {error}")),
        }
    }
}

/// The filter in force, and the way to replace it.
struct Running {
    filter: Filter,
    handle: reload::Handle<EnvFilter, Registry>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the process's log lines to standard error, and those that are events to the [event log](super::events). Later
/// calls change nothing.
pub fn start(config: &LogConfig) {
    let (filter, handle) = reload::Layer::new(config.filter.for_lines());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let events = EventLayer.with_filter(EventLayer::lines());
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter)).with(events);
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(super::otlp::spans::layer());
    let started = subscriber.try_init();
    // Otherwise a program around this one has set up its logs already.
    if started.is_ok() {
        *running() = Some(Running { filter: config.filter.clone(), handle });
    }
}

/// Replaces the filter.
pub fn set_filter(filter: &Filter) {
    if let Some(running) = &mut *running() {
        // The subscriber lives as long as the process.
        let _ = running.handle.reload(filter.for_lines());
        running.filter = filter.clone();
    }
}

/// The filter in force.
pub fn filter() -> Option<Filter> {
    running().as_ref().map(|running| running.filter.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_applies_to_this_program_and_leaves_libraries_at_warnings() {
        let filter = |text: &str| text.parse::<Filter>().unwrap().directives;
        assert_eq!(filter("debug"), "warn,shardkeeper=debug");
        assert_eq!(filter("ERROR"), "error");
        assert_eq!(filter("info,hyper=trace"), "info,hyper=trace");
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        let message = "inof".parse::<Filter>().unwrap_err();
        assert!(message.contains("did you mean \"info\""), "{message}");
        assert!("shardkeeper=loud".parse::<Filter>().is_err());
    }
}
