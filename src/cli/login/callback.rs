//! The end of the redirect: one page on a loopback port (RFC 8252 §7.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::{Host, Url, form_urlencoded};

use super::super::output::Failure;
use crate::secret::equal;

/// What the browser brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Callback {
    pub(super) code: Option<String>,
    pub(super) iss: Option<String>,
    pub(super) error: Option<String>,
    pub(super) error_description: Option<String>,
    state: Option<String>,
}

impl Callback {
    /// `None` for a query that says something twice (RFC 6749 §3.1).
    fn parse(query: &str) -> Option<Self> {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match name.as_ref() {
                "code" => &mut read.code,
                "iss" => &mut read.iss,
                "error" => &mut read.error,
                "error_description" => &mut read.error_description,
                "state" => &mut read.state,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        Some(read)
    }
}

/// A port of this machine that waits for one redirect.
pub(super) struct Loopback {
    listener: TcpListener,
    redirect_uri: Url,
    /// As it goes to the server.
    text: String,
}

impl Loopback {
    /// Listens where `redirect_uri` says; without a port, on a free one.
    pub(super) async fn bind(redirect_uri: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!(
                "--redirect-uri: {redirect_uri} is not one that this command can wait at; it takes \
                 http://127.0.0.1/…, http://[::1]/… or http://localhost/…, with a port or without"
            ))
        };
        let mut url = Url::parse(redirect_uri).map_err(|_| wrong())?;
        let address = match url.host() {
            Some(Host::Domain("localhost")) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(Host::Ipv4(address)) if address.is_loopback() => IpAddr::V4(address),
            Some(Host::Ipv6(Ipv6Addr::LOCALHOST)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            _ => return Err(wrong()),
        };
        if url.scheme() != "http" || url.fragment().is_some() || !url.username().is_empty() {
            return Err(wrong());
        }
        let listener = TcpListener::bind((address, url.port().unwrap_or(0)))
            .await
            .map_err(|cause| Failure::failed(format!("cannot wait for the browser at {redirect_uri}: {cause}")))?;
        let port = listener.local_addr()?.port();
        url.set_port(Some(port)).map_err(|()| wrong())?;
        let text = url.as_str().to_owned();
        Ok(Self { listener, redirect_uri: url, text })
    }

    /// The redirect URI with the port that it has now.
    pub(super) fn redirect_uri(&self) -> &str {
        &self.text
    }

    /// Waits for the redirect that carries `state`. Whatever else calls is turned away and changes nothing.
    pub(super) async fn wait(self, state: &str) -> Result<Callback, Failure> {
        let (sender, mut receiver) = mpsc::channel(1);
        let shared = Arc::new((state.to_owned(), sender));
        // Any path is taken and compared here: the router would give some characters a meaning.
        let path = self.redirect_uri.path().to_owned();
        let answer = get(
            move |State(shared): State<Arc<(String, mpsc::Sender<Callback>)>>,
                  uri: http::Uri,
                  RawQuery(query): RawQuery| async move {
                let is_here = uri.path() == path;
                let found = query.filter(|_| is_here).and_then(|query| Callback::parse(&query));
                let ours = |found: &Callback| {
                    found.state.as_deref().is_some_and(|state| equal(state.as_bytes(), shared.0.as_bytes()))
                };
                match found.filter(ours) {
                    Some(found) => {
                        let refused = found.error.is_some();
                        // A second one comes too late.
                        let _ = shared.1.try_send(found);
                        if refused { page(StatusCode::OK, REFUSED) } else { page(StatusCode::OK, DONE) }
                    }
                    None => page(StatusCode::BAD_REQUEST, OTHER),
                }
            },
        );
        let router = Router::new().fallback_service(answer.with_state(shared));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let serving = tokio::spawn(async move { serving.await });
        let found = receiver.recv().await;
        // The browser still gets its page.
        let _ = stop.send(());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), serving).await;
        found.ok_or_else(|| Failure::failed("the page for the browser ended before the answer came"))
    }
}

const DONE: &str = "Signed in. You can close this page and go back to the terminal.";
const REFUSED: &str = "Not signed in. You can close this page; the terminal says why.";
const OTHER: &str = "This is not the answer that the terminal waits for. Nothing happened.";

fn page(status: StatusCode, text: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>sealwright login</title><main><h1>sealwright login</h1><p>{text}</p></main></html>"
    );
    let mut response = Response::new(html.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    // The address holds the code.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6749_3_1_nothing_is_said_twice() {
        let read = Callback::parse("code=a%20b&state=s&iss=https%3A%2F%2Fid&more=1&more=2").unwrap();
        assert_eq!((read.code.as_deref(), read.iss.as_deref()), (Some("a b"), Some("https://id")));
        for twice in ["code=a&code=a", "state=a&state=b", "iss=a&iss=a", "error=a&error=b"] {
            assert_eq!(Callback::parse(twice), None, "{twice}");
        }
    }

    #[tokio::test]
    async fn only_loopback_is_waited_at() {
        for bad in ["https://127.0.0.1/cb", "http://192.0.2.1/cb", "http://example.com/cb", "com.example:/cb", "cb"] {
            assert!(Loopback::bind(bad).await.is_err(), "{bad}");
        }
        let free = Loopback::bind("http://127.0.0.1/cb?x=1").await.unwrap();
        let port = free.listener.local_addr().unwrap().port();
        assert_eq!(free.redirect_uri(), format!("http://127.0.0.1:{port}/cb?x=1"));
        assert!(Loopback::bind(&format!("http://127.0.0.1:{port}/cb")).await.is_err(), "taken");
    }
}
