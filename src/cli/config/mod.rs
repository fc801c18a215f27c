//! Sources of options: command line over environment over configuration file over defaults.
//!
//! clap parses twice. The first pass takes what was typed as plain text and finds mistakes of syntax. Then the texts of
//! the other sources join, each is parsed alone as its option's value, and all mistakes are collected. The second pass
//! parses the texts that count as if all of them had been typed, so that there is one parser whatever the source.
//! [`files`] reads the files.

mod files;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use clap::builder::{Resettable, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::args::{Cli, value};
use super::multilang::mapping::Remark;

/// Variables of a process.
pub type Environment = BTreeMap<OsString, OsString>;

/// Mistakes in values and their combinations, each with its place. The program exits with 64 and starts nothing.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    /// A single mistake.
    pub fn one(mistake: impl Into<String>) -> Self {
        Self(vec![mistake.into()])
    }

    /// The mistakes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Adds a mistake: one sentence that begins with its place.
    pub fn add(&mut self, mistake: impl Into<String>) {
        self.0.push(mistake.into());
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("a mistake was found, and nothing was started:")?,
            count => write!(f, "{count} mistakes were found, and nothing was started:")?,
        }
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// `; did you mean "…"?` for the nearest of `known`, or nothing when none is near.
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let plain = |text: &str| text.replace('_', "-").to_lowercase();
    let distance = |name: &str| strsim::levenshtein(&plain(written), &plain(name));
    let nearest = known.into_iter().map(|name| (distance(name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= name.len().div_ceil(3) => format!("; did you mean \"{name}\"?"),
        _ => String::new(),
    }
}

/// Source of a value.
#[derive(Clone, Debug)]
enum Origin {
    CommandLine,
    Environment,
    File {
        path: String,
        line: usize,
    },
    /// A property of a MultiLangDaemon's file.
    Property {
        path: String,
        line: usize,
        key: String,
    },
    Default,
}

impl Origin {
    /// The option's name in this source, with its place there: the beginning of a mistake.
    fn place_of(&self, arg: &Arg) -> String {
        match self {
            Self::Environment => format!("{} (environment)", variable(arg).unwrap_or_default()),
            Self::File { path, line } => format!("{path}:{line}: {}", key(arg)),
            Self::Property { path, line, key } => format!("{path}:{line}: {key}"),
            Self::CommandLine | Self::Default => format!("{} ({self})", flag(arg)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::File { path, line } | Self::Property { path, line, .. } => write!(f, "{path}:{line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[derive(Clone)]
struct Given {
    /// Several only for an option that can be repeated.
    texts: Vec<String>,
    origin: Origin,
    is_wrong: bool,
}

/// The options of a sub-command, and what each source gives for them.
pub struct Sources {
    /// The words that name the sub-command.
    words: Vec<OsString>,
    command: Command,
    /// By clap's id, the source that counts first.
    given: BTreeMap<String, Vec<Given>>,
    mistakes: Mistakes,
    /// Whether a file that could not be read may give more options.
    is_incomplete: bool,
    /// Remarks on properties, for the log.
    pub remarks: Vec<Remark>,
}

/// Parses the command line (its first word is the program's own name) together with the other sources.
///
/// # Errors
/// [`clap::Error`] for help, the version and mistakes of syntax, else all [`Mistakes`].
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<(Cli, Sources), anyhow::Error> {
    let program = program();
    let matches = of_texts(program.clone()).try_get_matches_from(arguments)?;
    let (mut command, mut matches) = (&program, &matches);
    let mut words = vec![OsString::from(program.get_name())];
    while let Some((name, of_child)) = matches.subcommand() {
        let Some(child) = command.find_subcommand(name) else { break };
        words.push(name.into());
        (command, matches) = (child, of_child);
    }
    let mut sources = Sources {
        words,
        command: command.clone(),
        given: BTreeMap::new(),
        mistakes: Mistakes::default(),
        is_incomplete: false,
        remarks: Vec::new(),
    };
    sources.read_command_line(matches);
    sources.read_environment(environment, program.find_subcommand("run"));
    sources.read_file();
    sources.read_properties();
    sources.check_values();
    sources.check_presence();
    sources.parsed()
}

/// The command line, with all sub-commands.
pub fn program() -> Command {
    prepared(Cli::command())
}

/// Derived commands, with what holds for all of their arguments.
fn prepared(command: Command) -> Command {
    // The local service and the demonstration are requests, not deployments: flags alone configure them.
    let command = match command.get_name() {
        "local" | "demo" => without_environment(command),
        _ => command,
    };
    let prepare = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .value_parser(value::switch)
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true),
        _ => arg,
    };
    // The names of values list them.
    let hide = |arg: Arg| arg.hide_env_values(true).hide_possible_values(true);
    command.mut_args(|arg| hide(prepare(arg))).mut_subcommands(prepared)
}

/// The same options with any text for a value, and none required.
fn of_texts(mut command: Command) -> Command {
    let groups: Vec<_> = command.get_groups().map(|group| group.get_id().clone()).collect();
    for group in groups {
        command = command.mut_group(group, |group| group.required(false).multiple(true));
    }
    let relax = |arg: Arg| {
        let is_required = arg.is_required_set() && arg.is_positional();
        arg.value_parser(ValueParser::string()).required(is_required)
    };
    command.mut_args(relax).mut_subcommands(of_texts)
}

fn without_environment(command: Command) -> Command {
    command.mut_args(|arg| arg.env(Resettable::Reset)).mut_subcommands(without_environment)
}

/// Parses one value of an option.
pub fn parse(arg: &Arg, text: &str) -> Result<(), String> {
    let word = match arg.get_long() {
        Some(name) => format!("--{name}={text}"),
        None => text.to_owned(),
    };
    let arg = arg.clone().env(Resettable::Reset).required(false);
    let alone = Command::new("").no_binary_name(true).disable_help_flag(true).arg(arg);
    let parsed = alone.try_get_matches_from([word]);
    parsed.map(drop).map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => cause.to_string(),
        None => error.kind().to_string(),
    })
}

pub fn key(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

pub fn variable(arg: &Arg) -> Option<&str> {
    arg.get_env()?.to_str()
}

fn flag(arg: &Arg) -> String {
    match arg.get_long() {
        Some(name) => format!("--{name}"),
        None => value_name(arg).to_owned(),
    }
}

pub fn value_name(arg: &Arg) -> &str {
    arg.get_value_names().and_then(<[_]>::first).map_or("", |name| name.as_str())
}

/// Secrets are hidden and come from the environment alone: everybody on the machine can read a command line.
pub fn is_secret(arg: &Arg) -> bool {
    arg.is_hide_set()
}

/// Whether the configuration file can give the option: it gives what is configuration, and not its own name.
pub fn is_key(arg: &Arg) -> bool {
    arg.get_env().is_some() && !is_secret(arg) && arg.get_id() != "config"
}

impl Sources {
    /// Parses the values that count.
    fn parsed(mut self) -> Result<(Cli, Self), anyhow::Error> {
        let words = self.words.iter().cloned().chain(self.effective_arguments());
        let parsed = without_environment(program()).try_get_matches_from(words);
        match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
            Ok(cli) => {
                cli.command.check(&mut self);
                if self.mistakes.0.is_empty() { Ok((cli, self)) } else { Err(self.mistakes.into()) }
            }
            // A value is missing or wrong, which is known already.
            Err(_) if !self.mistakes.0.is_empty() => Err(self.mistakes.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the values of `newer` for the options that `is_taken` names by their ids, and keeps those of all others.
    ///
    /// # Errors
    /// All [`Mistakes`] in what comes of it.
    pub fn take(&self, newer: &Self, is_taken: impl Fn(&str) -> bool) -> Result<(Cli, Self), anyhow::Error> {
        let kept = self.given.iter().filter(|(id, _)| !is_taken(id));
        let taken = newer.given.iter().filter(|(id, _)| is_taken(id));
        let given = kept.chain(taken).map(|(id, given)| (id.clone(), given.clone())).collect();
        let merged = Self {
            words: self.words.clone(),
            command: self.command.clone(),
            given,
            mistakes: Mistakes::default(),
            is_incomplete: false,
            remarks: Vec::new(),
        };
        merged.parsed()
    }

    /// The ids of the options whose values differ from those of `newer`.
    pub fn changed(&self, newer: &Self) -> Vec<String> {
        let args = self.command.get_arguments();
        let changed = args.filter(|arg| self.texts(arg) != newer.texts(arg));
        changed.map(|arg| arg.get_id().to_string()).collect()
    }

    /// The files that give options.
    pub fn files(&self) -> Vec<String> {
        let ids = ["config", "properties", "properties_file"];
        ids.iter().filter_map(|id| Some(self.given.get(*id)?.first()?.texts.concat())).collect()
    }

    /// The value of an option that counts, as it was given.
    fn texts(&self, arg: &Arg) -> Vec<String> {
        let given = self.given.get(arg.get_id().as_str()).and_then(|given| given.first());
        let default = || arg.get_default_values().iter().filter_map(|text| Some(text.to_str()?.to_owned())).collect();
        given.map_or_else(default, |given| given.texts.clone())
    }

    fn args(&self) -> Vec<Arg> {
        self.command.get_arguments().cloned().collect()
    }

    fn put(&mut self, arg: &Arg, texts: Vec<String>, origin: Origin) {
        let given = Given { texts, origin, is_wrong: false };
        self.given.entry(arg.get_id().to_string()).or_default().push(given);
    }

    fn read_command_line(&mut self, matches: &ArgMatches) {
        for arg in self.args() {
            let id = arg.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            if is_secret(&arg) {
                self.mistakes.add(format!(
                    "{}: everybody on the machine could read it there; set {} in the environment",
                    Origin::CommandLine.place_of(&arg),
                    variable(&arg).unwrap_or_default()
                ));
                continue;
            }
            let texts = matches.get_many::<String>(id).unwrap_or_default().cloned().collect();
            self.put(&arg, texts, Origin::CommandLine);
        }
    }

    /// Takes the sub-command's variables. Those of `run` are no mistake for another one: a worker's environment is a
    /// good place to look at its fleet from.
    fn read_environment(&mut self, environment: &Environment, run: Option<&Command>) {
        let args = self.args();
        let known: BTreeMap<&str, &Arg> = args.iter().filter_map(|arg| Some((variable(arg)?, arg))).collect();
        if known.is_empty() {
            return;
        }
        for (name, text) in environment {
            let name = name.to_string_lossy();
            if !name.starts_with(PREFIX) {
                continue;
            }
            let Some(arg) = known.get(&*name) else {
                if is_from_kubernetes(&name) {
                    continue;
                }
                let is_of_run = run.is_some_and(|run| run.get_arguments().any(|arg| variable(arg) == Some(&*name)));
                if !is_of_run {
                    let hint = did_you_mean(&name, known.keys().copied());
                    self.mistakes.add(format!("{name} (environment): unknown variable{hint}"));
                }
                continue;
            };
            match text.to_str() {
                // Orchestrators set variables without a value to empty ones.
                Some("") => {}
                Some(text) => self.put(arg, vec![text.to_owned()], Origin::Environment),
                None => self.mistakes.add(format!("{name} (environment): not Unicode text")),
            }
        }
    }

    /// Parses each value that any source gives, also where another source overrides it.
    fn check_values(&mut self) {
        for arg in self.args() {
            for given in self.given.get_mut(arg.get_id().as_str()).into_iter().flatten() {
                for message in given.texts.iter().filter_map(|text| parse(&arg, text).err()) {
                    given.is_wrong = true;
                    self.mistakes.add(format!("{}: {message}", given.origin.place_of(&arg)));
                }
            }
        }
    }

    /// Finds options that are required and missing, and those that exclude each other.
    fn check_presence(&mut self) {
        let args = self.args();
        let is_given = |arg: &Arg| self.is_given(arg.get_id().as_str());
        let mut mistakes = Vec::new();
        for mut group in self.command.get_groups().cloned() {
            let members: Vec<&Arg> =
                group.get_args().filter_map(|id| args.iter().find(|arg| arg.get_id() == id)).collect();
            let given: Vec<&Arg> = members.iter().copied().filter(|arg| is_given(arg)).collect();
            if given.len() > 1 && !group.is_multiple() {
                let places: Vec<String> = given.iter().map(|arg| self.place_of(arg.get_id().as_str())).collect();
                mistakes.push(format!("{} exclude each other: give one of them", places.join(" and ")));
            }
            if given.is_empty() && group.is_required_set() {
                mistakes.push(self.missing(&members));
            }
        }
        for arg in args.iter().filter(|arg| arg.is_required_set() && !is_given(arg)) {
            mistakes.push(self.missing(&[arg]));
        }
        // Without the whole file it is not known whether something is missing.
        if !self.is_incomplete {
            self.mistakes.0.extend(mistakes);
        }
    }

    /// The message that one of `either` is missing, with all ways to give it.
    fn missing(&self, either: &[&Arg]) -> String {
        let join = |form: &dyn Fn(&&&Arg) -> Option<String>| {
            either.iter().filter_map(|arg| form(&arg)).collect::<Vec<String>>().join(" or ")
        };
        let flags = join(&|arg| match arg.is_positional() {
            true => Some(value_name(arg).to_owned()),
            false if matches!(arg.get_action(), ArgAction::Set) && arg.is_require_equals_set() => Some(flag(arg)),
            false => Some(format!("{} {}", flag(arg), value_name(arg))),
        });
        let mut ways = vec!["as a flag".to_owned()];
        let variables = join(&|arg| variable(arg).map(str::to_owned));
        if !variables.is_empty() {
            ways.push(format!("as {variables} in the environment"));
        }
        if self.command.get_arguments().any(|arg| arg.get_id() == "config") {
            ways.push(format!("as {} in the --config file", join(&|arg| Some(format!("{} = \"…\"", key(arg))))));
        }
        match &ways[..] {
            [first @ .., last] if !first.is_empty() => {
                format!("{flags} is missing: give it {}, or {last}", first.join(", "))
            }
            _ => format!("{flags} is missing"),
        }
    }

    /// The values that count, as a command line.
    fn effective_arguments(&self) -> Vec<OsString> {
        let (mut flags, mut words) = (Vec::new(), vec![OsString::from("--")]);
        for arg in self.args() {
            let first = self.given.get(arg.get_id().as_str()).and_then(|given| given.first());
            for text in first.filter(|given| !given.is_wrong).map_or(&[][..], |given| &given.texts) {
                match arg.get_long() {
                    Some(name) => flags.push(format!("--{name}={text}").into()),
                    None => words.push(text.into()),
                }
            }
        }
        if words.len() > 1 {
            flags.append(&mut words);
        }
        flags
    }

    /// Whether any source gives the option with this id.
    pub fn is_given(&self, id: &str) -> bool {
        self.given.contains_key(id)
    }

    /// The option with this id as it is written where the value that counts was given, with its place.
    pub fn place_of(&self, id: &str) -> String {
        let origin = self.given.get(id).and_then(|given| given.first()).map_or(Origin::Default, |g| g.origin.clone());
        let arg = self.command.get_arguments().find(|arg| arg.get_id() == id);
        arg.map_or_else(|| id.to_owned(), |arg| origin.place_of(arg))
    }

    /// Adds a mistake in a combination of values.
    pub fn add_mistake(&mut self, mistake: impl Into<String>) {
        self.mistakes.add(mistake);
    }
}

pub fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

const PREFIX: &str = "SHARDKEEPER_";

/// Whether Kubernetes sets the variable in each container beside a service whose name begins with "shardkeeper"
/// (Kubernetes documentation, "Environment variables" of a Service).
fn is_from_kubernetes(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    // The service's own name, if it has more than one word, stands before these.
    ["SERVICE_HOST", "SERVICE_PORT", "PORT"].iter().any(|end| rest == *end || rest.ends_with(&format!("_{end}")))
        || ["SERVICE_PORT_", "PORT_"].iter().any(|part| rest.starts_with(part) || rest.contains(&format!("_{part}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        program().debug_assert();
    }

    #[test]
    fn a_handler_over_http_has_the_limits_of_a_lambda_function() {
        let options = |to: &str| {
            let words = ["shardkeeper", "run", "--table", "Phones", "--app", "audit", "--to", to];
            let (cli, _) = read(words.map(OsString::from), &Environment::new()).expect("right options");
            cli.command.worker().expect("a worker").options()
        };
        let http = options("http://127.0.0.1:8080/");
        assert_eq!((http.batch_size, http.batch_bytes), (Some(100), Some(1_000_000)));
        assert_eq!(http.failure.handler_timeout, Some(std::time::Duration::from_secs(15 * 60)));
        let lines = options("stdout");
        assert_eq!((lines.batch_size, lines.batch_bytes, lines.failure.handler_timeout), (None, None, None));
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["checkpoint-interval", "table"];
        assert_eq!(did_you_mean("CHEKPOINT_INTERVAL", known), "; did you mean \"checkpoint-interval\"?");
        assert_eq!(did_you_mean("verbosity", known), "");
    }

    #[test]
    fn kubernetes_service_variables_are_no_options() {
        assert!(is_from_kubernetes("SHARDKEEPER_SERVICE_PORT_HTTP"));
        assert!(is_from_kubernetes("SHARDKEEPER_PORT_8000_TCP_ADDR"));
        assert!(is_from_kubernetes("SHARDKEEPER_HANDLER_PORT_8000_TCP_ADDR"));
        assert!(is_from_kubernetes("SHARDKEEPER_MY_HANDLER_SERVICE_PORT"));
        assert!(!is_from_kubernetes("SHARDKEEPER_SERVICE"));
        assert!(!is_from_kubernetes("SHARDKEEPER_PORTS"));
    }
}
