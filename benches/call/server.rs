//! The server of the pages: each call gets the page that its iterator names.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

/// The first argument of this role.
pub const ROLE: &str = "as-server";
/// Pages, by the iterator that gets each.
pub const PAGES: [&str; 3] = ["empty", "small", "full"];

/// The records of a page.
pub fn records_of(page: &str) -> usize {
    match page {
        "small" => 3,
        "full" => 1000,
        _ => 0,
    }
}

/// Serves on a free port, whose URL is the one line of output.
pub fn run() -> Result<(), anyhow::Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}", listener.local_addr()?);
        let pages = PAGES.map(|page| (page, body(page)));
        loop {
            let (connection, _) = listener.accept().await?;
            connection.set_nodelay(true)?;
            let pages = pages.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(request, pages.clone()));
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).serve_connection(TokioIo::new(connection), service).await
            });
        }
    })
}

async fn answer(
    request: Request<Incoming>,
    pages: [(&'static str, Bytes); 3],
) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let is_asked = |page: &str| memchr::memmem::find(&asked, page.as_bytes()).is_some();
    let body = pages.iter().find(|(page, _)| is_asked(page)).map(|(_, body)| body.clone()).unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert("content-type", "application/x-amz-json-1.0".try_into().unwrap_or_else(|_| unreachable!()));
    headers.insert("x-amzn-requestid", "BENCHBENCHBENCH".try_into().unwrap_or_else(|_| unreachable!()));
    Ok(response)
}

fn body(page: &str) -> Bytes {
    let record = |number: usize| {
        json!({
            "awsRegion": "us-east-1", "eventID": format!("{number:032x}"), "eventName": "INSERT",
            "eventSource": "aws:dynamodb", "eventVersion": "1.1",
            "dynamodb": {
                "ApproximateCreationDateTime": 1_700_000_000, "Keys": {"k": {"S": format!("key-{number}")}},
                "NewImage": {"k": {"S": format!("key-{number}")}, "v": {"S": "x".repeat(200)}},
                "SequenceNumber": format!("{:021}", 100_000_000 + number), "SizeBytes": 300,
                "StreamViewType": "NEW_IMAGE",
            },
        })
    };
    let records: Vec<_> = (0..records_of(page)).map(record).collect();
    json!({"NextShardIterator": page, "Records": records}).to_string().into()
}
