//! A plain HTTP client for the REST door.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Speaks HTTP to one base URL.
#[derive(Debug, Clone)]
pub struct RestClient {
    base: String,
    key: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct RestResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl RestResponse {
    /// A header's value; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl RestClient {
    /// A client of `base` (`http://host:port`) that sends `key` as bearer token.
    pub fn new(base: impl Into<String>, key: Option<&str>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            base: base.into(),
            key: key.map(str::to_owned),
            client,
        }
    }

    /// The same client with another key, or none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self {
            key: key.map(str::to_owned),
            ..self.clone()
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> RestResponse {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// GET of something that may not be there yet.
    pub async fn try_get(&self, path: &str) -> Result<RestResponse, String> {
        let request = Request::get(format!("{}{path}", self.base))
            .body(Full::default())
            .expect("a request");
        self.exchange(request).await
    }

    /// POST of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> RestResponse {
        self.send_json(Method::POST, path, &[], body).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> RestResponse {
        self.send_json(Method::PATCH, path, &[], body).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> RestResponse {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    /// A JSON body with further headers.
    pub async fn send_json(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> RestResponse {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        self.send(method, path, &[&json, headers].concat(), body.to_string())
            .await
    }

    /// Any request.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> RestResponse {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        self.exchange(request).await.expect("an answer")
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<RestResponse, String> {
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok(RestResponse {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}
