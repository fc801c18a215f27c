//! The options of `shardkeeper lease`, and what they mean together.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use crate::admin::lease_ops::Request;
use crate::cli::flags::{self, Operands, SubCommand};
use crate::cli::layers::{Environment, Layers};
use crate::cli::logs::{self, LogConfig};
use crate::cli::mistakes::Mistakes;
use crate::cli::run_config::{APP, AwsOptions, ENDPOINT_URL, KCL_FAILOVER_TIME, REGION, RUN, STREAMS_ENDPOINT_URL};
use crate::cli::setting::{Default, Reach, Setting};
use crate::cli::status::config::LEASE_DURATION;
use crate::cli::value;
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::ShardId;

/// What an operator wants done to some leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseConfig {
    /// What.
    pub request: Request,
    /// To which leases; at least one.
    pub shards: BTreeSet<ShardId>,
    /// The application.
    pub app: String,
    /// Whether to write nothing, and only say what would be written.
    pub dry_run: bool,
    /// Whether to write without asking.
    pub yes: bool,
    /// Whether to do what would break an invariant.
    pub force: bool,
    /// The fleet's lease duration.
    pub lease_duration: Duration,
    /// How long the lease of an owner that isn't in the fleet table must stand still before that owner counts as dead.
    pub kcl_failover_time: Duration,
    /// Region and endpoints.
    pub aws: AwsOptions,
    /// Logs.
    pub logs: LogConfig,
}

const TO: Setting<String> = Setting::new("to", "WORKER", value::worker_id)
    .default(Default::Required)
    .reach(Reach::Flag)
    .help("The worker that is to read the shards: its id, as `shardkeeper status` shows it.");

const AT: Setting<Checkpoint> = Setting::new("at", "trim-horizon|latest|SEQUENCE_NUMBER", place)
    .default(Default::Required)
    .reach(Reach::Flag)
    .help(
        "Where reading goes on: at the oldest record that the service still has, behind the newest one, or behind the \
         record with this sequence number. shard-end gives up whatever is left in the shard.",
    );

const DRY_RUN: Setting<bool> =
    Setting::switch("dry-run").reach(Reach::Flag).help("Say what would be written, and write nothing.");

const YES: Setting<bool> = Setting::switch("yes")
    .reach(Reach::Flag)
    .help("Write without asking; needed where there is no terminal to ask on.");

const FORCE: Setting<bool> = Setting::switch("force")
    .reach(Reach::Flag)
    .help("Do what is refused because it would break an invariant; some refusals stand all the same.");

const SHARDS: Operands =
    Operands { name: "SHARD_ID", help: "The shards, by their ids, as `shardkeeper status` shows them." };

const EPILOGUE: &str = "Whether a worker is alive is found out by watching it, for up to the lease duration. Nothing is \
                        written if any of the shards is refused, and each row only if it is still as it was shown.\n\n\
                        Exit codes: 0 done, or nothing to do, 64 wrong usage, 1 refused or failed.";

/// The sub-command `lease`.
pub const LEASE: SubCommand = SubCommand {
    name: "lease",
    summary: "Release, assign or reset leases by hand",
    description: "Changes leases by hand: takes them from dead workers, moves them between live ones, or has a shard \
                  read again from another place. Says what it would write, asks, and refuses what would break an \
                  invariant.",
    epilogue: "",
    table: &[],
    takes_layers: true,
    operands: None,
    children: &[
        SubCommand {
            name: "release",
            summary: "Take leases from their owner, for the leader to assign again",
            description: "Takes leases from their owner, for the leader to assign again. Refused while the owner is \
                          alive: the shard would have two readers for a moment.",
            epilogue: EPILOGUE,
            table: &[
                &APP.about,
                &DRY_RUN.about,
                &YES.about,
                &FORCE.about,
                &LEASE_DURATION.about,
                &KCL_FAILOVER_TIME.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(SHARDS),
            children: &[],
        },
        SubCommand {
            name: "assign",
            summary: "Give leases to a worker; a live owner hands them over",
            description: "Gives leases to a worker. A live owner hands them over: it delivers what it holds, and \
                          nothing is delivered twice.",
            epilogue: EPILOGUE,
            table: &[
                &TO.about,
                &APP.about,
                &DRY_RUN.about,
                &YES.about,
                &FORCE.about,
                &LEASE_DURATION.about,
                &KCL_FAILOVER_TIME.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(SHARDS),
            children: &[],
        },
        SubCommand {
            name: "reset",
            summary: "Move checkpoints: back to deliver again, or forward to skip",
            description: "Moves checkpoints: back, to have records delivered again, or forward, to skip some. Refused \
                          while a live worker holds the lease: stop the workers first. A shard is read after its \
                          parent's end, so to have a line of shards again in order, reset all of them at once.",
            epilogue: EPILOGUE,
            table: &[
                &AT.about,
                &APP.about,
                &DRY_RUN.about,
                &YES.about,
                &FORCE.about,
                &LEASE_DURATION.about,
                &KCL_FAILOVER_TIME.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(SHARDS),
            children: &[],
        },
    ],
};

/// What was typed for `shardkeeper lease` and `action` becomes what it means.
///
/// # Errors
/// Every mistake in flags and environment.
pub fn read(action: &str, arguments: &[OsString], environment: &Environment) -> Result<LeaseConfig, Mistakes> {
    let Some(command) = LEASE.children.iter().find(|child| child.name == action) else {
        unreachable!("{action} is no sub-command of lease")
    };
    let (shards, flags) = flags::split_operands(command.table, arguments);
    let mut layers = Layers::from_flags_and_environment(command.table, RUN.table, &flags, environment);
    if shards.is_empty() {
        layers.add_mistake("SHARD_ID is missing: name one or more shards, as `shardkeeper status` shows them");
    }
    let config = LeaseConfig {
        request: request(action, &mut layers),
        shards: shards.into_iter().map(ShardId::from).collect(),
        app: layers.required(&APP),
        dry_run: layers.value(&DRY_RUN),
        yes: layers.value(&YES),
        force: layers.value(&FORCE),
        lease_duration: layers.value(&LEASE_DURATION),
        kcl_failover_time: layers.value(&KCL_FAILOVER_TIME),
        aws: AwsOptions::from_layers(&mut layers),
        logs: LogConfig::from_layers(&mut layers),
    };
    layers.finish(config)
}

fn request(action: &str, layers: &mut Layers) -> Request {
    match action {
        "assign" => {
            let to = flag_needed(layers, &TO).unwrap_or_default();
            Request::Assign { to: to.into() }
        }
        "reset" => {
            let at = flag_needed(layers, &AT).unwrap_or(Checkpoint::TrimHorizon);
            Request::Reset { at }
        }
        _ => Request::Release,
    }
}

/// The value of a flag that neither the environment nor a default can give.
fn flag_needed<T>(layers: &mut Layers, setting: &Setting<T>) -> Option<T> {
    if !layers.is_given(&setting.about) {
        layers.add_mistake(format!("{} {} is missing", setting.about.flag(), setting.about.value_name));
    }
    layers.optional(setting)
}

fn place(text: &str) -> Result<Checkpoint, String> {
    match text {
        "trim-horizon" => Ok(Checkpoint::TrimHorizon),
        "latest" => Ok(Checkpoint::Latest),
        "shard-end" => Ok(Checkpoint::ShardEnd),
        digits => digits.parse().map(Checkpoint::At).map_err(|_| {
            format!("{digits:?} is not a place in a shard; write trim-horizon, latest, shard-end or a sequence number")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<LeaseConfig, Mistakes> {
        let mut words = line.split(' ');
        let action = words.next().unwrap();
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        let environment = [("SHARDKEEPER_TO".into(), "null".into()), ("SHARDKEEPER_APP".into(), "audit".into())];
        read(action, &arguments, &environment.into_iter().collect())
    }

    #[test]
    fn shards_stand_anywhere_among_the_flags() {
        let config = read_line("assign s1 --to w-1 s2 --yes s3 --app=other --force").unwrap();
        assert_eq!(config.shards, ["s1".into(), "s2".into(), "s3".into()].into());
        assert_eq!(config.request, Request::Assign { to: "w-1".into() });
        assert!(config.yes && config.force && !config.dry_run);
        assert_eq!(config.app, "other");
    }

    #[test]
    fn a_workers_environment_names_the_application_and_not_the_taker() {
        let mistakes = read_line("assign s1").unwrap_err().to_string();
        assert!(mistakes.contains("--to WORKER is missing"), "{mistakes}");
        assert_eq!(read_line("release s1").unwrap().app, "audit");
    }

    #[test]
    fn places_are_words_or_sequence_numbers() {
        for (text, place) in [("latest", "LATEST"), ("shard-end", "SHARD_END"), ("0123", "0123")] {
            let at = Checkpoint::parse(place).unwrap();
            assert_eq!(read_line(&format!("reset s --at {text}")).unwrap().request, Request::Reset { at });
        }
        assert!(read_line("reset --at soon s").unwrap_err().to_string().contains("\"soon\" is not a place"));
        let mistakes = read_line("reset --at latest").unwrap_err().to_string();
        assert!(mistakes.contains("SHARD_ID is missing"), "{mistakes}");
    }
}
