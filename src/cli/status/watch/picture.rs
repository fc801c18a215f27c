//! A fleet on one screen: the verdict, workers with their shares, shards by lag, waits and events, as much as fits.

use std::cmp::Reverse;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::{Watched, clock};
use crate::admin::status::{FleetStatus, Severity, ShardStatus, WorkerStatus, length};
use crate::cli::status::table::aligned;
use crate::model::fleet_state::ShardState;

/// The width of a full bar.
const BAR: usize = 20;
/// Windows narrower than this get short shard ids and bars.
const NARROW: usize = 100;
const SHORT_ID: usize = 8;

/// Colors, or none.
#[derive(Clone, Copy)]
pub struct Paint {
    is_colored: bool,
}

/// A titled list.
struct Section {
    title: &'static str,
    lines: Vec<Line<'static>>,
}

impl Paint {
    /// Colors, unless NO_COLOR is set.
    pub fn from_environment() -> Self {
        Self { is_colored: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn color(self, color: Color) -> Style {
        if self.is_colored { Style::new().fg(color) } else { Style::new() }
    }

    fn severity(self, severity: Option<Severity>) -> Style {
        self.color(match severity {
            Some(Severity::Page) => Color::Red,
            Some(Severity::Warn) => Color::Yellow,
            None => Color::Green,
        })
    }
}

/// The lines that fill a window.
pub fn lines(watched: &Watched, width: usize, height: usize, paint: Paint) -> Vec<Line<'static>> {
    let mut lines = header(watched, width, paint);
    let mut sections = sections(watched, width, paint);
    // A title and a blank line each, and a row at least.
    while !sections.is_empty() && lines.len() + 3 * sections.len() > height {
        sections.pop();
    }
    let wanted: Vec<usize> = sections.iter().map(|section| section.lines.len()).collect();
    let rows = height.saturating_sub(lines.len() + 2 * sections.len());
    for (section, share) in sections.into_iter().zip(shares(&wanted, rows)) {
        lines.push(Line::default());
        lines.push(Line::styled(section.title, Modifier::BOLD));
        lines.extend(cut(section.lines, share));
    }
    lines.truncate(height);
    lines
}

fn header(watched: &Watched, width: usize, paint: Paint) -> Vec<Line<'static>> {
    let status = &watched.status;
    let stream = status.stream.arn.as_deref().or(status.stream.bound_arn.as_deref());
    let table = stream.and_then(|arn| arn.split('/').nth(1)).map(|table| format!(" on {table}")).unwrap_or_default();
    let title = format!("{}{table}  {}  (q ends)", status.app, clock(watched.seen_ms));
    let mut lines = vec![Line::styled(title, Modifier::BOLD)];
    if let Some(problem) = &watched.problem {
        let problem = format!("Cannot look: {problem}");
        lines.extend(wrapped(&problem, width).into_iter().map(|line| Line::styled(line, paint.color(Color::Red))));
    }
    let verdict = wrapped(&status.verdict.text, width).into_iter();
    lines.extend(verdict.map(|line| Line::styled(line, paint.severity(status.verdict.severity()))));
    let leader = status.leader.as_ref().map_or("none", |leader| &leader.worker);
    lines.push(Line::raw(format!(
        "leader {leader}; lag at most {}; nothing is trimmed for {}",
        known(status.lag_at_most_ms),
        known(status.trim_headroom_at_least_ms)
    )));
    lines
}

fn sections(watched: &Watched, width: usize, paint: Paint) -> Vec<Section> {
    let status = &watched.status;
    let sentences = |texts: Vec<&String>| -> Vec<Line<'static>> {
        texts.into_iter().flat_map(|text| wrapped(text, width)).map(Line::raw).collect()
    };
    let events = watched.events.iter().map(|(at_ms, event)| {
        let age = length(watched.seen_ms.saturating_sub(*at_ms));
        Line::raw(format!("{age:>5} ago  {event}"))
    });
    let sections = [
        Section { title: "WORKERS", lines: workers(status, width) },
        Section { title: "SHARDS BY LAG", lines: shards(status, width, paint) },
        Section { title: "WAITING", lines: sentences(status.waits.iter().map(|wait| &wait.text).collect()) },
        Section { title: "NOTE", lines: sentences(status.remarks.iter().collect()) },
        Section { title: "EVENTS", lines: events.collect() },
    ];
    sections.into_iter().filter(|section| !section.lines.is_empty()).collect()
}

fn workers(status: &FleetStatus, width: usize) -> Vec<Line<'static>> {
    let total = status.workers.iter().map(|worker| worker.shards).sum::<usize>().max(1);
    let bar_width = if width < NARROW { BAR / 2 } else { BAR };
    let row = |worker: &WorkerStatus| {
        let filled = (worker.shards * bar_width).div_ceil(total);
        let limit = worker.max_leases.map(|limit| format!(" of {limit}")).unwrap_or_default();
        [
            worker.id.clone(),
            format!("{}{}", "█".repeat(filled), "░".repeat(bar_width - filled)),
            format!("{}{limit} shards", worker.shards),
            format!("lag {}", known(worker.lag_ms)),
            worker.throughput_kbps.map(|rate| format!("{rate:.1} KB/s")).unwrap_or_default(),
            if worker.is_leader { format!("{}, leads", worker.state.word()) } else { worker.state.word().to_owned() },
        ]
    };
    let rows: Vec<_> = status.workers.iter().map(row).collect();
    text_lines(&aligned(rows.iter().map(|row| row.as_slice()).collect()))
}

fn shards(status: &FleetStatus, width: usize, paint: Paint) -> Vec<Line<'static>> {
    let mut shards: Vec<&ShardStatus> =
        status.shards.iter().filter(|shard| shard.state != ShardState::Finished).collect();
    // An unknown lag may be any.
    shards.sort_by_key(|shard| (Reverse(shard.lag_at_most_ms.unwrap_or(u64::MAX)), &shard.id));
    let rows: Vec<_> = shards.iter().map(|shard| shard_row(shard, width)).collect();
    let lines = text_lines(&aligned(rows.iter().map(|row| row.as_slice()).collect()));
    let is_held_up =
        |shard: &ShardStatus| shard.halted.is_some() || shard.running_call.is_some() || shard.stall.is_some();
    let is_well = |shard: &ShardStatus| shard.state == ShardState::Reading && !is_held_up(shard);
    let style = |shard: &ShardStatus| if is_well(shard) { Style::new() } else { paint.color(Color::Yellow) };
    lines.into_iter().zip(shards).map(|(line, shard)| line.style(style(shard))).collect()
}

fn shard_row(shard: &ShardStatus, width: usize) -> [String; 5] {
    let state = match shard {
        ShardStatus { halted: Some(_), .. } => "waits at a record",
        ShardStatus { running_call: Some(_), .. } => "call does not return",
        ShardStatus { stall: Some(_), .. } => "makes no progress",
        _ => shard.state.words(),
    };
    let owner = shard.owner.as_deref().unwrap_or("no owner");
    let reader = match &shard.handed_over_by {
        Some(from) => format!("{from} -> {owner}"),
        None => owner.to_owned(),
    };
    [
        if width < NARROW { short(&shard.id) } else { shard.id.clone() },
        state.to_owned(),
        format!("lag {}", known(shard.lag_at_most_ms)),
        format!("headroom {}", known(shard.trim_headroom_at_least_ms)),
        reader,
    ]
}

/// The end of a shard's id, which tells it from the others.
fn short(id: &str) -> String {
    match id.char_indices().rev().nth(SHORT_ID - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &id[at..]),
        _ => id.to_owned(),
    }
}

fn known(ms: Option<u64>) -> String {
    ms.map_or_else(|| "unknown".to_owned(), length)
}

fn text_lines(text: &str) -> Vec<Line<'static>> {
    text.lines().map(|line| Line::raw(line.to_owned())).collect()
}

/// The first `most` lines; the last of them says how many are left out, if some are.
fn cut(mut lines: Vec<Line<'static>>, most: usize) -> Vec<Line<'static>> {
    if lines.len() > most {
        let left_out = lines.len() - most.saturating_sub(1);
        lines.truncate(most.saturating_sub(1));
        lines.push(Line::raw(format!("… and {left_out} more")));
    }
    lines
}

/// Rows shared out fairly: none gets more than it wants, and what one leaves is the others'.
fn shares(wanted: &[usize], rows: usize) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut left = rows;
    while left > 0 && shares != wanted {
        for (share, wanted) in shares.iter_mut().zip(wanted) {
            if *share < *wanted && left > 0 {
                *share += 1;
                left -= 1;
            }
        }
    }
    shares
}

/// A text in lines of at most this many characters, broken between words where that is possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        let last = lines.last_mut().expect("never empty");
        let used = last.chars().count();
        if used > 0 && used + 1 + letters.len() <= width {
            last.push(' ');
            last.extend(letters);
            continue;
        }
        if used > 0 {
            lines.push(String::new());
        }
        while letters.len() > width {
            let rest = letters.split_off(width);
            lines.last_mut().expect("never empty").extend(letters);
            lines.push(String::new());
            letters = rest;
        }
        lines.last_mut().expect("never empty").extend(letters);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_fairly() {
        assert_eq!(shares(&[2, 50, 1, 9], 20), [2, 9, 1, 8]);
        assert_eq!(shares(&[2, 5], 20), [2, 5]);
        assert_eq!(shares(&[2, 5], 1), [1, 0]);
        assert_eq!(shares(&[], 9), [0; 0]);
    }

    #[test]
    fn a_list_that_is_cut_says_how_much_is_left_out() {
        let lines = |count: usize| (0..count).map(|n| Line::raw(n.to_string())).collect::<Vec<_>>();
        let texts = |lines: Vec<Line>| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(cut(lines(5), 3)), ["0", "1", "… and 3 more"]);
        assert_eq!(texts(cut(lines(3), 3)), ["0", "1", "2"]);
        assert_eq!(texts(cut(lines(3), 1)), ["… and 3 more"]);
    }

    #[test]
    fn texts_are_broken_between_words_and_long_words_within() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("a verylongword b", 5), ["a", "veryl", "ongwo", "rd b"]);
        assert_eq!(wrapped("", 5), [""]);
        assert_eq!(wrapped("ab", 0), ["a", "b"]);
    }

    #[test]
    fn short_ids_keep_the_part_that_tells_shards_apart() {
        assert_eq!(short("shardId-00000001764074570000-1a2b3c4d"), "…1a2b3c4d");
        assert_eq!(short("s-1"), "s-1");
        assert_eq!(short("12345678"), "12345678");
    }
}
