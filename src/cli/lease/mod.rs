//! `shardkeeper lease` and `shardkeeper replay`: lease changes by hand.
//!
//! The command reads the rows and watches their holders until it knows whether they are alive. Then it plans the writes,
//! shows them, asks, and writes each row on the condition that the row is still as it was shown.

pub mod replay;
mod snapshot;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, bail};

use super::args::lease::{ChangeArgs, LeaseArgs, LeaseCommand};
use super::confirm::confirm;
use super::connection::Connection;
use super::output;
use crate::admin::lease_ops::{self, FleetSnapshot, PlannedWrite, Request};
use crate::aws::lease_table::Outcome;
use crate::consumer::WallClock;
use crate::model::lease::{Lease, ShardId, Transition};
use crate::model::worker_record::Hints;

/// A request, and the leases that it is about.
struct Operation<'a> {
    request: Request,
    shards: BTreeSet<ShardId>,
    args: &'a LeaseArgs,
}

/// Runs `shardkeeper lease`.
///
/// # Errors
/// When a request is refused, a row has changed meanwhile, or a service cannot be reached.
pub fn run(command: &LeaseCommand) -> Result<(), anyhow::Error> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(change_leases(command))
}

async fn change_leases(command: &LeaseCommand) -> Result<(), anyhow::Error> {
    let args = command.args();
    let connection = connect(&args.change).await?;
    let service_ms = match command.asks_for_time() {
        // A lease table that only KCL has used has no fleet table beside it.
        true => connection.fleet.service_time_ms().await.ok().flatten(),
        false => None,
    };
    let now_ms = service_ms.unwrap_or_else(|| WallClock::System.now_ms());
    let operation = Operation { request: command.request(now_ms), shards: args.shards.iter().cloned().collect(), args };
    let snapshot = snapshot::load_snapshot(&connection, &operation).await?;
    let planned = plan(&operation, &snapshot)?;
    output::print(&planned.iter().map(|(key, planned)| describe_plan(key, planned)).collect::<String>())?;
    let writes: Vec<(&ShardId, &PlannedWrite, &Transition)> =
        planned.iter().filter_map(|(key, planned)| Some((*key, planned, planned.write.as_ref()?))).collect();
    if writes.is_empty() {
        return Ok(());
    }
    if args.change.dry_run {
        return output::print("dry run: nothing is written\n");
    }
    if !args.change.yes {
        let leases = if writes.len() == 1 { "this lease" } else { "these leases" };
        confirm(&format!("Write {leases}?"), "written")?;
    }
    let mut changed = Vec::new();
    for (key, planned, write) in writes {
        if let Request::Assign { to } = &operation.request {
            connection.fleet.place(to, key).await?;
        }
        let outcome = connection.leases.apply(write).await;
        match outcome.with_context(|| format!("{key}: it is not known whether the lease was written"))? {
            Outcome::Applied(row) => {
                output::print(&format!("{key}: written\n  now     {}\n", describe(&row)))?;
                send_hints(&connection, key, planned).await;
            }
            Outcome::Conflict(row) => {
                let row = row.as_ref().map_or_else(|| "gone, or cannot be read".to_owned(), describe);
                output::print(&format!("{key}: not written, the row has changed\n  now     {row}\n"))?;
                changed.push(key.as_str());
            }
        }
    }
    if !changed.is_empty() {
        bail!("these leases have changed meanwhile and were not written: {}", changed.join(", "));
    }
    Ok(())
}

async fn connect(args: &ChangeArgs) -> Result<Connection, anyhow::Error> {
    Connection::new(&args.app.app, &args.aws.endpoints(None), args.liveness.lease_duration).await
}

/// Plans the write of each lease. One refusal refuses all of them.
fn plan<'a>(
    operation: &'a Operation<'_>,
    snapshot: &FleetSnapshot,
) -> Result<Vec<(&'a ShardId, PlannedWrite)>, anyhow::Error> {
    let Operation { request, shards, args } = operation;
    let mut writes = Vec::new();
    let mut refusals = String::new();
    for key in shards {
        match lease_ops::decide(request, key, shards, snapshot, args.force) {
            Ok(planned) => writes.push((key, planned)),
            Err(refusal) => {
                let _ = write!(refusals, "\n  {key}: {refusal}");
            }
        }
    }
    if !refusals.is_empty() {
        bail!("refused, and nothing was written:{refusals}");
    }
    Ok(writes)
}

fn describe_plan(key: &ShardId, planned: &PlannedWrite) -> String {
    let mut text = format!("{key}: {}\n", planned.summary);
    for warning in &planned.warnings {
        let _ = writeln!(text, "  note    {warning}");
    }
    if let Some(write) = &planned.write {
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

/// Notifies the workers concerned. Without the hint they find the change by themselves, a little later.
async fn send_hints(connection: &Connection, key: &ShardId, planned: &PlannedWrite) {
    for worker in &planned.hints {
        let hints = Hints { keys: BTreeSet::from([key.clone()]), everything: false };
        if let Err(error) = connection.fleet.hint(worker, &hints).await {
            tracing::warn!(%worker, %error, "sending a hint failed; the worker finds the change by itself");
        }
    }
}
