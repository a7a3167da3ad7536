//! TLS with a certificate from files, taken anew when the files change. Never asks the client for a certificate.

use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate or key that cannot be used; the text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file holds no PEM of the kind it should.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("{} and its key cannot be used: {cause}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls said.
        cause: rustls::Error,
    },
}

/// Takes TLS 1.2 and 1.3 connections, for HTTP/2 and HTTP/1.1.
#[derive(Debug)]
pub struct Acceptor {
    certificate: PathBuf,
    key: PathBuf,
    config: ArcSwap<ServerConfig>,
    /// The files as they were when the certificate was first read.
    loaded: Stamps,
    /// Who may sign at once. A handshake costs as much as hundreds of requests; without this, a flood of them would
    /// stand before everything else in the workers' queues.
    signing: Semaphore,
}

impl Acceptor {
    /// Reads the certificate chain (PEM, the server's own first) and its private key (PEM: PKCS#8, SEC1 or PKCS#1).
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let loaded = stamps(&certificate, &key);
        let config = ArcSwap::from_pointee(read(&certificate, &key)?);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self { certificate, key, config, loaded, signing: Semaphore::new(workers) })
    }

    /// Reads the files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// When a file cannot be read or used; then the certificate in use stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(Arc::new(read(&self.certificate, &self.key)?));
        Ok(())
    }

    /// Looks at the files once each `interval` and reloads what changed. A bad file is logged once and tried again,
    /// as it may be half written.
    pub async fn watch(self: Arc<Self>, interval: Duration, shutdown: CancellationToken) {
        let (mut loaded, mut complained) = (self.loaded, None);
        while timeout(interval, shutdown.cancelled()).await.is_err() {
            let found = stamps(&self.certificate, &self.key);
            if found == loaded {
                continue;
            }
            let this = Arc::clone(&self);
            let Ok(outcome) = tokio::task::spawn_blocking(move || this.reload()).await else { continue };
            match outcome {
                Ok(()) => {
                    tracing::info!(certificate = %self.certificate.display(), "TLS certificate reloaded");
                    loaded = found;
                }
                Err(cause) if complained != Some(found) => {
                    tracing::error!(%cause, "the new TLS certificate cannot be used; the old one stays in use");
                    complained = Some(found);
                }
                Err(_) => {}
            }
        }
    }

    /// Does the handshake, within 10 seconds.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        timeout(HANDSHAKE_TIMEOUT, self.handshake(stream))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        // The permit is held for the computing only: a client that is slow to go on keeps none from others.
        let permit = self.signing.acquire().await.map_err(io::Error::other)?;
        let mut handshake = pin!(hello.into_stream(self.config.load_full()));
        let begun = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
        drop(permit);
        match begun {
            Poll::Ready(done) => done,
            Poll::Pending => handshake.await,
        }
    }
}

/// When each file was last written, and how long it is.
type Stamps = [Option<(SystemTime, u64)>; 2];

/// Symbolic links are followed: that is how container platforms change files.
fn stamps(certificate: &Path, key: &Path) -> Stamps {
    [certificate, key].map(|path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    })
}

fn read(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let malformed = |path: &Path, what| TlsError::Malformed { path: path.to_owned(), what };
    let unusable = |cause| TlsError::Unusable { path: certificate.to_owned(), cause };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read_file(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|_| malformed(certificate, "this is not PEM"))?;
    if chain.is_empty() {
        return Err(malformed(certificate, "there is no certificate in it (BEGIN CERTIFICATE)"));
    }
    let private = PrivateKeyDer::from_pem_slice(&read_file(key)?).map_err(|_| {
        malformed(key, "there is no private key in it (BEGIN PRIVATE KEY); encrypted ones cannot be used")
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    Ok(config)
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    std::fs::read(path).map(Zeroizing::new).map_err(|cause| TlsError::Unreadable { path: path.to_owned(), cause })
}
