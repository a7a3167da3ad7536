//! `sealwright keys revoke`.

use super::{Desk, OneKey, Outcome, confirm, refused, rfc3339};
use crate::audit::Actor;
use crate::cli::database;
use crate::cli::output::{Failure, say};
use crate::clients::Client;
use crate::clock::SECOND;
use crate::keys::KeyState;
use crate::keys::rotate::{Refusal, lives};
use crate::resources::Catalog;
use crate::store::signing_keys::SigningKeyRow;
use crate::store::{clients, feed};
use crate::wire::{Algorithm, TokenFormat};

/// Names in one line; how many others there are is told.
const NAMES: usize = 20;

/// Take back a key that leaked, with all that it signed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sealwright keys revoke n2Yw5cF0bW3mJ4yQ8sT1uV6xZ7aD9eG_hKiLpOqRrSt --config sealwright.toml
  sealwright keys revoke n2Yw5cF0bW3mJ4yQ8sT1uV6xZ7aD9eG_hKiLpOqRrSt --yes --json

It says what breaks and for whom, and asks. When it returns, no running server calls a token of this key active, the
JWKS does not have it, and the next key signs.")]
pub struct Args {
    #[command(flatten)]
    key: OneKey,
}

/// Revokes it.
pub async fn run(Args { key: args }: Args) -> Result<(), Failure> {
    let desk = Desk::open(&args.source).await?;
    let (row, algorithm, state) = desk.find(&args.kid).await?;
    match state {
        // Somebody was first, or this very command, and nodes may still be learning of it.
        KeyState::Revoked => return again(&desk, algorithm, args.json).await,
        KeyState::Retired => return Err(refused(&Refusal::State(Some(state)))),
        KeyState::Published | KeyState::Active | KeyState::Retiring => {}
    }
    foretell(&desk, &row, (algorithm, state)).await?.iter().for_each(say);
    confirm(args.yes, "Revoke it?")?;
    let changed = desk.keys.revoke(&desk.db, algorithm, &args.kid, Actor::command_line()).await?;
    desk.finish(algorithm, changed).await?.give(args.json, "It is revoked.")
}

async fn again(desk: &Desk, algorithm: Algorithm, json: bool) -> Result<(), Failure> {
    let head = desk.db.read(|conn| Box::pin(feed::head(conn))).await?;
    database::acted_on(&desk.db, &desk.clock, Some(head)).await?;
    let keys = lives(&desk.rows().await?, algorithm);
    let kid = |state| keys.iter().find(|key| key.state == state).map(|key| key.kid.clone());
    let outcome = Outcome { alg: algorithm, active: kid(KeyState::Active), standby: kid(KeyState::Published) };
    outcome.give(json, "It was revoked already.")
}

/// What breaks and for whom, in lines.
async fn foretell(
    desk: &Desk,
    row: &SigningKeyRow,
    (algorithm, state): (Algorithm, KeyState),
) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    if state == KeyState::Published {
        lines.push(format!("{} has signed nothing yet; another one is published instead.", row.kid));
        return Ok(lines);
    }
    let (now, tokens) = (desk.clock.now(), &desk.config.tokens);
    let longest = tokens.max_access_token_lifetime_seconds.max(tokens.id_token_lifetime_seconds);
    let signed_until = if state == KeyState::Active { now } else { row.times.retire_at };
    let (max_age, last) = (desk.config.keys.jwks_max_age_seconds, signed_until + i64::from(longest) * SECOND);
    lines.push(format!(
        "Every {algorithm} token that {} signed is dead when this is done: inactive at introspection at once, refused \
         by whoever verifies by signature when their copy of the JWKS ends, within {max_age} s, and by those who keep \
         it longer when the token expires, {} at the latest.",
        row.kid,
        rfc3339(last.min(row.times.remove_at.max(now)))
    ));
    let (apis, applications) = users(desk, algorithm).await?;
    lines.push(format!("APIs whose access tokens are signed with {algorithm}: {}.", listed(&apis)));
    lines.push(format!("Applications whose ID tokens or userinfo are: {}.", listed(&applications)));
    if state == KeyState::Active {
        lines.push(instead(desk, algorithm).await?);
    }
    Ok(lines)
}

/// Who signs instead of the active key, and who may not know that key yet.
async fn instead(desk: &Desk, algorithm: Algorithm) -> Result<String, Failure> {
    let keys = lives(&desk.rows().await?, algorithm);
    let max_age = desk.config.keys.jwks_max_age_seconds;
    Ok(match keys.iter().find(|key| key.state == KeyState::Published) {
        None => format!(
            "There is no next key: a new one signs at once, and verifiers may refuse its tokens until their copy of \
             the JWKS ends, for up to {max_age} s."
        ),
        Some(standby) => {
            let known = desk.keys.schedule().known_from(&standby.times);
            let known = if known <= desk.clock.now() {
                "every verifier that goes by the JWKS's max-age knows it".to_owned()
            } else {
                format!("verifiers may not know it, and refuse new tokens, until {}", rfc3339(known))
            };
            format!("{} signs instead; {known}.", standby.kid)
        }
    })
}

/// The APIs, and the applications, that get something signed with `algorithm`.
async fn users(desk: &Desk, algorithm: Algorithm) -> Result<(Vec<String>, Vec<String>), Failure> {
    let read =
        desk.db.read(|conn| Box::pin(async move { Ok((Catalog::load(conn).await?, clients::list(conn).await?)) }));
    let (catalog, rows) = read.await?;
    let signed = catalog.iter().filter(|resource| {
        let settings = &resource.settings;
        settings.access_token_format == TokenFormat::Jwt && settings.access_token_signed_response_alg == algorithm
    });
    let apis = signed.map(|resource| resource.identifier.clone()).collect();
    let clients = rows.iter().map(|(row, credentials)| Client::from_rows(row, credentials));
    let mut applications = Vec::new();
    for client in clients.collect::<Result<Vec<_>, _>>()? {
        let metadata = &client.metadata;
        let id_token = metadata.scope.contains("openid") && metadata.id_token_signed_response_alg == algorithm;
        if id_token || metadata.userinfo_signed_response_alg == Some(algorithm) {
            applications.push(client.client_id.as_ref().to_owned());
        }
    }
    Ok((apis, applications))
}

fn listed(names: &[String]) -> String {
    match names.len().checked_sub(NAMES) {
        _ if names.is_empty() => "none".to_owned(),
        Some(others @ 1..) => format!("{}, and {others} more", names[..NAMES].join(", ")),
        _ => names.join(", "),
    }
}
