//! `sealwright introspect`: RFC 7662, as any gateway would.

use super::issuer::{Demo, Peer, stdin};
use super::output::{Failure, give_json};

/// Ask the issuer what a token is worth (RFC 7662); stdout is its answer as JSON
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright token --dev | sealwright introspect --dev
  sealwright introspect --issuer https://id.example.com --client-id edge-gateway --client-secret-file secret.txt < token

A client is told about tokens that it was issued itself and those for APIs that it serves; of all others it hears
{\"active\": false}. The exit status is 0 when the server answered, whatever it said; for a script:
  sealwright introspect --dev < token | jq --exit-status .active")]
pub struct Args {
    #[command(flatten)]
    issuer: Peer,
    /// The token; - or nothing takes it from stdin, where others on this machine cannot see it
    #[arg(value_name = "TOKEN", default_value = "-", hide_default_value = true)]
    token: String,
}

/// `sealwright introspect`.
pub async fn run(args: Args) -> Result<(), Failure> {
    let from_stdin = args.token == "-";
    if from_stdin && args.issuer.takes_stdin() {
        return Err(Failure::usage(
            "the token and the client's secret or key cannot both come from stdin; put one into a file",
        ));
    }
    let text = if from_stdin { stdin()? } else { args.token };
    let token = text.trim();
    if token.is_empty() {
        return Err(Failure::usage("there is no token; give it as an argument or on stdin"));
    }
    let caller = args.issuer.caller(Demo::Gateway)?;
    let metadata = caller.discover().await?;
    let answer = caller.post(metadata.introspection_endpoint.as_deref(), &[("token", token)]).await?;
    give_json(&answer)
}
