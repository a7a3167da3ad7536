//! `GET` and `POST /logout` (OpenID Connect RP-Initiated Logout 1.0): a client asks that the person be signed out.
//!
//! Whoever holds an ID token of a sign-in of this very browser may end it at once. Anybody else could be a page that
//! wants to annoy (forced logout), so the person is asked: whom, where several are signed in.

use std::sync::Arc;

use askama::Template;
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
use crate::pages::texts::{self, fill};
use crate::pages::{self, Frame, Policy};
use crate::session::{self, SignIn};
use crate::wire::{ACCOUNT_PATH, LOGOUT_PATH};

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
    let read = match parts.method {
        Method::POST => form::read_form(&parts.headers, body, LARGEST_BODY).await,
        _ => Form::parse(parts.uri.query().unwrap_or_default().as_bytes()),
    };
    // RP-Initiated Logout §2.
    let locales = read.as_ref().ok().and_then(|form| form.get("ui_locales")).map(texts::tags).unwrap_or_default();
    let frame = Frame::new(&services.look, &parts.headers, &locales);
    let visit = Visit { cx: view(&services, &parts.extensions), frame, session };
    let outcome = match read {
        Ok(form) if parts.method == Method::POST => visit.posted(&parts.headers, &form).await,
        Ok(form) => visit.asked(&form).await,
        Err(error) => Err(error),
    };
    outcome.unwrap_or_else(|error| visit.problem(error))
}

impl Visit<'_> {
    /// A form of ours that says yes, or a client's request by POST.
    async fn posted(&self, headers: &HeaderMap, form: &Form) -> Result<Response> {
        let cx = &self.cx;
        let Some(token) = form.get("csrf") else {
            // A cross-site POST comes without the cookie (SameSite=Lax); the GET that follows brings it.
            return Ok(pages::see_other(&pages::with_query(&cx.issuer.endpoint(LOGOUT_PATH), &wishes(form))));
        };
        let texts = self.frame.texts;
        if pages::is_foreign(headers, &cx.issuer) {
            let words = (texts.cross_site, texts.cross_site_text);
            return Ok(pages::problem(StatusCode::FORBIDDEN, texts, words, &cx.request_id));
        }
        let (target, here) = (Target::of(cx, form).await?, self.sign_ins().await?);
        if here.is_empty() {
            return Ok(self.done(&target, &[]));
        }
        let about = form.get("client_id").unwrap_or_default();
        if !session::is_form_token(cx, &self.session, FORM, about, token).await? {
            return self.ask(&target, &here, Some(texts.out_of_date)).await;
        }
        // One account, or all of them. Which one is meant when several are here, the first button says.
        let chosen = form.get("account").or_else(|| form.get("submit").filter(|value| *value != "1"));
        self.leave(&target, &here, |sign_in| chosen.is_none_or(|sid| sign_in.sid == sid)).await
    }

    /// A client's request.
    async fn asked(&self, form: &Form) -> Result<Response> {
        let target = Target::of(&self.cx, form).await?;
        let here = self.sign_ins().await?;
        if here.is_empty() {
            return Ok(self.done(&target, &[]));
        }
        if !here.iter().any(|sign_in| target.speaks_of(sign_in)) {
            return self.ask(&target, &here, None).await;
        }
        self.leave(&target, &here, |sign_in| target.speaks_of(sign_in)).await
    }

    /// Signs those of `here` out whom `leaves` names.
    async fn leave(&self, target: &Target, here: &[SignIn], leaves: impl Fn(&SignIn) -> bool) -> Result<Response> {
        session::leave(&self.cx, &self.session, here, &leaves).await?;
        let stay: Vec<&str> =
            here.iter().filter(|sign_in| !leaves(sign_in)).map(|sign_in| &*sign_in.username).collect();
        Ok(self.done(target, &stay))
    }

    /// Who is signed in here. A browser that comes without a cookie gets none for asking.
    async fn sign_ins(&self) -> Result<Vec<SignIn>> {
        match session::find(&self.session).await? {
            Some(browser) => session::sign_ins(&self.cx, &browser).await,
            None => Ok(Vec::new()),
        }
    }

    /// To where the client wants the person, or a page that says that they are signed out, and who is not.
    fn done(&self, target: &Target, stay: &[&str]) -> Response {
        if let Some(uri) = &target.redirect_uri {
            let state = target.state.as_deref().map(|state| ("state", state));
            return pages::see_other(&pages::with_query(uri, &Vec::from_iter(state)));
        }
        let still = fill(self.frame.texts.signed_out_still, &[("names", &stay.join(", "))]);
        let account = format!("{}{ACCOUNT_PATH}", self.frame.look.base);
        let page = SignedOut { frame: self.frame, still: (!stay.is_empty()).then_some(still), account };
        pages::html(StatusCode::OK, &page, &Policy::default())
    }

    /// Asks: for the account that the client means, where that is signed in; else for the one, or which of several.
    /// `error` is why the page is there again.
    async fn ask(&self, target: &Target, here: &[SignIn], error: Option<&'static str>) -> Result<Response> {
        let texts = self.frame.texts;
        let client_id = target.client.as_ref().map(|client| client.client_id.as_ref());
        let csrf = session::form_token(&self.cx, &self.session, FORM, client_id.unwrap_or_default()).await?;
        let mut parameters = vec![("csrf", csrf.as_str())];
        parameters.extend(client_id.map(|client_id| ("client_id", client_id)));
        parameters.extend(target.redirect_uri.as_deref().map(|uri| ("post_logout_redirect_uri", uri)));
        parameters.extend(target.state.as_deref().map(|state| ("state", state)));
        parameters.extend(target.ui_locales.as_deref().map(|locales| ("ui_locales", locales)));
        let meant = here.iter().find(|sign_in| target.hint.as_ref().is_some_and(|hint| hint.sub == sign_in.sub));
        let asks = match (&target.client, meant) {
            (None, _) => texts.logout_own.to_owned(),
            (Some(client), None) => fill(texts.logout_asks, &[("client", client.name())]),
            (Some(client), Some(meant)) => {
                fill(texts.logout_asks_of, &[("client", client.name()), ("username", &meant.username)])
            }
        };
        let mut one: Vec<(&str, String)> = here
            .iter()
            .map(|sign_in| (sign_in.sid.as_str(), fill(texts.sign_out_of, &[("username", &sign_in.username)])))
            .collect();
        // The one that is meant comes first.
        one.sort_by_key(|(sid, _)| meant.is_none_or(|meant| meant.sid != *sid));
        let (who, primary_is_one) = match here {
            [only] => (fill(texts.consent_as, &[("username", &only.username)]), true),
            _ => (texts.logout_several.to_owned(), meant.is_some()),
        };
        let page = Confirm {
            frame: self.frame,
            error,
            asks,
            who,
            action: format!("{}{LOGOUT_PATH}", self.frame.look.base),
            parameters,
            all: (here.len() > 1).then_some(texts.sign_out_all),
            one,
            primary_is_one,
        };
        let status = if error.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
        Ok(pages::form(status, &page, target.redirect_uri.as_deref()))
    }

    fn problem(&self, error: Error) -> Response {
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let texts = self.frame.texts;
        let account = self.cx.issuer.endpoint(ACCOUNT_PATH);
        let (title, text) = match error.code {
            // The transaction may have ended either way.
            Code::TemporarilyUnavailable | Code::ServerError => {
                (texts.perhaps_signed_out, texts.perhaps_signed_out_text.to_owned())
            }
            _ => (texts.not_signed_out, fill(texts.not_signed_out_text, &[("account", &account)])),
        };
        let mut response = pages::problem(status, texts, (title, &text), &self.cx.request_id);
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
    ui_locales: Option<String>,
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
        let own = |name: &str| form.get(name).map(str::to_owned);
        Ok(Self { client, hint, redirect_uri, state: own("state"), ui_locales: own("ui_locales") })
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
    error: Option<&'static str>,
    asks: String,
    /// Who is signed in.
    who: String,
    action: String,
    parameters: Vec<(&'static str, &'p str)>,
    /// A button for each account: `sid` and words.
    one: Vec<(&'p str, String)>,
    /// The button for all of several.
    all: Option<&'static str>,
    /// Whether the first account's button is the one that comes to mind.
    primary_is_one: bool,
}

#[derive(Template)]
#[template(path = "signed_out.html")]
struct SignedOut<'p> {
    frame: Frame<'p>,
    /// Who still is signed in.
    still: Option<String>,
    account: String,
}

/// Those parameters of RP-Initiated Logout §2 that count, as they came.
fn wishes(form: &Form) -> Vec<(&'static str, &str)> {
    let names = ["id_token_hint", "client_id", "post_logout_redirect_uri", "state", "ui_locales"];
    names.into_iter().filter_map(|name| form.get(name).map(|value| (name, value))).collect()
}
