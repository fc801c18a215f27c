//! Release of leases whose processor hangs.

use super::LeaseManager;
use crate::aws::TableError;
use crate::aws::lease_table::Outcome;
use crate::consumer::ConsumerCommand;
use crate::coordination::Error;
use crate::coordination::heartbeat::hint;
use crate::coordination::watchdog::Verdict;
use crate::model::lease::ShardId;
use crate::model::worker_record::ObservedWorker;

impl LeaseManager {
    /// Releases the leases whose processor hangs, as long as another worker could read their shards.
    ///
    /// Nothing is delivered for such a lease from the moment its consumer is told to stop, which comes before the row
    /// is released. So a processor never gets records that another worker may be reading.
    pub(super) async fn release_hung(&mut self) -> Result<(), Error> {
        let view = self.view.borrow().clone();
        let me = &self.deps.me.worker;
        let could_take =
            |seen: &ObservedWorker, key: &ShardId| seen.member.id != *me && !seen.member.record.stuck.contains(key);
        let mut has_news = false;
        for (key, running) in &self.running {
            let has_taker = || view.staying().any(|seen| could_take(seen, key));
            if self.watchdog.check(key, running.handle.status.oldest_call(), has_taker) == Verdict::Release {
                running.handle.command(ConsumerCommand::Abort);
                has_news = true;
            }
        }
        if has_news {
            self.update_record();
            self.deps.record.publish();
        }
        for key in self.watchdog.to_release() {
            if let Err(error) = self.release_row(&key).await {
                self.pass(error, "releasing a lease whose processor hangs")?;
            }
        }
        Ok(())
    }

    async fn release_row(&mut self, key: &ShardId) -> Result<(), TableError> {
        let me = &self.deps.me.worker;
        let row = self.deps.leases.read(key).await?.and_then(Result::ok);
        if let Some(row) = row.filter(|row| row.holder() == Some(me) && !row.is_finished()) {
            let checkpoint = row.checkpoint.clone();
            let given = match row.is_handed_over() {
                true => row.transfer(me, checkpoint),
                false => row.release(me, checkpoint),
            };
            let Ok(given) = given else { return Ok(()) };
            let Outcome::Applied(row) = self.deps.leases.apply(&given).await? else { return Ok(()) };
            self.left.insert(key.clone(), row.counter);
            if let Some(owner) = &row.owner {
                self.hint(&owner.clone(), hint(key));
            }
        }
        self.watchdog.note_released(key);
        if let Some(running) = self.running.get_mut(key) {
            running.is_owned = false;
        }
        Ok(())
    }
}
