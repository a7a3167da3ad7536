//! `GET` and `POST /logout` (OpenID Connect RP-Initiated Logout 1.0): a client asks that the person be signed out.
//!
//! Whoever holds an ID token of a sign-in of this very browser may end it at once. Anybody else could be a page that
//! wants to annoy (forced logout), so the person is asked.

use std::sync::Arc;

use askama::Template;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tower_sessions::Session;

use crate::clients::Client;
use crate::cx::{Cx, Services};
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::{form, render, view};
use crate::issue;
use crate::pages::texts::fill;
use crate::pages::{self, Frame, Policy};
use crate::session::{self, SignIn};
use crate::wire::LOGOUT_PATH;

/// The largest body: an ID token and some words around it.
const LARGEST_BODY: usize = 32 * 1024;
/// The name of the form that asks.
const FORM: &str = "logout";

/// Somebody at this page.
struct Visit<'s> {
    cx: Cx<'s>,
    frame: Frame<'s>,
    session: Session,
}

pub(super) async fn logout(State(services): State<Arc<Services>>, session: Session, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let frame = Frame::new(&services.look, &parts.headers, &[]);
    let visit = Visit { cx: view(&services, &parts.extensions), frame, session };
    let outcome = match parts.method {
        Method::POST => visit.posted(&parts.headers, body).await,
        _ => match Form::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            Ok(form) => visit.asked(&form).await,
            Err(error) => Err(error),
        },
    };
    outcome.unwrap_or_else(|error| visit.problem(error))
}

impl Visit<'_> {
    /// A form of ours that says yes, or a client's request by POST.
    async fn posted(&self, headers: &HeaderMap, body: Body) -> Result<Response> {
        let (cx, form) = (&self.cx, form::read_form(headers, body, LARGEST_BODY).await?);
        let Some(token) = form.get("csrf") else {
            // A cross-site POST comes without the cookie (SameSite=Lax); the GET that follows brings it.
            return Ok(pages::see_other(&pages::with_query(&cx.issuer.endpoint(LOGOUT_PATH), &wishes(&form))));
        };
        let about = form.get("client_id").unwrap_or_default();
        if pages::is_foreign(headers, &cx.issuer)
            || !session::is_form_token(cx, &self.session, FORM, about, token).await?
        {
            let text = "This form was not sent from our page, or the page is too old.";
            return Err(Error::new(Code::AccessDenied, text));
        }
        let target = Target::of(cx, &form).await?;
        session::leave(cx, &self.session, &self.sign_ins().await?, |_| true).await?;
        Ok(self.done(&target))
    }

    /// A client's request.
    async fn asked(&self, form: &Form) -> Result<Response> {
        let target = Target::of(&self.cx, form).await?;
        let here = self.sign_ins().await?;
        if here.is_empty() {
            return Ok(self.done(&target));
        }
        if !here.iter().any(|sign_in| target.speaks_of(sign_in)) {
            return self.ask(&target).await;
        }
        session::leave(&self.cx, &self.session, &here, |sign_in| target.speaks_of(sign_in)).await?;
        Ok(self.done(&target))
    }

    /// Who is signed in here. A browser that comes without a cookie gets none for asking.
    async fn sign_ins(&self) -> Result<Vec<SignIn>> {
        if self.session.id().is_none() {
            return Ok(Vec::new());
        }
        let browser = session::browser(&self.session).await?;
        session::sign_ins(&self.cx, &browser).await
    }

    /// To where the client wants the person, or a page that says that they are signed out.
    fn done(&self, target: &Target) -> Response {
        match &target.redirect_uri {
            Some(uri) => {
                let state = target.state.as_deref().map(|state| ("state", state));
                pages::see_other(&pages::with_query(uri, &Vec::from_iter(state)))
            }
            None => pages::html(StatusCode::OK, &SignedOut { frame: self.frame }, &Policy::default()),
        }
    }

    async fn ask(&self, target: &Target) -> Result<Response> {
        let texts = self.frame.texts;
        let client_id = target.client.as_ref().map(|client| client.client_id.as_ref());
        let csrf = session::form_token(&self.cx, &self.session, FORM, client_id.unwrap_or_default()).await?;
        let mut parameters = vec![("csrf", csrf.as_str())];
        parameters.extend(client_id.map(|client_id| ("client_id", client_id)));
        parameters.extend(target.redirect_uri.as_deref().map(|uri| ("post_logout_redirect_uri", uri)));
        parameters.extend(target.state.as_deref().map(|state| ("state", state)));
        let asks = target.client.as_ref().map_or_else(
            || texts.logout_own.to_owned(),
            |client| fill(texts.logout_asks, &[("client", client.name())]),
        );
        let action = format!("{}{LOGOUT_PATH}", self.frame.look.base);
        let page = Confirm { frame: self.frame, asks, action, parameters };
        Ok(pages::form(StatusCode::OK, &page, target.redirect_uri.as_deref()))
    }

    fn problem(&self, error: Error) -> Response {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let texts = self.frame.texts;
        let text = format!("{} {}", error.detail, texts.not_signed_out_text);
        let mut response = pages::problem(status, texts.not_signed_out, &text, &self.cx.request_id);
        if let Some(seconds) = error.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        render::log(&mut response, error);
        response
    }
}

/// Who asks, whom it means, and where the person goes after: checked.
struct Target {
    client: Option<Arc<Client>>,
    /// Of a hint that is ours.
    hint: Option<issue::Hint>,
    /// Registered for the client.
    redirect_uri: Option<String>,
    state: Option<String>,
}

impl Target {
    async fn of(cx: &Cx<'_>, form: &Form) -> Result<Self> {
        // A hint that is none of ours, or of a key that is long gone, is no hint: the person is asked.
        let hint = form.get("id_token_hint").and_then(|hint| issue::hint(&cx.keys.ring(), cx.issuer.as_str(), hint));
        let named = form.get("client_id");
        if let (Some(named), Some(hint)) = (named, &hint)
            && !hint.aud.iter().any(|audience| audience == named)
        {
            return Err(Error::invalid_request("id_token_hint is not of the client in client_id."));
        }
        let of_hint = hint.as_ref().and_then(|hint| match hint.aud.as_slice() {
            [one] => Some(one.as_str()),
            _ => None,
        });
        let client = match named.or(of_hint) {
            Some(id) => cx.clients.get(id).await?.filter(|client| !client.disabled),
            None => None,
        };
        if named.is_some() && client.is_none() {
            return Err(Error::invalid_request("There is no such client."));
        }
        let redirect_uri = form.get("post_logout_redirect_uri").map(str::to_owned);
        if let Some(uri) = &redirect_uri {
            // RP-Initiated Logout §3: exactly as registered; else nobody is sent anywhere.
            let registered = |client: &Arc<Client>| client.metadata.post_logout_redirect_uris.contains(uri);
            if !client.as_ref().is_some_and(registered) {
                return Err(Error::invalid_request("post_logout_redirect_uri is not registered for this client."));
            }
        }
        Ok(Self { client, hint, redirect_uri, state: form.get("state").map(str::to_owned) })
    }

    fn speaks_of(&self, sign_in: &SignIn) -> bool {
        let Some(hint) = &self.hint else { return false };
        hint.sub == sign_in.sub && hint.sid.as_deref() == Some(sign_in.sid.as_str())
    }
}

#[derive(Template)]
#[template(path = "logout.html")]
struct Confirm<'p> {
    frame: Frame<'p>,
    asks: String,
    action: String,
    parameters: Vec<(&'static str, &'p str)>,
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut<'p> {
    frame: Frame<'p>,
}

/// Those parameters of RP-Initiated Logout §2 that count, as they came.
fn wishes(form: &Form) -> Vec<(&'static str, &str)> {
    let names = ["id_token_hint", "client_id", "post_logout_redirect_uri", "state"];
    names.into_iter().filter_map(|name| form.get(name).map(|value| (name, value))).collect()
}
