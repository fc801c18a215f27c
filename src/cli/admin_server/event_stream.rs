//! `/events`: the worker's [events](crate::cli::events), as server-sent events or as a JSON array.
//!
//! A client holds at most a few dozen events of its own in memory: the next are read from the log's ring when it has
//! taken them, and one that is too slow for the ring is told what it missed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::ACCEPT;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Body, JSON, TEXT, response, with_body};
use crate::cli::events::{EVENTS, Event, KEPT};

/// The most clients at once that follow the events.
const MOST_STREAMS: usize = 8;
/// The most events in one piece of a stream.
const MOST_AT_ONCE: usize = 32;
/// The interval of comments that keep a quiet connection open, and find out one that is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The endpoint of one worker.
pub struct EventStream {
    worker: String,
    streams: Arc<Semaphore>,
}

/// A body that a task makes piece by piece.
pub struct Pieces(mpsc::Receiver<Bytes>);

/// An event with the worker that reports it.
#[derive(Serialize)]
struct Reported<'a> {
    worker: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

impl EventStream {
    /// The endpoint of the worker with this id.
    pub fn new(worker: &str) -> Self {
        Self { worker: worker.to_owned(), streams: Arc::new(Semaphore::new(MOST_STREAMS)) }
    }

    /// Answers a request. A stream reports its progress by `moves`.
    pub fn answer<B>(&self, request: &Request<B>, moves: &Arc<AtomicBool>) -> Response<Body> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let limit = request.uri().query().into_iter().flat_map(|query| query.split('&'));
        let limit = limit.filter_map(|pair| pair.strip_prefix("limit=")).next_back();
        if limit.is_some() || header(ACCEPT.as_str()).is_some_and(|kinds| kinds.contains(JSON)) {
            return match limit.map_or(Ok(KEPT), str::parse) {
                Ok(limit) => self.array(limit),
                Err(_) => response(StatusCode::BAD_REQUEST, TEXT, "limit must be a number of events\n"),
            };
        }
        let last = match header("last-event-id").map_or(Ok(0), str::parse) {
            Ok(last) => last,
            Err(_) => return response(StatusCode::BAD_REQUEST, TEXT, "Last-Event-ID must be the id of an event\n"),
        };
        match Arc::clone(&self.streams).try_acquire_owned() {
            Ok(permit) => {
                let (sender, pieces) = mpsc::channel(1);
                tokio::spawn(send(self.worker.clone(), last, sender, Arc::clone(moves), permit));
                with_body(StatusCode::OK, "text/event-stream", Body::Right(Pieces(pieces)))
            }
            Err(_) => {
                let text = "too many clients follow the events; ask for ?limit= instead\n";
                response(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
            }
        }
    }

    fn array(&self, limit: usize) -> Response<Body> {
        let events = EVENTS.last(limit);
        let events: Vec<_> = events.iter().map(|event| Reported { worker: &self.worker, event }).collect();
        match serde_json::to_string(&events) {
            Ok(array) => response(StatusCode::OK, JSON, array),
            Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// Sends the events after `last`, and each further one, until the client is gone.
async fn send(
    worker: String,
    mut last: u64,
    sender: mpsc::Sender<Bytes>,
    moves: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
) {
    let mut news = EVENTS.follow();
    let mut text = "retry: 1000\n\n".to_owned();
    loop {
        news.mark_unchanged();
        let after = EVENTS.after(last, MOST_AT_ONCE);
        if after.has_missed {
            text.push_str("event: missed\ndata: {}\n\n");
        }
        for event in &after.events {
            let Ok(data) = serde_json::to_string(&Reported { worker: &worker, event }) else { continue };
            text.push_str(&format!("id: {}\ndata: {data}\n\n", event.id));
            last = event.id;
        }
        if !text.is_empty() && sender.send(std::mem::take(&mut text).into()).await.is_err() {
            return;
        }
        moves.store(true, Ordering::Relaxed);
        if after.events.len() < MOST_AT_ONCE && tokio::time::timeout(KEEP_ALIVE, news.changed()).await.is_err() {
            text.push_str(":\n\n");
        }
    }
}
