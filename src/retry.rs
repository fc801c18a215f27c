//! The retry loop: one operation, repeated after a backoff while its error is transient.
//!
//! Loops that keep state between attempts (a paced listing, a lease row that is read again) stay where they are.

use fastrand::Rng;

use crate::model::backoff::Backoff;

/// Runs `operation` until it succeeds or `is_transient` denies that its error is worth a retry.
///
/// `is_transient` is also the place to log or count a failure.
pub(crate) async fn retry<T, E, F: Future<Output = Result<T, E>>>(
    mut backoff: Backoff,
    rng: &mut Rng,
    mut is_transient: impl FnMut(&E) -> bool,
    mut operation: impl FnMut() -> F,
) -> Result<T, E> {
    loop {
        match operation().await {
            Err(error) if is_transient(&error) => tokio::time::sleep(backoff.next(rng)).await,
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_and_the_first_other_one_is_returned() {
        let mut answers = [Err("busy"), Err("busy"), Ok(7)].into_iter();
        let is_transient = |error: &&str| *error == "busy";
        let mut rng = Rng::with_seed(1);
        let outcome =
            retry(Backoff::default(), &mut rng, is_transient, || std::future::ready(answers.next().unwrap())).await;
        assert_eq!(outcome, Ok(7));
        let mut answers = [Err("busy"), Err("refused"), Ok(7)].into_iter();
        let outcome =
            retry(Backoff::default(), &mut rng, is_transient, || std::future::ready(answers.next().unwrap())).await;
        assert_eq!(outcome, Err("refused"));
    }
}
