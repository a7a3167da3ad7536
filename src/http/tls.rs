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

const CERTIFICATE: &str = "tls.certificate";
const PRIVATE_KEY: &str = "tls.private_key";

/// A certificate or key that cannot be used; the text names the setting, the file and the mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{setting}: cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The file holds no PEM of the kind it should.
    #[error("{setting}: {} {what}", path.display())]
    Malformed {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing or wrong, and what it takes.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that is not supported.
    #[error("tls.certificate: {} and the key of tls.private_key cannot be used, or are no pair: {cause}", path.display())]
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

    /// Does the handshake.
    ///
    /// # Errors
    /// When it fails, or takes longer than `patience`.
    pub async fn accept(&self, stream: TcpStream, patience: Duration) -> io::Result<TlsStream<TcpStream>> {
        timeout(patience, self.handshake(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
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
    let malformed = |setting, path: &Path, what| TlsError::Malformed { setting, path: path.to_owned(), what };
    let unusable = |cause| TlsError::Unusable { path: certificate.to_owned(), cause };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&read_file(CERTIFICATE, certificate)?).collect::<Result<_, _>>().map_err(
            |_| malformed(CERTIFICATE, certificate, "is not PEM; it takes the chain as BEGIN CERTIFICATE blocks"),
        )?;
    if chain.is_empty() {
        let what = "holds no certificate; it takes the chain, PEM (BEGIN CERTIFICATE)";
        return Err(malformed(CERTIFICATE, certificate, what));
    }
    let private = PrivateKeyDer::from_pem_slice(&read_file(PRIVATE_KEY, key)?).map_err(|_| {
        let what = "holds no private key; it takes PEM (BEGIN PRIVATE KEY), and none that is encrypted";
        malformed(PRIVATE_KEY, key, what)
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

fn read_file(setting: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unreadable = |cause| TlsError::Unreadable { setting, path: path.to_owned(), cause };
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}
