//! This program as a handler of records over HTTP, and as a client that does nothing but post to it.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::process::Process;

/// The first argument of the handler.
pub const ROLE: &str = "as-handler";
/// The first argument of the client.
pub const CLIENT_ROLE: &str = "as-posting-client";

/// A running handler.
pub struct Handler {
    _process: Process,
    /// Its address.
    pub url: String,
}

impl Handler {
    /// Starts one on a free port.
    pub fn start() -> Result<Self, anyhow::Error> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Process::start(command.arg(ROLE).stdout(Stdio::piped()), "the handler")?;
        let mut url = String::new();
        BufReader::new(process.take_stdout().context("no output")?).read_line(&mut url)?;
        Ok(Self { _process: process, url: url.trim().to_owned() })
    }
}

/// Takes every request whole and answers that all is done.
pub fn run() -> Result<(), anyhow::Error> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("http://{}/", listener.local_addr()?);
        loop {
            let (connection, _) = listener.accept().await?;
            connection.set_nodelay(true)?;
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(connection), service_fn(take)));
        }
    })
}

async fn take(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    Ok(Response::new(Empty::new()))
}

/// Posts the same bytes so many times, over so many connections.
pub fn post(arguments: &[String]) -> Result<(), anyhow::Error> {
    let [url, bytes, posts, connections] = arguments else {
        bail!("{CLIENT_ROLE} takes a URL, bytes, posts and connections")
    };
    let (body, posts, connections) =
        (Bytes::from(vec![b'x'; bytes.parse()?]), posts.parse::<u64>()?, connections.parse()?);
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (client, url, body) = (client.clone(), url.clone(), body.clone());
            tasks.spawn(async move {
                for _ in 0..posts / connections {
                    let response = client.request(Request::post(&url).body(Full::new(body.clone()))?).await?;
                    ensure!(response.status().is_success(), "the handler answers {}", response.status());
                    response.into_body().collect().await?;
                }
                anyhow::Ok(())
            });
        }
        tasks.join_all().await.into_iter().collect()
    })
}
