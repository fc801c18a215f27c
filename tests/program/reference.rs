//! Descriptions of the program that are made from its options: completions, manual pages, and the configuration file's
//! schema.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::dynamodb_local::required_in_ci;
use crate::support::fixture::Fixture;
use crate::support::tools::find;
use crate::support::{Finished, finish, shardkeeper};

fn printed(words: &[&str]) -> String {
    let finished = finish(shardkeeper().args(words));
    assert_eq!((finished.code, &*finished.stderr), (0, ""));
    finished.stdout
}

/// The completions that a shell has for words after it has loaded the program's.
fn completed(fixture: &Fixture, shell: &str, flags: &[&str], script: &str) -> Option<Finished> {
    let program = find(shell)?;
    let completions = fixture.log("_shardkeeper");
    let folder = completions.with_file_name("completions");
    std::fs::create_dir_all(&folder).expect("a folder of the test's own");
    std::fs::write(folder.join("_shardkeeper"), printed(&["completions", shell])).expect("it can be written");
    let finished = finish(Command::new(program).args(flags).args(["-c", script]).current_dir(folder));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    Some(finished)
}

const WORDS: [&str; 3] = ["dead-letter", "halt", "skip"];

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.lines().collect();
    words.sort_unstable();
    words
}

#[test]
fn bash_completes_options_and_their_words() {
    let script = "source ./_shardkeeper
        COMP_WORDS=(shardkeeper run --on-failure ''); COMP_CWORD=3
        _shardkeeper shardkeeper '' --on-failure; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let fixture = Fixture::empty("");
    let Some(finished) = completed(&fixture, "bash", &["--norc"], script) else { return };
    assert_eq!(sorted(&finished.stdout), WORDS);
}

#[test]
fn zsh_loads_the_completions() {
    let script = "fpath=($PWD $fpath); autoload -U compinit && compinit -D -u
        autoload -U +X _shardkeeper && echo $_comps[shardkeeper] && whence -w _shardkeeper";
    let fixture = Fixture::empty("");
    let Some(finished) = completed(&fixture, "zsh", &["-f"], script) else { return };
    assert_eq!(finished.stdout, "_shardkeeper\n_shardkeeper: function\n");
    assert_eq!(finished.stderr, "");
}

#[test]
fn fish_completes_options_and_their_words() {
    let script = "source ./_shardkeeper; complete -C 'shardkeeper run --on-failure '";
    let fixture = Fixture::empty("");
    let Some(finished) = completed(&fixture, "fish", &["--no-config"], script) else { return };
    assert_eq!(sorted(&finished.stdout), WORDS);
}

#[test]
fn every_sub_command_has_a_manual_page_that_renders() {
    let Some(man) = find("man") else { return };
    let fixture = Fixture::empty("");
    let folder = fixture.log("man1");
    std::fs::create_dir_all(&folder).expect("a folder of the test's own");
    let folder_name = folder.to_str().expect("a path in UTF-8");
    assert_eq!(printed(&["man", folder_name]), "");
    let rendered = |page: &str| {
        let mut command = Command::new(&man);
        let finished = finish(command.args(["--warnings", "-l"]).arg(folder.join(page)).env("MANWIDTH", "200"));
        assert_eq!((finished.code, &*finished.stderr), (0, ""), "{page}");
        finished.stdout
    };
    assert!(rendered("shardkeeper.1").contains("shardkeeper-run(1)"));
    assert!(rendered("shardkeeper-run.1").contains("--checkpoint-interval <DURATION> [default: 5s]"));
    assert!(rendered("shardkeeper-dead-letters-list.1").contains("--app <NAME>"));
    assert_eq!(printed(&["man"]), std::fs::read_to_string(folder.join("shardkeeper.1")).expect("it is written"));
}

#[test]
fn manual_pages_for_a_folder_that_is_missing_are_an_error_that_says_what_to_do() {
    let finished = finish(shardkeeper().args(["man", "/nowhere/at/all"]));
    assert_eq!(finished.code, 1);
    assert!(finished.stderr.contains("/nowhere/at/all: create the folder"), "{}", finished.stderr);
}

/// The complaints of a JSON Schema's validator about files of configuration, a line each.
fn complaints(python: &Path, fixture: &Fixture, files: &[PathBuf]) -> Vec<String> {
    let schema = fixture.log("schema");
    std::fs::write(&schema, printed(&["config-schema"])).expect("it can be written");
    let script = "
import json, jsonschema, sys, tomllib
schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
for path in sys.argv[2:]:
    for error in jsonschema.Draft7Validator(schema).iter_errors(tomllib.load(open(path, 'rb'))):
        print('.'.join(map(str, error.path)) + ': ' + error.message)
";
    let finished = finish(Command::new(python).args(["-c", script]).arg(schema).args(files));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    finished.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn the_schema_takes_what_the_program_takes_and_refuses_what_it_refuses() {
    let Some(python) = required_in_ci("SHARDKEEPER_TEST_PYTHON").map(PathBuf::from) else { return };
    let fixture = Fixture::empty("");
    let file = |content: &str| {
        let path = fixture.log("toml");
        std::fs::write(&path, content).expect("it can be written");
        path
    };
    let accepts = |path: &PathBuf| {
        let flags = ["run", "--app", "audit", "--print-config", "--config"];
        finish(shardkeeper().args(flags).arg(path)).code == 0
    };
    let printed = finish(shardkeeper().args("run --app audit --table Phones --print-config".split(' '))).stdout;
    let right = [
        file(&printed),
        file(
            "table = 'Phones'\nbatch-size = 10\nbatch-bytes = '1MB'\nbisect = false\non-failure = 'skip'\nretry-attempts = 3",
        ),
        file("stream-arn = 'arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/x'\nbuffer-bytes = 8388608"),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/shardkeeper.toml"),
        file("table = 'Phones'\nfilter = ['{\"eventName\":[\"INSERT\"]}']\nidle-poll = '500ms'\nevents = 'insert'"),
    ];
    for path in &right {
        assert!(accepts(path), "{}", path.display());
    }
    assert_eq!(complaints(&python, &fixture, &right), Vec::<String>::new());
    let wrong = [
        "tabel = 'Phones'",
        "table = 'Phones'\nbatch-size = 0",
        "table = 'Phones'\nbatch-size = 10001",
        "table = 'Phones'\nbatch-bytes = '1 MB'",
        "table = 'Phones'\nbisect = 'maybe'",
        "table = 'Phones'\non-failure = 'stop'",
        "table = 'Phones'\nidle-poll = '5'",
        "table = 'Phones'\nbuffer-bytes = 1000",
        "table = 'Phones'\nconfig = 'other.toml'",
        "table = 'Phones'\nhttp-secret = 'x'",
        "table = 'Phones'\nstream-arn = 'arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/x'",
    ];
    for content in wrong {
        let path = file(content);
        assert!(!accepts(&path), "{content}");
        assert_eq!(complaints(&python, &fixture, &[path]).len(), 1, "{content}");
    }
}
