//! `/login`: who is it? By a flow, which goes on at the authorization endpoint, or without one, for `/account`.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::SET_COOKIE;
use http::{HeaderValue, StatusCode};
use tower_sessions::Session;

use super::{MAX_BODY, Visit, query};
use crate::cx::Services;
use crate::error::Result;
use crate::flow::{self, Flow, FlowId};
use crate::form::Form;
use crate::http::form::read_form;
use crate::pages::texts::fill;
use crate::pages::{self, Frame};
use crate::secret::Secret;
use crate::session::{self, Begun, SignIn};
use crate::users::{known, prove};
use crate::wire::LOGIN_PATH;

/// The name of the form, for its token.
const FORM: &str = "login";

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'p> {
    frame: Frame<'p>,
    action: String,
    flow: Option<&'p str>,
    csrf: String,
    /// `to continue to …`
    purpose: Option<String>,
    username: &'p str,
    error: Option<&'static str>,
    /// Whether the error is one of what was typed.
    refused: bool,
    note: Option<&'static str>,
    /// Where to choose from the accounts that are signed in.
    accounts: Option<String>,
}

#[derive(Template)]
#[template(path = "accounts.html")]
struct AccountsPage<'p> {
    frame: Frame<'p>,
    action: String,
    flow: &'p str,
    csrf: String,
    purpose: Option<String>,
    accounts: &'p [SignIn],
    another: String,
}

/// What a login page is shown with.
#[derive(Default)]
struct Shown<'p> {
    username: &'p str,
    error: Option<&'static str>,
    note: Option<&'static str>,
}

/// `GET /login`: the accounts that are signed in here, where one of them would do, or the form.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let mut visit = Visit::new(&services, session, &parts);
    let form = query(&parts)?;
    let flow = match visit.flow(&form).await {
        Ok(flow) => flow,
        Err(ended) => return Ok(ended),
    };
    let Some((id, flow)) = &flow else { return login(&visit, None, &Shown::default(), StatusCode::OK).await };
    let accounts = accounts(&visit, flow).await?;
    // Where every one of them must prove it again, there is nothing to choose that the form does not do.
    let any = accounts.iter().any(|account| flow.asked.is_recent(account.auth_time, Some(flow.begun_at), visit.cx.now));
    if any && form.get("other").is_none() {
        return choice(&visit, id, flow, &accounts).await;
    }
    let hint = flow.asked.login_hint.as_deref().filter(|hint| crate::users::username_key(hint).is_ok());
    let only = match accounts.as_slice() {
        [only] if !any => Some(only.username.as_str()),
        _ => None,
    };
    let shown = Shown { username: hint.or(only).unwrap_or_default(), ..Shown::default() };
    login(&visit, Some((id, flow)), &shown, StatusCode::OK).await
}

/// Who is signed in at this browser and may answer this flow.
async fn accounts(visit: &Visit<'_>, flow: &Flow) -> Result<Vec<SignIn>> {
    let mut accounts = visit.sign_ins().await?;
    accounts.retain(|account| flow.asked.sub.as_ref().is_none_or(|sub| *sub == account.sub));
    Ok(accounts)
}

async fn purpose(visit: &Visit<'_>, flow: &Flow, text: &str) -> Result<Option<String>> {
    let client = visit.cx.clients.get(&flow.asked.client_id).await?;
    Ok(client.map(|client| fill(text, &[("client", client.name())])))
}

async fn choice(visit: &Visit<'_>, id: &FlowId, flow: &Flow, accounts: &[SignIn]) -> Result<Response> {
    let page = AccountsPage {
        frame: visit.frame,
        action: visit.path(LOGIN_PATH),
        flow: &id.0,
        csrf: session::form_token(&visit.cx, &visit.session, FORM, &id.0).await?,
        purpose: purpose(visit, flow, visit.frame.texts.choose_for).await?,
        accounts,
        another: visit.path(&format!("{LOGIN_PATH}?flow={}&other=1", id.0)),
    };
    Ok(pages::form(StatusCode::OK, &page, Some(&flow.asked.redirect_uri)))
}

async fn login(
    visit: &Visit<'_>,
    flow: Option<(&FlowId, &Flow)>,
    shown: &Shown<'_>,
    status: StatusCode,
) -> Result<Response> {
    let about = flow.map_or("", |(id, _)| id.0.as_str());
    let (purpose, accounts) = match flow {
        Some((id, flow)) => {
            let others = !accounts(visit, flow).await?.is_empty();
            let link = others.then(|| visit.path(&format!("{LOGIN_PATH}?flow={}", id.0)));
            (purpose(visit, flow, visit.frame.texts.sign_in_to).await?, link)
        }
        None => (None, None),
    };
    let page = LoginPage {
        frame: visit.frame,
        action: visit.path(LOGIN_PATH),
        flow: flow.map(|(id, _)| id.0.as_str()),
        csrf: session::form_token(&visit.cx, &visit.session, FORM, about).await?,
        purpose,
        username: shown.username,
        error: shown.error,
        refused: shown.error == Some(visit.frame.texts.sign_in_failed),
        note: shown.note,
        accounts,
    };
    let redirect_uri = flow.map(|(_, flow)| flow.asked.redirect_uri.as_str());
    Ok(pages::form(status, &page, redirect_uri))
}

/// `POST /login`: a username and a password, or one of the accounts that are signed in.
pub async fn submit(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let mut visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    let about = form.get("flow").unwrap_or_default();
    if let Some(refused) = visit.foreign() {
        return Ok(refused);
    }
    let stale = !visit.is_bound(&form, FORM, about).await?;
    let flow = match visit.flow(&form).await {
        Ok(flow) => flow,
        Err(ended) => return Ok(ended),
    };
    let flow = flow.as_ref().map(|(id, flow)| (id, flow));
    if stale {
        // Of another tab, perhaps, whose person finds what they typed. Not the password: nobody knows who sent this.
        let username = form.get("username").unwrap_or_default();
        let shown = Shown { username, error: Some(visit.frame.texts.out_of_date), ..Shown::default() };
        return login(&visit, flow, &shown, StatusCode::FORBIDDEN).await;
    }
    if let (Some((id, flow)), Some(sid)) = (flow, form.get("account")) {
        return choose(&visit, id, flow, sid).await;
    }
    prove(&visit, flow, &form).await
}

/// One of the accounts that are signed in here: taken as it is, or asked for its password.
async fn choose(visit: &Visit<'_>, id: &FlowId, flow: &Flow, sid: &str) -> Result<Response> {
    let accounts = accounts(visit, flow).await?;
    let Some(account) = accounts.iter().find(|account| account.sid == sid) else {
        // It has ended meanwhile.
        return login(visit, Some((id, flow)), &Shown::default(), StatusCode::OK).await;
    };
    if !flow.asked.is_recent(account.auth_time, Some(flow.begun_at), visit.cx.now) {
        let note = Some(visit.frame.texts.again);
        let shown = Shown { username: &account.username, note, ..Shown::default() };
        return login(visit, Some((id, flow)), &shown, StatusCode::OK).await;
    }
    keep(visit, id, flow, account.sid.clone()).await
}

async fn keep(visit: &Visit<'_>, id: &FlowId, flow: &Flow, sid: String) -> Result<Response> {
    let mut chosen = flow.clone();
    chosen.choose(sid);
    if flow::keep(&visit.cx, id, &chosen).await? { Ok(visit.go_on(id)) } else { Ok(visit.flow_ended()) }
}

async fn prove(visit: &Visit<'_>, flow: Option<(&FlowId, &Flow)>, form: &Form) -> Result<Response> {
    let username = form.get("username").unwrap_or_default();
    let password = Secret::new(form.get("password").unwrap_or_default());
    let prefix = session::cookie_prefix(&visit.cx);
    let cookie = |sub: &str| visit.cookie(&known::cookie_name(prefix, sub));
    let presented = prove::Presented { username, password: &password, known: &cookie };
    let begun = match prove::by_password(&visit.cx, &presented).await? {
        Some(proven) => session::begin(&visit.cx, &visit.session, visit.agent(), proven).await?,
        None => None,
    };
    let Some(Begun { sign_in, known }) = begun else {
        let shown = Shown { username, error: Some(visit.frame.texts.sign_in_failed), ..Shown::default() };
        return login(visit, flow, &shown, StatusCode::FORBIDDEN).await;
    };
    let sub = sign_in.sub.clone();
    let mut response = match flow {
        Some((id, flow)) => keep(visit, id, flow, sign_in.sid).await?,
        None => pages::see_other(&visit.cx.issuer.endpoint("/account")),
    };
    response.headers_mut().append(SET_COOKIE, known_cookie(visit, &sub, &known)?);
    Ok(response.into_response())
}

/// Makes this browser known to the account.
pub(super) fn known_cookie(visit: &Visit<'_>, sub: &str, value: &str) -> Result<HeaderValue> {
    let name = known::cookie_name(session::cookie_prefix(&visit.cx), sub);
    let secure = if visit.cx.issuer.is_https() { "; Secure" } else { "" };
    let age = known::LIFETIME_SECONDS;
    HeaderValue::from_str(&format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}"))
        .map_err(crate::error::Error::internal)
}
