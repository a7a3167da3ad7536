//! `/consent`: who asks, for what, for how long; yes or no.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use tower_sessions::Session;

use super::words::{Part, host, parts};
use super::{MAX_BODY, Visit, query};
use crate::clients::{Client, redirect};
use crate::consents;
use crate::cx::Services;
use crate::error::Result;
use crate::flow::{self, Asked, Decision, Flow, FlowId};
use crate::http::form::read_form;
use crate::issue;
use crate::pages::texts::{Texts, fill};
use crate::pages::{self, Frame};
use crate::secret::sha256;
use crate::session::{self, SignIn};
use crate::wire::{ACCOUNT_PATH, CONSENT_PATH};

const FORM: &str = "consent";

#[derive(Template)]
#[template(path = "consent.html")]
struct ConsentPage<'p> {
    frame: Frame<'p>,
    action: String,
    flow: &'p str,
    csrf: String,
    asks: String,
    sends: String,
    signed_in_as: String,
    wants: String,
    parts: Vec<Part>,
    lasts: String,
    unverified: bool,
    /// That another program could pose as the client, and is why the person is asked each time.
    each_time: Option<String>,
    note: String,
    account: String,
    /// Why the page is there again.
    error: Option<&'static str>,
}

/// A flow with the client that began it and the person who is to decide.
struct Deciding {
    id: FlowId,
    flow: Flow,
    client: Arc<Client>,
    sign_in: SignIn,
}

impl Deciding {
    fn parts(&self, visit: &Visit<'_>) -> Vec<Part> {
        let asked = &self.flow.asked;
        parts(visit, &self.client, (&asked.scope, &asked.claims), &asked.resources)
    }

    /// What the form speaks of: a page that was shown for one person does not decide for another who was chosen since,
    /// in another tab (T-103), and one that showed the client or an API as it was does not decide about what it has
    /// become.
    fn about(&self, visit: &Visit<'_>) -> String {
        let parts: Vec<_> =
            self.parts(visit).into_iter().flat_map(|Part { name, words }| [vec![name], words]).collect();
        let lasts = lasts(visit, &self.client, &self.flow.asked);
        let shown = sha256(format!("{parts:?} {lasts}").as_bytes());
        let (flow, sid, client) = (&self.id.0, &self.sign_in.sid, consents::identity(&self.client.metadata));
        format!("{flow} {sid} {client} {}", BASE64_URL_SAFE_NO_PAD.encode(shown))
    }
}

/// `GET /consent`.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let mut visit = Visit::new(&services, session, &parts);
    match deciding(&mut visit, &query(&parts)?).await? {
        Ok(deciding) => ask(&visit, &deciding, None).await,
        Err(answer) => Ok(answer),
    }
}

/// `POST /consent`: what the person decided; anything that is not a clear yes is a no.
pub async fn submit(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let mut visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    if let Some(refused) = visit.foreign() {
        return Ok(refused);
    }
    let deciding = match deciding(&mut visit, &form).await? {
        Ok(deciding) => deciding,
        Err(answer) => return Ok(answer),
    };
    if !visit.is_bound(&form, FORM, &deciding.about(&visit)).await? {
        return ask(&visit, &deciding, Some(visit.frame.texts.out_of_date)).await;
    }
    let Deciding { id, mut flow, client, sign_in } = deciding;
    let kept = if let (Some(_), None) = (form.get("approve"), form.get("deny")) {
        consents::agree(&visit.cx, &client, (&id, &flow), &sign_in.sub).await?
    } else {
        flow.decision = Some(Decision::Denied);
        flow::keep(&visit.cx, &id, &flow).await?
    };
    Ok(if kept { visit.go_on(&id) } else { visit.flow_ended() })
}

/// What there is to decide, or what to answer when there is nothing: a flow that has no person yet goes back to where
/// it gets one; one that is decided is over (T-103).
async fn deciding(visit: &mut Visit<'_>, form: &crate::form::Form) -> Result<Result<Deciding, Response>> {
    let (id, flow) = match visit.flow(form).await {
        Ok(Some(found)) if found.1.decision.is_none() => found,
        Ok(_) => return Ok(Err(visit.flow_ended())),
        Err(ended) => return Ok(Err(ended)),
    };
    let sign_in = visit.sign_ins().await?.into_iter().find(|sign_in| flow.sid.as_ref() == Some(&sign_in.sid));
    // One that was switched off meanwhile has nothing to ask for.
    let client = visit.cx.clients.get(&flow.asked.client_id).await?.filter(|client| !client.disabled);
    match (sign_in, client) {
        (Some(sign_in), Some(client)) => Ok(Ok(Deciding { id, flow, client, sign_in })),
        _ => Ok(Err(visit.go_on(&id))),
    }
}

async fn ask(visit: &Visit<'_>, deciding: &Deciding, error: Option<&'static str>) -> Result<Response> {
    let Deciding { id, flow, client, sign_in } = deciding;
    let texts = visit.frame.texts;
    let name = client.name();
    let uri = &flow.asked.redirect_uri;
    let host = host(uri);
    let sends = if redirect::is_on_device(uri) { texts.consent_device } else { texts.consent_host };
    let page = ConsentPage {
        frame: visit.frame,
        action: visit.path(CONSENT_PATH),
        flow: &id.0,
        csrf: session::form_token(&visit.cx, &visit.session, FORM, &deciding.about(visit)).await?,
        asks: fill(texts.consent_asks, &[("client", name)]),
        sends: fill(sends, &[("host", &host)]),
        signed_in_as: fill(texts.consent_as, &[("username", &sign_in.username)]),
        wants: fill(texts.consent_wants, &[("client", name)]),
        parts: deciding.parts(visit),
        lasts: lasts(visit, client, &flow.asked),
        unverified: client.unverified,
        each_time: consents::can_be_posed_as(client, &flow.asked)
            .then(|| fill(texts.consent_each_time, &[("client", name)])),
        note: fill(texts.consent_note, &[("client", name)]),
        account: visit.path(ACCOUNT_PATH),
        error,
    };
    let status = if error.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    Ok(pages::form(status, &page, Some(uri)))
}

/// For how long the client gets it, at most, whatever it asks for later.
fn lasts(visit: &Visit<'_>, client: &Arc<Client>, asked: &Asked) -> String {
    let (cx, texts) = (&visit.cx, visit.frame.texts);
    let (words, seconds) = if issue::outlives_sign_in(cx, client, &asked.scope) {
        (texts.lasts_offline, cx.tokens.refresh_token_lifetime_seconds)
    } else {
        (texts.lasts_online, issue::longest_lifetime(cx, client, &asked.resources))
    };
    fill(words, &[("time", &span(texts, seconds))])
}

/// A time in words, in the largest unit of which there are two at least; rounded up.
fn span(texts: &Texts, seconds: u32) -> String {
    let units = [(texts.days, 86_400), (texts.hours, 3_600), (texts.minutes, 60)];
    let (unit, length) = units.into_iter().find(|(_, length)| seconds >= 2 * length).unwrap_or((texts.seconds, 1));
    fill(unit, &[("n", &seconds.div_ceil(length).to_string())])
}
