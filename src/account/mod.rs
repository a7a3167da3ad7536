//! What a person sees: signing in, deciding, signing out.

mod consent;
mod home;
mod login;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use tower_sessions::Session;

use crate::cx::{Cx, Services};
use crate::error::{Code, Error, Result};
use crate::flow::{self, Flow, FlowId};
use crate::form::Form;
use crate::http::view;
use crate::pages::{self, Frame};
use crate::session;
use crate::wire::{AUTHORIZATION_PATH, CONSENT_PATH, LOGIN_PATH};

/// The largest body of a form of these pages, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// The pages, which need the session layer around them.
pub fn routes(services: Arc<Services>) -> Router {
    let at = |path: &str| format!("{}{path}", services.issuer.path());
    Router::new()
        .route(&at(LOGIN_PATH), get(login::show).post(login::submit))
        .route(&at(CONSENT_PATH), get(consent::show).post(consent::submit))
        .route(&at("/account"), get(home::show))
        .route(&at("/account/sign-out"), post(home::sign_out))
        .with_state(services)
}

/// What pages load: no session is needed for it.
pub fn assets(services: Arc<Services>) -> Router {
    let path = format!("{}/static/{{name}}", services.issuer.path());
    Router::new().route(&path, get(asset)).with_state(services)
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

    /// The flow that the form or query names; `Ok(None)` when it names none.
    ///
    /// # Errors
    /// A page when there is no such flow in this browser.
    async fn flow(&self, form: &Form) -> Result<Option<(FlowId, Flow)>, Response> {
        let Some(id) = form.get("flow") else { return Ok(None) };
        // What no flow is called costs no query.
        let formed = id.len() == 43 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !formed {
            return Err(self.flow_ended());
        }
        let browser = session::browser(&self.session).await.map_err(IntoResponse::into_response)?;
        let id = FlowId(id.to_owned());
        let found = flow::find(&self.cx, &browser, &id).await.map_err(IntoResponse::into_response)?;
        found.map(|flow| Some((id, flow))).ok_or_else(|| self.flow_ended())
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
        pages::problem(status, title, text, &self.cx.request_id)
    }

    /// Back to the authorization endpoint, which knows what comes next.
    fn go_on(&self, flow: &FlowId) -> Response {
        pages::see_other(&self.cx.issuer.endpoint(&format!("{AUTHORIZATION_PATH}?flow={}", flow.0)))
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
