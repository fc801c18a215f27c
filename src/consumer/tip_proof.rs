//! The proof that an open shard is read to its tip.

use tokio::time::Instant;

use crate::model::polling::{TIP_EMPTY_PAGES, TIP_PROOF_TIME};

/// The empty pages of a shard since its last record.
#[derive(Default)]
pub(super) struct TipProof {
    empty_pages: u32,
    since: Option<Instant>,
}

impl TipProof {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Counts an empty page. Returns the number of them in a row once they prove the tip.
    pub(super) fn add_empty_page(&mut self) -> Option<u32> {
        self.empty_pages += 1;
        let since = *self.since.get_or_insert_with(Instant::now);
        (self.empty_pages >= TIP_EMPTY_PAGES && since.elapsed() >= TIP_PROOF_TIME).then_some(self.empty_pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_tip_takes_several_empty_pages_over_some_time_without_a_record_between() {
        let mut proof = TipProof::default();
        assert_eq!([proof.add_empty_page(), proof.add_empty_page(), proof.add_empty_page()], [None; 3], "too soon");
        tokio::time::advance(TIP_PROOF_TIME).await;
        assert_eq!(proof.add_empty_page(), Some(4));
        proof.reset();
        assert_eq!(proof.add_empty_page(), None);
        tokio::time::advance(TIP_PROOF_TIME).await;
        assert_eq!(proof.add_empty_page(), None, "too few");
        assert_eq!(proof.add_empty_page(), Some(3));
    }
}
