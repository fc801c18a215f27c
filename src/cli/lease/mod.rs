//! `shardkeeper lease`: an operator's hand on the leases.
//!
//! First it looks: at the rows, and at whoever holds them until it knows whether they are alive. Then it decides, shows
//! what it would write, asks, and writes each row on the condition that it is still as it was shown.

pub mod config;
mod survey;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, bail};

use self::config::LeaseConfig;
use super::confirm::confirm;
use super::connection::Connection;
use super::output;
use crate::admin::lease_ops::{self, FleetSnapshot, PlannedWrite};
use crate::aws::lease_table::Outcome;
use crate::model::lease::{Lease, ShardId, Transition};
use crate::model::worker_record::Hints;

/// Does what `shardkeeper lease` is for, as `config` says.
///
/// # Errors
/// When something is refused, a row changed meanwhile, or the services cannot be asked.
pub fn run(config: &LeaseConfig) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(intervene(config))
}

async fn intervene(config: &LeaseConfig) -> Result<(), anyhow::Error> {
    let connection = Connection::new(&config.app, &config.aws, config.lease_duration).await?;
    let scene = survey::look(&connection, config).await?;
    let steps = decide(config, &scene)?;
    output::print(&steps.iter().map(|(key, step)| plan(key, step)).collect::<String>())?;
    let writes: Vec<(&ShardId, &PlannedWrite, &Transition)> =
        steps.iter().filter_map(|(key, step)| Some((*key, step, step.write.as_ref()?))).collect();
    if writes.is_empty() {
        return Ok(());
    }
    if config.dry_run {
        return output::print("dry run: nothing is written\n");
    }
    if !config.yes {
        let leases = if writes.len() == 1 { "this lease" } else { "these leases" };
        confirm(&format!("Write {leases}?"), "written")?;
    }
    let mut changed = Vec::new();
    for (key, step, write) in writes {
        match connection
            .leases
            .apply(write)
            .await
            .with_context(|| format!("{key}: not known whether it was written"))?
        {
            Outcome::Applied(row) => {
                output::print(&format!("{key}: written\n  now     {}\n", describe(&row)))?;
                send_hints(&connection, key, step).await;
            }
            Outcome::Conflict(row) => {
                let row = row.as_ref().map_or_else(|| "gone, or cannot be read".to_owned(), describe);
                output::print(&format!("{key}: not written, the row has changed\n  now     {row}\n"))?;
                changed.push(key.as_str());
            }
        }
    }
    if !changed.is_empty() {
        bail!("somebody else changed these leases meanwhile, and they were left alone: {}", changed.join(", "));
    }
    Ok(())
}

/// What is to be done to each lease; nothing to any when one is refused.
fn decide<'a>(
    config: &'a LeaseConfig,
    scene: &FleetSnapshot,
) -> Result<Vec<(&'a ShardId, PlannedWrite)>, anyhow::Error> {
    let mut steps = Vec::new();
    let mut refusals = String::new();
    for key in &config.shards {
        match lease_ops::decide(&config.request, key, &config.shards, scene, config.force) {
            Ok(step) => steps.push((key, step)),
            Err(refusal) => {
                let _ = write!(refusals, "\n  {key}: {refusal}");
            }
        }
    }
    if !refusals.is_empty() {
        bail!("refused, and nothing was written:{refusals}");
    }
    Ok(steps)
}

fn plan(key: &ShardId, step: &PlannedWrite) -> String {
    let mut text = format!("{key}: {}\n", step.what);
    for warning in &step.warnings {
        let _ = writeln!(text, "  note    {warning}");
    }
    if let Some(write) = &step.write {
        let _ = writeln!(text, "  before  {}\n  after   {}", describe(&write.before), describe(&write.after));
    }
    text
}

fn describe(row: &Lease) -> String {
    let owner = match (&row.owner, &row.checkpoint_owner) {
        (None, _) => "no owner".to_owned(),
        (Some(owner), None) => format!("owner {owner}"),
        (Some(owner), Some(from)) => format!("owner {owner}, handed over by {from}"),
    };
    format!("{owner}, checkpoint {}, counter {}", row.checkpoint, row.counter)
}

/// Tells those concerned to look; when that fails they find out by themselves, a little later.
async fn send_hints(connection: &Connection, key: &ShardId, step: &PlannedWrite) {
    for worker in &step.hints {
        let hints = Hints { keys: BTreeSet::from([key.clone()]), everything: false };
        if let Err(error) = connection.fleet.hint(worker, &hints).await {
            tracing::warn!(%worker, %error, "a hint was lost; the worker finds the change by itself");
        }
    }
}
