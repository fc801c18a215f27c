//! `shardkeeper status --watch`, in a terminal and in a pipe.

use std::process::{Command, Stdio};

use serde_json::json;

use super::harness::{Harness, Worker};
use crate::support::local_service::signal;
use crate::support::terminal::Terminal;
use crate::support::wait::{eventually, wait_for};

/// A fleet of two with four shards, two each.
fn fleet(name: &'static str) -> (Harness, Worker, Worker) {
    let harness = Harness::new(name, 4);
    let workers = (harness.worker("w-1"), harness.worker("w-2"));
    harness.wait_for_status("two shards each", |status| {
        let shares = status["workers"].as_array().expect("workers").iter().map(|worker| &worker["shards"]);
        shares.eq([&json!(2), &json!(2)]) && status["verdict"]["troubles"] == json!([])
    });
    (harness, workers.0, workers.1)
}

fn watch(harness: &Harness) -> Command {
    let mut command = harness.command();
    command.args(["status", "--watch", "--interval", "1s"]);
    command
}

fn is_any_cell_colored(screen: &vt100::Screen) -> bool {
    let (rows, columns) = screen.size();
    let mut cells = (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |column| (row, column)));
    cells.any(|(row, column)| {
        screen
            .cell(row, column)
            .is_some_and(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
    })
}

#[test]
fn a_watch_fills_its_window_shows_a_take_over_and_leaves_the_terminal_as_it_was() {
    let (harness, _survivor, victim) = fleet("watch");
    let terminal = Terminal::start(&watch(&harness), (30, 110));
    let screen = terminal.wait("picture", |text| text.contains("All is well: 2 workers read 4 shards"));
    assert!(screen.alternate_screen() && screen.hide_cursor());
    assert!(is_any_cell_colored(&screen), "no color");
    let text = screen.contents();
    for part in ["audit on Phones", "WORKERS", "w-1  ██████████░░░░░░░░░░  2 shards", "SHARDS BY LAG", "reading"]
    {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(text.matches("shardId-").count(), 4, "{text}");

    drop(victim);
    terminal.wait("silence", |text| text.contains("worker w-2 is silent") && text.contains("WAITING"));
    let screen = terminal.wait("take-over", |text| {
        text.contains("All is well: 1 worker reads 4 shards") && text.matches("worker w-1 took shard").count() == 2
    });
    assert!(screen.contents().contains("worker w-2 was found dead"), "{}", screen.contents());

    // A window of another size is filled at once, and nothing runs over its edge.
    terminal.resize(12, 44);
    let screen = terminal.wait("smaller picture", |text| text.contains("… and") && !text.contains("shardId-"));
    assert!(screen.contents().contains("All is well: 1 worker reads"), "{}", screen.contents());
    terminal.resize(3, 12);
    terminal.wait("picture in a very small window", |text| {
        text.starts_with("audit on Ph\n") || text.starts_with("audit on Pho")
    });
    terminal.resize(30, 110);
    terminal.wait("whole picture", |text| text.contains("EVENTS"));
    terminal.type_in("x");
    terminal.type_in("q");
    terminal.ends_as_it_was();
}

#[test]
fn a_watch_without_color_ends_by_ctrl_c_or_a_signal_and_leaves_the_terminal_as_it_was() {
    let (harness, first, second) = fleet("watch-plain");
    let mut command = watch(&harness);
    command.env("NO_COLOR", "1");
    let terminal = Terminal::start(&command, (24, 80));
    let screen = terminal.wait("picture", |text| text.contains("All is well"));
    assert!(screen.alternate_screen() && !is_any_cell_colored(&screen), "color");
    terminal.type_in("\u{3}");
    terminal.ends_as_it_was();

    let terminal = Terminal::start(&command, (24, 80));
    terminal.wait("picture", |text| text.contains("All is well"));
    signal(terminal.program(), "TERM");
    terminal.ends_as_it_was();

    // Without an answer it says so, keeps the last picture, and recovers.
    let terminal = Terminal::start(&command, (24, 80));
    terminal.wait("picture", |text| text.contains("All is well"));
    harness.faults(&json!({"rules": [{"share": 1, "code": "AccessDeniedException", "operations": ["Scan"]}]}));
    terminal.wait("reason", |text| text.contains("Cannot look:") && text.contains("WORKERS"));
    harness.faults(&json!({}));
    terminal.wait("recovery", |text| !text.contains("Cannot look:"));
    drop((first, second));
    terminal.wait("note", |text| text.contains("NOTE\nno worker is alive: nothing is read"));
    terminal.type_in("q");
    terminal.ends_as_it_was();
}

#[test]
fn a_watch_in_a_pipe_prints_a_line_for_each_look_and_one_for_each_event() {
    let (harness, _survivor, victim) = fleet("watch-pipe");
    let name = format!("watch-pipe-{}", std::process::id());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = std::fs::File::create(&path).expect("a file");
    let mut process = watch(&harness).stdout(output).stderr(Stdio::inherit()).spawn().expect("it starts");
    let read = || std::fs::read_to_string(&path).expect("the file");
    wait_for("three looks", || read().lines().count() >= 3);
    let text = read();
    let looks = text.lines().all(|line| line.contains("Z  All is well: 2 workers read 4 shards; the lag is"));
    assert!(looks && !text.contains('\u{1b}'), "{text}");

    drop(victim);
    wait_for("the take-over", || read().matches("\n  worker w-1 took shard").count() == 2);
    signal(&process, "INT");
    let status = eventually("the end", || process.try_wait().expect("its state"));
    assert!(status.success(), "{status}");
    drop(std::fs::remove_file(&path));
}

#[test]
fn a_watch_of_nothing_fails_as_a_status_does_and_flags_that_contradict_are_refused() {
    let harness = Harness::new("watch-nothing", 1);
    let finished = harness.operator("status --watch");
    assert_eq!((finished.code, finished.stdout.as_str()), (1, ""), "{}", finished.stderr);
    assert!(finished.stderr.contains("there is no application"), "{}", finished.stderr);
    assert_eq!(harness.operator("status --watch --json").code, 64);
}
