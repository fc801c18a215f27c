//! Logs on standard error.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::config::did_you_mean;
use super::events::layer::EventLayer;
use crate::telemetry::scope::SPANS;

/// The options of logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub filter: Filter,
    pub format: Format,
}

/// A filter of log lines, in `tracing-subscriber`'s notation, known to be well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

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
        match level.as_str() {
            "off" | "error" | "warn" => return Ok(Filter(level)),
            "info" | "debug" | "trace" => return Ok(Filter(format!("warn,shardkeeper={level}"))),
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
            Ok(_) => Ok(Filter(text.to_string())),
            Err(error) => Err(format!("{text:?} is not a filter of logs: {error}")),
        }
    }
}

/// Sends the process's log lines to standard error, and those that are events to the [event log](super::events). Later
/// calls change nothing.
pub fn start(config: &LogConfig) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        Format::Human => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let events = EventLayer.with_filter(EventLayer::lines());
    let lines = lines.with_filter(EnvFilter::new(format!("{},{SPANS}=off", config.filter.0)));
    // An error means that a program around this one has set up its logs already.
    let _ = tracing_subscriber::registry().with(lines).with(events).try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_applies_to_this_program_and_leaves_libraries_at_warnings() {
        let filter = |text: &str| text.parse::<Filter>().unwrap().0;
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
