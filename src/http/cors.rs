//! Cross-origin reading (the Fetch standard). Never with credentials: no answer here depends on a cookie.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::clients::{Client, Registry};

/// Lets every origin read this answer: public documents.
pub fn allow_any(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

/// Lets `origin` read this answer; `None` for an origin that nobody registered. Says in both cases that the answer
/// depends on the origin, so that no cache mixes them up.
fn allow(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let exposed = HeaderValue::from_static("Retry-After, WWW-Authenticate, X-Request-Id");
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Answers a preflight for an endpoint that takes `methods` (such as `POST`): 204, with permission if the origin has it.
pub fn preflight(origin: Option<&HeaderValue>, methods: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, Content-Type"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// Lets the page that asked read `response` when `client` registered its origin; `None` for nobody who is known.
pub fn allow_client(response: &mut Response, request: &HeaderMap, client: Option<&Client>) {
    if let Some(origin) = request.get(ORIGIN) {
        let allowed = origin.to_str().is_ok_and(|origin| client.is_some_and(|client| client.allows_origin(origin)));
        allow(response.headers_mut(), allowed.then_some(origin));
    }
}

/// Answers a preflight for an endpoint of clients: it names none, so any registered origin is told yes.
pub fn preflight_client(clients: &Registry, request: &HeaderMap, methods: &'static str) -> Response {
    let known = |origin: &&HeaderValue| origin.to_str().is_ok_and(|origin| clients.knows_origin(origin));
    preflight(request.get(ORIGIN).filter(known), methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_origin_gets_no_permission() {
        let mut headers = HeaderMap::new();
        allow(&mut headers, None);
        assert_eq!(headers["vary"], "Origin");
        assert_eq!(headers.len(), 1);
        assert_eq!(preflight(None, "POST").headers().len(), 1);
    }

    #[test]
    fn a_registered_origin_may_read_without_credentials() {
        let origin = HeaderValue::from_static("https://app.example");
        let mut headers = HeaderMap::new();
        allow(&mut headers, Some(&origin));
        assert_eq!(headers["access-control-allow-origin"], origin);
        let response = preflight(Some(&origin), "POST");
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()["access-control-allow-methods"], "POST");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }
}
