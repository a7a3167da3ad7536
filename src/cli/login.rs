//! `sealwright login`: the authorization code flow with PKCE from a terminal, as a native application does it
//! (RFC 8252): the person signs in with a browser, whose last step is a redirect to this process.

mod callback;
mod id_token;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::issuer::{Caller, Demo, Metadata, Peer};
use super::output::{Failure, give, give_json, json, say};
use super::token::{decoded, expiry};
use crate::clock::Clock;
use crate::secret::{NoRandomness, code_challenge, random_text};
use callback::{Callback, Loopback};
use id_token::Expected;

/// Sign in with a browser and get tokens: the whole authorization code flow with PKCE, for any client with a loopback redirect
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright login --dev
  sealwright login --dev --scope \"openid profile demo:read\" --json
  sealwright login --issuer https://id.example.com --client-id my-app --redirect-uri http://127.0.0.1/callback

The address to open is told on stderr; the decoded tokens are on stdout. A client without a secret needs none: leave
--client-secret-file and --client-key-file out. The redirect URI must be registered for the client. Where it has no port, a free one is taken,
which servers allow for 127.0.0.1 and [::1] of native clients (RFC 8252 §7.3).")]
pub struct Args {
    #[command(flatten)]
    issuer: Peer,
    /// Scopes to ask for, in one argument with spaces between them
    #[arg(long, value_name = "SCOPES", default_value = "openid profile email offline_access")]
    scope: String,
    /// The API that the token shall be for (RFC 8707); may be repeated
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// Where the browser brings the answer: http on this machine
    #[arg(long, value_name = "URI", default_value = "http://127.0.0.1/callback")]
    redirect_uri: String,
    /// What must happen: login, consent, `select_account`, or none
    #[arg(long, value_name = "WORDS")]
    prompt: Option<String>,
    /// How long to wait for the person, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// Also open the address in this machine's browser
    #[arg(long)]
    open: bool,
    /// The whole answer as JSON, the tokens themselves and what is in them
    #[arg(long)]
    json: bool,
}

/// What `--json` gives.
#[derive(Serialize)]
struct Report<'a> {
    tokens: &'a Value,
    id_token_claims: Option<&'a Value>,
    access_token_claims: Option<Value>,
}

/// What is sent with the request and must come back, or be shown later.
struct Proofs {
    state: String,
    nonce: String,
    verifier: String,
}

impl Proofs {
    fn new() -> Result<Self, NoRandomness> {
        Ok(Self { state: random_text::<32>()?, nonce: random_text::<32>()?, verifier: random_text::<32>()? })
    }
}

/// `sealwright login`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let caller = args.issuer.caller(Demo::Web)?;
    let metadata = caller.discover().await?;
    let loopback = Loopback::bind(&args.redirect_uri).await?;
    let proofs = Proofs::new()?;
    let url = authorization_url(&args, &caller, &metadata, &proofs, loopback.redirect_uri())?;
    say("Open this address in a browser on this machine, and sign in there:");
    say(&url);
    if args.open && !opened(url.as_str()) {
        say("No browser could be started here; open the address yourself.");
    }
    let redirect_uri = loopback.redirect_uri().to_owned();
    let waiting = loopback.wait(&proofs.state);
    let answer = tokio::time::timeout(Duration::from_secs(args.timeout.into()), waiting).await.map_err(|_| {
        Failure::failed(format!(
            "nobody signed in within {} seconds; run it again, or give --timeout more",
            args.timeout
        ))
    })??;
    let code = code_of(&answer, &caller, &metadata)?;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", redirect_uri.as_str()),
        ("code_verifier", proofs.verifier.as_str()),
    ];
    let tokens = caller.post(metadata.token_endpoint.as_deref(), &form).await?;
    let claims = match tokens.get("id_token").and_then(Value::as_str) {
        Some(token) => Some(verified(&caller, &metadata, token, &proofs, &tokens).await?),
        None if args.scope.split(' ').any(|scope| scope == "openid") => {
            return Err(Failure::failed("the server's answer has no id_token, although openid was asked for"));
        }
        None => None,
    };
    tell(&args, &tokens, claims.as_ref())
}

fn authorization_url(
    args: &Args,
    caller: &Caller,
    metadata: &Metadata,
    proofs: &Proofs,
    redirect_uri: &str,
) -> Result<Url, Failure> {
    let endpoint = metadata.authorization_endpoint.as_deref();
    let endpoint = endpoint.ok_or_else(|| Failure::failed("the issuer has no authorization endpoint"))?;
    let mut url = Url::parse(endpoint)
        .ok()
        .filter(|url| ["https", "http"].contains(&url.scheme()))
        .ok_or_else(|| Failure::failed("the issuer's authorization_endpoint is no web address"))?;
    let challenge = code_challenge(&proofs.verifier);
    let mut query = url.query_pairs_mut();
    query.extend_pairs([
        ("response_type", "code"),
        ("client_id", caller.client_id()),
        ("redirect_uri", redirect_uri),
        ("scope", &args.scope),
        ("state", &proofs.state),
        ("nonce", &proofs.nonce),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ]);
    query.extend_pairs(args.resource.iter().map(|resource| ("resource", resource)));
    query.extend_pairs(args.prompt.iter().map(|prompt| ("prompt", prompt)));
    drop(query);
    Ok(url)
}

/// The code of an answer that comes from this issuer (RFC 9207 §2.4).
fn code_of(answer: &Callback, caller: &Caller, metadata: &Metadata) -> Result<String, Failure> {
    let demanded = metadata.authorization_response_iss_parameter_supported;
    if answer.iss.as_deref().map_or(demanded, |iss| iss != caller.issuer().as_str()) {
        return Err(Failure::failed(format!(
            "the answer does not come from {}, so its code was not used (RFC 9207)",
            caller.issuer()
        )));
    }
    match (&answer.error, &answer.code) {
        (Some(error), _) => {
            let detail = answer.error_description.as_deref().unwrap_or_default();
            Err(Failure::failed(format!("the server refused: {error} – {detail}").trim_end_matches(" – ")))
        }
        (None, Some(code)) => Ok(code.clone()),
        (None, None) => Err(Failure::failed("the answer has neither a code nor an error")),
    }
}

async fn verified(
    caller: &Caller,
    metadata: &Metadata,
    token: &str,
    proofs: &Proofs,
    tokens: &Value,
) -> Result<Value, Failure> {
    let keys = caller.get(metadata.jwks_uri.as_deref(), "application/jwk-set+json, application/json").await?;
    let access_token = tokens.get("access_token").and_then(Value::as_str).unwrap_or_default();
    let expected = Expected {
        issuer: caller.issuer().as_str(),
        client_id: caller.client_id(),
        nonce: &proofs.nonce,
        access_token,
        now: Clock::system().now(),
    };
    id_token::verify(token, &keys, &expected)
        .map_err(|wrong| Failure::failed(format!("the ID token cannot be believed: {wrong}")))
}

fn tell(args: &Args, tokens: &Value, id_token_claims: Option<&Value>) -> Result<(), Failure> {
    let text = |name: &str| tokens.get(name).and_then(Value::as_str);
    let access = text("access_token").and_then(decoded);
    if args.json {
        let access_token_claims = access.map(|(_, claims)| claims);
        return give_json(&Report { tokens, id_token_claims, access_token_claims });
    }
    if let Some(claims) = id_token_claims {
        give(format_args!("ID token, verified:\n{}", json(claims)?))?;
    }
    match access {
        Some((header, claims)) => {
            give(format_args!("access token:\n{}\n{}", json(&header)?, json(&claims)?))?;
            if let Some(exp) = claims.get("exp").and_then(Value::as_i64) {
                say(format_args!("The access token {}.", expiry(exp, Clock::system().now())));
            }
        }
        None => give("access token: opaque; `sealwright introspect` says what it is")?,
    }
    match text("refresh_token") {
        Some(_) => say("There is a refresh token, too; --json shows the tokens themselves."),
        None => say("--json shows the tokens themselves."),
    }
    Ok(())
}

/// Whether a browser could be started. What it says is not for this terminal.
fn opened(url: &str) -> bool {
    let quiet = std::process::Stdio::null;
    let started =
        std::process::Command::new("xdg-open").arg(url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    started.is_ok()
}
