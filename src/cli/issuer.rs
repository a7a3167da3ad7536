//! The issuer that `token`, `login` and `introspect` talk to, as a client of it: any RFC 8414 server, not only Sealwright.

use std::fs::read_to_string;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dev::{self, DevFile};
use super::keys::read_key;
use super::output::Failure;
use crate::clients::auth::ASSERTION_TYPE;
use crate::clock::{Clock, SECOND};
use crate::config::{self, Config, Issuer};
use crate::keys::KeyPair;
use crate::keys::import::{Imported, private_key};
use crate::outbound::{Outbound, OutboundError};
use crate::secret::{Secret, random_text};

/// Whom to ask, and as whom.
#[derive(clap::Args)]
pub struct Peer {
    /// The issuer's URL, as it stands in `iss` [env: `SEALWRIGHT_ISSUER`]
    #[arg(long, value_name = "URL", conflicts_with = "dev")]
    issuer: Option<String>,
    /// Who we are [env: `SEALWRIGHT_CLIENT_ID`]
    #[arg(long, value_name = "ID", conflicts_with = "dev")]
    client_id: Option<String>,
    /// The file that holds the client's secret, or - for stdin [env: `SEALWRIGHT_CLIENT_SECRET`, the secret itself]
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    client_secret_file: Option<PathBuf>,
    /// Send the secret in the form (`client_secret_post`) instead of by HTTP Basic
    #[arg(long, conflicts_with_all = ["dev", "client_key_file"])]
    post_secret: bool,
    /// The file that holds the client's private key, a JWK or PEM, or - for stdin: it signs an assertion (`private_key_jwt`)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dev", "client_secret_file"])]
    client_key_file: Option<PathBuf>,
    /// Use the issuer and the demo clients of `serve --dev` in this folder
    #[arg(long)]
    dev: bool,
}

/// Which of the demo clients `--dev` means.
#[derive(Clone, Copy)]
pub enum Demo {
    /// The service that gets tokens.
    Client,
    /// The gateway that introspects them.
    Gateway,
    /// The application that people sign in to. It may be one without a secret.
    Web,
}

/// What of RFC 8414 we need.
#[derive(Deserialize)]
pub struct Metadata {
    issuer: String,
    /// Where people are sent to sign in.
    pub authorization_endpoint: Option<String>,
    /// Where tokens are got.
    pub token_endpoint: Option<String>,
    /// Where they are described (RFC 7662).
    pub introspection_endpoint: Option<String>,
    /// The keys that it signs with.
    pub jwks_uri: Option<String>,
    /// RFC 9207: answers of the authorization endpoint say whose they are.
    #[serde(default)]
    pub authorization_response_iss_parameter_supported: bool,
}

/// A client of an issuer.
pub struct Caller {
    issuer: Issuer,
    client_id: String,
    proof: Proof,
    http: Outbound,
}

/// How we show who we are.
enum Proof {
    /// A public client does not.
    None,
    Basic(Secret),
    Post(Secret),
    Key(AssertionKey),
}

/// RFC 7523 §2.2: what signs a client's assertions.
struct AssertionKey {
    pair: KeyPair,
    /// The name of its algorithm.
    alg: String,
    /// As the JWK has it, so that the server finds it among several.
    kid: Option<String>,
}

impl AssertionKey {
    fn read(file: &Path) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Named {
            kid: Option<String>,
        }
        let text = read_key(file)?;
        let unfit = |cause| Failure::failed(format!("{}: {cause}", file.display()));
        let Imported { pair, alg_name, .. } = private_key(&text, None).map_err(unfit)?;
        let alg = alg_name.unwrap_or_else(|| pair.algorithm().as_str().to_owned());
        let kid = serde_json::from_slice(&text).ok().and_then(|Named { kid }| kid);
        Ok(Self { pair, alg, kid })
    }

    /// An assertion of `client_id` for `issuer` (RFC 10070), good once, for a minute.
    fn assertion(&self, client_id: &str, issuer: &str) -> Result<String, Failure> {
        let now = Clock::system().now() / SECOND;
        let mut header = json!({ "alg": self.alg, "typ": "client-authentication+jwt" });
        if let Some(kid) = &self.kid {
            header["kid"] = kid.as_str().into();
        }
        let claims = json!({
            "iss": client_id, "sub": client_id, "aud": issuer, "iat": now, "exp": now + 60, "jti": random_text::<16>()?,
        });
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(message.as_bytes()).map_err(Failure::failed)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Peer {
    /// Whether the client's secret or key comes from stdin.
    pub fn takes_stdin(&self) -> bool {
        [&self.client_secret_file, &self.client_key_file]
            .into_iter()
            .any(|file| file.as_deref() == Some(Path::new("-")))
    }

    /// Who calls whom.
    pub fn caller(&self, demo: Demo) -> Result<Caller, Failure> {
        let (issuer, client_id, proof) = if self.dev {
            let DevFile { issuer, client, gateway, web_client, .. } = dev::file()?;
            let credentials = match demo {
                Demo::Client => client,
                Demo::Gateway => gateway,
                Demo::Web => web_client.map(|client| client.credentials).ok_or_else(|| {
                    Failure::failed("dev.json is of an earlier release; start `sealwright serve --dev` anew")
                })?,
            };
            (issuer, credentials.client_id, Proof::Basic(credentials.client_secret))
        } else {
            let issuer = given(self.issuer.clone(), "SEALWRIGHT_ISSUER", "--issuer URL")?;
            let client_id = given(self.client_id.clone(), "SEALWRIGHT_CLIENT_ID", "--client-id ID")?;
            (issuer, client_id, self.proof(demo)?)
        };
        let issuer = Issuer::parse(&issuer).map_err(|text| Failure::usage(format!("--issuer: {issuer} {text}")))?;
        if !issuer.is_https() && !issuer.is_loopback() {
            return Err(Failure::usage(format!(
                "--issuer: {issuer} is plain http off this machine, so everybody on the way would read the client's \
                 secret; use its https URL"
            )));
        }
        // The operator named the issuer, wherever it is; so no network is forbidden.
        let everywhere = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
        let http = Outbound::new(&config::Outbound {
            allow_networks: everywhere,
            allow_http: !issuer.is_https(),
            timeout_seconds: 15,
            max_body_bytes: 1024 * 1024,
            ..Config::default().outbound
        })?;
        Ok(Caller { issuer, client_id, proof, http })
    }

    fn proof(&self, demo: Demo) -> Result<Proof, Failure> {
        if let Some(file) = &self.client_key_file {
            return AssertionKey::read(file).map(Proof::Key);
        }
        let has_none = self.client_secret_file.is_none()
            && std::env::var_os("SEALWRIGHT_CLIENT_SECRET").is_none_or(|secret| secret.is_empty());
        match (demo, has_none) {
            (Demo::Web, true) if !self.post_secret => Ok(Proof::None),
            _ => self.secret().map(if self.post_secret { Proof::Post } else { Proof::Basic }),
        }
    }

    fn secret(&self) -> Result<Secret, Failure> {
        let Some(file) = &self.client_secret_file else {
            return given(None, "SEALWRIGHT_CLIENT_SECRET", "--client-secret-file FILE").map(Secret::new);
        };
        let text = if self.takes_stdin() { stdin() } else { read_to_string(file) };
        let text = text.map_err(|cause| Failure::failed(format!("cannot read {}: {cause}", file.display())))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(Failure::failed(format!("{} is empty; it should hold the client's secret", file.display()))),
            secret => Ok(Secret::new(secret)),
        }
    }
}

/// All of stdin.
pub fn stdin() -> io::Result<String> {
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}

fn given(argument: Option<String>, variable: &str, option: &str) -> Result<String, Failure> {
    argument.or_else(|| std::env::var(variable).ok().filter(|value| !value.is_empty())).ok_or_else(|| {
        Failure::usage(format!("{option} is missing (or {variable}); for the server of `serve --dev`, give --dev"))
    })
}

impl Caller {
    /// The issuer's metadata (RFC 8414 §3).
    pub async fn discover(&self) -> Result<Metadata, Failure> {
        let url = metadata_url(&self.issuer);
        let body = self.http.get(&url, "application/json").await.map_err(|cause| no_answer(&url, &cause))?;
        let metadata: Metadata = serde_json::from_slice(&body)
            .map_err(|cause| Failure::failed(format!("{url} is no authorization server metadata: {cause}")))?;
        // RFC 8414 §3.3: metadata of another issuer must not be used.
        if metadata.issuer != self.issuer.as_str() {
            return Err(Failure::failed(format!(
                "{url} describes the issuer {}, not {}; give --issuer exactly as the server's configuration has it",
                metadata.issuer, self.issuer
            )));
        }
        Ok(metadata)
    }

    /// Who we are.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Whom we talk to.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Fetches a document of the issuer's.
    pub async fn get(&self, endpoint: Option<&str>, accept: &str) -> Result<Vec<u8>, Failure> {
        let url = endpoint.ok_or_else(|| Failure::failed(format!("{} has no such endpoint", self.issuer)))?;
        self.http.get(url, accept).await.map_err(|cause| no_answer(url, &cause))
    }

    /// Posts a form as the client, and gives the answer's JSON.
    pub async fn post(&self, endpoint: Option<&str>, form: &[(&str, &str)]) -> Result<Value, Failure> {
        let url = endpoint.ok_or_else(|| Failure::failed(format!("{} has no such endpoint", self.issuer)))?;
        let client_id = self.client_id.as_str();
        let (mut form, mut basic) = (form.to_vec(), None);
        let assertion;
        match &self.proof {
            Proof::None => form.push(("client_id", client_id)),
            Proof::Basic(secret) => basic = Some((client_id, secret)),
            Proof::Post(secret) => form.extend([("client_id", client_id), ("client_secret", secret.expose())]),
            Proof::Key(key) => {
                assertion = key.assertion(client_id, self.issuer.as_str())?;
                form.extend([("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())]);
            }
        }
        let (status, body) = self.http.post_form(url, &form, basic).await.map_err(|cause| no_answer(url, &cause))?;
        let answer = serde_json::from_slice(&body);
        match (status, answer) {
            (200, Ok(answer)) => Ok(answer),
            (200, Err(cause)) => Err(Failure::failed(format!("{url} answered with something else than JSON: {cause}"))),
            (status, answer) => Err(Failure::failed(refusal(status, &answer.unwrap_or_default()))),
        }
    }
}

/// RFC 8414 §3.1: the well-known part goes between host and path.
fn metadata_url(issuer: &Issuer) -> String {
    let (text, path) = (issuer.as_str(), issuer.path());
    format!("{}/.well-known/oauth-authorization-server{path}", &text[..text.len() - path.len()])
}

fn no_answer(url: &str, cause: &OutboundError) -> Failure {
    let mut text = format!("{url}: {cause}");
    let mut source = std::error::Error::source(cause);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let mend = match cause {
        OutboundError::Connect(_) | OutboundError::Timeout => {
            ". Does the server run, and listen there? A root certificate of your own goes into the file that \
             SSL_CERT_FILE names"
        }
        OutboundError::Scheme => ". An https issuer must have https endpoints",
        _ => "",
    };
    Failure::failed(text + mend)
}

/// An error of RFC 6749 §5.2 in words, with what to do about it.
fn refusal(status: u16, answer: &Value) -> String {
    let member = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let (code, detail) = (member("error"), member("error_description"));
    let mend = match code {
        "invalid_client" => {
            "Check the client's id, its secret or key, and whether this is how it is registered to authenticate; it may \
             not be disabled, or its secret expired."
        }
        "invalid_scope" => "The client's `scope` says what it may ask for.",
        "invalid_target" => "The client's `resources` say what it may ask for.",
        "unauthorized_client" => "The client's `grant_types` must have this grant.",
        "temporarily_unavailable" => "Nothing happened; try again.",
        "" => "That is no OAuth error; is this the right issuer?",
        _ => "",
    };
    let words = [code, detail, mend].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    format!("the server refused with HTTP status {status}: {}", words.join(" – "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8414_3_1_the_well_known_part_comes_before_the_path() {
        for (issuer, url) in [
            ("https://id.example", "https://id.example/.well-known/oauth-authorization-server"),
            ("https://id.example:8443/a/b", "https://id.example:8443/.well-known/oauth-authorization-server/a/b"),
        ] {
            assert_eq!(metadata_url(&Issuer::parse(issuer).unwrap()), url);
        }
    }

    #[test]
    fn a_refusal_says_the_mend() {
        let answer = serde_json::json!({ "error": "invalid_scope", "error_description": "No." });
        let text = refusal(400, &answer);
        assert!(text.contains("400: invalid_scope – No. – The client's `scope`"), "{text}");
        assert!(refusal(502, &Value::Null).contains("right issuer"));
    }
}
