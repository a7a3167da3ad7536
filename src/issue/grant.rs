//! Using codes and refresh tokens up: one transaction each, which consumes, lets the grant judge what was consumed,
//! keeps and records what comes of it, or takes the whole grant back (mechanisms.md, "Codes" and "Refresh tokens").

use std::sync::Arc;

use super::code::id_text;
use super::draft::{Draft, Mint, Minted};
use super::revoke::revoke_grant;
use super::{Facts, Judge, RefreshToken, signer};
use crate::audit::{self, Actor, Event};
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::keys::KeyRing;
use crate::nodes;
use crate::secret::Id;
use crate::session;
use crate::store::grants::{self, Ends, GrantRow};
use crate::store::{StoreError, Tx, users};
use crate::users::User;
use crate::wire::{Algorithm, GrantType, Scope};

/// What a person granted, as it was then.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Its id.
    pub id: Id,
    /// Who granted it.
    pub sub: String,
    /// The sign-in that it came of.
    pub sid: String,
    /// What it covers.
    pub scope: Scope,
    /// Where: identifiers.
    pub resources: Vec<String>,
    /// How the person proved who they are, and what the client asked for by name.
    pub facts: Facts,
    /// When its code ends.
    pub code_expires_at: Micros,
    /// Where its code went.
    pub redirect_uri: String,
    /// RFC 7636, by S256.
    pub challenge: Option<String>,
}

impl Grant {
    fn from_row(row: &GrantRow) -> Result<Self, StoreError> {
        let unfit = |cause: &dyn std::fmt::Display| StoreError::Unfit(format!("a grant: {cause}"));
        Ok(Self {
            id: Id::try_from(row.id.as_slice()).map_err(|cause| unfit(&cause))?,
            sub: row.sub.clone(),
            sid: row.sid.clone(),
            scope: row.scope.parse().map_err(|cause| unfit(&cause))?,
            resources: serde_json::from_str(&row.resources).map_err(|cause| unfit(&cause))?,
            facts: serde_json::from_str(&row.facts).map_err(|cause| unfit(&cause))?,
            code_expires_at: row.code_expires_at,
            redirect_uri: row.redirect_uri.clone(),
            challenge: row.challenge.clone(),
        })
    }
}

/// What came of a code or a refresh token.
pub(super) struct Renewed {
    pub(super) draft: Draft,
    pub(super) grant: Grant,
    /// The refresh token that goes with it.
    pub(super) refresh: Option<RefreshToken>,
    /// Whom the ID token speaks of, as they were when this was used up; `None` when none is wanted.
    pub(super) person: Option<User>,
}

/// How a transaction ended that did not fail.
enum Outcome {
    Renewed(Box<Renewed>),
    Refused(Error),
    /// The grant was taken back, by this transaction or, up to this change, by another before it.
    Revoked(Option<i64>),
}

/// Redeems a code (RFC 6749 §4.1.3). One that was redeemed before takes its grant with it (§4.1.2), and the answer
/// comes when every node acts on that.
pub(super) async fn redeem(cx: &Cx<'_>, mint: Mint, code: [u8; 32], judge: Judge) -> Result<Renewed> {
    // Without a lease the answer would be 503, and the code gone.
    cx.require_lease()?;
    let lives = |seconds: u32| cx.now + i64::from(seconds) * SECOND;
    let ends = Ends {
        plain: lives(cx.tokens.max_access_token_lifetime_seconds),
        idle: lives(cx.tokens.refresh_token_idle_seconds),
        absolute: lives(cx.tokens.refresh_token_lifetime_seconds),
    };
    let record = Record::new(cx, mint, GrantType::AuthorizationCode);
    let redeemed = cx.db.write(move |tx| {
        Box::pin(async move {
            let client_id = record.mint.client.client_id.as_ref();
            let Some(row) = grants::redeem(tx, &code, client_id, &ends).await? else {
                return match grants::used(tx, &code, client_id).await? {
                    Some(id) => record.revoke(tx, &id, "the code was used again").await,
                    None => Ok(Outcome::Refused(no_code())),
                };
            };
            let grant = Grant::from_row(&row)?;
            // Refused or not, the code is used up: nobody guesses twice.
            let draft = match judge(&grant).and_then(|terms| record.mint.draft(terms, Some(&grant))) {
                Ok(draft) => draft,
                Err(refused) => {
                    grants::burn(tx, &grant.id).await?;
                    return Ok(Outcome::Refused(refused));
                }
            };
            let refresh = (row.generation > 0).then_some(RefreshToken { grant: grant.id, generation: 1 });
            record.renewed(tx, draft, grant, refresh).await
        })
    });
    let redeemed = redeemed.await?;
    told(cx, redeemed.value, redeemed.seq, no_code()).await
}

/// Exchanges a refresh token for its successor (RFC 9700 §4.14.2). Within the retry window the one just before gets the
/// same successor again; any other that was used takes its grant with it, and the answer comes when every node acts on
/// that.
pub(super) async fn rotate(cx: &Cx<'_>, mint: Mint, token: RefreshToken, judge: Judge) -> Result<Renewed> {
    cx.require_lease()?;
    let window = i64::from(cx.tokens.refresh_retry_seconds) * SECOND;
    let idle = i64::from(cx.tokens.refresh_token_idle_seconds) * SECOND;
    let sessions = cx.sessions;
    let record = Record::new(cx, mint, GrantType::RefreshToken);
    let rotated = cx.db.write(move |tx| {
        Box::pin(async move {
            let (id, now) = (token.grant, tx.now());
            let client_id = record.mint.client.client_id.as_ref();
            let Some(row) = grants::live(tx, &id, client_id, now).await? else {
                return Ok(Outcome::Refused(no_refresh_token()));
            };
            let presented = Presented::of(token, &row, now, window);
            if presented == Presented::Again {
                return record.revoke(tx, &id, "the refresh token was used again").await;
            }
            // What a grant covers never changes, so it is judged before anything is used up: a refusal changes nothing.
            let grant = Grant::from_row(&row)?;
            let draft = match judge(&grant).and_then(|terms| record.mint.draft(terms, Some(&grant))) {
                Ok(draft) => draft,
                Err(refused) => return Ok(Outcome::Refused(refused)),
            };
            if presented == Presented::Current
                && !grants::rotate(tx, &id, client_id, token.generation.into(), now + idle).await?
            {
                // Somebody was first, at this very moment.
                match grants::live(tx, &id, client_id, now).await? {
                    None => return Ok(Outcome::Refused(no_refresh_token())),
                    Some(row) if Presented::of(token, &row, now, window) == Presented::Retried => {}
                    Some(_) => return record.revoke(tx, &id, "the refresh token was used again").await,
                }
            }
            // Who uses an application is not away: what would end with the sign-in keeps it.
            if sessions.end_grants.ends(grant.scope.contains("offline_access")) {
                session::kept(tx, &grant.sid, sessions).await?;
            }
            let generation = token.generation.saturating_add(1);
            let refresh = Some(RefreshToken { grant: id, generation });
            record.renewed(tx, draft, grant, refresh).await
        })
    });
    let rotated = rotated.await?;
    told(cx, rotated.value, rotated.seq, no_refresh_token()).await
}

async fn told(cx: &Cx<'_>, outcome: Outcome, seq: Option<i64>, revoked: Error) -> Result<Renewed> {
    match outcome {
        Outcome::Renewed(renewed) => Ok(*renewed),
        Outcome::Refused(refused) => Err(refused),
        Outcome::Revoked(before) => {
            if let Some(seq) = seq.or(before) {
                nodes::acted_on(cx, seq).await?;
            }
            Err(revoked)
        }
    }
}

/// One text for each reason, so that nobody learns which codes and tokens exist.
fn no_code() -> Error {
    Error::new(Code::InvalidGrant, "The code is not valid: unknown, expired, used, or another client's.")
}

fn no_refresh_token() -> Error {
    Error::new(Code::InvalidGrant, "The refresh token is not valid: expired, used, revoked, or another client's.")
}

/// How a genuine refresh token stands to its grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presented {
    /// The one to use.
    Current,
    /// The one before it, and so soon that its answer may have been lost.
    Retried,
    /// Used before.
    Again,
}

impl Presented {
    fn of(token: RefreshToken, row: &GrantRow, now: Micros, window: Micros) -> Self {
        let generation = i64::from(token.generation);
        // Clocks of two nodes differ a little, so a rotation may seem to be yet to come.
        let soon = window > 0 && row.rotated_at.is_some_and(|rotated_at| now - rotated_at < window);
        match row.generation {
            current if current == generation => Self::Current,
            current if current == generation + 1 && soon => Self::Retried,
            _ => Self::Again,
        }
    }
}

/// What a transaction needs to draft and to record.
struct Record {
    mint: Mint,
    actor: Actor,
    grant_type: GrantType,
    ring: Arc<KeyRing>,
}

impl Record {
    fn new(cx: &Cx<'_>, mint: Mint, grant_type: GrantType) -> Self {
        Self { actor: Actor::client(cx, &mint.client.client_id), mint, grant_type, ring: cx.keys.ring() }
    }

    /// What cannot be signed at this time is asked for again: everything is undone.
    fn can_sign(&self, algorithm: Algorithm) -> Result<(), StoreError> {
        signer(&self.ring, algorithm).map(drop).map_err(StoreError::Refused)
    }

    async fn renewed(
        &self,
        tx: &mut Tx,
        draft: Draft,
        grant: Grant,
        refresh: Option<RefreshToken>,
    ) -> Result<Outcome, StoreError> {
        if let Minted::Jwt(algorithm) = draft.minted {
            self.can_sign(algorithm)?;
        }
        draft.keep(tx).await?;
        let wants_id_token =
            self.grant_type == GrantType::AuthorizationCode || self.mint.client.metadata.id_token_on_refresh;
        let openid = grant.scope.contains("openid") && self.mint.client.metadata.scope.contains("openid");
        let person = if wants_id_token && openid {
            self.can_sign(self.mint.client.metadata.id_token_signed_response_alg)?;
            let row = users::find(tx, &grant.sub).await?;
            // A grant goes with its person, and was used up in this transaction.
            let row = row.ok_or_else(|| StoreError::Unfit("a grant of nobody".to_owned()))?;
            Some(User::from_row(&row)?)
        } else {
            None
        };
        let claims = &draft.claims;
        let event = Event::TokensIssued {
            grant_type: self.grant_type,
            sub: claims.sub.clone(),
            scope: claims.scope.to_string(),
            jti: claims.jti.clone(),
        };
        audit::record(tx, &self.actor, &id_text(&grant.id), &event).await?;
        Ok(Outcome::Renewed(Box::new(Renewed { draft, grant, refresh, person })))
    }

    async fn revoke(&self, tx: &mut Tx, id: &Id, reason: &'static str) -> Result<Outcome, StoreError> {
        revoke_grant(tx, id, &self.actor, reason).await.map(Outcome::Revoked)
    }
}
