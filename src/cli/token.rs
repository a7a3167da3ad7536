//! `sealwright token`: client credentials, as any client would.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::issuer::{Demo, Peer};
use super::keys::rfc3339;
use super::output::{Failure, give, give_json, json, say};
use crate::clock::{Clock, Micros, SECOND};

/// Get an access token by client credentials; stdout is the token and nothing else
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright token --dev --show
  sealwright token --issuer https://id.example.com --client-id orders-sync --client-secret-file secret.txt
  curl -H \"Authorization: Bearer $(sealwright token --dev)\" http://localhost:3000/orders

The token endpoint is found in the issuer's metadata. A secret is never an argument: others on this machine could see it.")]
pub struct Args {
    #[command(flatten)]
    issuer: Peer,
    /// Scopes to ask for, in one argument with spaces between them; without it the client gets all that it may have
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
    /// The API that the token shall be for (RFC 8707); may be repeated
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// Show what is in the token, on stderr
    #[arg(long)]
    show: bool,
    /// The whole answer as JSON, instead of the token
    #[arg(long)]
    json: bool,
}

/// `sealwright token`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let caller = args.issuer.caller(Demo::Client)?;
    let metadata = caller.discover().await?;
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(args.scope.as_deref().map(|scope| ("scope", scope)));
    form.extend(args.resource.iter().map(|resource| ("resource", resource.as_str())));
    let answer = caller.post(metadata.token_endpoint.as_deref(), &form).await?;
    let Some(token) = answer.get("access_token").and_then(Value::as_str) else {
        return Err(Failure::failed("the server's answer has no access_token"));
    };
    // Each token is printed, so what is no token must not get onto a terminal or into a header.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::failed("the server's access_token has characters that no token has (RFC 6750 §2.1)"));
    }
    if args.show {
        show(token, &answer)?;
    }
    if args.json { give_json(&answer) } else { give(token) }
}

fn show(token: &str, answer: &Value) -> Result<(), Failure> {
    let Some((header, claims)) = decoded(token) else {
        say("an opaque token; `sealwright introspect` says what it is");
        if let Some(seconds) = answer.get("expires_in").and_then(Value::as_i64) {
            say(format_args!("expires in {}", in_words(seconds)));
        }
        return Ok(());
    };
    for (what, part) in [("header", &header), ("claims", &claims)] {
        let text = json(part)?;
        say(format_args!("{what}:"));
        text.lines().for_each(say);
    }
    if let Some(exp) = claims.get("exp").and_then(Value::as_i64) {
        say(expiry(exp, Clock::system().now()));
    }
    Ok(())
}

/// Header and claims of a JWT. Nothing is verified: this is for people to look at.
pub(super) fn decoded(token: &str) -> Option<(Value, Value)> {
    let part = |text: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let mut parts = token.split('.');
    let (header, claims) = (part(parts.next()?)?, part(parts.next()?)?);
    (parts.count() == 1).then_some((header, claims))
}

/// `exp` is in seconds, `now` in microseconds.
pub(super) fn expiry(exp: i64, now: Micros) -> String {
    let left = exp.saturating_sub(now / SECOND);
    let when = rfc3339(exp.saturating_mul(SECOND));
    if left > 0 { format!("expires in {} ({when})", in_words(left)) } else { format!("expired ({when})") }
}

/// A duration in its two largest units.
fn in_words(seconds: i64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let mut rest = seconds.max(0);
    let mut words = Vec::new();
    for (length, unit) in units {
        let count = rest / length;
        rest %= length;
        if count > 0 {
            words.push(format!("{count} {unit}{}", if count == 1 { "" } else { "s" }));
        } else if !words.is_empty() {
            break;
        }
    }
    words.truncate(2);
    if words.is_empty() { "0 seconds".to_owned() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_words() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (299, "4 minutes 59 seconds"),
            (300, "5 minutes"),
            (3_605, "1 hour"),
            (3_660, "1 hour 1 minute"),
            (200_000, "2 days 7 hours"),
        ] {
            assert_eq!(in_words(seconds), words);
        }
        assert_eq!(expiry(10, 11 * SECOND), "expired (1970-01-01T00:00:10Z)");
        assert_eq!(expiry(70, 10 * SECOND), "expires in 1 minute (1970-01-01T00:01:10Z)");
    }

    #[test]
    fn a_token_is_taken_apart_only_when_it_is_a_jwt() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.x", encode(r#"{"alg":"EdDSA"}"#), encode(r#"{"sub":"a"}"#));
        let (header, claims) = decoded(&token).unwrap();
        assert_eq!((header["alg"].as_str(), claims["sub"].as_str()), (Some("EdDSA"), Some("a")));
        for other in ["swa_abc", "", "a.b.c", &token[..token.len() - 2], &format!("{token}.y")] {
            assert!(decoded(other).is_none(), "{other}");
        }
    }
}
