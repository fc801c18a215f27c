//! `shardkeeper status --watch`: one look after the other, and the events between them.

mod picture;
mod screen;

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::pin::pin;

use anyhow::Context;
use tokio::time::{Instant, sleep_until};

use self::screen::{Input, Screen};
use super::{LISTING_AGE, StatusReader, affordable_pause};
use crate::admin::status::{FleetStatus, changes};
use crate::aws::{format_time, with_causes};
use crate::cli::args::status::StatusArgs;
use crate::cli::{output, signals};
use crate::consumer::WallClock;

/// The number of events that are kept.
const EVENTS: usize = 200;

/// The fleet as it was last seen.
struct Watched {
    status: FleetStatus,
    seen_ms: u64,
    /// The events so far with their times, the last one first.
    events: VecDeque<(u64, String)>,
    /// The reason why the last look failed.
    problem: Option<String>,
}

/// The place where the looks are shown.
enum View {
    Screen(Screen),
    Lines,
}

/// Looks at the fleet until somebody asks to stop.
///
/// # Errors
/// When the first look fails, or the output does.
pub async fn watch(args: &StatusArgs) -> Result<(), anyhow::Error> {
    let mut stop = pin!(signals::first_stop().context("cannot handle signals")?);
    let mut view = None;
    let mut watched: Option<Watched> = None;
    let mut reader = None;
    loop {
        let began = Instant::now();
        let look = async {
            // A reader that failed is not used again.
            let mut used: StatusReader = match reader.take() {
                Some(used) => used,
                None => super::reader(args).await?,
            };
            let status = used.read(LISTING_AGE).await?;
            reader = Some(used);
            Ok::<_, anyhow::Error>(status)
        };
        let outcome = tokio::select! {
            outcome = look => outcome,
            () = asked_to_end(&mut view, watched.as_ref()) => return Ok(()),
            _ = &mut stop => return Ok(()),
        };
        let events = match (outcome, &mut watched) {
            (Ok(status), Some(watched)) => watched.update(status),
            (Ok(status), None) => {
                watched = Some(Watched::new(status));
                Vec::new()
            }
            (Err(error), Some(watched)) => {
                watched.problem = Some(with_causes(&*error));
                Vec::new()
            }
            (Err(error), None) => return Err(error),
        };
        let Some(seen) = &watched else { continue };
        if view.is_none() {
            view = Some(View::new().context("cannot take over the terminal")?);
        }
        match &mut view {
            Some(View::Screen(screen)) => screen.draw(seen).map_err(output::from_stdout)?,
            _ => output::print(&seen.lines(&events))?,
        }
        let next = began + args.interval.max(affordable_pause(&seen.status));
        tokio::select! {
            () = sleep_until(next) => {}
            () = asked_to_end(&mut view, watched.as_ref()) => return Ok(()),
            _ = &mut stop => return Ok(()),
        }
    }
}

/// Waits until somebody asks to end on the screen. Meanwhile a window of another size is filled again.
async fn asked_to_end(view: &mut Option<View>, watched: Option<&Watched>) {
    let (Some(View::Screen(screen)), Some(watched)) = (view, watched) else { return std::future::pending().await };
    while let Input::Redraw = screen.input().await {
        if screen.draw(watched).is_err() {
            return;
        }
    }
}

impl View {
    /// A full screen where there is a terminal to read keys from and to draw on.
    ///
    /// # Errors
    /// When the terminal can't be switched to full screen.
    fn new() -> io::Result<Self> {
        let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
        let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        if is_terminal && !is_dumb { Screen::start().map(Self::Screen) } else { Ok(Self::Lines) }
    }
}

impl Watched {
    fn new(status: FleetStatus) -> Self {
        Self { status, seen_ms: WallClock::System.now_ms(), events: VecDeque::new(), problem: None }
    }

    /// Takes over a later status, and returns the events that led to it.
    fn update(&mut self, status: FleetStatus) -> Vec<String> {
        let events = changes(&self.status, &status);
        (self.seen_ms, self.status, self.problem) = (WallClock::System.now_ms(), status, None);
        events.iter().for_each(|event| self.events.push_front((self.seen_ms, event.clone())));
        self.events.truncate(EVENTS);
        events
    }

    /// A look as lines: the verdict, and the events since the look before.
    fn lines(&self, events: &[String]) -> String {
        let sentence = match &self.problem {
            Some(problem) => format!("cannot look: {problem}"),
            None => self.status.verdict.text.clone(),
        };
        let now = WallClock::System.now_ms();
        let mut text = format!("{}  {sentence}\n", clock(now));
        events.iter().for_each(|event| text.push_str(&format!("  {event}\n")));
        text
    }
}

/// A time of day (ms since the epoch) in ISO 8601.
fn clock(ms: u64) -> String {
    i64::try_from(ms / 1_000).ok().and_then(format_time).unwrap_or_default()
}
