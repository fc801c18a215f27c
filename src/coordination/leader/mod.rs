//! The leader's work, and every worker's readiness to take it over.
//!
//! All workers observe the fleet table (`election`). The one whose name is on the leader's record, while its heartbeat
//! lives, leads: it lists the shards, makes missing leases and deletes finished ones (`shard_sync`), gives the leases
//! of the dead to the living and evens out the rest (`assign`), and works out the application's lag (`app_metrics`).
//! A paused leader that wakes up does no harm: each of its writes is conditional on the row it saw.

mod app_metrics;
mod assign;
mod election;
mod foreign_leases;
mod kcl_signs;
mod shard_sync;
mod state;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::election::Election;
use self::state::LeaderState;
use super::{Deps, Error, Notice};
use crate::aws::{TableError, stream};
use crate::consumer::FatalError;
use crate::error::Refusals;
use crate::model::fleet_view::FleetView;
use crate::model::lease::WorkerId;
use crate::model::shard_directory::Listing;
use crate::telemetry::Loop;
use crate::telemetry::scope::inherit;

/// The interval at which a leader reads leases that are being handed over.
const HAND_OFF_INTERVAL: Duration = Duration::from_millis(200);
/// The least time between two rounds.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);
/// Calls of the leader under way at once.
const CALLS_AT_ONCE: usize = 16;
/// The most rounds of assignments in a row, while writes meet rows that are younger than thought.
const ASSIGNMENT_ROUNDS: usize = 3;

/// One worker's part in leading the fleet.
pub(super) struct Leader {
    election: Election,
    /// While this worker leads.
    state: Option<LeaderState>,
    refusals: Refusals,
}

impl Leader {
    pub(super) fn new(
        deps: Deps,
        view_sender: watch::Sender<FleetView>,
        notices: mpsc::UnboundedSender<Notice>,
        rng: Rng,
    ) -> Self {
        Self { election: Election::new(deps, view_sender, notices, rng), state: None, refusals: Refusals::default() }
    }

    /// Observes the fleet, and leads it when it is this worker's turn, until an error ends the worker.
    pub(super) async fn run(mut self) -> Error {
        loop {
            let started = Instant::now();
            match self.round().await {
                Ok(()) => {}
                Err(Error::Table(error)) if self.refusals.allow(&error) => {
                    tracing::debug!(%error, "leading failed, retrying");
                }
                Err(error) => return error,
            }
            let next = self.next_round(started);
            self.election.deps.telemetry.loop_tick(Loop::Leader, next);
            let lists_first = self.state.as_ref().is_some_and(|state| state.first_pages.is_some());
            let directory = self.election.deps.directory.clone();
            let listing = tokio::select! {
                biased;
                listing = next_listing(self.state.as_mut()) => listing,
                pages = directory.pages(), if lists_first => {
                    if let Some(listed) = self.state.as_mut().and_then(|state| state.first_pages.as_mut()) {
                        pages.iter().for_each(|shard| listed.insert(shard.clone()));
                    }
                    continue;
                }
                () = tokio::time::sleep_until(next) => continue,
            };
            if let Err(error) = self.note_listing(listing) {
                return error;
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        if self.election.observe().await? {
            self.state = None;
        }
        if self.election.leads() {
            return self.state.get_or_insert_with(LeaderState::new).lead(&mut self.election).await;
        }
        if self.state.take().is_some() {
            let leader = self.election.view.leadership.as_ref().and_then(|leadership| leadership.worker.as_ref());
            tracing::info!(leader = leader.map(WorkerId::as_str), "this worker no longer leads the fleet");
        }
        self.election.deps.telemetry.set_app(None);
        Ok(())
    }

    fn next_round(&self, last: Instant) -> Instant {
        let lease_duration = self.election.deps.options.lease_duration;
        let interval = match &self.state {
            Some(state) if !state.hand_offs.is_empty() => HAND_OFF_INTERVAL.min(lease_duration / 10),
            Some(_) => lease_duration / 10,
            None if self.election.is_standby() => lease_duration / 10,
            None => lease_duration,
        };
        // The first read after a worker's time is up proves its death: it is made not a moment later than needed.
        let next_expiry = self.election.next_expiry().unwrap_or(last + interval);
        (last + interval).min(next_expiry).max(last + LEAST_INTERVAL)
    }

    fn note_listing(&mut self, listing: Result<Arc<Listing>, stream::Error>) -> Result<(), Error> {
        let Some(state) = &mut self.state else { return Ok(()) };
        match listing {
            Ok(listing) => state.note_listing(listing, self.election.deps.options.describe_stream_rate),
            Err(stream::Error::NotFound(reason)) => return Err(FatalError::StreamGone(reason).into()),
            Err(error) => {
                state.rests_since = Some(Instant::now());
                tracing::error!(%error, "listing the stream's shards was refused");
            }
        }
        Ok(())
    }
}

/// Resolves when a listing that was begun has come in.
async fn next_listing(state: Option<&mut LeaderState>) -> Result<Arc<Listing>, stream::Error> {
    if let Some(state) = state {
        while let Some(listing) = state.lister.join_next().await {
            if let Ok(listing) = listing {
                return listing;
            }
        }
    }
    std::future::pending().await
}

impl LeaderState {
    async fn lead(&mut self, election: &mut Election) -> Result<(), Error> {
        let outcome = self.act(election).await;
        self.update_app_metrics(election);
        outcome
    }

    async fn act(&mut self, election: &mut Election) -> Result<(), Error> {
        let now = Instant::now();
        if self.scanned.is_none_or(|at| at + self.scan_interval <= now) {
            self.scan(election).await?;
        } else {
            self.refresh_hand_offs(election).await?;
        }
        if self.should_list(now) && self.lister.is_empty() {
            self.begin_listing(election);
        }
        self.check_foreign_leases(election).await?;
        if !self.is_clear {
            return Ok(());
        }
        let mut hints = self.sync_shards(election).await?;
        let mut outcome = Ok(true);
        for _ in 0..ASSIGNMENT_ROUNDS {
            outcome = self.assign(election, &mut hints).await;
            if !matches!(outcome, Ok(true)) {
                break;
            }
        }
        election.send_hints(hints).await;
        outcome?;
        self.forget_the_dead(election).await?;
        self.check_end_of_stream(election);
        Ok(())
    }
}

/// Makes a call for each item, some at once, and returns the results in any order.
async fn concurrently<I, T, C>(items: Vec<I>, call: impl Fn(I) -> C) -> Vec<Result<T, TableError>>
where
    T: Send + 'static,
    C: Future<Output = Result<T, TableError>> + Send + 'static,
{
    let mut results = Vec::with_capacity(items.len());
    let mut calls = JoinSet::new();
    for item in items {
        while calls.len() >= CALLS_AT_ONCE {
            results.extend(calls.join_next().await.and_then(Result::ok));
        }
        calls.spawn(inherit(call(item)));
    }
    while let Some(result) = calls.join_next().await {
        results.extend(result.ok());
    }
    results
}
