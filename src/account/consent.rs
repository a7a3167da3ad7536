//! `/consent`: who asks, for what, for how long; yes or no.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use tower_sessions::Session;
use url::Url;

use super::{MAX_BODY, Visit, query};
use crate::claims;
use crate::clients::Client;
use crate::consents;
use crate::cx::Services;
use crate::error::Result;
use crate::flow::{self, Asked, Decision, Flow, FlowId};
use crate::http::form::read_form;
use crate::pages::texts::{Texts, fill};
use crate::pages::{self, Frame};
use crate::session::{self, SignIn};
use crate::wire::{CONSENT_PATH, Scope};

const FORM: &str = "consent";

/// What one API is asked for.
struct Part {
    /// What people call it.
    name: String,
    /// What the client may do there, in words.
    words: Vec<String>,
}

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
    note: String,
}

/// A flow with the client that began it and the person who is to decide.
struct Deciding {
    id: FlowId,
    flow: Flow,
    client: Arc<Client>,
    sign_in: SignIn,
}

impl Deciding {
    /// What the form speaks of: a page that was shown for one person does not decide for another who was chosen since,
    /// in another tab (T-103).
    fn about(&self) -> String {
        format!("{} {}", self.id.0, self.sign_in.sid)
    }
}

/// `GET /consent`.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    match deciding(&visit, &query(&parts)?).await? {
        Ok(deciding) => ask(&visit, &deciding, StatusCode::OK).await,
        Err(answer) => Ok(answer),
    }
}

/// `POST /consent`: what the person decided; anything that is not a clear yes is a no.
pub async fn submit(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    if let Some(refused) = visit.foreign() {
        return Ok(refused);
    }
    let deciding = match deciding(&visit, &form).await? {
        Ok(deciding) => deciding,
        Err(answer) => return Ok(answer),
    };
    if !visit.is_bound(&form, FORM, &deciding.about()).await? {
        return ask(&visit, &deciding, StatusCode::FORBIDDEN).await;
    }
    let decision = match (form.get("approve"), form.get("deny")) {
        (Some(_), None) => Decision::Approved,
        _ => Decision::Denied,
    };
    if decision == Decision::Approved {
        let Deciding { client, flow, sign_in, .. } = &deciding;
        consents::remember(&visit.cx, client, &flow.asked, &sign_in.sub).await?;
    }
    let mut decided = deciding.flow;
    decided.decision = Some(decision);
    if flow::keep(&visit.cx, &deciding.id, &decided).await? {
        Ok(visit.go_on(&deciding.id))
    } else {
        Ok(visit.flow_ended())
    }
}

/// What there is to decide, or what to answer when there is nothing: a flow that has no person yet goes back to where
/// it gets one; one that is decided is over (T-103).
async fn deciding(visit: &Visit<'_>, form: &crate::form::Form) -> Result<Result<Deciding, Response>> {
    let (id, flow) = match visit.flow(form).await {
        Ok(Some(found)) if found.1.decision.is_none() => found,
        Ok(_) => return Ok(Err(visit.flow_ended())),
        Err(ended) => return Ok(Err(ended)),
    };
    let browser = session::browser(&visit.session).await?;
    let sign_ins = session::sign_ins(&visit.cx, &browser).await?;
    let sign_in = sign_ins.into_iter().find(|sign_in| flow.sid.as_ref() == Some(&sign_in.sid));
    let client = visit.cx.clients.get(&flow.asked.client_id).await?;
    match (sign_in, client) {
        (Some(sign_in), Some(client)) => Ok(Ok(Deciding { id, flow, client, sign_in })),
        _ => Ok(Err(visit.go_on(&id))),
    }
}

async fn ask(visit: &Visit<'_>, deciding: &Deciding, status: StatusCode) -> Result<Response> {
    let Deciding { id, flow, client, sign_in } = deciding;
    let texts = visit.frame.texts;
    let name = client.name();
    let host = host(&flow.asked.redirect_uri);
    let page = ConsentPage {
        frame: visit.frame,
        action: visit.path(CONSENT_PATH),
        flow: &id.0,
        csrf: session::form_token(&visit.cx, &visit.session, FORM, &deciding.about()).await?,
        asks: fill(texts.consent_asks, &[("client", name)]),
        sends: fill(texts.consent_host, &[("host", &host)]),
        signed_in_as: fill(texts.consent_as, &[("username", &sign_in.username)]),
        wants: fill(texts.consent_wants, &[("client", name)]),
        parts: parts(visit, client, &flow.asked),
        lasts: lasts(visit, client, &flow.asked),
        unverified: client.unverified,
        note: fill(texts.consent_note, &[("client", name)]),
    };
    Ok(pages::form(status, &page, Some(&flow.asked.redirect_uri)))
}

/// Where the answer goes, in words: a host, or the application of a scheme of its own.
fn host(redirect_uri: &str) -> String {
    let url = Url::parse(redirect_uri).ok();
    url.map(|url| url.host_str().map_or_else(|| format!("{}:", url.scheme()), str::to_owned)).unwrap_or_default()
}

/// What each scope means, by API; about the person first. A claim that is asked for by name is told as the scope that
/// stands for it; `offline_access` is said under how long.
fn parts(visit: &Visit<'_>, client: &Client, asked: &Asked) -> Vec<Part> {
    let by_name = claims::scopes_asked(&visit.cx, client, &asked.claims);
    let scope: Scope = asked.scope.iter().chain(by_name.iter()).filter(|scope| *scope != "offline_access").collect();
    let catalog = visit.cx.resources.load();
    let mut parts: Vec<(bool, Part)> = Vec::new();
    for owner in catalog.owners(&scope) {
        let mut scopes: Vec<&str> = scope.iter().collect();
        // Of ours, what matters most comes first.
        scopes.sort_by_key(|scope| claims::SCOPES.iter().position(|(known, _)| known == scope));
        let words: Vec<String> = scopes.iter().filter_map(|scope| owner.scopes.get(*scope).cloned()).collect();
        let name = if owner.built_in {
            visit.frame.texts.consent_own.to_owned()
        } else {
            owner.settings.name.clone().unwrap_or_else(|| owner.identifier.clone())
        };
        if !words.is_empty() {
            parts.push((!owner.built_in, Part { name, words }));
        }
    }
    parts.sort_by_key(|(later, _)| *later);
    parts.into_iter().map(|(_, part)| part).collect()
}

fn lasts(visit: &Visit<'_>, client: &Client, asked: &Asked) -> String {
    let texts: &Texts = visit.frame.texts;
    if asked.scope.iter().any(|scope| scope == "offline_access") || client.metadata.always_refresh_token {
        return texts.lasts_offline.to_owned();
    }
    let catalog = visit.cx.resources.load();
    let of_resource = |id: &String| catalog.resource(id).and_then(|resource| resource.settings.access_token_lifetime);
    let shortest = asked.resources.iter().filter_map(of_resource).min();
    let seconds =
        client.metadata.access_token_lifetime.or(shortest).unwrap_or(visit.cx.tokens.access_token_lifetime_seconds);
    let time = if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds.div_ceil(60)) };
    fill(texts.lasts_online, &[("minutes", &time)])
}
