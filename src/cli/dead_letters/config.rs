//! The options of `shardkeeper dead-letters`, and what they mean together.

use std::ffi::OsString;
use std::time::Duration;

use crate::cli::delivery_config::{self, DEAD_LETTERS as DEAD_LETTERS_OF_RUN};
use crate::cli::flags::{self, Operands, SubCommand};
use crate::cli::layers::{Environment, Layers};
use crate::cli::logs::{self, LogConfig};
use crate::cli::mistakes::Mistakes;
use crate::cli::run_config::{
    APP, AwsOptions, ENDPOINT_URL, HTTP_HEADER_FILE, HTTP_HEADERS, HTTP_SECRET, HTTP_SECRET_FILE, REGION, RUN,
    STREAMS_ENDPOINT_URL, Sink, TO, read_sink,
};
use crate::cli::setting::{Default, Reach, Setting};
use crate::cli::value;
use crate::dead_letters::letter::LetterId;
use crate::dead_letters::target::DeadLetterTarget as Place;
use crate::model::lease::ShardId;

/// What an operator wants of dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettersConfig {
    /// What.
    pub request: Request,
    /// Which letters.
    pub selection: Selection,
    /// Whether the output is JSON.
    pub json: bool,
    /// The application.
    pub app: String,
    /// Where the letters are.
    pub from: Place,
    /// Region and endpoints.
    pub aws: AwsOptions,
    /// Logs.
    pub logs: LogConfig,
}

/// What is to be done with letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Show them, a line each.
    List,
    /// Show everything of each.
    Show,
    /// Hand their records over again.
    Replay {
        /// To whom.
        sink: Box<Sink>,
        /// How often a record that failed is tried again before it stays.
        retries: u32,
        /// How long one call may take; none: any time.
        handler_timeout: Option<Duration>,
        /// Whether to hand nothing over, and only say in which order it would be.
        dry_run: bool,
    },
    /// Delete them.
    Purge {
        /// Whether to delete nothing, and only say what would be.
        dry_run: bool,
        /// Whether to delete without asking.
        yes: bool,
    },
}

/// Which letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those of one shard.
    Shard(ShardId),
    /// These.
    Ids(Vec<LetterId>),
}

const FROM: Setting<Place> = Setting::new("from", "table|file:PATH", Place::parse)
    .reach(Reach::Flag)
    .default(Default::Described("what SHARDKEEPER_DEAD_LETTERS says, or else table"))
    .help("Where the letters are: what the workers' --dead-letters says.");

const SHARD: Setting<String> =
    Setting::new("shard", "SHARD_ID", value::text).reach(Reach::Flag).help("Only the letters of this shard.");

const ALL: Setting<bool> = Setting::switch("all").reach(Reach::Flag).help("All letters, rather than those named.");

const JSON: Setting<bool> = Setting::switch("json").reach(Reach::Flag).help(
    "Print the whole letters for programs, a JSON object a line: its fields are named in docs/dead-letters.md and stay.",
);

const JSON_OUTCOMES: Setting<bool> = Setting::switch("json")
    .reach(Reach::Flag)
    .help("Say what became of each letter by a JSON object a line: its fields are named in docs/dead-letters.md.");

const DRY_RUN: Setting<bool> =
    Setting::switch("dry-run").reach(Reach::Flag).help("Say what would be done to which letters, and do nothing.");

const YES: Setting<bool> = Setting::switch("yes")
    .reach(Reach::Flag)
    .help("Delete without asking; needed where there is no terminal to ask on.");

const RETRY_ATTEMPTS: Setting<u32> = delivery_config::RETRY_ATTEMPTS
    .group("Options")
    .default(Default::Value("2"))
    .help("How often a record that fails is tried again before it stays a dead letter: 0 to 10000.");

const HANDLER_TIMEOUT: Setting<Duration> = delivery_config::HANDLER_TIMEOUT
    .group("Options")
    .help("How long one delivery may take before it counts as failed: 10ms to 1h; without it, any time.");

const IDS: Operands =
    Operands { name: "ID", help: "Letters, by their ids as `dead-letters list` shows them: SHARD_ID/SEQUENCE_NUMBER." };

const EPILOGUE: &str = "Exit codes: 0 done, 64 wrong usage, 1 something could not be read or written, or an ID names no \
                        letter.";

/// The sub-command `dead-letters`.
pub const DEAD_LETTERS: SubCommand = SubCommand {
    name: "dead-letters",
    summary: "List, show, replay or purge records that were given up",
    description: "Dead letters are records that `shardkeeper run --on-failure dead-letter` gave up on: each holds the \
                  whole record, why and how often it failed, where and when. They stay until they are replayed or \
                  purged.",
    epilogue: "",
    table: &[],
    takes_layers: true,
    operands: None,
    children: &[
        SubCommand {
            name: "list",
            summary: "Show which letters there are, a line each",
            description: "Shows which letters there are, a line each; those of a shard together, in its order. \
                          With --json each line is the whole letter: so kept in a file, it can be read and replayed by \
                          --from file:PATH.",
            epilogue: EPILOGUE,
            table: &[
                &APP.about,
                &FROM.about,
                &SHARD.about,
                &JSON.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: None,
            children: &[],
        },
        SubCommand {
            name: "show",
            summary: "Show everything of some letters, their records included",
            description: "Shows everything of some letters, their records included.",
            epilogue: EPILOGUE,
            table: &[
                &APP.about,
                &FROM.about,
                &JSON.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(IDS),
            children: &[],
        },
        SubCommand {
            name: "replay",
            summary: "Hand the records of letters to the handler again",
            description: "Hands the records of letters to the handler again, one after the other: the letters named, \
                          those of a --shard, or --all. A letter is deleted once its record went well. For each item \
                          it goes by sequence number, and when a record fails again, the later ones of its item are \
                          held back; those of other items go on. If this is stopped at any moment no letter is lost, \
                          and the one that was under way may be handed over twice.",
            epilogue: "What became of each letter is told on standard output; on standard error when the records \
                       themselves go to standard output.\n\n\
                       Exit codes: 0 all were replayed, 64 wrong usage, 1 some failed again or were held back, or \
                       something could not be read or written.\n\n\
                       Example:\n  shardkeeper dead-letters replay --app phone-audit --all",
            table: &[
                &APP.about,
                &FROM.about,
                &ALL.about,
                &SHARD.about,
                &TO.about,
                &HTTP_HEADER_FILE.about,
                &HTTP_HEADERS.about,
                &HTTP_SECRET_FILE.about,
                &HTTP_SECRET.about,
                &RETRY_ATTEMPTS.about,
                &HANDLER_TIMEOUT.about,
                &DRY_RUN.about,
                &JSON_OUTCOMES.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(IDS),
            children: &[],
        },
        SubCommand {
            name: "purge",
            summary: "Delete letters for good",
            description: "Deletes letters for good: those named, those of a --shard, or --all. Says how many there \
                          are, and asks.",
            epilogue: EPILOGUE,
            table: &[
                &APP.about,
                &FROM.about,
                &ALL.about,
                &SHARD.about,
                &DRY_RUN.about,
                &YES.about,
                &REGION.about,
                &ENDPOINT_URL.about,
                &STREAMS_ENDPOINT_URL.about,
                &logs::LEVEL.about,
                &logs::FORMAT.about,
            ],
            takes_layers: true,
            operands: Some(IDS),
            children: &[],
        },
    ],
};

/// What was typed for `shardkeeper dead-letters` and `action` becomes what it means.
///
/// # Errors
/// Every mistake in flags and environment.
pub fn read(action: &str, arguments: &[OsString], environment: &Environment) -> Result<DeadLettersConfig, Mistakes> {
    let Some(command) = DEAD_LETTERS.children.iter().find(|child| child.name == action) else {
        unreachable!("{action} is no sub-command of dead-letters")
    };
    let (ids, flags) = match command.operands {
        Some(_) => flags::split_operands(command.table, arguments),
        None => (Vec::new(), arguments.to_vec()),
    };
    let mut layers = Layers::from_flags_and_environment(command.table, RUN.table, &flags, environment);
    let from = read_from(&mut layers, environment);
    let app: String = layers.required(&APP);
    if let Some(mistake) = from.mistake_in_name(&app) {
        layers.add_mistake(format!("{}: {mistake}", layers.place_of(&APP.about)));
    }
    let config = DeadLettersConfig {
        selection: read_selection(action, ids, &mut layers),
        request: read_request(action, &mut layers),
        json: layers.value(&JSON),
        app,
        from,
        aws: AwsOptions::from_layers(&mut layers),
        logs: LogConfig::from_layers(&mut layers),
    };
    layers.finish(config)
}

fn read_from(layers: &mut Layers, environment: &Environment) -> Place {
    if let Some(place) = layers.optional(&FROM) {
        return refuse_queue(layers, &FROM.about.flag(), place);
    }
    let variable = DEAD_LETTERS_OF_RUN.about.variable();
    let of_worker = environment.value(&variable).map(Place::parse);
    match of_worker.filter(|_| !layers.is_given(&FROM.about)) {
        Some(Ok(place)) => refuse_queue(layers, &variable, place),
        Some(Err(mistake)) => {
            layers.add_mistake(format!("{variable} (environment): {mistake}"));
            Place::Table
        }
        None => Place::Table,
    }
}

/// Letters in a queue belong to whoever receives them there.
fn refuse_queue(layers: &mut Layers, named_by: &str, place: Place) -> Place {
    if matches!(place, Place::Table | Place::File(_)) {
        return place;
    }
    layers.add_mistake(format!(
        "{named_by} names a queue, whose letters are received from it; give --from table for those that were too \
         large for a message"
    ));
    Place::Table
}

fn read_selection(action: &str, ids: Vec<String>, layers: &mut Layers) -> Selection {
    let shard = layers.optional(&SHARD);
    let all = layers.value(&ALL);
    let is_wrong = match action {
        "list" => false,
        "show" => ids.is_empty(),
        _ => [!ids.is_empty(), shard.is_some(), all].iter().filter(|given| **given).count() != 1,
    };
    if is_wrong {
        layers.add_mistake(match action {
            "show" => "ID is missing: name one or more letters, as `shardkeeper dead-letters list` shows them",
            _ => "say which letters: name them by their ids, or give either --shard SHARD_ID or --all",
        });
    }
    if let Some(shard) = shard {
        return Selection::Shard(shard.into());
    }
    if ids.is_empty() {
        return Selection::All;
    }
    let mut letters = Vec::new();
    for id in ids {
        match id.parse() {
            Ok(id) if letters.contains(&id) => {}
            Ok(id) => letters.push(id),
            Err(mistake) => layers.add_mistake(format!("{mistake}")),
        }
    }
    Selection::Ids(letters)
}

fn read_request(action: &str, layers: &mut Layers) -> Request {
    let dry_run = layers.value(&DRY_RUN);
    match action {
        "list" => Request::List,
        "show" => Request::Show,
        "replay" => Request::Replay {
            sink: Box::new(read_sink(layers)),
            retries: layers.value(&RETRY_ATTEMPTS),
            handler_timeout: layers.optional(&HANDLER_TIMEOUT),
            dry_run,
        },
        _ => Request::Purge { dry_run, yes: layers.value(&YES) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str, variables: &[(&str, &str)]) -> Result<DeadLettersConfig, String> {
        let mut words = line.split(' ');
        let action = words.next().unwrap();
        let arguments: Vec<OsString> = words.map(OsString::from).collect();
        let app = [("SHARDKEEPER_APP", "audit")];
        let variables = app.iter().chain(variables).map(|(name, value)| ((*name).into(), (*value).into()));
        read(action, &arguments, &variables.collect()).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn letters_are_named_in_one_way() {
        let selection = |line| read_line(line, &[]).map(|config| config.selection);
        let ids = ["s1/7", "s2/9"].map(|id| id.parse().unwrap());
        assert_eq!(selection("replay s1/7 --to null s2/9 s1/07"), Ok(Selection::Ids(ids.into())));
        assert_eq!(selection("purge --shard s1 --yes"), Ok(Selection::Shard("s1".into())));
        assert_eq!(selection("replay --all"), Ok(Selection::All));
        assert_eq!(selection("list"), Ok(Selection::All));
        for line in ["replay", "purge", "purge s1/7 --all", "replay --all --shard s1"] {
            assert!(selection(line).unwrap_err().contains("say which letters"), "{line}");
        }
        assert!(selection("show").unwrap_err().contains("ID is missing"));
        assert!(selection("show s1").unwrap_err().contains("\"s1\" names no dead letter"));
        assert!(selection("list s1/7").unwrap_err().contains("unexpected argument"));
    }

    #[test]
    fn a_workers_environment_says_where_the_letters_are() {
        let from = |line, variables: &[_]| read_line(line, variables).map(|config| config.from);
        let of_worker = [("SHARDKEEPER_DEAD_LETTERS", "file:/x")];
        assert_eq!(from("list", &[]), Ok(Place::Table));
        assert_eq!(from("list", &of_worker), Ok(Place::File("/x".into())));
        assert_eq!(from("list --from table", &of_worker), Ok(Place::Table));
        let wrong = from("list", &[("SHARDKEEPER_DEAD_LETTERS", "x")]).unwrap_err();
        assert!(wrong.contains("SHARDKEEPER_DEAD_LETTERS (environment): \"x\" is no place"), "{wrong}");
    }

    #[cfg(feature = "sqs")]
    #[test]
    fn a_queue_is_no_place_to_list_letters_from() {
        let queue = "sqs:https://sqs.eu-west-1.amazonaws.com/1/letters";
        for (line, variables) in
            [(format!("list --from {queue}"), vec![]), ("list".to_owned(), vec![("SHARDKEEPER_DEAD_LETTERS", queue)])]
        {
            assert!(read_line(&line, &variables).unwrap_err().contains("names a queue"), "{line}");
        }
    }
}
