//! The files that give options: TOML, and a MultiLangDaemon's properties.

use clap::Arg;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Origin, Sources, did_you_mean, is_key, is_list, key};
use crate::cli::multilang::mapping::{self, Mapped};
use crate::cli::multilang::properties::Properties;

impl Sources {
    /// Takes the keys of the --config file.
    pub(super) fn read_file(&mut self) {
        let Some(given) = self.given.get("config").and_then(|given| given.first()) else { return };
        let path = given.texts.concat();
        let content = match std::fs::read_to_string(&path) {
            Ok(content) => content,
            Err(error) => {
                self.mistakes.add(format!("{}: cannot read {path:?}: {error}", self.place_of("config")));
                self.is_incomplete = true;
                return;
            }
        };
        let line_of = |offset: usize| 1 + content.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let (document, errors) = DeTable::parse_recoverable(&content);
        for error in errors {
            let line = line_of(error.span().map_or(0, |span| span.start));
            let message = error.message().replace('\n', "; ");
            self.mistakes.add(format!("{path}:{line}: not TOML: {message}"));
            self.is_incomplete = true;
        }
        let mut entries: Vec<_> = document.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let args: Vec<Arg> = self.command.get_arguments().filter(|arg| is_key(arg)).cloned().collect();
        for (name, value) in entries {
            let line = line_of(name.span().start);
            let name = name.get_ref();
            let Some(arg) = args.iter().find(|arg| key(arg) == name) else {
                let hint = did_you_mean(name, args.iter().map(key));
                self.mistakes.add(format!("{path}:{line}: unknown key {name:?}{hint}"));
                continue;
            };
            match texts_of(value, is_list(arg)) {
                Ok(texts) => self.put(arg, texts, Origin::File { path: path.clone(), line }),
                Err(message) => self.mistakes.add(format!("{path}:{line}: {name}: {message}")),
            }
        }
    }

    /// Takes the properties of a MultiLangDaemon's file.
    pub(super) fn read_properties(&mut self) {
        let files = ["properties_file", "properties"].map(|id| self.given.get(id).and_then(|given| given.first()));
        let path = match files {
            [None, None] if self.command.get_name() == "multilang" => {
                self.mistakes.add("the properties file is missing: give its path, or --properties-file");
                return;
            }
            [Some(_), Some(_)] => {
                self.mistakes.add("a properties file and --properties-file are given: give one of them");
                return;
            }
            [one, other] => match one.or(other) {
                Some(given) => given.texts.concat(),
                None => return,
            },
        };
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) => {
                self.mistakes.add(format!("cannot read {path:?}: {error}"));
                self.is_incomplete = true;
                return;
            }
        };
        let properties = Properties::parse(&content);
        for mistake in &properties.mistakes {
            self.mistakes.add(format!("{path}:{mistake}"));
        }
        let mapped = mapping::map(&properties);
        for (key, options) in mapped.missing {
            if !options.iter().any(|option| self.is_given(option)) {
                self.mistakes.add(format!("{path}: {key} is missing"));
            }
        }
        self.remarks.extend(mapped.remarks);
        let source_is_given = self.is_given("table") || self.is_given("stream_arn");
        for Mapped { option, text, key, line } in mapped.options {
            if source_is_given && matches!(option, "table" | "stream_arn") {
                continue;
            }
            let arg = self.command.get_arguments().find(|arg| arg.get_id() == option).cloned();
            let arg = arg.unwrap_or_else(|| unreachable!("{option} is an option of run"));
            match text {
                Ok(text) => {
                    self.put(&arg, vec![text], Origin::Property { path: path.clone(), line, key: key.to_owned() })
                }
                Err(mistake) => self.mistakes.add(format!("{path}:{line}: {key}: {mistake}")),
            }
        }
    }

    /// The effective configuration as a file that would give the same, each value with its origin.
    pub fn to_toml(&self) -> String {
        let lines: Vec<(String, String)> =
            self.command.get_arguments().filter(|arg| is_key(arg)).map(|arg| self.toml_line(arg)).collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
        lines.iter().map(|(line, remark)| format!("{line:width$}  # {remark}\n")).collect()
    }

    fn toml_line(&self, arg: &Arg) -> (String, String) {
        let name = key(arg);
        let given = self.given.get(arg.get_id().as_str()).and_then(|given| given.first());
        let origin = given.map_or(&Origin::Default, |given| &given.origin);
        match &self.texts(arg)[..] {
            [] => (format!("# {name}"), "not set".to_owned()),
            texts if is_list(arg) => (format!("{name} = {}", toml::Value::from(texts.to_vec())), origin.to_string()),
            texts => (format!("{name} = {}", toml_value(&texts.concat())), origin.to_string()),
        }
    }
}

/// A value of the file as texts, as they would be typed.
fn texts_of(value: &Spanned<DeValue<'_>>, is_list: bool) -> Result<Vec<String>, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(vec![text.to_string()]),
        DeValue::Boolean(on) => Ok(vec![on.to_string()]),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(vec![number.to_string()]),
            Err(_) => Err(format!("{number} is too large")),
        },
        DeValue::Array(elements) if is_list => {
            let texts: Result<Vec<_>, String> = elements.iter().map(|element| texts_of(element, false)).collect();
            Ok(texts?.concat())
        }
        other => Err(format!("needs a string in quotes, an integer, true or false, not a TOML {}", other.type_str())),
    }
}

/// The shortest TOML that [`texts_of`] reads back as `text`.
fn toml_value(text: &str) -> String {
    let is_bare = matches!(text, "true" | "false") || text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    if is_bare { text.to_owned() } else { toml::Value::from(text).to_string() }
}
