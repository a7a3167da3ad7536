//! Answers: errors as RFC 6749 §5.2 has them, JSON, and documents that are rendered once.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::error::{Code, Error};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const EXPIRED: HeaderValue = HeaderValue::from_static("public, max-age=0");
const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"sealwright\"");

/// The error behind an answer, left in the answer's extensions so that the layer logs it with the request's id.
#[derive(Clone, Debug)]
pub(crate) struct Failure(pub(crate) Arc<Error>);

/// Leaves `error` to be logged with the request's id, for answers that are not the error's own rendering.
pub fn log(response: &mut Response, error: Error) {
    response.extensions_mut().insert(Failure(Arc::new(error)));
}

impl IntoResponse for Error {
    /// RFC 6749 §5.2: JSON, `no-store`; 401 asks for HTTP Basic; `Retry-After` when the error has one.
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(error_body(&self)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(12);
        headers.insert(CONTENT_TYPE, JSON);
        set_no_store(headers);
        if self.code == Code::InvalidClient {
            headers.insert(WWW_AUTHENTICATE, BASIC);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

fn error_body(error: &Error) -> String {
    let code = error.code.as_str();
    let mut body = String::with_capacity(40 + code.len() + error.detail().len());
    body.push_str("{\"error\":\"");
    body.push_str(code);
    body.push_str("\",\"error_description\":\"");
    // None of its characters needs an escape in JSON.
    body.push_str(error.detail());
    body.push_str("\"}");
    body
}

/// Says that nobody may keep this answer: tokens, errors, anything about one client or person.
pub fn set_no_store(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(PRAGMA, NO_CACHE);
}

/// A JSON answer that nobody may keep.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_bytes(status, body),
        Err(cause) => Error::internal(cause).into_response(),
    }
}

/// The same, of JSON that is already written.
pub fn json_bytes(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(12);
    headers.insert(CONTENT_TYPE, JSON);
    set_no_store(headers);
    response
}

/// A public document that is rendered once and served many times: the JWKS, the discovery documents.
#[derive(Clone, Debug)]
pub struct Document {
    body: Bytes,
    content_type: HeaderValue,
    cache_control: HeaderValue,
    etag: HeaderValue,
}

impl Document {
    /// `content_type` such as `application/json`; `max_age` in seconds for shared and private caches alike. The
    /// entity tag is strong: the first 128 bits of the body's SHA-256.
    pub fn new(body: impl Into<Bytes>, content_type: &'static str, max_age: u32) -> Self {
        let body = body.into();
        let tag = URL_SAFE_NO_PAD.encode(&digest(&SHA256, &body).as_ref()[..16]);
        let header = |text: &str| HeaderValue::from_str(text).unwrap_or(NO_STORE);
        Self {
            content_type: HeaderValue::from_static(content_type),
            cache_control: header(&format!("public, max-age={max_age}")),
            etag: header(&format!("\"{tag}\"")),
            body,
        }
    }

    /// The document, or 304 when the request already has it (RFC 9110 §13.1.2). One that is not known to be current may
    /// be kept for no time at all.
    pub fn respond(&self, request: &HeaderMap, is_current: bool) -> Response {
        let known = request.contains_key(IF_NONE_MATCH) && self.is_among(request);
        let body = if known { Body::empty() } else { Body::from(self.body.clone()) };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.reserve(12);
        headers.insert(CACHE_CONTROL, if is_current { self.cache_control.clone() } else { EXPIRED });
        headers.insert(ETAG, self.etag.clone());
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            headers.insert(CONTENT_TYPE, self.content_type.clone());
        }
        response
    }

    /// RFC 9110 §13.1.2: `*`, or a list in which a weak tag counts like a strong one. Our own tags have no comma, so
    /// cutting somebody else's at one cannot make it equal to ours.
    fn is_among(&self, request: &HeaderMap) -> bool {
        request.get_all(IF_NONE_MATCH).iter().any(|line| {
            let line = line.as_bytes().trim_ascii();
            let mut tags = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            line == b"*" || tags.any(|tag| tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn rfc6749_5_2_errors_are_json_that_nobody_keeps() {
        let response = Error::unavailable("The database is gone.", 7).into_response();
        assert_eq!(response.status(), 503);
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "no-store"),
            ("pragma", "no-cache"),
            ("retry-after", "7"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let body = r#"{"error":"temporarily_unavailable","error_description":"The database is gone."}"#;
        assert_eq!(text(response).await, body);
    }

    #[tokio::test]
    async fn rfc6749_5_2_a_401_names_the_scheme_and_no_cause() {
        let response = Error::invalid_client().because("no such client").into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"sealwright\"");
        assert!(!text(response).await.contains("such"));
    }

    #[tokio::test]
    async fn an_error_text_cannot_leave_its_quotes() {
        let response = Error::invalid_request("a\"b\\c\nd\u{e4}".to_owned()).into_response();
        assert_eq!(text(response).await, r#"{"error":"invalid_request","error_description":"a?b?c?d?"}"#);
    }

    #[tokio::test]
    async fn rfc9110_13_1_2_if_none_match() {
        let document = Document::new("{}", "application/json", 300);
        let tag = document.etag.to_str().unwrap().to_owned();
        let ask = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IF_NONE_MATCH, HeaderValue::from_str(line).unwrap());
            }
            document.respond(&headers, true)
        };
        let whole = ask(&[]);
        assert_eq!(whole.headers()["cache-control"], "public, max-age=300");
        assert_eq!(whole.headers()["etag"], tag.as_str());
        assert_eq!(text(whole).await, "{}");
        let known =
            [vec![tag.clone()], vec![format!("W/{tag}")], vec![format!("\"a\", W/{tag} , \"b\"")], vec!["*".into()]];
        for lines in known.iter().chain([&vec!["\"a\"".into(), tag.clone()]]) {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let response = ask(&lines);
            assert_eq!(response.status(), 304, "{lines:?}");
            assert_eq!(response.headers()["etag"], tag.as_str());
            assert_eq!(text(response).await, "");
        }
        for other in ["\"a\"", "", "a", tag.trim_matches('"'), "\"*\""] {
            assert_eq!(ask(&[other]).status(), 200, "{other}");
        }
    }
}
