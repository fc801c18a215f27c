//! What a setting is: one entry from which its flag, its environment variable, its key in the configuration file, its
//! help text and its parser all come, so that none of them can drift from the others.

use std::fmt;

/// One setting of a sub-command, with the type that its text is read as.
pub struct Setting<T: 'static> {
    /// Everything about the setting but its type.
    pub about: About,
    /// Reads the text; an error says what is wrong with it and what to write, without naming the setting.
    pub parse: fn(&str) -> Result<T, String>,
}

/// What is known of a setting whatever its type.
#[derive(Debug)]
pub struct About {
    /// Kebab-case: the flag without its dashes, and the key in the file.
    pub name: &'static str,
    /// What stands for the value in help texts; empty for a switch.
    pub value_name: &'static str,
    /// The heading it stands under in `--help`.
    pub group: &'static str,
    /// One or a few sentences for a newcomer; the default and the environment variable are added to it.
    pub help: &'static str,
    /// What holds when nobody gives it.
    pub default: Default,
    /// Which TOML types may give it.
    pub kind: Kind,
    /// Where it can be given.
    pub reach: Reach,
}

/// What holds when a setting is given nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// This text, read as if it had been given.
    Value(&'static str),
    /// Something worked out at start; the text says what.
    Described(&'static str),
    /// Nothing: the setting is off.
    Absent,
    /// Nothing: the program cannot start without it.
    Required,
}

/// Which TOML types a setting takes in the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A whole number.
    Integer,
    /// A whole number of bytes, or a string with a unit.
    Size,
    /// `true` or `false`; as a flag it needs no value.
    Switch,
    /// A string, or an array of strings; as a flag it may be given several times. All of them come as one text, with
    /// [`LIST_SEPARATOR`] between them.
    List,
}

/// Stands between the elements of a [`Kind::List`]: a control character (ASCII's record separator) that no sensible
/// element holds.
pub const LIST_SEPARATOR: char = '\u{1e}';

/// Where a setting can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Flag, environment variable and configuration file.
    Everywhere,
    /// Flag and environment variable: the name of the configuration file itself.
    FlagAndEnvironment,
    /// Only as a flag: requests rather than configuration.
    Flag,
    /// Only as an environment variable: secrets, which everybody on the machine could read on a command line.
    Environment,
}

impl<T> Setting<T> {
    /// A setting of `kind` [`Kind::Text`] that can be given everywhere and is off unless given.
    pub const fn new(name: &'static str, value_name: &'static str, parse: fn(&str) -> Result<T, String>) -> Setting<T> {
        let about = About {
            name,
            value_name,
            group: "Options",
            help: "",
            default: Default::Absent,
            kind: Kind::Text,
            reach: Reach::Everywhere,
        };
        Setting { about, parse }
    }

    /// The heading it stands under in `--help`.
    pub const fn group(mut self, group: &'static str) -> Self {
        self.about.group = group;
        self
    }

    /// What it means, for a newcomer.
    pub const fn help(mut self, help: &'static str) -> Self {
        self.about.help = help;
        self
    }

    /// What holds when it is given nowhere.
    pub const fn default(mut self, default: Default) -> Self {
        self.about.default = default;
        self
    }

    /// Which TOML types may give it.
    pub const fn kind(mut self, kind: Kind) -> Self {
        self.about.kind = kind;
        self
    }

    /// Where it can be given.
    pub const fn reach(mut self, reach: Reach) -> Self {
        self.about.reach = reach;
        self
    }
}

impl Setting<bool> {
    /// A switch: off unless given.
    pub const fn switch(name: &'static str) -> Setting<bool> {
        Setting::new(name, "", super::value::switch).kind(Kind::Switch).default(Default::Value("false"))
    }
}

/// Every environment variable of the program begins with this.
pub const ENVIRONMENT_PREFIX: &str = "SHARDKEEPER_";

impl About {
    /// The flag, with its dashes: `--lease-duration`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable: `SHARDKEEPER_LEASE_DURATION`.
    pub fn variable(&self) -> String {
        let name = self.name.to_ascii_uppercase().replace('-', "_");
        format!("{ENVIRONMENT_PREFIX}{name}")
    }

    /// Whether the command line can give it.
    pub fn on_command_line(&self) -> bool {
        self.reach != Reach::Environment
    }

    /// Whether the environment can give it.
    pub fn in_environment(&self) -> bool {
        self.reach != Reach::Flag
    }

    /// Whether the configuration file can give it.
    pub fn in_file(&self) -> bool {
        self.reach == Reach::Everywhere
    }

    /// The help text with the default and the environment variable behind it. `shows_variable` is false for
    /// sub-commands that read flags only.
    pub fn full_help(&self, shows_variable: bool) -> String {
        let mut text = self.help.to_string();
        match self.default {
            Default::Value(_) if self.kind == Kind::Switch => {}
            Default::Value(default) | Default::Described(default) => {
                text.push_str(&format!(" [default: {default}]"));
            }
            Default::Required => text.push_str(" [required]"),
            Default::Absent => {}
        }
        if shows_variable && self.in_environment() {
            text.push_str(&format!(" [env: {}]", self.variable()));
        }
        text
    }
}

/// Where a value came from, or where a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    CommandLine,
    /// An environment variable.
    Environment,
    /// A line of the configuration file.
    File {
        /// The file's path as it was given.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// Nobody gave it.
    Default,
}

impl Origin {
    /// Names `about` as it is written at this origin, with its place: what a mistake's message begins with.
    pub fn place_of(&self, about: &About) -> String {
        match self {
            Origin::CommandLine => format!("{} (command line)", about.flag()),
            Origin::Environment => format!("{} (environment)", about.variable()),
            Origin::File { path, line } => format!("{path}:{line}: {}", about.name),
            Origin::Default => format!("{} (default)", about.flag()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::Environment => f.write_str("environment"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Default => f.write_str("default"),
        }
    }
}
