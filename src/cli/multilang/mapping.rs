//! The keys of a MultiLangDaemon's properties file (KCL's `MultiLangDaemonConfiguration`) as options of `run`.

use super::properties::{Properties, Property};
use crate::aws::format_time;
use crate::cli::config::did_you_mean;

/// A property as an option.
#[derive(Debug)]
pub struct Mapped {
    /// The option's id.
    pub option: &'static str,
    /// Its value as it would be typed, or the mistake in the property's.
    pub text: Result<String, String>,
    pub key: &'static str,
    pub line: usize,
}

#[derive(Debug, Default)]
pub struct Mapping {
    pub options: Vec<Mapped>,
    /// Keys that must be given, each with the options that would do instead.
    pub missing: Vec<(&'static str, &'static [&'static str])>,
    pub remarks: Vec<Remark>,
}

/// A remark on properties, for the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Remark {
    /// These have no meaning here.
    Ignored(String),
    /// This one is none of KCL's.
    Unknown { key: String, hint: String },
    /// This one means less here than with KCL.
    Partly { key: String, reason: &'static str },
}

impl Remark {
    pub fn log(&self) {
        match self {
            Self::Ignored(keys) => tracing::info!(keys, "properties without a meaning here are ignored"),
            Self::Unknown { key, hint } => tracing::warn!(key, hint, "unknown property, ignored"),
            Self::Partly { key, reason } => tracing::warn!(key, reason, "property means less here than with KCL"),
        }
    }
}

type Convert = fn(&str) -> Result<String, String>;

/// Properties that are options, each with the conversion of its value. Of several for one option, the first counts.
const OPTIONS: [(&str, &str, Convert); 23] = [
    ("executableName", "to", |command| Ok(format!("multilang:{command}"))),
    ("tableName", "app", text),
    ("applicationName", "app", text),
    ("workerId", "worker_id", text),
    ("initialPositionInStreamExtended", "start", moment),
    ("initialPositionInStream", "start", position),
    ("regionName", "region", text),
    ("kinesisEndpoint", "streams_endpoint_url", url),
    ("dynamoDBEndpoint", "endpoint_url", url),
    ("failoverTimeMillis", "lease_duration", |ms| millis(ms, 1_000, 600_000)),
    ("failoverTimeMillis", "kcl_failover_time", |ms| millis(ms, 1_000, 3_600_000)),
    ("maxRecords", "batch_size", |number| Ok(whole(number)?.clamp(1, 10_000).to_string())),
    ("idleTimeBetweenReadsInMillis", "idle_poll", |ms| millis(ms, 50, 300_000)),
    ("maxLeasesForWorker", "max_leases", count),
    ("timeoutInSeconds", "handler_timeout", |s| millis(&format!("{}000", s.trim()), 10, 3_600_000)),
    ("shutdownGraceMillis", "drain_timeout", |ms| millis(ms, 0, 3_600_000)),
    ("streamArn", "stream", text),
    ("streamName", "stream", text),
    ("AwsCredentialsProvider", "credentials", text),
    ("awsCredentialsProvider", "credentials", text),
    ("kinesisCredentialsProvider", "credentials", text),
    ("AwsCredentialsProviderDynamoDB", "table_credentials", text),
    ("dynamoDBCredentialsProvider", "table_credentials", text),
];

/// Beginnings of properties that have no meaning here.
const IGNORED: [&str; 32] = [
    "AwsCredentialsProviderCloudWatch",
    "cloudWatchCredentialsProvider",
    "processingLanguage",
    "maxActiveThreads",
    "retrievalMode",
    "fanoutConfig",
    "metrics",
    "leaseAssignment",
    "workerMetrics",
    "coordinatorState",
    "clientVersionConfig",
    "migrateAllEntitiesToLeaseTable",
    "workerUtilizationAwareAssignment",
    "gracefulLeaseHandoff",
    "cleanupLeasesUponShardCompletion",
    "shardSyncIntervalMillis",
    "parentShardPollIntervalMillis",
    "taskBackoffTimeMillis",
    "validateSequenceNumberBeforeCheckpointing",
    "maxLeasesToStealAtOneTime",
    "initialLeaseTableReadCapacity",
    "initialLeaseTableWriteCapacity",
    "billingMode",
    "userAgent",
    "skipShardSync",
    "ignoreUnexpectedChildShards",
    "maxLeaseRenewalThreads",
    "maxGetRecordsThreadPool",
    "retryGetRecordsInSeconds",
    "listShardsBackoffTimeInMillis",
    "maxListShardsRetryAttempts",
    "logWarningForTaskAfterMillis",
];

/// Maps the properties of a file.
pub fn map(properties: &Properties) -> Mapping {
    let mut mapping = Mapping::default();
    let mut credentials = Credentials::default();
    for (key, option, convert) in OPTIONS {
        let Some(Property { value, line, .. }) = properties.value(key) else { continue };
        let value = value.trim();
        if value.is_empty() {
            continue;
        }
        match option {
            "credentials" => drop(credentials.all.get_or_insert((key, value, *line))),
            "table_credentials" => drop(credentials.of_tables.get_or_insert((key, value, *line))),
            "stream" if mapping.has("table") || mapping.has("stream_arn") => {}
            "stream" => mapping.add(stream_option(value), Ok(value.to_owned()), key, *line),
            option if mapping.has(option) => {}
            option => mapping.add(option, convert(value), key, *line),
        }
    }
    credentials.map(&mut mapping);
    let required: [(&str, &[&str]); 3] =
        [("executableName", &["to"]), ("applicationName", &["app"]), ("streamName", &["table", "stream_arn"])];
    let missing = required.into_iter().filter(|(_, options)| !options.iter().any(|option| mapping.has(option)));
    mapping.missing = missing.collect();
    mapping.remark(properties);
    mapping
}

impl Mapping {
    fn add(&mut self, option: &'static str, text: Result<String, String>, key: &'static str, line: usize) {
        self.options.push(Mapped { option, text, key, line });
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|mapped| mapped.option == option)
    }

    fn remark(&mut self, properties: &Properties) {
        let mut ignored = Vec::new();
        for Property { key, value, .. } in &properties.entries {
            match &**key {
                "callProcessRecordsEvenForEmptyRecordList" if value.trim().eq_ignore_ascii_case("true") => {
                    self.partly(key, "processors are called with records alone");
                }
                "callProcessRecordsEvenForEmptyRecordList" => ignored.push(&**key),
                known if OPTIONS.iter().any(|(option, ..)| *option == known) => {}
                known if IGNORED.iter().any(|start| known.starts_with(start)) => ignored.push(known),
                unknown => {
                    let hint = did_you_mean(unknown, OPTIONS.iter().map(|(option, ..)| *option));
                    let hint = hint.trim_start_matches("; ").to_owned();
                    self.remarks.push(Remark::Unknown { key: unknown.to_owned(), hint });
                }
            }
        }
        if !ignored.is_empty() {
            self.remarks.push(Remark::Ignored(ignored.join(", ")));
        }
    }

    fn partly(&mut self, key: &str, reason: &'static str) {
        self.remarks.push(Remark::Partly { key: key.to_owned(), reason });
    }
}

/// The providers of credentials: a class name and its arguments, with bars between them.
#[derive(Default)]
struct Credentials<'a> {
    all: Option<(&'static str, &'a str, usize)>,
    of_tables: Option<(&'static str, &'a str, usize)>,
}

impl Credentials<'_> {
    fn map(self, mapping: &mut Mapping) {
        if let Some((key, _, line)) = self.of_tables.filter(|(_, provider, _)| class(provider) != Class::Default) {
            let mistake = "the application's tables are reached with the environment's credentials";
            mapping.add("app", Err(mistake.into()), key, line);
        }
        let Some((key, value, line)) = self.all else { return };
        match class(value) {
            Class::Default => {}
            Class::Profile => {
                let named = value.split('|').nth(1).unwrap_or("default");
                let mistake = format!("set AWS_PROFILE={named} in the environment instead, and leave the property out");
                mapping.add("app", Err(mistake), key, line);
            }
            Class::Role => {
                let mut arguments = value.split('|').skip(1);
                let role = arguments.next().unwrap_or_default().to_owned();
                mapping.add("stream_role_arn", Ok(role), key, line);
                for argument in arguments {
                    match argument.split_once('=') {
                        None => mapping.add("stream_role_session_name", Ok(argument.to_owned()), key, line),
                        Some(("externalId", id)) => {
                            mapping.add("stream_role_external_id", Ok(id.to_owned()), key, line)
                        }
                        Some(_) => {}
                    }
                }
                if self.of_tables.is_none() {
                    mapping.partly(key, "the role is for the stream alone; the application's tables are reached with the environment's credentials");
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Class {
    /// One that reads what the SDK reads by default.
    Default,
    Profile,
    Role,
}

fn class(provider: &str) -> Class {
    let name = provider.split('|').next().unwrap_or_default();
    if name.contains("AssumeRole") && !name.contains("WebIdentity") {
        Class::Role
    } else if name.contains("Profile") && !name.contains("InstanceProfile") && provider.contains('|') {
        Class::Profile
    } else {
        Class::Default
    }
}

/// The adapter's users name the stream by its ARN, in either property.
fn stream_option(value: &str) -> &'static str {
    if value.starts_with("arn:") && value.contains("/stream/") { "stream_arn" } else { "table" }
}

fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

fn url(value: &str) -> Result<String, String> {
    Ok(if value.contains("://") { value.to_owned() } else { format!("https://{value}") })
}

fn position(value: &str) -> Result<String, String> {
    match value.to_ascii_uppercase().as_str() {
        "TRIM_HORIZON" => Ok("trim-horizon".into()),
        "LATEST" => Ok("latest".into()),
        _ => Err(format!("{value:?} is not TRIM_HORIZON or LATEST; give a time as initialPositionInStreamExtended")),
    }
}

/// A time in seconds since the epoch.
fn moment(value: &str) -> Result<String, String> {
    let seconds = i64::try_from(whole(value)?).ok();
    seconds.and_then(format_time).ok_or_else(|| format!("{value:?} is no time in seconds since 1970"))
}

fn whole(value: &str) -> Result<u64, String> {
    value.trim().parse().map_err(|_| format!("{value:?} is not a whole number"))
}

fn count(value: &str) -> Result<String, String> {
    whole(value).map(|number| number.to_string())
}

/// Milliseconds, within the option's limits.
fn millis(value: &str, least: u64, most: u64) -> Result<String, String> {
    Ok(format!("{}ms", whole(value)?.clamp(least, most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(file: &str) -> Mapping {
        map(&Properties::parse(file.as_bytes()))
    }

    fn options(mapping: &Mapping) -> Vec<(&str, &str)> {
        mapping.options.iter().map(|mapped| (mapped.option, mapped.text.as_deref().expect("a good value"))).collect()
    }

    #[test]
    fn kcls_sample_file_gives_the_options_that_mean_the_same() {
        let mapping = mapped(
            "executableName = sample_kclpy_app.py\nstreamName = words\napplicationName = PythonKCLSample\n\
             AwsCredentialsProvider = DefaultCredentialsProvider\nprocessingLanguage = python/3.8\n\
             initialPositionInStream = TRIM_HORIZON\nregionName = us-east-1\nfailoverTimeMillis = 10000\n\
             maxRecords = 20000\nmetricsLevel = NONE\nidleTimeBetweenReadsInMillis = 1\nsecret = x\n",
        );
        let expected = [
            ("to", "multilang:sample_kclpy_app.py"),
            ("app", "PythonKCLSample"),
            ("start", "trim-horizon"),
            ("region", "us-east-1"),
            ("lease_duration", "10000ms"),
            ("kcl_failover_time", "10000ms"),
            ("batch_size", "10000"),
            ("idle_poll", "50ms"),
            ("table", "words"),
        ];
        assert_eq!(options(&mapping), expected);
        assert!(mapping.missing.is_empty());
        let remarks = [
            Remark::Unknown { key: "secret".into(), hint: String::new() },
            Remark::Ignored("processingLanguage, metricsLevel".into()),
        ];
        assert_eq!(mapping.remarks, remarks);
    }

    #[test]
    fn the_arn_and_the_lease_tables_own_name_win_and_a_role_is_assumed() {
        let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/2026-01-31T12:00:00.000";
        let mapping = mapped(&format!(
            "executableName=x\napplicationName=a\ntableName=leases\nstreamName=t\nstreamArn={arn}\n\
             AwsCredentialsProvider=StsAssumeRoleCredentialsProvider|arn:aws:iam::123456789012:role/r|me|externalId=7\n\
             AwsCredentialsProviderDynamoDB=DefaultCredentialsProvider\n"
        ));
        let expected = [
            ("to", "multilang:x"),
            ("app", "leases"),
            ("stream_arn", arn),
            ("stream_role_arn", "arn:aws:iam::123456789012:role/r"),
            ("stream_role_session_name", "me"),
            ("stream_role_external_id", "7"),
        ];
        assert_eq!(options(&mapping), expected);
        assert!(mapping.remarks.is_empty());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let mapping = mapped("initialPositionInStream=AT_TIMESTAMP\ninitialPositionInStreamExtended=1700000000\n");
        assert_eq!(options(&mapping), [("start", "2023-11-14T22:13:20Z")]);
        let mapping = mapped("maxRecords = many\n");
        let missing: Vec<&str> = mapping.missing.iter().map(|(key, _)| *key).collect();
        assert_eq!(missing, ["executableName", "applicationName", "streamName"]);
        assert_eq!(mapping.options[0].text, Err("\"many\" is not a whole number".into()));
    }
}
