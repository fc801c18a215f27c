//! `shardkeeper replay`: has everything delivered again that the stream still has.

use std::time::Duration;

use anyhow::{Context, bail};
use fastrand::Rng;

use super::{connect, describe, snapshot};
use crate::admin::lease_ops::Liveness;
use crate::admin::replay::{ReplayPlan, ReplayWrite};
use crate::aws::lease_table::Outcome;
use crate::cli::args::replay::ReplayArgs;
use crate::cli::confirm::confirm;
use crate::cli::connection::Connection;
use crate::cli::output;
use crate::consumer::WallClock;
use crate::model::fleet_view::FleetView;
use crate::model::lease::{ShardId, WorkerId};
use crate::shard_directory::ShardDirectory;

/// Calls of DescribeStream a second.
const LISTING_RATE: u32 = 5;

/// Runs `shardkeeper replay`.
///
/// # Errors
/// When a worker is alive, a row cannot be read or has changed meanwhile, or a service cannot be reached.
pub fn run(args: &ReplayArgs) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(replay(args))
}

async fn replay(args: &ReplayArgs) -> Result<(), anyhow::Error> {
    let connection = connect(&args.change).await?;
    let (rows, _) = snapshot::read_rows(&connection).await?;
    let all = |view: &FleetView| view.workers.iter().map(|seen| seen.member.id.clone()).collect();
    let (view, liveness) = snapshot::watch(&connection, &args.change, rows.into_values().collect(), all).await?;
    let is_alive = |(worker, state): (&WorkerId, &Liveness)| (*state != Liveness::Dead).then(|| worker.to_string());
    let alive: Vec<String> = liveness.iter().filter_map(is_alive).collect();
    if !alive.is_empty() && !args.change.dry_run {
        bail!(
            "refused, and nothing was written: {} of this application {} alive and would continue at {} own positions. \
             Stop all workers, replay, and start them again; --dry-run shows the plan meanwhile",
            alive.join(", "),
            if alive.len() == 1 { "is" } else { "are" },
            if alive.len() == 1 { "its" } else { "their" }
        );
    }
    let plan = plan(args, &connection, view.leadership.and_then(|leadership| leadership.stream_arn)).await?;
    output::print(&describe_plan(&plan))?;
    if plan.writes.is_empty() {
        return Ok(());
    }
    if args.change.dry_run {
        return output::print("dry run: nothing is written\n");
    }
    if !args.change.yes {
        confirm("Write these leases?", "written")?;
    }
    write(&connection, &plan).await
}

async fn plan(args: &ReplayArgs, connection: &Connection, arn: Option<String>) -> Result<ReplayPlan, anyhow::Error> {
    let arn = arn.context("no worker has led this application yet: there is nothing to deliver again")?;
    let stream = connection.stream(&arn);
    let (directory, rng) = (ShardDirectory::default(), Rng::with_seed(u64::from(std::process::id())));
    let listing = tokio::select! {
        listing = directory.listing(Duration::ZERO) => listing.context("cannot list the stream's shards")?,
        never = directory.serve(&stream, LISTING_RATE, rng) => match never {},
    };
    // A shard that came to be after these rows were read has its lease still to be made, by the leader or here.
    let (rows, bad) = snapshot::read_rows(connection).await?;
    if let Some((key, reason)) = bad.iter().next() {
        bail!("refused, and nothing was written: the lease of {key} cannot be read: {reason}; correct the row first");
    }
    let now_ms = WallClock::System.now_ms();
    Ok(ReplayPlan::new(&rows, &listing.graph, args.from.time_ms(now_ms), now_ms))
}

fn describe_plan(plan: &ReplayPlan) -> String {
    let mut text = String::new();
    let (mut back, mut again) = (0, 0);
    for write in &plan.writes {
        match write {
            ReplayWrite::Reset(write) => {
                back += 1;
                text += &format!("{}: goes back from {} to TRIM_HORIZON\n", write.before.key, write.before.checkpoint);
            }
            ReplayWrite::Create(lease) => {
                again += 1;
                text += &format!("{}: gets a lease again, at TRIM_HORIZON\n", lease.key);
            }
        }
    }
    text += &format!(
        "{back} leases go back, {again} are made again, {} are at their beginning already; {} shards ended before that time\n",
        plan.unchanged, plan.older
    );
    if !plan.trimmed.is_empty() {
        let keys: Vec<&str> = plan.trimmed.iter().map(ShardId::as_str).collect();
        text += &format!("left alone, because the stream no longer has the shard: {}\n", keys.join(", "));
    }
    text
}

async fn write(connection: &Connection, plan: &ReplayPlan) -> Result<(), anyhow::Error> {
    let mut changed = Vec::new();
    for write in &plan.writes {
        let (key, outcome) = match write {
            ReplayWrite::Reset(transition) => (&transition.after.key, connection.leases.apply(transition).await),
            ReplayWrite::Create(lease) => (&lease.key, connection.leases.create(lease).await),
        };
        let unknown = || format!("{key}: it is not known whether the lease was written; replay again");
        if let Outcome::Conflict(row) = outcome.with_context(unknown)? {
            let row = row.as_ref().map_or_else(|| "gone, or cannot be read".to_owned(), describe);
            changed.push(format!("\n  {key}: {row}"));
        }
    }
    let written = plan.writes.len() - changed.len();
    output::print(&format!("{written} leases written: start the workers\n"))?;
    if !changed.is_empty() {
        bail!(
            "these leases have changed meanwhile and were not written; stop the workers and replay again:{}",
            changed.concat()
        );
    }
    Ok(())
}
