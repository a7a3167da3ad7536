//! Refresh tokens, what they say and how they are exchanged (mechanisms.md, "Refresh tokens"): `swr_` and base64url of
//! grant id (16 bytes) ‖ generation (4, big-endian) ‖ HMAC-SHA256 (32). Nothing of one is kept but the generation, and no
//! made-up one costs a query: the code is its checksum.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::draft::{Draft, Mint};
use super::grant::{Outcome, Record, Renewed, find_people, told};
use super::{Grant, Judge};
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::keys::{MacKeys, Purpose};
use crate::secret::{Id, Secret};
use crate::session;
use crate::store::grants::{self, GrantRow};
use crate::store::{Change, JobFuture, StoreError, Tx};
use crate::wire::GrantType;

const PREFIX: &str = "swr_";

/// What a refresh token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// The grant that it renews.
    pub(super) grant: Id,
    /// How many tokens of the grant came before it, and one.
    pub(super) generation: u32,
}

impl RefreshToken {
    /// Reads a token of ours; `None` for everything else.
    pub fn open(keys: &MacKeys, text: &str) -> Option<Self> {
        let bytes: [u8; 52] = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?.try_into().ok()?;
        let (grant, rest) = bytes.split_first_chunk::<16>()?;
        let (generation, code) = rest.split_first_chunk::<4>()?;
        let genuine = keys.verify(Purpose::Refresh, &[grant, generation], code);
        genuine.then_some(Self { grant: *grant, generation: u32::from_be_bytes(*generation) })
    }

    /// The token's text.
    pub(super) fn seal(self, keys: &MacKeys) -> Secret {
        let generation = self.generation.to_be_bytes();
        let code = keys.sign(Purpose::Refresh, &[&self.grant, &generation]);
        let bytes = [&self.grant[..], &generation, &code].concat();
        Secret::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
    }
}

/// A refresh token to exchange for the next.
pub struct Rotation {
    record: Record,
    token: RefreshToken,
    judge: Judge,
    /// How long the token before the current one is still answered.
    window: Micros,
    idle: Micros,
    sessions: session::Settings,
}

/// Exchanges a refresh token for its successor (RFC 9700 §4.14.2). Within the retry window the one just before gets the
/// same successor again; any other that was used, or that another client has, takes its grant with it, and the answer
/// comes when every node acts on that.
pub(super) async fn rotate(cx: &Cx<'_>, mint: Mint, token: RefreshToken, judge: Judge) -> Result<Renewed> {
    cx.require_lease()?;
    let rotated = cx.rotations.write(Rotation {
        record: Record::new(cx, mint, GrantType::RefreshToken),
        token,
        judge,
        window: i64::from(cx.tokens.refresh_retry_seconds) * SECOND,
        idle: i64::from(cx.tokens.refresh_token_idle_seconds) * SECOND,
        sessions: cx.sessions,
    });
    let rotated = rotated.await?;
    told(cx, rotated.value, rotated.seq, no_refresh_token()).await
}

impl Change for Rotation {
    type Done = Outcome;

    fn object(&self) -> &[u8] {
        &self.token.grant
    }

    fn make<'t>(tx: &'t mut Tx, changes: Vec<&'t Self>) -> JobFuture<'t, Vec<Outcome>> {
        Box::pin(async move {
            let now = tx.now();
            let ids: Vec<Id> = changes.iter().map(|change| change.token.grant).collect();
            let rows = grants::live(tx, &ids, now).await?;
            let rows: HashMap<_, _> = rows.iter().map(|row| (row.id.as_slice(), row)).collect();
            let (mut judged, mut current) = (Vec::with_capacity(changes.len()), Vec::with_capacity(changes.len()));
            for change in &changes {
                let stands = change.judged(rows.get(&change.token.grant[..]).copied(), now)?;
                if let Judged::Current(..) = stands {
                    current.push((change.token.grant, i64::from(change.token.generation)));
                }
                judged.push(stands);
            }
            let idle = changes.first().map_or(0, |change| now + change.idle);
            let rotated = grants::rotate(tx, &current, idle).await?;
            if usize::try_from(rotated) != Ok(current.len()) {
                // Somebody was first, at this very moment: judged once more, alone, this is not the current one any more.
                let [change] = changes[..] else { return Err(StoreError::Unfit("a grant changed meanwhile".into())) };
                let row = grants::live(tx, &ids, now).await?.pop();
                judged = vec![change.judged(row.as_ref(), now)?];
                if let [Judged::Current(..)] = judged[..] {
                    return Err(StoreError::Unavailable("the grant is changing at this moment; try again".into()));
                }
            }
            let mut outcomes = Vec::with_capacity(changes.len());
            for (change, judged) in changes.into_iter().zip(judged) {
                outcomes.push(change.rotated(tx, judged).await?);
            }
            find_people(tx, &mut outcomes).await?;
            Ok(outcomes)
        })
    }
}

/// What a genuine refresh token is good for.
enum Judged {
    /// It is the one to use,
    Current(Draft, Grant),
    /// or the one before it, and so soon that its answer may have been lost.
    Retried(Draft, Grant),
    Refused(Error),
    /// It was used before, or somebody else has it: somebody has it who must not.
    Leaked(&'static str),
}

impl Rotation {
    /// What a grant covers never changes, so it is judged before anything is used up: a refusal changes nothing.
    fn judged(&self, row: Option<&GrantRow>, now: Micros) -> Result<Judged, StoreError> {
        let Some(row) = row else { return Ok(Judged::Refused(no_refresh_token())) };
        if row.client_id != self.record.client_id() {
            return Ok(Judged::Leaked("another client presented the refresh token"));
        }
        let presented = Presented::of(self.token, row, now, self.window);
        if presented == Presented::Again {
            return Ok(Judged::Leaked("the refresh token was used again"));
        }
        let grant = Grant::from_row(row)?;
        let draft = self.record.draft(&self.judge, &grant);
        let draft = draft.and_then(|draft| self.record.can_sign(&draft, &grant).map(|()| draft));
        Ok(match draft {
            Ok(draft) if presented == Presented::Current => Judged::Current(draft, grant),
            Ok(draft) => Judged::Retried(draft, grant),
            Err(refused) => Judged::Refused(refused),
        })
    }

    async fn rotated(&self, tx: &mut Tx, judged: Judged) -> Result<Outcome, StoreError> {
        let (draft, grant) = match judged {
            Judged::Current(draft, grant) | Judged::Retried(draft, grant) => (draft, grant),
            Judged::Refused(refused) => return Ok(Outcome::Refused(refused)),
            Judged::Leaked(reason) => return self.record.revoke(tx, &self.token.grant, reason).await,
        };
        // Who uses an application is not away: what would end with the sign-in keeps it.
        if self.sessions.end_grants.ends(grant.scope.contains("offline_access")) {
            session::kept(tx, &grant.sid, self.sessions).await?;
        }
        let generation = self.token.generation.saturating_add(1);
        let refresh = Some(RefreshToken { grant: self.token.grant, generation });
        self.record.renewed(tx, draft, grant, refresh).await
    }
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
