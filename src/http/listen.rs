//! Listeners: binding them, accepting connections, serving HTTP/1.1 and HTTP/2 on each, and draining.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::{Connection, Limits, tls};
use crate::config::Listen;
use crate::metrics::Metrics;

/// How long an idle connection has to take the HTTP/2 goodbye (GOAWAY) before it is cut.
const GOODBYE: Duration = Duration::from_secs(1);

/// A listener that could not be opened; the text names the setting and the mend.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error(
        "{setting}: {address} is taken by another program. Stop that one, or choose another address with {setting} in the configuration file or {variable} in the environment"
    )]
    Taken {
        /// The setting.
        setting: String,
        /// The address.
        address: SocketAddr,
        /// The environment variable of the setting.
        variable: String,
    },
    /// The system refuses for another reason.
    #[error("{setting}: cannot listen on {address}: {cause}")]
    Refused {
        /// The setting.
        setting: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        cause: io::Error,
    },
}

/// Opens the listeners of the setting called `setting` (`http.listen`). Port 0 is any free one; the listeners know
/// which.
///
/// # Errors
/// When an address is taken or refused.
pub async fn bind(setting: &str, listen: &[Listen]) -> Result<Vec<TcpListener>, ListenError> {
    let mut listeners = Vec::with_capacity(listen.len() + 1);
    for one in listen {
        match *one {
            Listen::Localhost(port) => bind_loopback(setting, port, &mut listeners).await?,
            Listen::Address(address) => listeners.push(bind_one(setting, address).await?),
        }
    }
    Ok(listeners)
}

async fn bind_loopback(setting: &str, port: u16, to: &mut Vec<TcpListener>) -> Result<(), ListenError> {
    // A free port on 127.0.0.1 may be taken on ::1: with port 0, ask for another.
    let mut tries = if port == 0 { 8 } else { 1 };
    loop {
        let four = bind_one(setting, (Ipv4Addr::LOCALHOST, port).into()).await?;
        let chosen = four.local_addr().map_or(port, |address| address.port());
        tries -= 1;
        match bind_one(setting, (Ipv6Addr::LOCALHOST, chosen).into()).await {
            Ok(six) => to.extend([four, six]),
            Err(ListenError::Refused { cause, .. }) if has_no_such_address(&cause) => to.push(four),
            Err(ListenError::Taken { .. }) if tries > 0 => continue,
            Err(error) => return Err(error),
        }
        return Ok(());
    }
}

async fn bind_one(setting: &str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|cause| {
        let setting = setting.to_owned();
        if cause.kind() == io::ErrorKind::AddrInUse {
            let variable = format!("SEALWRIGHT_{}", setting.to_uppercase().replace('.', "__"));
            return ListenError::Taken { setting, address, variable };
        }
        ListenError::Refused { setting, address, cause }
    })
}

/// A machine without IPv6 says one or the other.
fn has_no_such_address(cause: &io::Error) -> bool {
    // EAFNOSUPPORT, for which std has no name: 97 on Linux, 47 on the BSDs and macOS.
    cause.kind() == io::ErrorKind::AddrNotAvailable || matches!(cause.raw_os_error(), Some(97 | 47))
}

/// What a set of listeners serves.
pub struct Server {
    /// The listeners' name in metrics and logs: `http`, `tls`, `mtls`, `management`.
    pub name: &'static str,
    /// The routes, in the edge.
    pub router: Router,
    /// TLS, or none.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// Bounds of these listeners together.
    pub limits: Limits,
    /// Where open connections are counted.
    pub metrics: Arc<Metrics>,
}

/// Serves until `shutdown` is cancelled; then stops accepting, lets requests in flight finish for [`Limits::drain`],
/// and returns when every connection is closed.
pub async fn serve(listeners: Vec<TcpListener>, server: Server, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let server = Arc::new(Serving {
        permits: Arc::new(Semaphore::new(server.limits.max_connections.min(Semaphore::MAX_PERMITS))),
        connections: server.metrics.connections(server.name),
        http: http(),
        server,
    });
    for listener in listeners {
        tasks.spawn(Arc::clone(&server).accept(listener, tasks.clone(), shutdown.clone()));
    }
    shutdown.cancelled().await;
    tasks.close();
    tasks.wait().await;
}

/// HTTP/1.1 and HTTP/2 with their bounds. The number of HTTP/1.1 headers stays at hyper's 100, which lives on the
/// stack. hyper's timer for HTTP/1.1 headers is off: it would be set up and torn down for each request, and
/// [`Serving::drive`] bounds the same with one timer for each connection, before the version is known, too.
fn http() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    // Our answers are short, the longest a logo of 64 KiB: copied behind their heads, they are sent at less cost than as
    // two pieces. A connection keeps the room for its longest.
    http.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(32 * 1024).writev(false);
    http.http2()
        .timer(TokioTimer::new())
        // Each stream may hold a place among the requests at work; one connection must not hold many.
        .max_concurrent_streams(16)
        .max_header_list_size(16 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    http
}

struct Serving {
    server: Server,
    http: Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
    connections: Gauge,
}

impl Serving {
    async fn accept(self: Arc<Self>, listener: TcpListener, tasks: TaskTracker, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let permit = tokio::select! {
                () = shutdown.cancelled() => return,
                permit = Arc::clone(&self.permits).acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    // Each connection has a token of its own: they do not meet at the lock of a shared one.
                    let open = Open::new(permit, self.connections.clone());
                    let served = Arc::clone(&self).connection(stream, peer.ip(), shutdown.child_token());
                    tasks.spawn(async move {
                        served.await;
                        drop(open);
                    });
                }
                Err(cause) if is_of_one_connection(&cause) => {}
                Err(cause) => {
                    // Out of file descriptors or memory: those that close will make room.
                    if !failing {
                        tracing::error!(listener = self.server.name, %cause, "cannot accept connections");
                    }
                    failing = true;
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: IpAddr, shutdown: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.server.tls else {
            return self.drive(stream, Connection { peer, secure: false }, shutdown).await;
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = tls.accept(stream, self.server.limits.header_timeout) => accepted,
        };
        match accepted {
            Ok(stream) => self.drive(stream, Connection { peer, secure: true }, shutdown).await,
            Err(cause) => tracing::debug!(listener = self.server.name, %peer, %cause, "TLS handshake failed"),
        }
    }

    async fn drive<S>(&self, stream: S, connection: Connection, shutdown: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.server.limits;
        let activity = Arc::new(Activity::default());
        let service = service_fn(|mut request: Request<Incoming>| {
            let busy = Busy::new(&activity);
            request.extensions_mut().insert(connection);
            let answer = self.server.router.clone().call(request);
            async move {
                let _busy = busy;
                answer.await
            }
        });
        let mut http = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let mut check = pin!(sleep(limits.header_timeout));
        let mut seen = 0;
        let patience = loop {
            tokio::select! {
                biased;
                ended = http.as_mut() => return log_end(self.server.name, ended),
                () = shutdown.cancelled() => break limits.drain,
                () = check.as_mut() => {
                    if activity.is_idle_since(&mut seen) {
                        break GOODBYE;
                    }
                    check.set(sleep(limits.keep_alive));
                }
            }
        };
        http.as_mut().graceful_shutdown();
        if let Ok(ended) = timeout(patience, http).await {
            log_end(self.server.name, ended);
        }
    }
}

fn log_end(listener: &'static str, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(cause) = ended {
        tracing::debug!(listener, %cause, "connection ended");
    }
}

/// Errors of `accept` that belong to the connection and not to the listener.
fn is_of_one_connection(cause: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(cause.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A place among the connections, given back when it goes.
struct Open {
    _permit: OwnedSemaphorePermit,
    connections: Gauge,
}

impl Open {
    fn new(permit: OwnedSemaphorePermit, connections: Gauge) -> Self {
        connections.inc();
        Self { _permit: permit, connections }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}

/// Requests of one connection: begun, and ended.
#[derive(Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// Whether no request is at work and none came since `seen`, which is moved on.
    fn is_idle_since(&self, seen: &mut u64) -> bool {
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        begun == ended && std::mem::replace(seen, begun) == begun
    }
}

struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.begun.fetch_add(1, Ordering::Release);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}
