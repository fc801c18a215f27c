//! Parsers of single values: text in, a typed value or a sentence out that says what is wrong and what to write. The
//! option's name and place are put before it.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use serde_json::value::RawValue;

use crate::aws::parse_time_ms;
use crate::consumer::WallClock;
use crate::model::filter::Pattern;
use crate::model::millis;
use crate::options::StartPosition;

pub const MILLISECOND: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// `true` or `false` (`1` and `0` too, as environment variables often have it).
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Any text but the empty one.
pub fn text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("the value is empty".to_string());
    }
    Ok(text.to_string())
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds since the epoch.
    Time(u64),
    /// Before now.
    Age(Duration),
}

impl Moment {
    /// A time in RFC 3339's form, or an age from a minute to 30 days.
    pub fn read(text: &str) -> Option<Self> {
        let age = duration(MINUTE..=DAY * 30)(text).ok().map(Self::Age);
        age.or_else(|| parse_time_ms(text).map(Self::Time))
    }

    /// Milliseconds since the epoch.
    pub fn ms(self, now_ms: u64) -> u64 {
        match self {
            Self::Time(time_ms) => time_ms,
            Self::Age(age) => now_ms.saturating_sub(millis(age)),
        }
    }
}

/// The position at which a new application begins.
pub fn start_position(text: &str) -> Result<StartPosition, String> {
    match text {
        "trim-horizon" => return Ok(StartPosition::TrimHorizon),
        "latest" => return Ok(StartPosition::Latest),
        _ => {}
    }
    let now_ms = WallClock::System.now_ms();
    let moment = Moment::read(text).ok_or_else(|| {
        format!(
            "{text:?} is no position; write trim-horizon, latest, a time such as 2026-01-31T12:00:00Z, or an age such as 6h"
        )
    })?;
    match moment.ms(now_ms) {
        time_ms if time_ms > now_ms => Err(format!("{text:?} is in the future; write latest to begin now")),
        time_ms => Ok(StartPosition::At(UNIX_EPOCH + Duration::from_millis(time_ms))),
    }
}

/// One of a few words, which completions and the configuration file's schema know too.
pub fn one_of<T: Clone + Send + Sync + 'static>(words: &[(&'static str, T)]) -> OneOf<T> {
    OneOf(words.to_vec())
}

#[derive(Clone)]
pub struct OneOf<T>(Vec<(&'static str, T)>);

impl<T: Clone> OneOf<T> {
    fn find(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| value.clone()).ok_or_else(|| {
            let known: Vec<&str> = self.0.iter().map(|(word, _)| *word).collect();
            format!("{text:?} is not one of: {}", known.join(", "))
        })
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, text: &OsStr) -> Result<T, clap::Error> {
        // A closure is a parser already; this one only adds the words.
        let words = self.clone();
        (move |text: &str| words.find(text)).parse_ref(command, arg, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|(word, _)| PossibleValue::new(word))))
    }
}

/// A whole number.
pub fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + std::fmt::Display + Clone + Send + Sync + 'static,
{
    move |text| parse_whole(text, &range)
}

pub fn parse_whole<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(format!("{text:?} is not a whole number"));
    }
    match text.parse::<T>() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("{text} is out of range: from {} to {}", range.start(), range.end())),
    }
}

/// A number of things, at least one.
pub fn count() -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    whole(1..=u32::MAX as usize)
}

/// A length of time, a whole number and its unit (`ms`, `s`, `m`, `h`).
pub fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let length = parse_duration(text)?;
        if !range.contains(&length) {
            let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
            return Err(format!("{text} is out of range: from {min} to {max}"));
        }
        Ok(length)
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    if !digits.is_empty() && unit.is_empty() {
        return Err(format!("{text:?} has no unit; write {text}s for seconds, {text}ms for milliseconds"));
    }
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(not_a_duration(text)),
    };
    let count: u64 = digits.parse().map_err(|_| not_a_duration(text))?;
    let length_ms = count.checked_mul(unit_ms).ok_or_else(|| not_a_duration(text))?;
    Ok(Duration::from_millis(length_ms))
}

fn not_a_duration(text: &str) -> String {
    format!("{text:?} is not a duration; write 500ms, 5s or 2m")
}

/// A length of time in the largest unit that leaves a whole number: which [`duration`] reads back as the same.
pub fn format_duration(length: Duration) -> String {
    let length_ms = length.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole_unit = units.iter().find(|(unit_ms, _)| length_ms > 0 && length_ms.is_multiple_of(*unit_ms));
    match whole_unit {
        Some((unit_ms, unit)) => format!("{}{unit}", length_ms / unit_ms),
        None if length_ms == 0 => "0s".to_string(),
        None => format!("{length_ms}ms"),
    }
}

/// A number of bytes, plain or with a unit: `67108864`, `64MiB`, `100MB`.
pub fn bytes(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let size = parse_bytes(text)?;
        if size < *range.start() {
            return Err(format!("{text} is too little: at least {} bytes", range.start()));
        }
        if size > *range.end() {
            return Err(format!("{text} is too much: at most {} bytes", range.end()));
        }
        Ok(size)
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a number of bytes; write 64MiB, 100MB or 67108864");
    let (digits, unit) = split_unit(text);
    let unit_bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit_bytes).ok_or_else(wrong)
}

/// A size in the largest unit that leaves a whole number: which [`bytes`] reads back as the same.
pub fn format_bytes(size: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole_unit = units.iter().find(|(unit, _)| size > 0 && size.is_multiple_of(*unit));
    whole_unit.map_or_else(|| size.to_string(), |(unit, name)| format!("{}{name}", size / unit))
}

/// The digits that `text` begins with, and what follows them.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// DynamoDB allows names of tables from 3 to 255 of these characters (DynamoDB developer guide, "Naming rules").
const TABLE_NAME_MIN: usize = 3;
pub const TABLE_NAME_MAX: usize = 255;

/// A DynamoDB table's name.
pub fn table(text: &str) -> Result<String, String> {
    let name = match text.splitn(6, ':').collect::<Vec<&str>>()[..] {
        ["arn", _, "dynamodb", _, _, resource] => match resource.split('/').collect::<Vec<&str>>()[..] {
            ["table", name] => name,
            ["table", _, "stream", _] => return Err(format!("{text:?} is a stream's ARN; give it with --stream-arn")),
            _ => return Err(format!("{text:?} is not a table's ARN, such as {TABLE_ARN}")),
        },
        ["arn", ..] => return Err(format!("{text:?} is not a table's ARN, such as {TABLE_ARN}")),
        _ => text,
    };
    name_of_table(name, TABLE_NAME_MAX)?;
    Ok(text.to_owned())
}

/// The region of an ARN; none of a plain name.
pub fn region_of(table: &str) -> Option<&str> {
    table.strip_prefix("arn:")?.split(':').nth(2)
}

const TABLE_ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones";

/// A role's ARN.
pub fn role_arn(text: &str) -> Result<String, String> {
    match text.splitn(6, ':').collect::<Vec<&str>>()[..] {
        ["arn", _, "iam", "", _, resource] if resource.starts_with("role/") => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not a role's ARN, such as arn:aws:iam::123456789012:role/StreamReader")),
    }
}

/// An application's name. It names the lease table, and with `-Fleet` behind it the fleet table, so it must be short
/// enough for both.
pub fn application(text: &str) -> Result<String, String> {
    name_of_table(text, TABLE_NAME_MAX - "-Fleet".len())
}

fn name_of_table(text: &str, max: usize) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !text.chars().all(allowed) {
        return Err(format!("{text:?} cannot name a DynamoDB table; use letters, digits, '_', '.' and '-'"));
    }
    if !(TABLE_NAME_MIN..=max).contains(&text.len()) {
        return Err(format!("{text:?} has {} characters; it needs from {TABLE_NAME_MIN} to {max}", text.len()));
    }
    Ok(text.to_string())
}

/// The ARN of a table's stream, `arn:aws:dynamodb:REGION:ACCOUNT:table/NAME/stream/LABEL`, or another service's id of one:
/// a text as long as the API asks for (API reference, GetShardIterator, `StreamArn`).
pub fn stream_arn(text: &str) -> Result<String, String> {
    if (37..=1024).contains(&text.len())
        && !text.starts_with("arn:")
        && text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Ok(text.to_string());
    }
    let example = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/2026-01-31T12:00:00.000";
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "dynamodb", _, _, resource] = parts[..] else {
        return Err(format!("{text:?} is not a stream's ARN, such as {example}"));
    };
    match resource.split('/').collect::<Vec<&str>>()[..] {
        ["table", table, "stream", label] if !partition.is_empty() && !table.is_empty() && !label.is_empty() => {
            Ok(text.to_string())
        }
        ["table", table] if !table.is_empty() => {
            Err(format!("{text:?} is a table's ARN; write --table {table}, or the ARN of its stream"))
        }
        _ => Err(format!("{text:?} is not a stream's ARN, such as {example}")),
    }
}

/// A worker's name in the lease table: up to 255 bytes without spaces or control characters.
pub fn worker_id(text: &str) -> Result<String, String> {
    let length = text.len();
    if length == 0 || length > 255 {
        return Err(format!("{text:?} has {length} bytes; it needs from 1 to 255"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("{text:?} has spaces or control characters"));
    }
    Ok(text.to_string())
}

/// An AWS region's name, such as `eu-west-1`; only its form is checked.
pub fn region(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || !text.chars().all(allowed) {
        return Err(format!("{text:?} is not a region; write one like eu-west-1"));
    }
    Ok(text.to_string())
}

/// Filter patterns: one, or several in a JSON array (as objects, or as strings that hold one).
#[derive(Clone)]
pub struct Patterns(pub Vec<Pattern>);

impl FromStr for Patterns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.trim_start().starts_with('[') {
            return Ok(Self(vec![Pattern::parse(text).map_err(|error| error.to_string())?]));
        }
        let array: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
        if array.is_empty() {
            return Err("an empty array is no filter; leave it out to have all records".to_owned());
        }
        let parse = |(index, value): (usize, &&RawValue)| {
            let text = serde_json::from_str(value.get()).unwrap_or_else(|_| value.to_string());
            Pattern::parse(&text).map_err(|error| format!("pattern {}: {error}", index + 1))
        };
        array.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_start_is_a_word_a_time_or_an_age() {
        assert_eq!(start_position("latest"), Ok(StartPosition::Latest));
        let noon = UNIX_EPOCH + Duration::from_secs(1_767_268_800);
        assert_eq!(start_position("2026-01-01T12:00:00Z"), Ok(StartPosition::At(noon)));
        assert!(matches!(start_position("6h"), Ok(StartPosition::At(_))));
        for text in ["", "newest", "5", "2026-01-31", "2999-01-01T00:00:00Z"] {
            assert!(start_position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_in_each_unit() {
        let read = |text| duration(Duration::ZERO..=DAY)(text).unwrap();
        assert_eq!(read("500ms"), Duration::from_millis(500));
        assert_eq!(read("5s"), Duration::from_secs(5));
        assert_eq!(read("2m"), Duration::from_secs(120));
        assert_eq!(read("4h"), Duration::from_secs(4 * 3600));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_hint() {
        for wrong in ["5x", "", "s", "-5s", "1.5s", "5 s", "99999999999999999999s"] {
            let message = duration(Duration::ZERO..=DAY)(wrong).unwrap_err();
            assert_eq!(message, format!("{wrong:?} is not a duration; write 500ms, 5s or 2m"));
        }
        let message = duration(Duration::ZERO..=DAY)("5").unwrap_err();
        assert!(message.contains("has no unit; write 5s"), "{message}");
    }

    #[test]
    fn a_duration_outside_its_range_is_told_the_range() {
        let message = duration(SECOND..=10 * MINUTE)("11m").unwrap_err();
        assert_eq!(message, "11m is out of range: from 1s to 10m");
    }

    proptest! {
        #[test]
        fn a_formatted_duration_reads_back_as_itself(length_ms in 0u64..200_000_000) {
            let length = Duration::from_millis(length_ms);
            let text = format_duration(length);
            prop_assert_eq!(duration(Duration::ZERO..=Duration::MAX)(&text), Ok(length));
        }

        #[test]
        fn a_formatted_size_reads_back_as_itself(size in 0..u64::MAX) {
            prop_assert_eq!(parse_bytes(&format_bytes(size)), Ok(size));
            let mebibytes = size >> 24 << 20;
            prop_assert_eq!(parse_bytes(&format_bytes(mebibytes)), Ok(mebibytes));
        }
    }

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("100MB"), Ok(100_000_000));
        assert_eq!(parse_bytes("1gib"), Ok(1 << 30));
        assert_eq!(parse_bytes("12345"), Ok(12_345));
        assert!(parse_bytes("64M").is_err());
        assert!(parse_bytes("MiB").is_err());
        assert!(parse_bytes("99999999999999GiB").is_err());
        assert!(bytes(4096..=8192)("1KB").unwrap_err().contains("too little"));
    }

    #[test]
    fn whole_numbers_keep_to_their_range() {
        let port = whole(0..=u16::MAX);
        assert_eq!(port("8000"), Ok(8000));
        let message = port("70000").unwrap_err();
        assert_eq!(message, "70000 is out of range: from 0 to 65535");
        assert!(port("-1").is_err());
        assert!(count()("0").is_err());
    }

    #[test]
    fn an_application_name_leaves_room_for_the_fleet_table() {
        assert!(application(&"a".repeat(249)).is_ok());
        assert!(application(&"a".repeat(250)).is_err());
        assert!(table(&"a".repeat(255)).is_ok());
        assert!(application("ab").unwrap_err().contains("from 3 to 249"));
        assert!(application("my app").unwrap_err().contains("letters, digits"));
    }

    #[test]
    fn a_stream_arn_is_told_from_a_table_arn() {
        let stream = "arn:aws:dynamodb:ddblocal:000000000000:table/Phones/stream/2026-01-31T12:00:00.000";
        assert_eq!(stream_arn(stream), Ok(stream.to_string()));
        let table = "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/Phones";
        assert!(stream_arn(table).unwrap_err().contains("--table Phones"));
        let id_of_another_service = "S1aee8af0-66fa-11eb-b03f-0c9d930cf12c";
        assert_eq!(stream_arn(id_of_another_service), Ok(id_of_another_service.to_string()));
        assert!(stream_arn("Phones").is_err());
        assert!(stream_arn("arn:aws:kinesis:eu-west-1:1:stream/x").is_err());
        assert_eq!(super::table(table), Ok(table.to_string()));
        assert_eq!(region_of(table), Some("cn-north-1"));
        assert_eq!(region_of("Phones"), None);
        assert!(super::table(stream).unwrap_err().contains("--stream-arn"));
        assert!(super::table("arn:aws:s3:::bucket").unwrap_err().contains("not a table's ARN"));
        assert!(role_arn("arn:aws:iam::123456789012:role/path/Reader").is_ok());
        assert!(role_arn("Reader").unwrap_err().contains("arn:aws:iam"));
    }
}
