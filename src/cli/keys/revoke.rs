//! `sealwright keys revoke`.

use std::fmt;
use std::time::Duration;

use super::{Desk, OneKey, Outcome, confirm, refused, rfc3339};
use crate::audit::Actor;
use crate::cli::database;
use crate::cli::output::{Failure, say};
use crate::clients::ClientMetadata;
use crate::clock::SECOND;
use crate::keys::KeyState;
use crate::keys::rotate::{Refusal, lives};
use crate::resources::{Catalog, Resource};
use crate::store::signing_keys::SigningKeyRow;
use crate::store::{StoreError, clients, feed, from_row};
use crate::wire::{Algorithm, TokenFormat};

/// Names in one line; how many others there are is told.
const NAMES: usize = 20;
/// Clients that are read at once.
const PAGE: i64 = 1_000;
/// For so long it is looked for whom something breaks: a key that leaked does not wait for more.
const LOOK: Duration = Duration::from_secs(3);

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
    foretell(&desk, &row, (algorithm, state)).await.iter().for_each(say);
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

/// What breaks and for whom, in lines. What cannot be told is no reason to leave a leaked key where it is.
async fn foretell(desk: &Desk, row: &SigningKeyRow, (algorithm, state): (Algorithm, KeyState)) -> Vec<String> {
    let kid = &row.kid;
    if state == KeyState::Published {
        let instead = if desk.keys.schedule().has(algorithm) { "; another one is published instead" } else { "" };
        return vec![format!("{kid} has signed nothing yet{instead}.")];
    }
    let (now, tokens) = (desk.clock.now(), &desk.config.tokens);
    let longest = tokens.max_access_token_lifetime_seconds.max(tokens.id_token_lifetime_seconds);
    let signed_until = if state == KeyState::Active { now } else { row.times.retire_at };
    let (max_age, last) = (desk.config.keys.jwks_max_age_seconds, signed_until + i64::from(longest) * SECOND);
    let mut lines = vec![
        format!(
            "Every {algorithm} token that {kid} signed is dead when this is done: inactive at introspection at once, and \
             refused by whoever verifies by signature when their copy of the JWKS ends, within {max_age} s."
        ),
        format!(
            "Who keeps keys for longer accepts what we signed with it until it expires, {} at the latest, and what a \
             thief signs with it for as long as they keep it: restart those verifiers, or have them fetch the keys again.",
            rfc3339(last.min(row.times.remove_at.max(now)))
        ),
    ];
    let mut users = Users::default();
    let untold = match tokio::time::timeout(LOOK, users.find(desk, algorithm)).await {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(cause.to_string()),
        Err(_) => Some("there was no time to look at all of them".to_owned()),
    };
    lines.push(format!("APIs whose access tokens are signed with {algorithm}: {}.", users.apis));
    lines.push(format!(
        "Applications that may get access tokens, ID tokens or userinfo signed with {algorithm}: {}.",
        users.applications
    ));
    if users.unread.all > 0 {
        lines.push(format!("Applications that this release cannot read, and may be among them: {}.", users.unread));
    }
    if let Some(cause) = untold {
        lines.push(format!("There may be more of both: {cause}."));
    }
    if state == KeyState::Active {
        lines.push(
            instead(desk, algorithm).await.unwrap_or_else(|cause| format!("Who signs next is not known: {cause}.")),
        );
    }
    lines
}

/// Who signs instead of the active key, and who may not know that key yet.
async fn instead(desk: &Desk, algorithm: Algorithm) -> Result<String, StoreError> {
    let keys = lives(&desk.rows().await?, algorithm);
    let max_age = desk.config.keys.jwks_max_age_seconds;
    Ok(match keys.iter().find(|key| key.state == KeyState::Published) {
        None if !desk.keys.schedule().has(algorithm) => format!(
            "There is no next key, and no new one: {algorithm} is not among keys.algorithms. What asks for it is answered \
             503."
        ),
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

/// Some names of many.
#[derive(Default)]
struct Names {
    first: Vec<String>,
    all: usize,
}

impl Names {
    fn push(&mut self, name: &str) {
        self.all += 1;
        if self.first.len() < NAMES {
            self.first.push(name.to_owned());
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.all - self.first.len() {
            _ if self.all == 0 => f.write_str("none"),
            0 => f.write_str(&self.first.join(", ")),
            others => write!(f, "{}, and {others} more", self.first.join(", ")),
        }
    }
}

/// For whom something breaks.
#[derive(Default)]
struct Users {
    apis: Names,
    applications: Names,
    /// Clients whose rows this release does not understand.
    unread: Names,
}

impl Users {
    /// Adds those that get something signed with `algorithm`, page by page.
    async fn find(&mut self, desk: &Desk, algorithm: Algorithm) -> Result<(), StoreError> {
        let mut catalog = desk.db.read(|conn| Box::pin(Catalog::load(conn))).await?;
        if let Some(issuer) = &desk.config.issuer {
            catalog = catalog.with_built_in(issuer);
        }
        let signs = |resource: &Resource| {
            let settings = &resource.settings;
            settings.access_token_format == TokenFormat::Jwt && settings.access_token_signed_response_alg == algorithm
        };
        catalog.iter().filter(|resource| signs(resource)).for_each(|resource| self.apis.push(&resource.identifier));
        let mut last = String::new();
        loop {
            let after = last.clone();
            let page =
                desk.db.read(move |conn| Box::pin(async move { clients::page(conn, &after, PAGE).await })).await?;
            let Some(row) = page.last() else { return Ok(()) };
            last.clone_from(&row.client_id);
            for row in page {
                let Ok(metadata) = from_row::<ClientMetadata>(&row.metadata) else {
                    self.unread.push(&row.client_id);
                    continue;
                };
                let listed = metadata.resources.iter().filter_map(|identifier| catalog.resource(identifier));
                let gets = metadata.scope.contains("openid") && metadata.id_token_signed_response_alg == algorithm
                    || metadata.userinfo_signed_response_alg == Some(algorithm)
                    || catalog.owners(&metadata.scope).iter().chain(listed).any(|resource| signs(resource));
                if gets {
                    self.applications.push(&row.client_id);
                }
            }
        }
    }
}
