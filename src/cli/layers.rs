//! What was typed, in layers: flags over environment over file over defaults.
//!
//! [`Layers`] collects the texts with where each came from; then each setting is asked for once, by its type. What
//! is wrong, in whatever layer and even where a higher layer hides it, is noted and told at the end, all at once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::file;
use super::flags;
use super::mistakes::{Mistakes, did_you_mean};
use super::setting::{About, Default, ENVIRONMENT_PREFIX, Kind, LIST_SEPARATOR, Origin, Setting};

/// A setting's text and where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// As it was written.
    pub text: String,
    /// Where it was written.
    pub origin: Origin,
}

/// The variables of the process's environment.
#[derive(Debug, Clone, std::default::Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// The environment that this process was started with.
    pub fn of_process() -> Environment {
        std::env::vars_os().collect()
    }

    /// The value of `name`, if it is set, not empty, and Unicode.
    pub fn value(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(OsStr::new(name))?.to_str()?;
        (!value.is_empty()).then_some(value)
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Environment {
        Environment { variables: variables.into_iter().collect() }
    }
}

/// Everything that was given for one sub-command.
pub struct Layers {
    /// The sub-command's settings, in the order of its help.
    table: &'static [&'static About],
    /// By setting name, the layer that counts first.
    given: BTreeMap<&'static str, Vec<Given>>,
    /// Whether a configuration file is among the layers.
    takes_file: bool,
    /// Whether a setting that nobody gives might be in a file that could not be read.
    may_hide_settings: bool,
    /// What was found wrong so far.
    mistakes: Mistakes,
}

impl Layers {
    /// Only the flags: for sub-commands that nothing else configures.
    pub fn from_flags(table: &'static [&'static About], arguments: &[OsString]) -> Layers {
        let mut layers = Layers {
            table,
            given: BTreeMap::new(),
            takes_file: false,
            may_hide_settings: false,
            mistakes: Mistakes::none(),
        };
        for (about, given) in flags::read(table, arguments, &mut layers.mistakes) {
            layers.put(about, given);
        }
        layers
    }

    /// Flags, then the environment, then the file that the setting `config` names in either.
    pub fn from_everywhere(
        table: &'static [&'static About],
        arguments: &[OsString],
        environment: &Environment,
        config: &Setting<String>,
    ) -> Layers {
        let mut layers = Layers::from_flags(table, arguments);
        layers.takes_file = true;
        layers.read_environment(environment, &[]);
        if let Some(path) = layers.optional(config) {
            let named_by = layers.place_of(&config.about);
            let content = file::read(&path, &named_by, table, &mut layers.mistakes);
            layers.may_hide_settings = !content.is_whole;
            for (about, given) in content.given {
                layers.put(about, given);
            }
        }
        layers
    }

    /// Flags, then the environment. The variables of settings in `others` say nothing here, and are no mistakes: a
    /// worker's environment is a good place to look at its fleet from.
    pub fn from_flags_and_environment(
        table: &'static [&'static About],
        others: &[&About],
        arguments: &[OsString],
        environment: &Environment,
    ) -> Layers {
        let mut layers = Layers::from_flags(table, arguments);
        layers.read_environment(environment, others);
        layers
    }

    fn read_environment(&mut self, environment: &Environment, others: &[&About]) {
        let variables: BTreeMap<String, &'static About> =
            self.table.iter().filter(|about| about.in_environment()).map(|about| (about.variable(), *about)).collect();
        for (name, value) in &environment.variables {
            let name = name.to_string_lossy();
            if !name.starts_with(ENVIRONMENT_PREFIX) || is_from_kubernetes(&name) {
                continue;
            }
            let Some(about) = variables.get(name.as_ref()) else {
                if others.iter().any(|about| about.in_environment() && about.variable() == name) {
                    continue;
                }
                let hint = did_you_mean(&name, variables.keys().map(String::as_str));
                self.mistakes.add(format!("{name} (environment): unknown variable{hint}"));
                continue;
            };
            let origin = Origin::Environment;
            match value.to_str() {
                // What an orchestrator leaves empty was not given.
                Some("") => {}
                Some(text) => {
                    let text = text.to_string();
                    self.put(about, Given { text, origin });
                }
                None => {
                    let place = origin.place_of(about);
                    self.mistakes.add(format!("{place}: not Unicode text"));
                }
            }
        }
    }

    fn put(&mut self, about: &'static About, given: Given) {
        self.given.entry(about.name).or_default().push(given);
    }

    /// Gives `setting` a text that holds when nobody gave one: for defaults worked out at start.
    pub fn assume<T>(&mut self, setting: &Setting<T>, text: String) {
        let origin = Origin::Default;
        let layers = self.given.entry(setting.about.name).or_default();
        layers.push(Given { text, origin });
    }

    /// The value of a setting that may be left out. None also when it is wrong, which is noted.
    pub fn optional<T>(&mut self, setting: &Setting<T>) -> Option<T> {
        let layers = self.given.get(setting.about.name)?;
        let mut values = Vec::new();
        for given in layers {
            let value = (setting.parse)(&given.text);
            values.push(value.map_err(|message| {
                let place = given.origin.place_of(&setting.about);
                self.mistakes.add(format!("{place}: {message}"));
            }));
        }
        values.into_iter().next()?.ok()
    }

    /// The value of a setting with a default text. Where what was given is wrong, that is noted and the default
    /// returned, for [`Layers::finish`] to throw away.
    pub fn value<T>(&mut self, setting: &Setting<T>) -> T {
        if let Some(value) = self.optional(setting) {
            return value;
        }
        let Default::Value(default) = setting.about.default else {
            unreachable!("{} is asked for by value and has no default text", setting.about.name)
        };
        (setting.parse)(default).unwrap_or_else(|error| unreachable!("the default of {}: {error}", setting.about.name))
    }

    /// The value of a setting that must be given. That it is not, or is wrong, is noted, and an empty value returned
    /// for [`Layers::finish`] to throw away.
    pub fn required<T: std::default::Default>(&mut self, setting: &Setting<T>) -> T {
        if !self.is_given(&setting.about) {
            self.missing(&[&setting.about]);
        }
        self.optional(setting).unwrap_or_default()
    }

    /// Whether any layer gives the setting.
    pub fn is_given(&self, about: &About) -> bool {
        self.given.contains_key(about.name)
    }

    /// Notes that none of `either` was given, with the ways to give one; not if a file that could not be read may
    /// give it, for then it is that mistake which counts.
    pub fn missing(&mut self, either: &[&About]) {
        if self.may_hide_settings {
            return;
        }
        let all = |form: &dyn Fn(&About) -> String| -> String {
            let forms: Vec<String> = either.iter().map(|about| form(about)).collect();
            forms.join(" or ")
        };
        let flags = all(&|about| format!("{} {}", about.flag(), about.value_name));
        let variables = all(&|about| about.variable());
        let keys = all(&|about| format!("{} = \"…\"", about.name));
        self.mistakes.add(match self.takes_file {
            true => format!(
                "{flags} is missing: give it as a flag, as {variables} in the environment, or as {keys} in the \
                 --config file"
            ),
            false => format!("{flags} is missing: give it as a flag, or as {variables} in the environment"),
        });
    }

    /// Where the value that counts was given, named as it is written there.
    pub fn place_of(&self, about: &About) -> String {
        let layers = self.given.get(about.name);
        let first = layers.and_then(|layers| layers.first());
        first.map_or(Origin::Default, |given| given.origin.clone()).place_of(about)
    }

    /// Notes a mistake that no single value makes.
    pub fn add_mistake(&mut self, mistake: impl Into<String>) {
        self.mistakes.add(mistake);
    }

    /// `meaning`, unless there were mistakes.
    pub fn finish<T>(self, meaning: T) -> Result<T, Mistakes> {
        match self.mistakes.is_empty() {
            true => Ok(meaning),
            false => Err(self.mistakes),
        }
    }

    /// The effective configuration as a TOML file that would give the same, each value with its origin.
    pub fn to_toml(&self) -> String {
        let in_file = self.table.iter().filter(|about| about.in_file());
        let lines: Vec<(String, String)> = in_file.map(|about| self.toml_line(about)).collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max();
        let width = width.unwrap_or(0);
        lines.iter().map(|(line, remark)| format!("{line:width$}  # {remark}\n")).collect()
    }

    fn toml_line(&self, about: &About) -> (String, String) {
        let name = about.name;
        let first = self.given.get(name).and_then(|layers| layers.first());
        match (first, about.default) {
            (Some(given), _) => {
                let line = format!("{name} = {}", toml_value(&given.text, about.kind));
                (line, given.origin.to_string())
            }
            (None, Default::Value(text)) => {
                let line = format!("{name} = {}", toml_value(text, about.kind));
                (line, Origin::Default.to_string())
            }
            (None, Default::Described(text)) => (format!("# {name}"), format!("default: {text}")),
            (None, _) => (format!("# {name}"), "not set".to_string()),
        }
    }
}

/// `text` as a TOML value of the type that the setting takes.
fn toml_value(text: &str, kind: Kind) -> String {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match kind {
        Kind::Switch => (text == "true" || text == "1").to_string(),
        // A leading zero is no TOML number.
        Kind::Integer | Kind::Size if is_number => match text.trim_start_matches('0') {
            "" => "0".to_string(),
            digits => digits.to_string(),
        },
        Kind::List => toml::Value::from(text.split(LIST_SEPARATOR).collect::<Vec<&str>>()).to_string(),
        _ => toml::Value::from(text).to_string(),
    }
}

/// Kubernetes puts these into each container beside a service that is called "shardkeeper" (Kubernetes documentation,
/// "Environment variables" of a Service); they are no settings.
fn is_from_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name);
    matches!(rest, "SERVICE_HOST" | "SERVICE_PORT" | "PORT")
        || rest.starts_with("SERVICE_PORT_")
        || rest.starts_with("PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_values_have_the_type_that_the_file_takes() {
        assert_eq!(toml_value("1", Kind::Switch), "true");
        assert_eq!(toml_value("007", Kind::Integer), "7");
        assert_eq!(toml_value("64MiB", Kind::Size), "\"64MiB\"");
        assert_eq!(toml_value("a\"b", Kind::Text), "'a\"b'");
    }

    #[test]
    fn kubernetes_service_variables_are_no_settings() {
        assert!(is_from_kubernetes("SHARDKEEPER_SERVICE_PORT_HTTP"));
        assert!(is_from_kubernetes("SHARDKEEPER_PORT_8000_TCP_ADDR"));
        assert!(!is_from_kubernetes("SHARDKEEPER_SERVICE"));
        assert!(!is_from_kubernetes("SHARDKEEPER_PORTS"));
    }
}
