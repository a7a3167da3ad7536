//! A sign-in on its way: what the client asked for, kept while the person signs in and decides. One artifact for each,
//! so that parallel tabs do not meet; bound to its browser.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::{Micros, SECOND};
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::pool::network;
use crate::secret::{equal, random_text, sha256};
use crate::session::Browser;
use crate::store::artifacts::{self, Key, Kind};
use crate::store::{StoreError, Tx};
use crate::visitors;
use crate::wire::{Prompt, ResponseMode, Scope};

/// How long a person may take from the request until they have signed in, which anybody can let pass.
pub const WAITING: Micros = 900 * SECOND;
/// And from there to the answer.
pub const LIFETIME: Micros = 3600 * SECOND;
/// How long a posted request waits for its GET, which a browser sends at once.
const STORED_LIFETIME: Micros = 120 * SECOND;

/// A checked authorization request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asks.
    pub client_id: String,
    /// Where the answer goes: as the client wrote it, and registered for it.
    pub redirect_uri: String,
    /// How.
    pub response_mode: ResponseMode,
    /// Handed back as it came.
    pub state: Option<String>,
    /// What it asks for: of the client's scopes.
    pub scope: Scope,
    /// Identifiers of the resources that the tokens will be for; the userinfo resource among them with `openid`.
    pub resources: Vec<String>,
    /// RFC 7636 §4.2, by S256.
    pub code_challenge: Option<String>,
    /// OpenID Connect Core §3.1.2.1.
    pub nonce: Option<String>,
    /// What must happen.
    pub prompt: Vec<Prompt>,
    /// How old the proof of who the person is may be, in seconds.
    pub max_age: Option<u32>,
    /// Whom the client expects: a username or an e-mail address.
    pub login_hint: Option<String>,
    /// The subject that must answer: of `id_token_hint`, or of the claims request.
    pub sub: Option<String>,
    /// Languages, the preferred first.
    pub ui_locales: Vec<String>,
    /// Which claims the client asks for by name.
    pub claims: crate::claims::ClaimsRequest,
}

/// What the person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approved,
    /// No: `access_denied`.
    Denied,
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// What the client asked for.
    pub asked: Asked,
    /// When it came.
    pub begun_at: Micros,
    /// The sign-in that was made or chosen in this flow.
    pub sid: Option<String>,
    /// What the person decided in this flow.
    pub decision: Option<Decision>,
    /// The browser it belongs to; nobody else's.
    browser: String,
}

impl Flow {
    /// Notes that this sign-in was made or chosen. What another person decided before is no decision of theirs.
    pub fn choose(&mut self, sid: String) {
        self.sid = Some(sid);
        self.decision = None;
    }
}

impl Asked {
    /// A request of which no more is known than where its answer goes.
    pub fn of(client_id: &str, redirect_uri: &str, response_mode: ResponseMode) -> Self {
        Self {
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.to_owned(),
            response_mode,
            state: None,
            scope: Scope::default(),
            resources: Vec::new(),
            code_challenge: None,
            nonce: None,
            prompt: Vec::new(),
            max_age: None,
            login_hint: None,
            sub: None,
            ui_locales: Vec::new(),
            claims: crate::claims::ClaimsRequest::default(),
        }
    }

    /// Whether a proof of who the person is, made at `auth_time`, is recent enough. `begun_at` is when this flow began,
    /// if it did: what was proven in it is (OpenID Connect Core §3.1.2.1, `prompt` and `max_age`).
    pub fn is_recent(&self, auth_time: Micros, begun_at: Option<Micros>, now: Micros) -> bool {
        if begun_at.is_some_and(|begun_at| auth_time >= begun_at) {
            return true;
        }
        let within = |seconds: u32| now - auth_time <= Micros::from(seconds) * SECOND;
        !self.prompt.contains(&Prompt::Login) && self.max_age.is_none_or(within)
    }
}

/// The id of a flow: in URLs and forms, base64url of 32 random bytes. Worth nothing in another browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowId(pub String);

impl FlowId {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self(random_text::<32>()?))
    }

    /// Under which its artifact is kept.
    fn key(&self) -> Key {
        sha256(self.0.as_bytes())
    }
}

/// Begins a flow, with the sign-in that it is for when that is known already.
///
/// # Errors
/// 503 when the database does not take it; 429 and 503 when too many wait: nothing is stored then.
pub async fn begin(cx: &Cx<'_>, browser: &Browser, asked: Asked, sid: Option<String>) -> Result<FlowId> {
    let lasts = if sid.is_some() { LIFETIME } else { WAITING };
    let flow = Flow { asked, begun_at: cx.now, sid, decision: None, browser: browser.0.clone() };
    put(cx, Kind::AuthorizationFlow, &flow, lasts).await
}

/// The live flow of this id, if it is this browser's.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn find(cx: &Cx<'_>, browser: &Browser, id: &FlowId) -> Result<Option<Flow>> {
    let flow: Option<Flow> = get(cx, Kind::AuthorizationFlow, id).await?;
    Ok(flow.filter(|flow| equal(flow.browser.as_bytes(), browser.0.as_bytes())))
}

/// Keeps what became of it, if it has not ended meanwhile: false then. With somebody signed in there is more time.
///
/// # Errors
/// 503 when the database does not take it.
pub async fn keep(cx: &Cx<'_>, id: &FlowId, flow: &Flow) -> Result<bool> {
    let (id, flow, now) = (id.clone(), flow.clone(), cx.now);
    Ok(cx.db.write(move |tx| Box::pin(async move { keep_in(tx, &id, &flow, now).await })).await?.value)
}

/// The same in a transaction that does more.
///
/// # Errors
/// When the database does not take it.
pub async fn keep_in(tx: &mut Tx, id: &FlowId, flow: &Flow, now: Micros) -> Result<bool, StoreError> {
    let body = serde_json::to_string(flow).map_err(|cause| StoreError::Unfit(cause.to_string()))?;
    let until = flow.begun_at + if flow.sid.is_some() { LIFETIME } else { WAITING };
    artifacts::patch(tx, (Kind::AuthorizationFlow, &id.key()), &body, now, until).await
}

/// Ends a flow, once: of several that end it at the same time one gets true, and may answer the client.
///
/// # Errors
/// 503 when the database does not take it.
pub async fn end(cx: &Cx<'_>, id: &FlowId) -> Result<bool> {
    let (key, now) = (id.key(), cx.now);
    let taken = cx
        .db
        .write(move |tx| Box::pin(async move { artifacts::take(tx, Kind::AuthorizationFlow, &key, now).await }))
        .await?;
    Ok(taken.value.is_some())
}

/// Stores a checked request that was posted, for the GET that follows: a browser sends our cookies with that one. It
/// is nobody's yet, and holds nothing that its sender does not know.
///
/// # Errors
/// As [`begin`].
pub async fn store(cx: &Cx<'_>, asked: &Asked) -> Result<FlowId> {
    put(cx, Kind::AuthorizationRequest, asked, STORED_LIFETIME).await
}

/// The request stored under this id.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn stored(cx: &Cx<'_>, id: &FlowId) -> Result<Option<Asked>> {
    get(cx, Kind::AuthorizationRequest, id).await
}

async fn put(cx: &Cx<'_>, kind: Kind, body: &impl Serialize, lifetime: Micros) -> Result<FlowId> {
    visitors::admit_one(cx).await?;
    let id = FlowId::generate()?;
    let (key, now, most) = (id.key(), cx.now, cx.sessions.visitors.of_network);
    let body = serde_json::to_string(body).map_err(Error::internal)?;
    let source = network(cx.peer).to_string();
    let _lane = cx.visitors.lane(&cx.db, &source).await;
    let put = cx.db.write(move |tx| {
        Box::pin(async move {
            if !visitors::has_room(tx, &source, now, most).await? {
                return Ok(false);
            }
            artifacts::put_from(tx, (kind, &key), &body, now + lifetime, &source).await.map(|()| true)
        })
    });
    if put.await?.value { Ok(id) } else { Err(visitors::too_many()) }
}

async fn get<T: DeserializeOwned>(cx: &Cx<'_>, kind: Kind, id: &FlowId) -> Result<Option<T>> {
    let (key, now) = (id.key(), cx.now);
    let body = cx.db.read(move |conn| Box::pin(async move { artifacts::get(conn, kind, &key, now).await })).await?;
    body.map(|body| serde_json::from_str(&body)).transpose().map_err(Error::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oidc_core_3_1_2_1_how_recent_a_proof_must_be() {
        let asked = |prompt: &[Prompt], max_age| {
            let mut asked = Asked::of("a", "https://rp.test/cb", ResponseMode::Query);
            (asked.prompt, asked.max_age) = (prompt.to_vec(), max_age);
            asked
        };
        let now = 1000 * SECOND;
        let ago = |seconds: Micros| now - seconds * SECOND;
        assert!(asked(&[], None).is_recent(0, None, now));
        assert!(asked(&[], Some(10)).is_recent(ago(10), None, now));
        assert!(!asked(&[], Some(10)).is_recent(ago(11), None, now));
        assert!(!asked(&[], Some(0)).is_recent(ago(1), Some(now), now));
        // What was proven in the flow is recent, however long the rest of it takes.
        assert!(asked(&[], Some(0)).is_recent(ago(100), Some(ago(200)), now));
        assert!(!asked(&[Prompt::Login], None).is_recent(now, None, now));
        assert!(!asked(&[Prompt::Login], None).is_recent(ago(2), Some(ago(1)), now));
        assert!(asked(&[Prompt::Login], Some(0)).is_recent(ago(1), Some(ago(2)), now));
    }

    #[test]
    fn t155_another_person_has_not_decided_yet() {
        let asked = Asked::of("a", "https://rp.test/cb", ResponseMode::Query);
        let decision = Some(Decision::Approved);
        let mut flow = Flow { asked, begun_at: 0, sid: Some("a".into()), decision, browser: String::new() };
        flow.choose("b".into());
        assert_eq!((flow.sid.as_deref(), flow.decision), (Some("b"), None));
    }
}
