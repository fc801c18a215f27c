//! The configuration file: TOML with one key a setting, each value taken with its line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::layers::Given;
use super::mistakes::{Mistakes, did_you_mean};
use super::setting::{About, Kind, LIST_SEPARATOR, Origin};

/// What a configuration file gives.
pub struct Content {
    /// By setting, in the file's order.
    pub given: Vec<(&'static About, Given)>,
    /// Whether all of it could be read: else more settings may be in it.
    pub is_whole: bool,
}

/// Reads the file at `path` for the settings of `table`.
///
/// A file that cannot be read, is not TOML, or has unknown keys or wrong types adds to `mistakes`; `named_by` says
/// who named the file.
pub fn read(path: &str, named_by: &str, table: &'static [&'static About], mistakes: &mut Mistakes) -> Content {
    match std::fs::read_to_string(Path::new(path)) {
        Ok(content) => read_content(path, &content, table, mistakes),
        Err(error) => {
            mistakes.add(format!("{named_by}: cannot read {path:?}: {error}"));
            Content { given: Vec::new(), is_whole: false }
        }
    }
}

fn read_content(path: &str, content: &str, table: &'static [&'static About], mistakes: &mut Mistakes) -> Content {
    let (document, errors) = DeTable::parse_recoverable(content);
    let is_whole = errors.is_empty();
    let mut found = Vec::new();
    for error in errors {
        let line = line_of(content, error.span().map_or(0, |span| span.start));
        let message = error.message().replace('\n', "; ");
        found.push((line, Err(format!("not TOML: {message}"))));
    }
    for (key, value) in document.get_ref() {
        let line = line_of(content, key.span().start);
        found.push((line, read_entry(key.get_ref(), value, table)));
    }
    found.sort_by_key(|(line, _)| *line);

    let mut given = Vec::new();
    for (line, entry) in found {
        match entry {
            Ok((about, text)) => {
                let path = path.to_string();
                let origin = Origin::File { path, line };
                given.push((about, Given { text, origin }));
            }
            Err(message) => mistakes.add(format!("{path}:{line}: {message}")),
        }
    }
    Content { given, is_whole }
}

fn read_entry(
    key: &str,
    value: &Spanned<DeValue<'_>>,
    table: &'static [&'static About],
) -> Result<(&'static About, String), String> {
    let keys = || table.iter().filter(|about| about.in_file());
    let Some(about) = keys().find(|about| about.name == key) else {
        let hint = did_you_mean(key, keys().map(|about| about.name));
        return Err(format!("unknown key {key:?}{hint}"));
    };
    let text = text_of(value.get_ref(), about.kind).map_err(|message| format!("{}: {message}", about.name))?;
    Ok((about, text))
}

/// The value's text, as it would have been written for a flag, if the setting takes values of that type.
fn text_of(value: &DeValue<'_>, kind: Kind) -> Result<String, String> {
    let wanted = match (kind, value) {
        (Kind::Text | Kind::Size, DeValue::String(text)) => return Ok(text.to_string()),
        (Kind::Integer | Kind::Size, DeValue::Integer(number)) => return integer_text(number),
        (Kind::Switch, DeValue::Boolean(on)) => return Ok(on.to_string()),
        (Kind::List, DeValue::String(text)) => return Ok(text.to_string()),
        (Kind::List, DeValue::Array(elements)) => {
            let texts = elements.iter().map(|element| text_of(element.get_ref(), Kind::Text));
            return Ok(texts.collect::<Result<Vec<String>, String>>()?.join(&LIST_SEPARATOR.to_string()));
        }
        (Kind::Text, _) => "a string in quotes",
        (Kind::Integer, _) => "an integer",
        (Kind::Size, _) => "an integer, or a string in quotes",
        (Kind::Switch, _) => "true or false",
        (Kind::List, _) => "a string in quotes, or a list of them",
    };
    Err(format!("wants {wanted}, not {}", type_name(value)))
}

fn integer_text(number: &DeInteger<'_>) -> Result<String, String> {
    i128::from_str_radix(number.as_str(), number.radix())
        .map(|number| number.to_string())
        .map_err(|_| format!("{number} is too large"))
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The line, from 1, that the byte at `offset` stands on.
fn line_of(content: &str, offset: usize) -> usize {
    let before = &content.as_bytes()[..offset.min(content.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}
