//! The network between the processes and the service: what the SDK is given for an HTTP client. It only passes calls
//! on; the simulation carries them, also when their caller is gone.

use std::sync::{Arc, Mutex, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::{DateTime, Format};
use bytes::Bytes;
use shardkeeper_local::{Answer, LostCall, Request};
use tokio::sync::oneshot;

use super::history::Ms;
use super::process::EPOCH_MS;

/// An answer to a caller, or the error that the connection broke.
pub type Reply = Result<DatedAnswer, LostCall>;

/// An answer with the service's time of it.
#[derive(Debug)]
pub struct DatedAnswer {
    pub answer: Answer,
    pub at: Ms,
}

/// A call on its way.
#[derive(Debug)]
pub struct Outgoing {
    /// The process that makes it.
    pub process: usize,
    pub request: Request,
    /// The receiver of the answer. Dropped without one, the connection stays silent.
    pub caller: oneshot::Sender<Reply>,
}

/// Calls that processes have made and nobody has carried yet.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Arc<Mutex<Vec<Outgoing>>>);

impl Outbox {
    /// Takes all calls out, in the order in which they were made.
    pub fn take(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, call: Outgoing) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

/// The HTTP client of one process.
#[derive(Clone, Debug)]
pub struct Wire {
    pub process: usize,
    pub outbox: Outbox,
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let wire = self.clone();
        HttpConnectorFuture::new(async move {
            let (caller, reply) = oneshot::channel();
            let request = from_sdk(&request)?;
            wire.outbox.put(Outgoing { process: wire.process, request, caller });
            match reply.await {
                Ok(Ok(answer)) => to_response(answer),
                Ok(Err(LostCall)) => Err(ConnectorError::io(Box::new(LostCall))),
                Err(_) => std::future::pending().await,
            }
        })
    }
}

fn from_sdk(request: &HttpRequest) -> Result<Request, ConnectorError> {
    let target = request.headers().get("x-amz-target").unwrap_or_default().to_owned();
    let body = request.body().bytes().ok_or_else(|| ConnectorError::user("a streaming body".into()))?;
    Ok(Request { target, body: Bytes::copy_from_slice(body) })
}

fn to_response(DatedAnswer { answer, at }: DatedAnswer) -> Result<HttpResponse, ConnectorError> {
    let status = answer.status.try_into().map_err(|error| ConnectorError::other(Box::new(error), None))?;
    let mut response = HttpResponse::new(status, SdkBody::from(answer.body));
    response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
    response.headers_mut().insert("x-amzn-requestid", answer.request_id);
    let date = i64::try_from(EPOCH_MS + at).map(DateTime::from_millis).expect("a time of this age");
    response.headers_mut().insert("date", date.fmt(Format::HttpDate).expect("a time of this age"));
    Ok(response)
}
