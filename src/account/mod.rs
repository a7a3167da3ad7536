//! What a person sees: signing in, deciding, signing out.

mod consent;
mod home;
mod login;
mod password;
mod words;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tower_sessions::Session;

use crate::cx::{Cx, Services};
use crate::error::{Code, Error, Result};
use crate::flow::{self, Flow, FlowId};
use crate::form::Form;
use crate::http::view;
use crate::pages::texts::{Texts, fill};
use crate::pages::{self, Frame, Policy};
use crate::session::{self, SignIn};
use crate::wire::{ACCOUNT_PATH, AUTHORIZATION_PATH, CONSENT_PATH, LOGIN_PATH};

/// The largest body of a form of these pages, in bytes.
const MAX_BODY: usize = 16 * 1024;
const SIGN_OUT_PATH: &str = "/account/sign-out";
const SIGN_OUT_THERE_PATH: &str = "/account/sign-out-there";
const WITHDRAW_PATH: &str = "/account/withdraw";
const PASSWORD_PATH: &str = "/account/password";
/// Under which the session keeps what the next page is to say.
const DONE: &str = "done";

/// The pages, which need the session layer around them.
pub fn routes(services: Arc<Services>) -> Router {
    let at = |path: &str| format!("{}{path}", services.issuer.path());
    Router::new()
        .route(&at(LOGIN_PATH), get(login::show).post(login::submit))
        .route(&at(CONSENT_PATH), get(consent::show).post(consent::submit))
        .route(&at(ACCOUNT_PATH), get(home::show))
        .route(&at(SIGN_OUT_PATH), post(home::sign_out))
        .route(&at(SIGN_OUT_THERE_PATH), post(home::sign_out_there))
        .route(&at(WITHDRAW_PATH), post(home::withdraw))
        .route(&at(PASSWORD_PATH), get(password::show).post(password::submit))
        .with_state(services)
}

/// What needs no session: the front page, and what pages load.
pub fn open_routes(services: Arc<Services>) -> Router {
    let base = services.issuer.path();
    let router =
        Router::new().route(&format!("{base}/static/{{name}}"), get(asset)).route(&format!("{base}/"), get(front));
    // An issuer with a path is there without the slash, too: that is how its own name is written.
    let router = if base.is_empty() { router } else { router.route(base, get(front)) };
    router.with_state(services)
}

#[derive(Template)]
#[template(path = "front.html")]
struct FrontPage<'p> {
    frame: Frame<'p>,
    account: String,
}

/// `GET /`: for people who come by the name alone.
async fn front(State(services): State<Arc<Services>>, request: Request) -> Response {
    if !pages::prefers_html(request.headers()) {
        return pages::unknown(&services, &request);
    }
    let frame = Frame::new(&services.look, request.headers(), &[]);
    let account = format!("{}{ACCOUNT_PATH}", frame.look.base);
    pages::html(StatusCode::OK, &FrontPage { frame, account }, &Policy::default())
}

async fn asset(State(services): State<Arc<Services>>, Path(name): Path<String>) -> Response {
    let look = &services.look;
    let known = std::iter::once(&look.css).chain(&look.logo).find(|asset| asset.name == name);
    let Some(asset) = known else { return Error::new(Code::NotFound, "There is no such file.").into_response() };
    let mut response = Response::new(Body::from(asset.body.clone()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    // A logo may carry styles; scripts of it run nowhere.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"));
    response
}

/// What was done at a form, for the page that comes after it.
#[derive(Serialize, Deserialize)]
enum Done {
    /// The access of the client of this name.
    Withdrawn(String),
    /// At the browser of this name, where it has one.
    SignedOutThere(Option<String>),
    PasswordChanged,
}

impl Done {
    fn words(&self, texts: &Texts) -> String {
        match self {
            Self::Withdrawn(client) => fill(texts.withdrawn, &[("client", client)]),
            Self::SignedOutThere(Some(browser)) => fill(texts.signed_out_at, &[("browser", browser)]),
            Self::SignedOutThere(None) => texts.signed_out_there.to_owned(),
            Self::PasswordChanged => texts.password_changed.to_owned(),
        }
    }
}

/// Somebody at one of the pages.
struct Visit<'s> {
    cx: Cx<'s>,
    frame: Frame<'s>,
    session: Session,
    headers: HeaderMap,
}

impl<'s> Visit<'s> {
    fn new(services: &'s Services, session: Session, parts: &Parts) -> Self {
        Self {
            cx: view(services, &parts.extensions),
            frame: Frame::new(&services.look, &parts.headers, &[]),
            session,
            headers: parts.headers.clone(),
        }
    }

    /// The flow that the form or query names; `Ok(None)` when it names none. From here on the pages are in the language
    /// that its client asked for.
    ///
    /// # Errors
    /// A page when there is no such flow in this browser.
    async fn flow(&mut self, form: &Form) -> Result<Option<(FlowId, Flow)>, Response> {
        let Some(id) = form.get("flow") else { return Ok(None) };
        // What no flow is called costs no query.
        let formed = id.len() == 43 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !formed {
            return Err(self.flow_ended());
        }
        let browser = session::find(&self.session).await.map_err(IntoResponse::into_response)?;
        let browser = browser.ok_or_else(|| self.flow_ended())?;
        let id = FlowId(id.to_owned());
        let found = flow::find(&self.cx, &browser, &id).await.map_err(IntoResponse::into_response)?;
        let Some(flow) = found else { return Err(self.flow_ended()) };
        self.frame = Frame::new(self.frame.look, &self.headers, &flow.asked.ui_locales);
        Ok(Some((id, flow)))
    }

    /// Who is signed in at this browser.
    async fn sign_ins(&self) -> Result<Vec<SignIn>> {
        match session::find(&self.session).await? {
            Some(browser) => session::sign_ins(&self.cx, &browser).await,
            None => Ok(Vec::new()),
        }
    }

    /// What another site's form is answered; `None` for one that may be ours.
    fn foreign(&self) -> Option<Response> {
        let texts = self.frame.texts;
        pages::is_foreign(&self.headers, &self.cx.issuer)
            .then(|| self.problem(StatusCode::FORBIDDEN, texts.cross_site, texts.cross_site_text))
    }

    /// Whether a form is of this session, as it is now: `name` says which form, `about` what it speaks of (T-103).
    async fn is_bound(&self, form: &Form, name: &str, about: &str) -> Result<bool> {
        let token = form.get("csrf").unwrap_or_default();
        session::is_form_token(&self.cx, &self.session, name, about, token).await
    }

    fn flow_ended(&self) -> Response {
        let texts = self.frame.texts;
        self.problem(StatusCode::BAD_REQUEST, texts.flow_ended, texts.flow_ended_text)
    }

    fn problem(&self, status: StatusCode, title: &str, text: &str) -> Response {
        pages::problem(status, self.frame.texts, (title, text), &self.cx.request_id)
    }

    /// To `/account` as `sid`'s person sees it, which says there that this is done.
    async fn done(&self, sid: &str, done: Done) -> Result<Response> {
        self.session.insert(DONE, done).await.map_err(Error::internal)?;
        Ok(pages::see_other(&self.cx.issuer.endpoint(&format!("{ACCOUNT_PATH}?who={sid}"))))
    }

    /// Back to the authorization endpoint, which knows what comes next.
    fn go_on(&self, flow: &FlowId) -> Response {
        pages::see_other(&self.cx.issuer.endpoint(&format!("{AUTHORIZATION_PATH}?flow={}", flow.0)))
    }

    /// What the browser calls itself.
    fn agent(&self) -> Option<String> {
        self.headers.get(USER_AGENT).and_then(|line| session::agent(line.to_str().ok()?))
    }

    /// The path of one of our pages.
    fn path(&self, page: &str) -> String {
        format!("{}{page}", self.frame.look.base)
    }

    /// The value of a cookie.
    fn cookie(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    }
}

fn query(parts: &Parts) -> Result<Form> {
    Form::parse(parts.uri.query().unwrap_or_default().as_bytes())
}
