//! What one core of this machine can do at all: the ceilings that `tests/bench/run.sh` compares the server with.
//!
//! The handlers run on the server's runtime, allocator and HTTP library, with nothing of the server around them; the
//! form is read and the claims are built by the plainest code that does it. Signing and reading tokens is the
//! server's own code, which `--raw` has without the HTTP and `benches/signing.rs` piece by piece.

#![expect(clippy::disallowed_methods, reason = "it measures by the system's clock")]

use std::borrow::Cow;
use std::error::Error;
use std::hint::black_box;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sealwright::app;
use sealwright::clock::{Clock, SECOND};
use sealwright::config::Config;
use sealwright::keys::{Jws, KeyPair, PublicJwk, Signer, SigningQueue, Typ};
use sealwright::password::PasswordHasher;
use sealwright::secret::{Secret, random};
use sealwright::wire::Algorithm;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower::Service;
use url::form_urlencoded;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
ceilings --listen ADDRESS --key KEY.pem
    Serves GET /ok and POST /sign-eddsa, /sign-rs256, /verify-sign (assertions made with KEY.pem).
ceilings --raw NAME
    Prints NAME and its operations a second on one core: sign-eddsa, sign-rs256, verify-eddsa or argon2id.
ceilings --assertions COUNT --issuer URL --client-id ID --key KEY.pem
    Prints COUNT client assertions, one a line.
KEY.pem is what `openssl genpkey -algorithm ed25519` makes.";

/// A token's and an assertion's lifetimes, in seconds.
const TOKEN_LIFETIME: i64 = 3600;
const ASSERTION_LIFETIME: i64 = 3000;
const MAX_ASSERTION: usize = 16 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["--listen", address, "--key", key] => serve(address, Path::new(key)),
        ["--raw", name] => raw(name),
        ["--assertions", count, "--issuer", issuer, "--client-id", client_id, "--key", key] => {
            assertions(count, issuer, client_id, Path::new(key))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ceilings: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The Ed25519 key in a PKCS#8 PEM file.
fn read_key(path: &Path) -> Result<KeyPair> {
    let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    Ok(KeyPair::from_pkcs8(Algorithm::EdDsa, der.secret_pkcs8_der())?)
}

fn new_pair(algorithm: Algorithm) -> Result<KeyPair> {
    Ok(KeyPair::generate(algorithm, 2048)?.0)
}

fn new_signer(algorithm: Algorithm, queue: &SigningQueue) -> Result<Signer> {
    let pair = new_pair(algorithm)?;
    let kid = pair.public_jwk().thumbprint();
    Ok(Signer::new(&kid, algorithm.as_str(), pair, queue.clone())?)
}

// Assertions.

#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
}

fn assertions(count: &str, issuer: &str, client_id: &str, key: &Path) -> Result<()> {
    let (count, key, now) = (count.parse::<u64>()?, read_key(key)?, Clock::system().now() / SECOND);
    let header = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"client-authentication+jwt","kid":"bench"}"#);
    let mut out = BufWriter::new(io::stdout().lock());
    for _ in 0..count {
        let claims = AssertionClaims {
            iss: client_id,
            sub: client_id,
            aud: issuer,
            iat: now,
            exp: now + ASSERTION_LIFETIME,
            jti: BASE64_URL_SAFE_NO_PAD.encode(random::<16>()?),
        };
        let message = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?));
        writeln!(out, "{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes())?))?;
    }
    Ok(out.flush()?)
}

// The bare handlers.

struct Bare {
    issuer: String,
    eddsa: Signer,
    rs256: Signer,
    client: PublicJwk,
    clock: Clock,
}

/// As `sealwright::issue::AccessClaims`, in the same order.
#[derive(Serialize)]
struct TokenClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    client_id: &'a str,
    scope: &'a str,
    iat: i64,
    exp: i64,
    jti: String,
}

#[derive(Deserialize)]
struct ReadAssertion {
    sub: String,
    aud: String,
    exp: f64,
}

type Form<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

fn parse(body: &[u8]) -> Form<'_> {
    form_urlencoded::parse(body).collect()
}

fn parameter<'a>(form: &'a Form<'_>, wanted: &str) -> Result<&'a str, StatusCode> {
    let found = form.iter().find(|(name, _)| name == wanted);
    found.map(|(_, value)| value.as_ref()).ok_or(StatusCode::BAD_REQUEST)
}

impl Bare {
    async fn token(&self, signer: &Signer, subject: &str, form: &Form<'_>) -> Result<String, StatusCode> {
        if parameter(form, "grant_type")? != "client_credentials" {
            return Err(StatusCode::BAD_REQUEST);
        }
        let now = self.clock.now() / SECOND;
        let id = random::<16>().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let claims = TokenClaims {
            iss: &self.issuer,
            sub: subject,
            aud: "https://eddsa.example.com",
            client_id: subject,
            scope: parameter(form, "scope")?,
            iat: now,
            exp: now + TOKEN_LIFETIME,
            jti: BASE64_URL_SAFE_NO_PAD.encode(id),
        };
        signer.sign(Typ::AccessToken, &claims).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }

    /// The subject of a good assertion.
    fn verify(&self, assertion: &str) -> Result<String, StatusCode> {
        let jws = Jws::parse(assertion, MAX_ASSERTION).map_err(|_| StatusCode::BAD_REQUEST)?;
        let verified = self.client.verify(Algorithm::EdDsa, jws.signing_input.as_bytes(), &jws.signature);
        verified.map_err(|_| StatusCode::UNAUTHORIZED)?;
        let claims: ReadAssertion = jws.claims().map_err(|_| StatusCode::BAD_REQUEST)?;
        #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
        let live = claims.exp > (self.clock.now() / SECOND) as f64;
        if live && claims.aud == self.issuer { Ok(claims.sub) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

async fn sign_eddsa(State(bare): State<Arc<Bare>>, body: Bytes) -> Result<String, StatusCode> {
    bare.token(&bare.eddsa, "service", &parse(&body)).await
}

async fn sign_rs256(State(bare): State<Arc<Bare>>, body: Bytes) -> Result<String, StatusCode> {
    bare.token(&bare.rs256, "service", &parse(&body)).await
}

async fn verify_sign(State(bare): State<Arc<Bare>>, body: Bytes) -> Result<String, StatusCode> {
    let form = parse(&body);
    let subject = bare.verify(parameter(&form, "client_assertion")?)?;
    bare.token(&bare.eddsa, &subject, &form).await
}

fn serve(address: &str, key: &Path) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let queue = SigningQueue::of_this_machine();
    let bare = Bare {
        issuer: format!("http://{address}"),
        eddsa: new_signer(Algorithm::EdDsa, &queue)?,
        rs256: new_signer(Algorithm::Rs256, &queue)?,
        client: read_key(key)?.public_jwk().clone(),
        clock: Clock::system(),
    };
    let router = Router::new()
        .route("/ok", get(async || "ok"))
        .route("/sign-eddsa", post(sign_eddsa))
        .route("/sign-rs256", post(sign_rs256))
        .route("/verify-sign", post(verify_sign))
        .with_state(Arc::new(bare));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On a worker, as in the server: the thread that blocks here would hand each connection over.
    runtime.block_on(async { runtime.spawn(accept(TcpListener::bind(address).await?, router)).await? })
}

async fn accept(listener: TcpListener, router: Router) -> Result<()> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(None);
    let http = Arc::new(http);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (http, router) = (Arc::clone(&http), router.clone());
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| router.clone().call(request));
            // A client that goes away is not of interest.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

// Single operations.

fn raw(name: &str) -> Result<()> {
    // The length of a token's header and claims.
    let message = [b'a'; 480];
    let found = match name {
        "sign-eddsa" | "sign-rs256" => {
            let pair = new_pair(if name == "sign-rs256" { Algorithm::Rs256 } else { Algorithm::EdDsa })?;
            rate(|| Ok(pair.sign(black_box(&message))?))?
        }
        "verify-eddsa" => {
            let pair = new_pair(Algorithm::EdDsa)?;
            let (signature, public) = (pair.sign(&message)?, pair.public_jwk());
            rate(|| Ok(public.verify(Algorithm::EdDsa, black_box(&message), black_box(&signature))?))?
        }
        "argon2id" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let hasher = PasswordHasher::new(app::hash_settings(&Config::default()))?;
            let guess = Secret::new("a guess of whoever");
            rate(|| Ok(runtime.block_on(hasher.verify(&guess, None, None))?))?
        }
        _ => return Err(format!("nothing is called '{name}'").into()),
    };
    Ok(writeln!(io::stdout().lock(), "{name} {found:.1}")?)
}

/// How often a second `work` can be done, over one second after a short warm-up.
fn rate<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut measured = 0.0;
    for seconds in [0.2, 1.0] {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < Duration::from_secs_f64(seconds) {
            black_box(work()?);
            count += 1;
        }
        measured = f64::from(count) / begun.elapsed().as_secs_f64();
    }
    Ok(measured)
}
