//! Using codes up, several in one transaction: it consumes, lets the grants judge what was consumed, keeps and records
//! what comes of it, or takes the whole grant back (mechanisms.md, "Codes"). The second half is that of refresh tokens, too.

use std::collections::HashMap;
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
use crate::store::grants::{self, Ends, GrantRow};
use crate::store::{Change, JobFuture, StoreError, Tx, users};
use crate::users::User;
use crate::wire::{GrantType, Scope};

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
    pub(super) fn from_row(row: &GrantRow) -> Result<Self, StoreError> {
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
pub struct Renewed {
    pub(super) draft: Draft,
    pub(super) grant: Grant,
    /// The refresh token that goes with it.
    pub(super) refresh: Option<RefreshToken>,
    /// Whether an ID token goes with it,
    wants_id_token: bool,
    /// and of whom: as they were when this was used up.
    pub(super) person: Option<User>,
}

/// How a change ended that did not fail.
pub enum Outcome {
    Renewed(Box<Renewed>),
    Refused(Error),
    /// The grant was taken back, by this transaction or, up to this change, by another before it.
    Revoked(Option<i64>),
}

/// A code to redeem.
pub struct Redemption {
    record: Record,
    code: [u8; 32],
    judge: Judge,
    /// How long what comes of it lives, from when it is redeemed.
    lives: Ends,
}

/// Redeems a code (RFC 6749 §4.1.3). One that was redeemed before takes its grant with it (§4.1.2), and the answer
/// comes when every node acts on that.
pub(super) async fn redeem(cx: &Cx<'_>, mint: Mint, code: [u8; 32], judge: Judge) -> Result<Renewed> {
    // Without a lease the answer would be 503, and the code gone.
    cx.require_lease()?;
    let lives = Ends {
        plain: i64::from(cx.tokens.max_access_token_lifetime_seconds) * SECOND,
        idle: i64::from(cx.tokens.refresh_token_idle_seconds) * SECOND,
        absolute: i64::from(cx.tokens.refresh_token_lifetime_seconds) * SECOND,
    };
    let record = Record::new(cx, mint, GrantType::AuthorizationCode);
    let redeemed = cx.redemptions.write(Redemption { record, code, judge, lives }).await?;
    told(cx, redeemed.value, redeemed.seq, no_code()).await
}

impl Change for Redemption {
    type Done = Outcome;

    fn object(&self) -> &[u8] {
        &self.code
    }

    fn make<'t>(tx: &'t mut Tx, changes: Vec<&'t Self>) -> JobFuture<'t, Vec<Outcome>> {
        Box::pin(async move {
            let Some(Self { lives, .. }) = changes.first() else { return Ok(Vec::new()) };
            let now = tx.now();
            let ends = Ends { plain: now + lives.plain, idle: now + lives.idle, absolute: now + lives.absolute };
            let codes: Vec<_> = changes.iter().map(|change| (&change.code, change.record.client_id())).collect();
            let rows = grants::redeem(tx, &codes, ends).await?;
            let mut rows: HashMap<_, _> = rows.iter().map(|row| (row.code_hash.as_slice(), row)).collect();
            let mut outcomes = Vec::with_capacity(changes.len());
            for change in changes {
                let row = rows.remove(&change.code[..]);
                outcomes.push(change.redeemed(tx, row).await?);
            }
            find_people(tx, &mut outcomes).await?;
            Ok(outcomes)
        })
    }
}

impl Redemption {
    /// What comes of the code, with its grant if it was good until now.
    async fn redeemed(&self, tx: &mut Tx, row: Option<&GrantRow>) -> Result<Outcome, StoreError> {
        let Some(row) = row else {
            return match grants::used(tx, &self.code, self.record.client_id()).await? {
                Some(id) => self.record.revoke(tx, &id, "the code was used again").await,
                None => Ok(Outcome::Refused(no_code())),
            };
        };
        let grant = Grant::from_row(row)?;
        // Refused or not, the code is used up: nobody guesses twice.
        match self.record.draft(&self.judge, &grant) {
            Ok(draft) => {
                self.record.can_sign(&draft, &grant).map_err(StoreError::Refused)?;
                let refresh = (row.generation > 0).then_some(RefreshToken { grant: grant.id, generation: 1 });
                self.record.renewed(tx, draft, grant, refresh).await
            }
            Err(refused) => {
                grants::burn(tx, &grant.id).await?;
                Ok(Outcome::Refused(refused))
            }
        }
    }
}

/// The people of the ID tokens, in one statement.
pub(super) async fn find_people(tx: &mut Tx, outcomes: &mut [Outcome]) -> Result<(), StoreError> {
    let mut renewed: Vec<&mut Renewed> = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        if let Outcome::Renewed(one) = outcome
            && one.wants_id_token
        {
            renewed.push(one);
        }
    }
    let mut subs: Vec<&str> = renewed.iter().map(|renewed| renewed.grant.sub.as_str()).collect();
    subs.sort_unstable();
    subs.dedup();
    let rows = users::find_all(tx, &subs).await?;
    for renewed in renewed {
        // A grant goes with its person, and was used up in this transaction.
        let row = rows.iter().find(|row| row.sub == renewed.grant.sub);
        let row = row.ok_or_else(|| StoreError::Unfit("a grant of nobody".to_owned()))?;
        renewed.person = Some(User::from_row(row)?);
    }
    Ok(())
}

pub(super) async fn told(cx: &Cx<'_>, outcome: Outcome, seq: Option<i64>, revoked: Error) -> Result<Renewed> {
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

/// What a transaction needs to draft and to record.
pub(super) struct Record {
    mint: Mint,
    actor: Actor,
    grant_type: GrantType,
    ring: Arc<KeyRing>,
}

impl Record {
    pub(super) fn new(cx: &Cx<'_>, mint: Mint, grant_type: GrantType) -> Self {
        Self { actor: Actor::client(cx, &mint.client.client_id), mint, grant_type, ring: cx.keys.ring() }
    }

    pub(super) fn client_id(&self) -> &str {
        &self.mint.client.client_id
    }

    pub(super) fn draft(&self, judge: &Judge, grant: &Grant) -> Result<Draft> {
        self.mint.draft(judge(grant)?, Some(grant))
    }

    fn wants_id_token(&self, grant: &Grant) -> bool {
        let metadata = &self.mint.client.metadata;
        (self.grant_type == GrantType::AuthorizationCode || metadata.id_token_on_refresh)
            && grant.scope.contains("openid")
            && metadata.scope.contains("openid")
    }

    /// What cannot be signed at this time is asked for again, and nothing is used up for it.
    pub(super) fn can_sign(&self, draft: &Draft, grant: &Grant) -> Result<()> {
        let access = if let Minted::Jwt(algorithm) = draft.minted { Some(algorithm) } else { None };
        let id = self.wants_id_token(grant).then_some(self.mint.client.metadata.id_token_signed_response_alg);
        access.into_iter().chain(id).try_for_each(|algorithm| signer(&self.ring, algorithm).map(drop))
    }

    pub(super) async fn renewed(
        &self,
        tx: &mut Tx,
        draft: Draft,
        grant: Grant,
        refresh: Option<RefreshToken>,
    ) -> Result<Outcome, StoreError> {
        draft.keep(tx).await?;
        let claims = &draft.claims;
        let event = Event::TokensIssued {
            grant_type: self.grant_type,
            sub: claims.sub.clone(),
            scope: claims.scope.to_string(),
            jti: claims.jti.clone(),
        };
        audit::record(tx, &self.actor, &id_text(&grant.id), &event)?;
        Ok(Outcome::Renewed(Box::new(Renewed {
            wants_id_token: self.wants_id_token(&grant),
            draft,
            grant,
            refresh,
            person: None,
        })))
    }

    pub(super) async fn revoke(&self, tx: &mut Tx, id: &Id, reason: &'static str) -> Result<Outcome, StoreError> {
        revoke_grant(tx, id, &self.actor, reason).await.map(Outcome::Revoked)
    }
}
