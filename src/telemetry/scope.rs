//! The scope of a worker: the labels and the recorder of its metrics, and its span, so that several workers of a process
//! can be told apart.
//!
//! A worker's tasks carry it as a task-local value. A task that one of them spawns takes it over by `inherit`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use metrics::{Label, Recorder};
use tracing::{Instrument, Span};

/// The target of spans: the program, whose process has one worker, leaves them out of its log lines.
pub(crate) const SPANS: &str = "shardkeeper::span";

tokio::task_local! {
    static CURRENT: Scope;
}

/// The labels, the recorder and the span of a worker. The default adds nothing, and records with the process's recorder.
#[derive(Clone)]
pub struct Scope {
    labels: Arc<[Label]>,
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    span: Span,
}

impl Default for Scope {
    fn default() -> Self {
        Self { labels: Arc::default(), recorder: None, span: Span::none() }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Scope {
    pub(crate) fn set_labels(&mut self, labels: impl IntoIterator<Item = (String, String)>) {
        self.labels = labels.into_iter().map(|(name, value)| Label::new(name, value)).collect();
    }

    pub(crate) fn set_recorder(&mut self, recorder: Arc<dyn Recorder + Send + Sync>) {
        self.recorder = Some(recorder);
    }

    pub(crate) fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    pub(crate) fn has_recorder(&self) -> bool {
        self.recorder.is_some()
    }

    /// The scope of the task at work.
    pub(crate) fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// Runs a future in this scope.
    pub(crate) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let future = future.instrument(self.span.clone());
        CURRENT.scope(self, future)
    }

    /// Runs a function in this scope.
    pub(crate) fn enter<T>(&self, function: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), function)
    }
}

/// A future for a task of its own, in the scope and the span of the task at work.
pub(crate) fn inherit<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    CURRENT.scope(Scope::current(), future.in_current_span())
}

/// Adds the labels of the scope to those of a metric.
pub(super) fn add_labels(labels: &mut Vec<Label>) {
    let _ = CURRENT.try_with(|scope| labels.extend(scope.labels.iter().cloned()));
}

/// The scope's recorder, or the process's.
pub(super) fn with_recorder<T>(function: impl FnOnce(&dyn Recorder) -> T) -> T {
    match CURRENT.try_with(|scope| scope.recorder.clone()).ok().flatten() {
        Some(recorder) => function(&*recorder),
        None => metrics::with_recorder(function),
    }
}
