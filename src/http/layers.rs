//! What every request and every answer has in common, in one layer: a stack of them would cost an allocation each.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::handler::Handler;
use axum::response::{IntoResponse, Response};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use ipnet::IpNet;
use tower::{Layer, Service};

use super::Connection;
use super::address::{client_address, is_trusted};
use super::render::Failure;
use crate::error::{Code, Error, Result};
use crate::metrics::{Metrics, RouteMetrics};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How the edge treats requests.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// Whose `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a request may take, its body included, until it is answered 503.
    pub request_timeout: Duration,
    /// Requests at work at once; more are answered 503.
    pub max_requests: usize,
    /// Whether the issuer is https, so that browsers are told to stay there.
    pub https: bool,
    /// Whether each request is a line in the log.
    pub log_requests: bool,
}

/// Whose request it is: an extension of every request that a handler sees.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address, as far as it can be believed.
    pub address: IpAddr,
    /// What this request is called in the log and in the answer.
    pub request_id: RequestId,
    /// Whether it came over TLS, here or at one of our proxies.
    pub secure: bool,
}

/// 1 to 64 characters of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The layer. Cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Shared>);

struct Shared {
    settings: EdgeSettings,
    metrics: Arc<Metrics>,
    in_flight: AtomicUsize,
    requests: AtomicU64,
    /// Names this process in its request ids.
    prefix: u32,
    /// A keyed hash: request ids cannot be told from one another's.
    hasher: RandomState,
}

impl Edge {
    /// An edge that counts in `metrics`.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(settings: EdgeSettings, metrics: Arc<Metrics>) -> Result<Self> {
        Ok(Self(Arc::new(Shared {
            settings,
            metrics,
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            prefix: u32::from_ne_bytes(crate::secret::random()?),
            hasher: RandomState::new(),
        })))
    }

    /// Puts the edge around all routes of `router`, and gives it answers for unknown pages (`unknown`) and methods.
    pub fn wrap<H: Handler<T, ()>, T: 'static>(&self, router: Router, unknown: H) -> Router {
        router
            .fallback(unknown)
            .method_not_allowed_fallback(async || Error::new(Code::MethodNotAllowed, "Not with this method."))
            .layer(self.clone())
            // Without this, axum would build every layered handler anew for each request.
            .with_state(())
    }
}

impl<S> Layer<S> for Edge {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { edge: Arc::clone(&self.0), inner, route: Arc::default() }
    }
}

/// One route with the edge around it.
#[derive(Clone)]
pub struct Guarded<S> {
    edge: Arc<Shared>,
    inner: S,
    route: Arc<OnceLock<RouteMetrics>>,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        self.route.get_or_init(|| {
            let pattern = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
            self.edge.metrics.route(pattern)
        });
        let mut exchange = Exchange::begin(&self.edge, Arc::clone(&self.route), &mut request);
        let handler = exchange.admit(&request).map(|()| self.inner.call(request));
        Box::pin(async move { Ok(exchange.answer(handler).await) })
    }
}

/// One request and its answer.
struct Exchange {
    edge: Arc<Shared>,
    route: Arc<OnceLock<RouteMetrics>>,
    peer: Peer,
    method: &'static str,
    started: Option<Instant>,
    http1: bool,
    /// The connection is closed after the answer (HTTP/1.1).
    close: bool,
}

impl Exchange {
    #[expect(clippy::disallowed_methods, reason = "how long a request took is told to the log, and decides nothing")]
    fn begin(edge: &Arc<Shared>, route: Arc<OnceLock<RouteMetrics>>, request: &mut Request) -> Self {
        edge.in_flight.fetch_add(1, Ordering::Relaxed);
        let peer = edge.peer(request);
        request.extensions_mut().insert(peer.clone());
        Self {
            edge: Arc::clone(edge),
            route,
            peer,
            method: method_label(request.method()),
            started: edge.settings.log_requests.then(Instant::now),
            http1: request.version() <= Version::HTTP_11,
            close: false,
        }
    }

    fn admit(&mut self, request: &Request) -> Result<()> {
        // What has no body is answered at once: those who let us wait for theirs do not keep others from the key set.
        let waits = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        if waits && self.edge.in_flight.load(Ordering::Relaxed) > self.edge.settings.max_requests {
            return Err(Error::unavailable("There are too many requests at once.", 1));
        }
        check_framing(request.version(), request.headers()).inspect_err(|_| self.close = true)
    }

    async fn answer(mut self, handler: Result<impl Future<Output = Result<Response, Infallible>>>) -> Response {
        let outcome = match handler {
            Ok(handler) => tokio::time::timeout(self.edge.settings.request_timeout, unwinding(handler)).await,
            Err(refusal) => Ok(Ok(refusal.into_response())),
        };
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => self.panicked(),
            Err(_) => self.timed_out(),
        };
        self.log_failure(&mut response);
        self.add_headers(response.headers_mut());
        if let Some(route) = self.route.get() {
            route.count(self.method, response.status().as_u16());
            self.log_request(route.pattern(), response.status().as_u16());
        }
        response
    }

    fn timed_out(&mut self) -> Response {
        // The body may be half read: what comes next on this connection is not a request.
        self.close = true;
        Error::unavailable("The request took too long.", 1).into_response()
    }

    fn panicked(&mut self) -> Response {
        self.close = true;
        self.edge.metrics.http_panics.inc();
        // What it said may hold anything; where it was, the panic hook says.
        Error::internal("a handler panicked").into_response()
    }

    fn log_failure(&self, response: &mut Response) {
        let Some(Failure(error)) = response.extensions_mut().remove::<Failure>() else { return };
        let request_id = self.peer.request_id.as_str();
        match &error.cause {
            Some(cause) if error.code.status() >= 500 => {
                tracing::error!(request_id, code = error.code.as_str(), cause = %clean(&**cause), "request failed");
            }
            Some(cause) => {
                tracing::debug!(request_id, code = error.code.as_str(), cause = %clean(&**cause), "request refused");
            }
            None => tracing::debug!(request_id, code = error.code.as_str(), detail = error.detail(), "request refused"),
        }
    }

    fn add_headers(&self, headers: &mut HeaderMap) {
        headers.reserve(8);
        headers.insert(REQUEST_ID, self.peer.request_id.0.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.entry(REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.entry(CONTENT_SECURITY_POLICY).or_insert(policy);
        if self.edge.settings.https {
            headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
        }
        if self.close && self.http1 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// T-175: every field comes from a fixed list, a number, or a checked alphabet; no path, query or header.
    fn log_request(&self, route: &str, status: u16) {
        let Some(started) = self.started else { return };
        tracing::info!(
            method = self.method,
            route,
            status,
            micros = crate::clock::micros(started.elapsed()),
            request_id = self.peer.request_id.as_str(),
            address = %self.peer.address,
            "request"
        );
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.edge.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn peer(&self, request: &Request) -> Peer {
        let unknown = Connection { peer: Ipv4Addr::UNSPECIFIED.into(), secure: false };
        let connection = request.extensions().get::<Connection>().copied().unwrap_or(unknown);
        let trusted = &self.settings.trusted_proxies;
        if !is_trusted(connection.peer.to_canonical(), trusted) {
            let address = connection.peer.to_canonical();
            return Peer { address, request_id: self.next_id(), secure: connection.secure };
        }
        let headers = request.headers();
        let given = headers.get(REQUEST_ID).filter(|id| is_request_id(id.as_bytes()));
        Peer {
            address: client_address(connection.peer, headers, trusted),
            request_id: given.map_or_else(|| self.next_id(), |id| RequestId(id.clone())),
            secure: connection.secure || is_https(headers),
        }
    }

    fn next_id(&self) -> RequestId {
        let hash = self.hasher.hash_one(self.requests.fetch_add(1, Ordering::Relaxed));
        let mut id = [0; 24];
        write_hex(u64::from(self.prefix) << 32, &mut id[..8]);
        write_hex(hash, &mut id[8..]);
        RequestId(HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("-")))
    }
}

/// Writes the uppermost digits of `number`, as many as there is room for.
fn write_hex(number: u64, to: &mut [u8]) {
    let digits = number.to_be_bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
    for (at, digit) in to.iter_mut().zip(digits) {
        *at = b"0123456789abcdef"[usize::from(digit)];
    }
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// What our nearest proxy says of the connection it took: the last word, as proxies append.
fn is_https(headers: &HeaderMap) -> bool {
    let last = headers.get_all("x-forwarded-proto").iter().next_back();
    let word = last.and_then(|line| line.as_bytes().rsplit(|byte| *byte == b',').next());
    word.is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// What two readers could understand in two ways is refused (T-185). hyper has refused most of it before.
fn check_framing(version: Version, headers: &HeaderMap) -> Result<()> {
    // Equal while no name stands twice, which is nearly always.
    if headers.len() != headers.keys_len() {
        for (name, refusal) in [
            (AUTHORIZATION, "There is more than one Authorization header."),
            (CONTENT_TYPE, "There is more than one Content-Type header."),
            (CONTENT_LENGTH, "There is more than one Content-Length header."),
            (HOST, "There is more than one Host header."),
            (TRANSFER_ENCODING, "There is more than one Transfer-Encoding header."),
        ] {
            if headers.get_all(name).iter().nth(1).is_some() {
                return Err(Error::invalid_request(refusal));
            }
        }
    }
    if version == Version::HTTP_11 {
        // RFC 9112 §3.2: a request without Host is answered 400.
        if !headers.contains_key(HOST) {
            return Err(Error::invalid_request("There is no Host header."));
        }
        if headers.get(TRANSFER_ENCODING).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(Error::invalid_request("The only Transfer-Encoding here is chunked."));
        }
    }
    Ok(())
}

/// The methods there are; a made-up one must not become a label.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// A cause may quote what came from outside: one line, no control characters, no writing direction marks.
fn clean(cause: &(dyn std::error::Error + Send + Sync)) -> String {
    let bidi = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    cause.to_string().chars().map(|c| if c.is_control() || bidi(c) { '\u{fffd}' } else { c }).collect()
}

/// Runs `future`; an `Err` is what it panicked with.
async fn unwinding(
    future: impl Future<Output = Result<Response, Infallible>>,
) -> Result<Response, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(response))) => Poll::Ready(Ok(response)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t175_a_cause_is_one_line() {
        let cause: Box<dyn std::error::Error + Send + Sync> = "a\r\n\u{1b}[31mb\u{202e}c".into();
        assert_eq!(clean(&*cause), "a\u{fffd}\u{fffd}\u{fffd}[31mb\u{fffd}c");
    }

    #[test]
    fn t175_a_request_id_is_a_plain_word() {
        assert!(is_request_id(b"a.B-c_9"));
        for bad in [&b""[..], b"a b", b"a\nb", b"\"", &[b'a'; 65], b"\xff"] {
            assert!(!is_request_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn request_ids_differ() {
        let settings = EdgeSettings {
            trusted_proxies: Vec::new(),
            request_timeout: Duration::from_secs(1),
            max_requests: 1,
            https: false,
            log_requests: false,
        };
        let edge = Edge::new(settings, Arc::default()).unwrap();
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| edge.0.next_id().as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 24));
    }
}
