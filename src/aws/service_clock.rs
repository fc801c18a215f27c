//! The service's time of day: the date in the head of its answers.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeDeserializationInterceptorContextRef;
use aws_smithy_runtime_api::client::interceptors::{Intercept, dyn_dispatch_hint};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use tokio::time::Instant;

use super::http_date_ms;

/// The service's clock, as the last answer showed it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ServiceClock(Arc<Mutex<Option<(Instant, i64)>>>);

impl ServiceClock {
    /// The service's time now, in milliseconds since the epoch and cut to a second; none before an answer has shown it.
    pub fn now_ms(&self) -> Option<i64> {
        let (read, at_ms) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(at_ms.saturating_add(i64::try_from(read.elapsed().as_millis()).unwrap_or(i64::MAX)))
    }
}

#[dyn_dispatch_hint]
impl Intercept for ServiceClock {
    fn name(&self) -> &'static str {
        "ServiceClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(at_ms) = context.response().headers().get("date").and_then(http_date_ms) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), at_ms));
        }
        Ok(())
    }
}
