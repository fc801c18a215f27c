//! The options of `run` as a page for people: `docs/settings.md`.

use std::fmt::Write;
use std::path::Path;

use clap::Arg;

use super::options_of_run;
use crate::cli::args::run::is_reloaded;
use crate::cli::config::{is_key, is_secret, key, value_name, variable};

const OPENING: &str = "# Settings

<!-- Made from src/cli/args: SHARDKEEPER_WRITE_DOCS=1 cargo test --lib reference -->

For operators who configure a worker: each option of `shardkeeper run`, as a flag, as a variable of the environment and
as a key of the `--config` file, with its default. A flag goes before a variable, and a variable before the file.
`shardkeeper check` takes the same options, and so does `shardkeeper multilang`. An empty default means that the option
is off, or what its description says. Under **reload**, *yes* marks what a running worker
[takes from its file](operations.md#change-options-without-a-restart) without a restart. Secrets have no flag and no key: everybody on the machine can read a command line.

The file is TOML. [config-schema.json](config-schema.json) is its JSON Schema, which `shardkeeper config-schema` prints
too; an editor that knows Taplo takes it from the file's first line, `#:schema ./config-schema.json`.
`shardkeeper run --print-config` shows the values that count, each with its source.
";

/// The page.
fn markdown() -> String {
    let run = options_of_run();
    let mut page = OPENING.to_owned();
    let mut headings: Vec<&str> = Vec::new();
    let options: Vec<&Arg> = run.get_arguments().filter(|arg| arg.get_help_heading().is_some()).collect();
    for arg in &options {
        headings.extend(arg.get_help_heading().filter(|heading| !headings.contains(heading)));
    }
    for heading in headings {
        let _ = write!(
            page,
            "\n## {heading}\n\n| flag | variable | key | default | reload | |\n| --- | --- | --- | --- | --- | --- |\n"
        );
        options.iter().filter(|arg| arg.get_help_heading() == Some(heading)).for_each(|arg| line(&mut page, arg));
    }
    page
}

fn line(page: &mut String, arg: &Arg) {
    let code = |text: &str| format!("`{}`", cell(text));
    let flag = match value_name(arg) {
        _ if is_secret(arg) => String::new(),
        "true|false" if arg.is_require_equals_set() => code(&format!("--{}", key(arg))),
        value => code(&format!("--{} {value}", key(arg))),
    };
    let variable = variable(arg).map(code).unwrap_or_default();
    let file_key = if is_key(arg) { code(key(arg)) } else { String::new() };
    let is_shown = !arg.is_hide_default_value_set();
    let default: Vec<String> =
        arg.get_default_values().iter().filter(|_| is_shown).filter_map(|text| text.to_str()).map(code).collect();
    let reload = if is_reloaded(arg.get_id().as_str()) { "yes" } else { "" };
    let help = arg.get_help().map(|help| cell(&help.to_string())).unwrap_or_default();
    let _ = writeln!(page, "| {flag} | {variable} | {file_key} | {} | {reload} | {help}. |", default.join(", "));
}

fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

/// Compares a file of this package with what it is made from; with `SHARDKEEPER_WRITE_DOCS` set it writes it first.
#[track_caller]
pub fn assert_written(file: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("SHARDKEEPER_WRITE_DOCS").is_some() {
        std::fs::write(&path, content).expect("it can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == content, "{file} is out of date: SHARDKEEPER_WRITE_DOCS=1 cargo test --lib reference");
}

mod tests {
    use super::*;

    #[test]
    fn the_page_of_settings_is_made_from_the_options() {
        assert_written("docs/settings.md", &markdown());
    }

    #[test]
    fn every_option_of_run_is_on_the_page() {
        let page = markdown();
        for arg in options_of_run().get_arguments().filter(|arg| arg.get_id() != "help") {
            let name = variable(arg).unwrap_or_else(|| key(arg));
            assert!(page.contains(name), "{name}");
        }
    }
}
