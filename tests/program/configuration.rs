//! The program's configuration as a user meets it: flags, environment, file, help, mistakes and exit codes.

use std::path::PathBuf;

use crate::support::{Finished, finish, run_in, shardkeeper};

/// A folder of the test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let name = format!("{test}-{}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// A folder with a configuration file `shardkeeper.toml`.
    fn with_file(test: &str, content: &str) -> Folder {
        let folder = Folder::new(test);
        std::fs::write(folder.0.join("shardkeeper.toml"), content).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The build's own folder for such things takes leftovers.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(line: &str) -> Finished {
    finish(shardkeeper().args(line.split_whitespace()))
}

/// The mistakes that the program told, one a line, after checking that it refused with nothing on standard output.
fn mistakes(finished: &Finished) -> Vec<String> {
    assert_eq!(finished.code, 64, "{}", finished.stderr);
    assert_eq!(finished.stdout, "");
    let (heading, rest) = finished.stderr.split_once('\n').unwrap();
    assert!(heading.starts_with("error: "), "{heading}");
    rest.lines().map(|line| line.trim().to_string()).collect()
}

/// The value and origin that `--print-config` shows for `key`.
fn printed(finished: &Finished, key: &str) -> (String, String) {
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let line = finished
        .stdout
        .lines()
        .find(|line| line.split_whitespace().next() == Some(key))
        .unwrap_or_else(|| panic!("no {key} in\n{}", finished.stdout));
    let (setting, origin) = line.split_once("  # ").unwrap();
    let (_, value) = setting.split_once(" = ").unwrap();
    (value.trim().to_string(), origin.to_string())
}

const MINIMAL: &str = "run --table Phones --app audit";

#[test]
fn every_kind_of_mistake_in_values_is_told_at_once_with_its_place() {
    let file = "\
idle-poll = \"1s\"
lease-duration = 5

[fleet]
size = 3
[unrelated]
";
    let folder = Folder::with_file("every-kind", file);
    let mut command = shardkeeper();
    command
        .current_dir(&folder.0)
        .env("SHARDKEEPER_CHECKPOINT_INTERVAL", "soon")
        .env("SHARDKEEPER_LEASE_DURATON", "5s")
        .args("run --config shardkeeper.toml --lease-duration 5x".split(' '));
    let told = mistakes(&finish(&mut command));
    assert_eq!(
        told,
        [
            "SHARDKEEPER_LEASE_DURATON (environment): unknown variable; did you mean \
             \"SHARDKEEPER_LEASE_DURATION\"?",
            "shardkeeper.toml:4: unknown key \"fleet\"",
            "shardkeeper.toml:6: unknown key \"unrelated\"",
            "--lease-duration (command line): \"5x\" is not a duration; write 500ms, 5s or 2m",
            "shardkeeper.toml:2: lease-duration: \"5\" has no unit; write 5s for seconds, 5ms for milliseconds",
            "SHARDKEEPER_CHECKPOINT_INTERVAL (environment): \"soon\" is not a duration; write 500ms, 5s or 2m",
            "--table NAME|ARN or --stream-arn ARN is missing: give it as a flag, as SHARDKEEPER_TABLE or \
             SHARDKEEPER_STREAM_ARN in the environment, or as table = \"…\" or stream-arn = \"…\" in the --config file",
            "--app NAME is missing: give it as a flag, as SHARDKEEPER_APP in the environment, or as app = \"…\" in the \
             --config file",
        ]
    );
}

#[test]
fn mistakes_in_values_and_in_combinations_are_told_together() {
    let mut command = shardkeeper();
    command.env("SHARDKEEPER_CONCURRENCY", "4").env("SHARDKEEPER_ON_FAILURE", "skip");
    let line = format!("{MINIMAL} --shard-concurrency 5 --min-workers 3 --max-workers 2 --idle-poll 1y");
    assert_eq!(
        mistakes(&finish(command.args(line.split(' ')))),
        [
            "--idle-poll (command line): \"1y\" is not a duration; write 500ms, 5s or 2m",
            "SHARDKEEPER_ON_FAILURE (environment): without a limit no record is given up; give --retry-attempts or \
             --max-record-age too",
            "--max-workers (command line): 2 is less than 3, --min-workers (command line)",
            "--shard-concurrency (command line): is more than concurrency, the limit over all shards, allows",
        ]
    );
}

#[test]
fn mistakes_of_syntax_are_told_as_clap_tells_them() {
    for (flags, words) in [
        ("--leaseduration=5s", "a similar argument exists: '--lease-duration'"),
        ("--app other", "the argument '--app <NAME>' cannot be used multiple times"),
        ("Phones", "unexpected argument 'Phones' found"),
        ("--to", "a value is required for '--to <stdout|null|URL|multilang:COMMAND>'"),
    ] {
        let finished = run(&format!("{MINIMAL} {flags}"));
        assert_eq!((finished.code, &*finished.stdout), (64, ""));
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
}

#[test]
fn a_misspelt_key_in_the_file_is_told_with_its_line_and_the_right_spelling() {
    let file = "app = \"audit\"\n# a comment\n\ntable = \"Phones\"\n\nmax-leases = 3\nchekpoint-interval = \"5s\"\n";
    let folder = Folder::with_file("misspelt", file);
    let told = mistakes(&run_in(&folder.0, "run --config shardkeeper.toml"));
    let expected = "shardkeeper.toml:7: unknown key \"chekpoint-interval\"; did you mean \"checkpoint-interval\"?";
    assert_eq!(told, [expected]);
}

#[test]
fn wrong_types_in_the_file_are_told_with_their_lines() {
    let file = "\
app = \"audit\"
table = [\"Phones\"]
max-leases = \"three\"
until-caught-up = \"yes\"
buffer-bytes = 1.5
start = true
";
    let folder = Folder::with_file("wrong-types", file);
    let told = mistakes(&run_in(&folder.0, "run --table Phones --config shardkeeper.toml"));
    assert_eq!(
        told,
        [
            "shardkeeper.toml:2: table: needs a string in quotes, an integer, true or false, not a TOML array",
            "shardkeeper.toml:5: buffer-bytes: needs a string in quotes, an integer, true or false, not a TOML float",
            "shardkeeper.toml:6: start: \"true\" is no position; write trim-horizon, latest, a time such as 2026-01-31T12:00:00Z, or an age such as 6h",
            "shardkeeper.toml:4: until-caught-up: \"yes\" is neither true nor false",
            "shardkeeper.toml:3: max-leases: \"three\" is not a whole number",
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_is_told_with_the_line_and_nothing_else_is_called_missing() {
    let folder = Folder::with_file("not-toml", "app = \"audit\"\ntable Phones\n");
    let line = "run --config shardkeeper.toml --idle-poll 1y";
    let told = mistakes(&run_in(&folder.0, line));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("shardkeeper.toml:2: not TOML: "), "{told:?}");
    assert!(told[1].starts_with("--idle-poll (command line): \"1y\""), "{told:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_who_named_it() {
    let told = mistakes(&run(&format!("{MINIMAL} --config /nowhere/x.toml")));
    assert!(told[0].starts_with("--config (command line): cannot read \"/nowhere/x.toml\""), "{told:?}");
    let mut command = shardkeeper();
    command.env("SHARDKEEPER_CONFIG", "/nowhere/y.toml");
    let told = mistakes(&finish(command.args(MINIMAL.split(' '))));
    assert!(told[0].starts_with("SHARDKEEPER_CONFIG (environment): cannot read"), "{told:?}");
    assert_eq!(told.len(), 1);
}

#[test]
fn a_table_and_a_stream_together_are_refused_naming_both_places() {
    let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/Phones/stream/2026-01-31T12:00:00.000";
    let folder = Folder::with_file("conflict", &format!("app = \"audit\"\nstream-arn = \"{arn}\"\n"));
    let mut command = shardkeeper();
    command.current_dir(&folder.0).env("SHARDKEEPER_TABLE", "Phones").args(["run", "--config=shardkeeper.toml"]);
    assert_eq!(
        mistakes(&finish(&mut command)),
        ["SHARDKEEPER_TABLE (environment) and shardkeeper.toml:2: stream-arn exclude each other: give one of them"]
    );
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file_and_that_before_defaults() {
    let file = "idle-poll = \"2s\"\nlease-duration = \"20s\"\ncheckpoint-interval = \"21s\"\n";
    let folder = Folder::with_file("precedence", file);
    let mut command = shardkeeper();
    command
        .current_dir(&folder.0)
        .env("SHARDKEEPER_CONFIG", "shardkeeper.toml")
        .env("SHARDKEEPER_LEASE_DURATION", "30s")
        .env("SHARDKEEPER_CHECKPOINT_INTERVAL", "31s")
        .env("SHARDKEEPER_REGION", "")
        .args(MINIMAL.split(' '))
        .args(["--print-config", "--checkpoint-interval", "41s"]);
    let finished = finish(&mut command);
    let value_of = |key| printed(&finished, key);
    let pair = |value: &str, origin: &str| (value.to_string(), origin.to_string());
    assert_eq!(value_of("checkpoint-interval"), pair("\"41s\"", "command line"));
    assert_eq!(value_of("lease-duration"), pair("\"30s\"", "environment"));
    assert_eq!(value_of("idle-poll"), pair("\"2s\"", "shardkeeper.toml:1"));
    assert_eq!(value_of("drain-timeout"), pair("\"25s\"", "default"));
    assert!(finished.stdout.contains("# region "), "an empty variable gives nothing");
}

#[test]
fn a_wrong_value_is_told_even_where_a_flag_hides_it() {
    let mut command = shardkeeper();
    command.env("SHARDKEEPER_IDLE_POLL", "1x");
    let told = mistakes(&finish(command.args(MINIMAL.split(' ')).arg("--idle-poll=1s")));
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("SHARDKEEPER_IDLE_POLL (environment): \"1x\""), "{told:?}");
}

#[test]
fn what_print_config_prints_reads_back_as_the_same_configuration() {
    let line = format!("{MINIMAL} --print-config --until-caught-up --max-leases 7 --worker-id w-1");
    let first = run(&line);
    assert_eq!(printed(&first, "until-caught-up").0, "true");
    let folder = Folder::with_file("read-back", &first.stdout);
    let second = run_in(&folder.0, "run --config shardkeeper.toml --print-config");
    let settings = |finished: &Finished| -> Vec<String> {
        let lines = finished.stdout.lines();
        let settings = lines.filter_map(|line| line.split("  #").next());
        settings.map(|line| line.trim_end().to_string()).collect()
    };
    assert_eq!(second.code, 0, "{}", second.stderr);
    assert_eq!(settings(&first), settings(&second));
}

/// One way to give filters.
fn with_filters(place: &str) -> Finished {
    let (first, second) = (r#"{"eventName":["INSERT"]}"#, r#"{"dynamodb":{"Keys":{"id":{"N":["7"]}}}}"#);
    let file = format!("table = \"Phones\"\napp = \"audit\"\nfilter = ['{first}', '{second}']\n");
    let folder = Folder::with_file(&format!("filters-{place}"), &file);
    let mut command = shardkeeper();
    command.current_dir(&folder.0).args(["run", "--print-config"]);
    match place {
        "flags" => command.args(MINIMAL.split(' ').skip(1)).args(["--filter", first, &format!("--filter={second}")]),
        "environment" => {
            command.args(MINIMAL.split(' ').skip(1)).env("SHARDKEEPER_FILTER", format!("[{first}, {second}]"))
        }
        _ => command.args(["--config", "shardkeeper.toml"]),
    };
    finish(&mut command)
}

#[test]
fn several_filters_are_given_by_repeated_flags_or_arrays() {
    let array = r#"['{"eventName":["INSERT"]}', '{"dynamodb":{"Keys":{"id":{"N":["7"]}}}}']"#;
    assert_eq!(printed(&with_filters("flags"), "filter"), (array.into(), "command line".into()));
    assert_eq!(printed(&with_filters("file"), "filter"), (array.into(), "shardkeeper.toml:3".into()));
    let text = r#"['[{"eventName":["INSERT"]}, {"dynamodb":{"Keys":{"id":{"N":["7"]}}}}]']"#;
    assert_eq!(printed(&with_filters("environment"), "filter"), (text.into(), "environment".into()));

    let mut command = shardkeeper();
    command.env("SHARDKEEPER_FILTER", r#"[{"a":["x"]},{"a":[]}]"#).args(MINIMAL.split(' '));
    let told = mistakes(&finish(&mut command));
    assert!(
        told[0].starts_with("SHARDKEEPER_FILTER (environment): pattern 2: a: an empty array matches nothing"),
        "{told:?}"
    );
    let folder = Folder::with_file("filter-type", "filter = [1]\n");
    let told = mistakes(&run_in(&folder.0, &format!("{MINIMAL} --config shardkeeper.toml")));
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("shardkeeper.toml:1: filter: "), "{told:?}");
}

#[test]
fn print_config_refuses_a_wrong_configuration() {
    assert_eq!(mistakes(&run("run --print-config --table Phones")).len(), 1);
}

#[test]
fn settings_of_delivery_that_make_no_sense_together_are_refused_by_name() {
    for (flags, words) in [
        ("--on-failure skip", "--on-failure (command line): without a limit no record is given up"),
        (
            "--on-failure dead-letter --bisect false",
            "--on-failure (command line): without a limit no record is given up",
        ),
        ("--batch-window 1s", "--batch-window (command line): a batch without a size has nothing to fill up to"),
        (
            "--concurrency 4 --shard-concurrency 5",
            "--shard-concurrency (command line): is more than concurrency, the limit over all shards, allows",
        ),
        ("--batch-size 0", "--batch-size (command line): 0 is out of range: from 1 to 10000"),
        ("--batch-bytes 5MiB", "--batch-bytes (command line): 5MiB is too much"),
        ("--retry-attempts=-1", "--retry-attempts (command line): \"-1\" is not a whole number"),
    ] {
        let told = mistakes(&run(&format!("run --table Things --app test-app {flags}")));
        assert!(told.len() == 1 && told[0].contains(words), "{flags}: {told:?}");
    }
    for flags in [
        "--on-failure skip --max-record-age 1h",
        "--batch-window 1s --batch-bytes 1MiB --concurrency 4",
        "--to http://127.0.0.1:9/ --batch-window 2s",
    ] {
        assert_eq!(run(&format!("run --table Things --app test-app --print-config {flags}")).code, 0, "{flags}");
    }
}

#[test]
fn variables_that_kubernetes_injects_for_a_service_are_passed_over() {
    let mut command = shardkeeper();
    command
        .env("SHARDKEEPER_SERVICE_HOST", "10.0.0.1")
        .env("SHARDKEEPER_SERVICE_PORT", "80")
        .env("SHARDKEEPER_SERVICE_PORT_HTTP", "80")
        .env("SHARDKEEPER_PORT", "tcp://10.0.0.1:80")
        .env("SHARDKEEPER_PORT_80_TCP_ADDR", "10.0.0.1")
        .args(MINIMAL.split(' '))
        .arg("--print-config");
    assert_eq!(finish(&mut command).code, 0);
}

#[test]
fn single_values_are_checked_against_what_they_are_for() {
    for (flags, message) in [
        ("--lease-duration=11m", "--lease-duration (command line): 11m is out of range: from 1s to 10m"),
        ("--buffer-bytes=64M", "--buffer-bytes (command line): \"64M\" is not a number of bytes"),
        ("--max-leases=0", "--max-leases (command line): 0 is out of range"),
        ("--metrics-addr=9464", "--metrics-addr (command line): \"9464\" is not an IP address and a port"),
        ("--endpoint-url=localhost:8000", "--endpoint-url (command line): \"localhost:8000\" is not a URL"),
        ("--start=now", "--start (command line): \"now\" is no position; write trim-horizon, latest, a time"),
        ("--on-gap=", "--on-gap (command line): \"\" is not one of: continue, stop"),
        ("--log-level=inof", "--log-level (command line): \"inof\" is neither a level"),
        ("--until-caught-up=maybe", "--until-caught-up (command line): \"maybe\" is neither true nor false"),
        ("--filter={}", "--filter (command line): an object without fields says nothing"),
        ("--filter={\"a\":{\"b\":1}}", "--filter (command line): a.b: a field takes an array"),
        ("--filter=[]", "--filter (command line): an empty array is no filter"),
        ("--events=insert,update", "--events (command line): \"update\" is no event; write insert, modify, remove"),
    ] {
        let told = mistakes(&run(&format!("{MINIMAL} {flags}")));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(message), "{told:?}");
    }
}

#[test]
fn an_application_name_that_cannot_name_both_tables_is_refused() {
    let told = mistakes(&run(&format!("run --table Phones --app {}", "a".repeat(250))));
    assert!(told[0].contains("it needs from 3 to 249"), "{told:?}");
}

#[test]
fn the_default_worker_id_is_the_host_name_and_the_process_id() {
    let mut command = shardkeeper();
    command.env("HOSTNAME", "pod-7").args(MINIMAL.split(' ')).arg("--print-config");
    let (value, origin) = printed(&finish(&mut command), "worker-id");
    let process_id = value.trim_matches('"').strip_prefix("pod-7-").unwrap();
    assert!(process_id.parse::<u32>().is_ok(), "{value}");
    assert_eq!(origin, "default");
}

#[test]
fn help_names_each_option_with_its_default_and_its_variable() {
    let help = run("run --help");
    assert_eq!(help.code, 0);
    let text = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("--lease-duration <DURATION>"), "{text}");
    assert!(text.contains("[env: SHARDKEEPER_LEASE_DURATION] [default: 5s]"), "{text}");
    assert!(text.contains("Must be given [env: SHARDKEEPER_APP]"), "{text}");
    assert!(!text.contains("--http-secret "), "a secret is no flag: {text}");
    assert_eq!(run("help run").stdout, help.stdout);
}

#[test]
fn help_and_version_of_the_program_exit_with_0() {
    let help = run("--help");
    assert_eq!(help.code, 0);
    for name in ["run", "local", "demo", "status", "lease", "dead-letters"] {
        assert!(help.stdout.contains(&format!("\n  {name} ")), "{}", help.stdout);
    }
    let version = run("--version");
    assert_eq!(version.code, 0);
    assert_eq!(version.stdout, format!("shardkeeper {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_missing_or_unknown_command_exits_with_64() {
    for (line, words) in [
        ("", "Usage: shardkeeper <COMMAND>"),
        ("lease", "Usage: shardkeeper lease <COMMAND>"),
        ("rum", "unrecognized subcommand 'rum'"),
        ("--table Phones", "unexpected argument '--table'"),
    ] {
        let finished = run(line);
        assert_eq!((finished.code, &*finished.stdout), (64, ""));
        assert!(finished.stderr.contains(words), "{}", finished.stderr);
    }
}

#[test]
fn secrets_are_refused_on_the_command_line_and_in_the_file() {
    let folder = Folder::with_file("secrets", "http-secret = \"0123456789abcdef\"\n");
    let line = format!("{MINIMAL} --config shardkeeper.toml --http-secret 0123456789abcdef");
    assert_eq!(
        mistakes(&run_in(&folder.0, &line)),
        [
            "--http-secret (command line): everybody on the machine could read it there; set SHARDKEEPER_HTTP_SECRET \
             in the environment",
            "shardkeeper.toml:1: unknown key \"http-secret\"; did you mean \"http-secret-file\"?",
        ]
    );
}

#[test]
fn local_and_demo_take_flags_only_and_tell_all_their_mistakes() {
    let mut command = shardkeeper();
    // A service called shardkeeper in Kubernetes sets this one: it must not become an option.
    command.env("SHARDKEEPER_PORT", "nonsense");
    command.env("SHARDKEEPER_LOG_LEVEL", "nonsense");
    let line = "local --port 70000 --shards 0 --clock noon";
    let told = mistakes(&finish(command.args(line.split(' '))));
    assert_eq!(
        told,
        [
            "--port (command line): 70000 is out of range: from 0 to 65535",
            "--shards (command line): 0 is out of range: from 1 to 10000",
            "--clock (command line): \"noon\" is not a whole number; write real, or milliseconds since 1970",
        ]
    );
    let told = mistakes(&run("demo --for 1 --keep-going=perhaps"));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn help_into_a_closed_pipe_ends_quietly() {
    use std::process::{Command, Stdio};
    let mut closed = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = closed.stdin.take().unwrap();
    closed.wait().unwrap();
    let finished = finish_into(shardkeeper().args(["run", "--help"]), pipe.into());
    assert_eq!(finished, (0, String::new()));
}

/// Runs `command` with its standard output into `stdout`; its exit code and standard error.
fn finish_into(command: &mut std::process::Command, stdout: std::process::Stdio) -> (i32, String) {
    let child = command.stdout(stdout).stderr(std::process::Stdio::piped());
    let output = child.spawn().unwrap().wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), stderr)
}
