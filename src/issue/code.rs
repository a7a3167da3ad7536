//! Authorization codes: born here from what a person decided.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::revoke::revoke_grant;
use crate::audit::{self, Actor, Event};
use crate::clients::Client;
use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::flow::Asked;
use crate::nodes;
use crate::secret::{Id, Prefix, Secret, random, sha256};
use crate::session::SignIn;
use crate::store::grants::{self, NewGrant};
use crate::store::{StoreError, consents};
use crate::wire::{GrantType, Scope};

/// How long a code may be redeemed (RFC 6749 §4.1.2 allows ten minutes).
const LIFETIME: Micros = 60 * SECOND;

/// What is known of how a person proved who they are, kept with the grant (OpenID Connect Core §2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// When, in seconds.
    pub auth_time: i64,
    /// The authentication context class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// By what (RFC 8176).
    pub amr: Vec<String>,
    /// Of the authorization request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Which claims the client asked for by name.
    pub claims: crate::claims::ClaimsRequest,
}

/// The most grants of one person to one client, and the most codes that wait to be redeemed, at the moment when one more
/// is made: beyond, the oldest ends. So taking back all of them stays quick. They are counted apart: any page can send a browser here for codes that nobody
/// redeems, and that must not cost what was redeemed.
const MOST_GRANTS: i64 = 100;

/// Makes a grant of what `sign_in`'s person agreed to, and the code to redeem it by, within 60 seconds, once. `agreed` is
/// the client's identity (`consents::agreed`) where it has to be agreed to.
///
/// # Errors
/// `login_required` when the sign-in has ended meanwhile, `consent_required` when the consent has; 503 when the database
/// does not take it.
pub async fn code(
    cx: &Cx<'_>,
    client: &Client,
    asked: &Asked,
    sign_in: &SignIn,
    agreed: Option<String>,
) -> Result<Secret> {
    let code = Prefix::Code.generate()?;
    let facts = Facts {
        auth_time: sign_in.auth_time / SECOND,
        acr: sign_in.acr.clone(),
        amr: sign_in.amr.clone(),
        nonce: asked.nonce.clone(),
        claims: asked.claims.clone(),
    };
    let grant = NewGrant {
        id: random()?,
        client_id: client.client_id.as_ref().to_owned(),
        sub: sign_in.sub.clone(),
        sid: sign_in.sid.clone(),
        scope: asked.scope.to_string(),
        resources: serde_json::to_string(&asked.resources).map_err(Error::internal)?,
        facts: serde_json::to_string(&facts).map_err(Error::internal)?,
        code_hash: sha256(code.expose().as_bytes()),
        code_expires_at: cx.now + LIFETIME,
        redirect_uri: asked.redirect_uri.clone(),
        challenge: asked.code_challenge.clone(),
        generation: i64::from(refreshes(client, &asked.scope)),
    };
    let event = Event::GrantMade {
        client_id: grant.client_id.clone(),
        scope: grant.scope.clone(),
        resources: asked.resources.clone(),
    };
    let actor = Actor::person(cx, &sign_in.sub);
    let added = cx.db.write(move |tx| {
        Box::pin(async move {
            let (sub, client_id) = (grant.sub.as_str(), grant.client_id.as_str());
            let refused = |code, why| Err(StoreError::Refused(Error::new(code, why)));
            if !grants::add(tx, &grant).await? {
                return refused(Code::LoginRequired, "The sign-in has ended.");
            }
            // After the rows that it shares with those who remove clients and people, in their order.
            if let Some(identity) = agreed
                && !consents::hold(tx, sub, client_id, &identity).await?
            {
                return refused(Code::ConsentRequired, "The consent was taken back.");
            }
            audit::record(tx, &actor, &id_text(&grant.id), &event)?;
            for redeemed in [false, true] {
                for old in grants::beyond(tx, (sub, client_id), redeemed, MOST_GRANTS).await? {
                    revoke_grant(tx, &old, &actor, "there are too many newer ones").await?;
                }
            }
            Ok(())
        })
    });
    if let Some(seq) = added.await?.seq {
        nodes::acted_on(cx, seq).await?;
    }
    cx.require_lease()?;
    Ok(code)
}

/// Whether a grant of this scope brings `client` a refresh token.
fn refreshes(client: &Client, scope: &Scope) -> bool {
    let wants = client.metadata.always_refresh_token || scope.contains("offline_access");
    wants && client.metadata.grant_types.contains(&GrantType::RefreshToken)
}

/// Whether `client` can go on by a grant of this scope when the sign-in that it came of has ended.
pub fn outlives_sign_in(cx: &Cx<'_>, client: &Client, scope: &Scope) -> bool {
    refreshes(client, scope) && !cx.sessions.end_grants.ends(scope.contains("offline_access"))
}

/// A grant's id as revocations and audit events name it.
pub(super) fn id_text(id: &Id) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id)
}
