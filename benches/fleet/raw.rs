//! GetRecords without the SDK: hyper's pooled client, and a signature whose key is derived once. No retries, no
//! time-outs, no decoding.

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use ring::{digest, hmac};

const SIGNED: &str = "content-type;host;x-amz-date;x-amz-target";
const DATE: &str = "20260131";
const TIME: &str = "20260131T120000Z";
const TARGET: &str = "DynamoDBStreams_20120810.GetRecords";

#[derive(Clone)]
pub struct Raw {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    host: String,
    key: hmac::Key,
}

impl Raw {
    pub fn new(url: &str) -> Result<Self, anyhow::Error> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let step = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let key = ["us-east-1", "dynamodb", "aws4_request"]
            .into_iter()
            .fold(step(b"AWS4bench", DATE), |key, text| step(key.as_ref(), text));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url: format!("{url}/"),
            host: url.strip_prefix("http://").context("a plain URL")?.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()),
        })
    }

    /// The bytes of a page.
    pub async fn get_records(&self, iterator: &str) -> Result<usize, anyhow::Error> {
        let body = format!("{{\"ShardIterator\":\"{iterator}\"}}");
        let hash = |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        let host = &self.host;
        let canonical = format!(
            "POST\n/\n\ncontent-type:application/x-amz-json-1.0\nhost:{host}\nx-amz-date:{TIME}\n\
             x-amz-target:{TARGET}\n\n{SIGNED}\n{}",
            hash(&body)
        );
        let scope = format!("{DATE}/us-east-1/dynamodb/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{TIME}\n{scope}\n{}", hash(&canonical));
        let signature = hex(hmac::sign(&self.key, text.as_bytes()).as_ref());
        let request = Request::post(&self.url)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-date", TIME)
            .header("x-amz-target", TARGET)
            .header(
                "authorization",
                format!("AWS4-HMAC-SHA256 Credential=bench/{scope}, SignedHeaders={SIGNED}, Signature={signature}"),
            )
            .body(Full::new(body.into()))?;
        let response = self.client.request(request).await?;
        anyhow::ensure!(response.status().is_success(), "status {}", response.status());
        Ok(response.into_body().collect().await?.to_bytes().len())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}");
        text
    })
}
