//! The endings of a delivery: the shard's own end, and the calls and writes with which this worker leaves it.

use std::sync::Arc;
use std::time::Duration;

use super::super::processor::{ProcessorFactory, RecordProcessor};
use super::super::shard_consumer::{ConsumerCommand, ConsumerExit, aborted, commanded, leave};
use super::{Delivery, LoopEnd, finished};
use crate::model::checkpoint::Checkpoint;
use crate::model::lease::{Lease, LeaseLost};
use crate::model::shard_directory::Children;
use crate::model::shard_graph::Shard;

/// The time that the calls in flight get to be dropped before a lease is surrendered.
pub const DROP_LIMIT: Duration = Duration::from_secs(1);

impl<F: ProcessorFactory> Delivery<F> {
    /// The children of the shard, once the service proves its end. A last page alone proves nothing: emulators leave the
    /// next iterator out now and then. `None`: the shard is open, and is read on.
    pub(super) async fn find_children(&mut self) -> Result<Option<Vec<Shard>>, LoopEnd> {
        let ctx = Arc::clone(&self.ctx);
        let key = &ctx.shard.shard_id;
        let children = tokio::select! {
            biased;
            command = commanded(&mut self.commands) => return Err(LoopEnd::Command(command)),
            children = ctx.deps.directory.children(key) => children,
        };
        match children {
            Children::Found(children) => Ok(Some(children)),
            Children::None => {
                tracing::info!(shard = %key, "the shard has ended without a child");
                Ok(Some(Vec::new()))
            }
            Children::Open => {
                tracing::warn!(shard = %key, "an open shard's page had no next iterator, reading on");
                Ok(None)
            }
        }
    }

    /// Ends the shard: the processors' last call, then the transaction that finishes its lease and starts its children.
    pub(super) async fn end_shard(&mut self, children: Vec<Shard>) -> Result<ConsumerExit, LoopEnd> {
        let ctx = Arc::clone(&self.ctx);
        ctx.status.set_ended();
        // A task reports its records before it returns its processor.
        while let Some(ended) = self.tasks.join_next().await {
            finished(ended)?;
        }
        let mut processors = ctx.processors.take_all();
        let mut rng = self.rng.fork();
        let told = self.until_commanded(ctx.end_shard(&mut processors, &mut rng)).await;
        ctx.processors.put_back(processors); // one that was interrupted is told why
        told?;
        // The children inherit the shard's keys, and with them its load.
        let throughput_kbps = ctx.lease.throughput_kbps().map(|rate| rate / children.len().max(1) as f64);
        let children: Vec<Lease> = children
            .into_iter()
            .map(|child| Lease {
                throughput_kbps,
                ..Lease::new(child.id, child.parent.into_iter().collect(), Checkpoint::TrimHorizon)
            })
            .collect();
        tokio::select! {
            biased;
            command = aborted(&mut self.commands) => Err(LoopEnd::Command(command)),
            ended = ctx.lease.end(&children) => {
                let (row, children) = ended?;
                Ok(ConsumerExit::Ended { row, children })
            }
        }
    }

    /// Waits for the calls in flight, and lets no further attempt begin. Returns the command in force by then.
    ///
    /// No call outlives the lease: once that is lost, the calls are dropped where they wait.
    pub(super) async fn drain(&mut self, mut command: ConsumerCommand) -> ConsumerCommand {
        self.ctx.leaving.cancel();
        while command < ConsumerCommand::Surrender {
            tokio::select! {
                biased;
                urgent = aborted(&mut self.commands) => command = urgent,
                ended = self.tasks.join_next() => match ended.map(finished) {
                    Some(Ok(())) => {}
                    Some(Err(LeaseLost)) => command = ConsumerCommand::Abort,
                    None => break,
                },
            }
        }
        if command == ConsumerCommand::Surrender {
            self.tasks.abort_all();
            // A call that blocks its thread ends by itself only, and holds up no other worker meanwhile.
            let _ = tokio::time::timeout(DROP_LIMIT, async { while self.tasks.join_next().await.is_some() {} }).await;
        } else {
            self.tasks.shutdown().await;
        }
        while let Ok(report) = self.reports.try_recv() {
            self.take_report(report);
        }
        command.max(*self.commands.borrow())
    }

    /// Leaves the shard on the coordinator's command, with its progress written to the lease.
    pub(super) async fn leave(&mut self, command: ConsumerCommand) -> ConsumerExit {
        let (mut processors, progress) = (self.ctx.processors.take_all(), self.progress());
        let left = async {
            for processor in processors.iter_mut().filter_map(|pooled| pooled.processor.as_mut()) {
                self.ctx.farewell("shutdown_requested", processor.shutdown_requested(&self.ctx.checkpointer)).await;
            }
            leave(&self.ctx.lease, command, progress.as_ref()).await
        };
        let exit = tokio::select! {
            biased;
            command = aborted(&mut self.commands) => match command {
                ConsumerCommand::Surrender => leave(&self.ctx.lease, command, progress.as_ref()).await,
                _ => ConsumerExit::LeaseLost,
            },
            exit = left => exit,
        };
        if matches!(exit, ConsumerExit::LeaseLost) {
            self.ctx.processors.put_back(processors);
            self.tell_lease_lost().await;
        }
        exit
    }

    /// Releases the lease while a processor hangs. The consumer ends when its calls have ended.
    pub(super) async fn surrender(&mut self) -> ConsumerExit {
        let exit = leave(&self.ctx.lease, ConsumerCommand::Surrender, self.progress().as_ref()).await;
        self.tasks.shutdown().await;
        self.tell_lease_lost().await;
        exit
    }

    pub(super) async fn tell_lease_lost(&mut self) {
        for mut processor in self.ctx.processors.take_all().into_iter().filter_map(|pooled| pooled.processor) {
            self.ctx.farewell("lease_lost", processor.lease_lost()).await;
        }
    }
}
