//! `GET` and `POST /oauth2/authorize` (RFC 6749 §4.1, OpenID Connect Core §3.1): load → checks → session and consent →
//! respond.

mod checks;
mod decide;
mod request;
mod respond;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::HeaderMap;
use http::request::Parts;
use tower_sessions::Session;

use crate::audit::Counted;
use crate::clients::Client;
use crate::cx::{Cx, Services};
use crate::error::{Code, Error, Result};
use crate::flow::{self, Asked, Decision, Flow, FlowId};
use crate::http::{form, no_head, view};
use crate::pages::{self, Frame};
use crate::secret::Secret;
use crate::session::{self, SignIn};
use crate::wire::{AUTHORIZATION_PATH, CONSENT_PATH, LOGIN_PATH, Prompt};
use crate::{consents, issue, users};

use decide::Who;
use request::Parameters;
use respond::Outcome;

/// The largest posted request, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The route, which needs the session layer around it.
pub fn routes(services: Arc<Services>) -> Router {
    let path = format!("{}{AUTHORIZATION_PATH}", services.issuer.path());
    Router::new().route(&path, get(by_get).head(no_head).post(by_post)).with_state(services)
}

/// What comes of a request.
enum Step {
    /// The client is answered.
    Answer(Box<Answer>),
    /// The person goes on at a page of ours.
    Go(String),
}

/// What the client is told.
struct Answer {
    client: Arc<Client>,
    asked: Asked,
    outcome: Outcome,
    /// Whether the person has done something in this flow.
    acted: bool,
}

impl Answer {
    /// Before the person has done anything.
    fn at_once(client: Arc<Client>, asked: Asked, outcome: Outcome) -> Step {
        Step::Answer(Box::new(Self { client, asked, outcome, acted: false }))
    }
}

async fn by_get(State(services): State<Arc<Services>>, parts: Parts) -> Response {
    let cx = view(&services, &parts.extensions);
    let parameters = Parameters::read(parts.uri.query().unwrap_or_default().as_bytes());
    let (form, locales) = (&parameters.form, parameters.locales());
    // A request is told from our own redirects by its client_id; what else it carries changes nothing of a flow.
    let step = match (form.get("client_id"), form.get("flow"), form.get("stored")) {
        (None, Some(id), _) => resume(&cx, &parts, FlowId(id.to_owned())).await,
        (None, None, Some(id)) => stored(&cx, &parts, FlowId(id.to_owned())).await,
        _ => match checked(&cx, parameters).await {
            Ok(Ok((client, asked))) => proceed(&cx, &parts, client, asked).await,
            Ok(Err(refusal)) => Ok(refusal),
            Err(error) => Err(error),
        },
    };
    finish(&cx, (&parts.headers, &locales), step)
}

/// A browser does not send our cookies (SameSite=Lax) with a form of another site: the request is stored, and a GET
/// follows that has them. Nothing here looks at the session.
async fn by_post(State(services): State<Arc<Services>>, parts: Parts, body: Body) -> Response {
    let read = form::read_form_with(&parts.headers, body, MAX_BODY, Parameters::read).await;
    let cx = view(&services, &parts.extensions);
    let locales = read.as_ref().map(Parameters::locales).unwrap_or_default();
    let step = match read {
        Err(error) => Err(error),
        Ok(parameters) => match checked(&cx, parameters).await {
            Ok(Ok((client, asked))) => match flow::store(&cx, &asked).await {
                Ok(id) => Ok(Step::Go(at(&cx, AUTHORIZATION_PATH, "stored", &id))),
                Err(error) => told(client, asked, error),
            },
            Ok(Err(refusal)) => Ok(refusal),
            Err(error) => Err(error),
        },
    };
    finish(&cx, (&parts.headers, &locales), step)
}

/// A request that passed every check, or what its client is told.
type Checked = std::result::Result<(Arc<Client>, Asked), Step>;

async fn checked(cx: &Cx<'_>, parameters: Parameters) -> Result<Checked> {
    let request::Request { parameters, client, mut asked } = request::load(cx, parameters).await?;
    let outcome = check(cx, &client, parameters, &mut asked);
    Ok(match outcome {
        Ok(()) => Ok((client, asked)),
        Err(error) => Err(Answer::at_once(client, asked, Err(error))),
    })
}

fn check(cx: &Cx<'_>, client: &Client, parameters: Parameters, asked: &mut Asked) -> Result<()> {
    if let Some(wrong) = parameters.unread {
        return Err(wrong);
    }
    let (catalog, ring, mappers) = (cx.resources.load(), cx.keys.ring(), cx.claim_mappers.load());
    let request = checks::Request {
        form: &parameters.form,
        client,
        catalog: &catalog,
        mappers: &mappers,
        ring: &ring,
        issuer: &cx.issuer,
    };
    checks::CHECKS.iter().try_for_each(|check| check(&request, asked))
}

async fn stored(cx: &Cx<'_>, parts: &Parts, id: FlowId) -> Result<Step> {
    let asked = flow::stored(cx, &id).await?.ok_or_else(ended)?;
    let client = request::answerable(cx, &asked.client_id, &asked.redirect_uri).await?;
    proceed(cx, parts, client, asked).await
}

/// A checked request meets the browser's session. From here on the client is told what goes wrong.
async fn proceed(cx: &Cx<'_>, parts: &Parts, client: Arc<Client>, asked: Asked) -> Result<Step> {
    match first(cx, parts, &client, &asked).await {
        Ok(Next::Go(to)) => Ok(Step::Go(to)),
        Ok(Next::Code(code)) => Ok(Answer::at_once(client, asked, Ok(code))),
        Err(error) => told(client, asked, error),
    }
}

/// The client is told, but when there are too many requests: that is the person's, who would only be sent here again.
fn told(client: Arc<Client>, asked: Asked, error: Error) -> Result<Step> {
    match error.code {
        Code::TooManyRequests | Code::Crowded => Err(error),
        _ => Ok(Answer::at_once(client, asked, Err(error))),
    }
}

enum Next {
    Go(String),
    Code(Secret),
}

async fn first(cx: &Cx<'_>, parts: &Parts, client: &Client, asked: &Asked) -> Result<Next> {
    let session = session_of(parts)?;
    // Who is only looked at, as with prompt=none, gets no session for it.
    let sign_ins = match session::find(session).await? {
        Some(browser) => session::sign_ins(cx, &browser).await?,
        None => Vec::new(),
    };
    let hinted = hinted(cx, asked, &sign_ins).await?;
    let sign_in = match decide::who(asked, None, &sign_ins, hinted, cx.now) {
        Who::Is(sign_in) => sign_in,
        Who::Refused(error) => return Err(error),
        Who::Ask => {
            let browser = session::browser(cx, session).await?;
            let id = flow::begin(cx, &browser, asked.clone(), None).await?;
            return Ok(Next::Go(at(cx, LOGIN_PATH, "flow", &id)));
        }
    };
    if must_consent(cx, client, asked, &sign_in.sub).await? {
        if asked.prompt.contains(&Prompt::None) {
            return Err(Error::new(Code::ConsentRequired, "The person must be asked."));
        }
        let browser = session::browser(cx, session).await?;
        let id = flow::begin(cx, &browser, asked.clone(), Some(sign_in.sid.clone())).await?;
        return Ok(Next::Go(at(cx, CONSENT_PATH, "flow", &id)));
    }
    session::used(cx, sign_in).await?;
    cx.require_lease()?;
    issue::code(cx, client, asked, sign_in, consents::agreed(client)).await.map(Next::Code)
}

/// Back from a page of ours: on with the flow, or to its end. What the flow holds decides, and nothing of this request.
async fn resume(cx: &Cx<'_>, parts: &Parts, id: FlowId) -> Result<Step> {
    let browser = session::find(session_of(parts)?).await?.ok_or_else(ended)?;
    let mut flow = flow::find(cx, &browser, &id).await?.ok_or_else(ended)?;
    let client = request::answerable(cx, &flow.asked.client_id, &flow.asked.redirect_uri).await?;
    if flow.decision == Some(Decision::Denied) {
        let denied = Error::new(Code::AccessDenied, "The person said no.");
        return finally(cx, &id, client, flow, Err(denied)).await;
    }
    let sign_ins = session::sign_ins(cx, &browser).await?;
    let hinted = hinted(cx, &flow.asked, &sign_ins).await?;
    let sign_in = match decide::who(&flow.asked, Some(&flow), &sign_ins, hinted, cx.now) {
        Who::Is(sign_in) => sign_in,
        Who::Ask => return Ok(Step::Go(at(cx, LOGIN_PATH, "flow", &id))),
        Who::Refused(error) => return finally(cx, &id, client, flow, Err(error)).await,
    };
    session::used(cx, sign_in).await?;
    let before = (flow.sid.clone(), flow.decision);
    // Whose decision it would be is settled before it is asked for.
    if flow.sid.as_ref() != Some(&sign_in.sid) {
        flow.choose(sign_in.sid.clone());
    }
    // What was taken back since is no yes any more.
    if flow.decision.is_some() && !consents::is_given(cx, &client, &flow.asked, &sign_in.sub).await? {
        flow.decision = None;
    }
    if before != (flow.sid.clone(), flow.decision) && !flow::keep(cx, &id, &flow).await? {
        return Err(ended());
    }
    if flow.decision != Some(Decision::Approved) && must_consent(cx, &client, &flow.asked, &sign_in.sub).await? {
        return Ok(Step::Go(at(cx, CONSENT_PATH, "flow", &id)));
    }
    cx.require_lease()?;
    finally(cx, &id, client, flow, Ok(sign_in)).await
}

/// Ends the flow, and answers its client if it was this request that ended it.
async fn finally(cx: &Cx<'_>, id: &FlowId, client: Arc<Client>, flow: Flow, decided: Result<&SignIn>) -> Result<Step> {
    if !flow::end(cx, id).await? {
        return Err(ended());
    }
    let outcome = match decided {
        Ok(sign_in) => issue::code(cx, &client, &flow.asked, sign_in, consents::agreed(&client)).await,
        Err(error) => Err(error),
    };
    let acted = flow.sid.is_some() || flow.decision.is_some();
    Ok(Step::Answer(Box::new(Answer { client, asked: flow.asked, outcome, acted })))
}

async fn must_consent(cx: &Cx<'_>, client: &Client, asked: &Asked, sub: &str) -> Result<bool> {
    Ok(asked.prompt.contains(&Prompt::Consent) || consents::is_needed(cx, client, asked, sub).await?)
}

fn session_of(parts: &Parts) -> Result<&Session> {
    parts.extensions.get::<Session>().ok_or_else(|| Error::internal("no session layer around this route"))
}

/// Whom `login_hint` means, of those signed in: by username or e-mail address, both as usernames are compared.
async fn hinted<'s>(cx: &Cx<'_>, asked: &Asked, sign_ins: &'s [SignIn]) -> Result<Option<&'s SignIn>> {
    let Some(hint) = &asked.login_hint else { return Ok(None) };
    // An e-mail address may be longer than a username.
    let compared = |name: &str| users::username_key(name).unwrap_or_else(|_| name.trim().to_lowercase());
    let hint = compared(hint);
    for sign_in in sign_ins {
        let Some(user) = users::find(&cx.db, &sign_in.sub).await? else { continue };
        let email = user.profile.claims.get("email").and_then(serde_json::Value::as_str);
        if email.into_iter().chain([user.username.as_str()]).any(|name| compared(name) == hint) {
            return Ok(Some(sign_in));
        }
    }
    Ok(None)
}

fn at(cx: &Cx<'_>, path: &str, name: &str, id: &FlowId) -> String {
    format!("{}?{name}={}", cx.issuer.endpoint(path), id.0)
}

/// Not there, over, another browser's: one answer. Where no client can be told, the person gets the page that
/// [`pages::dress`] makes of an error.
fn ended() -> Error {
    Error::invalid_request("No such sign-in in this browser.")
}

/// The answer; a page of ours is in one of `locales`, or else of the languages that the browser accepts.
fn finish(cx: &Cx<'_>, (headers, locales): (&HeaderMap, &[String]), step: Result<Step>) -> Response {
    let on_a_page = |error| pages::failed(error, Frame::new(&cx.look, headers, locales).texts, &cx.request_id);
    match step {
        Ok(Step::Go(to)) => pages::see_other(&to),
        Ok(Step::Answer(answer)) => {
            let Answer { client, asked, outcome, acted } = *answer;
            cx.audit.count(cx, Counted::Authorization, Some(&client.client_id), outcome.as_ref().map(drop));
            match outcome {
                // RFC 9700 §4.11.2: whom nobody vouches for does not get people by an error alone (T-112).
                Err(error) if !acted && client.unverified => on_a_page(error),
                outcome => {
                    // What was refused early has no languages yet.
                    let locales = if asked.ui_locales.is_empty() { locales } else { &asked.ui_locales };
                    let frame = Frame::new(&cx.look, headers, locales);
                    respond::to_client(frame, &cx.issuer, &asked, outcome)
                }
            }
        }
        Err(error) => {
            cx.audit.count(cx, Counted::Authorization, None, Err(&error));
            on_a_page(error)
        }
    }
}
