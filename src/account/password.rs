//! `/account/password`: another password, by who knows the present one.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::SET_COOKIE;
use tower_sessions::Session;

use super::login::known_cookie;
use super::{Done, MAX_BODY, PASSWORD_PATH, Visit, query};
use crate::audit::Actor;
use crate::cx::Services;
use crate::error::Result;
use crate::form::Form;
use crate::http::form::read_form;
use crate::nodes;
use crate::pages::texts::{Texts, fill};
use crate::pages::{self, Frame};
use crate::secret::{Secret, equal};
use crate::session::{self, Begun, SignIn};
use crate::users::password::{self, MAX_LENGTH, Weak};
use crate::users::prove::{self, Proven};
use crate::users::{self, known};
use crate::wire::{ACCOUNT_PATH, LOGIN_PATH};

/// The name of the form, for its token; it speaks of the sign-in.
const FORM: &str = "password";

#[derive(Template)]
#[template(path = "password.html")]
struct PasswordPage<'p> {
    frame: Frame<'p>,
    action: String,
    who: &'p str,
    username: &'p str,
    csrf: String,
    title: String,
    hint: String,
    error: Option<Wrong>,
    back: String,
}

impl PasswordPage<'_> {
    /// What the input `field` has beside its name: for the new password its hint, for the one that is wrong the reason.
    fn state(&self, field: &str) -> &'static str {
        let wrong = self.error.as_ref().is_some_and(|error| error.field == field);
        match (wrong, field) {
            (true, "new_password") => " aria-invalid=\"true\" aria-describedby=\"error hint\" autofocus",
            (true, _) => " aria-invalid=\"true\" aria-describedby=\"error\" autofocus",
            (false, "new_password") => " aria-describedby=\"hint\"",
            (false, _) => "",
        }
    }
}

/// Which field is wrong, and why.
struct Wrong {
    field: &'static str,
    text: String,
}

impl Wrong {
    fn new(field: &'static str, text: impl Into<String>) -> Self {
        Self { field, text: text.into() }
    }
}

/// `GET /account/password`.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    match chosen(&visit, &query(&parts)?).await? {
        Some(sign_in) => page(&visit, &sign_in, None).await,
        None => Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH))),
    }
}

/// `POST /account/password`: the present password, and the new one twice.
pub async fn submit(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    if let Some(refused) = visit.foreign() {
        return Ok(refused);
    }
    let Some(sign_in) = chosen(&visit, &form).await? else {
        return Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH)));
    };
    if !visit.is_bound(&form, FORM, &sign_in.sid).await? {
        return page(&visit, &sign_in, Some(Wrong::new("", visit.frame.texts.out_of_date))).await;
    }
    match change(&visit, &sign_in, &form).await? {
        Ok(response) => Ok(response),
        Err(wrong) => page(&visit, &sign_in, Some(wrong)).await,
    }
}

/// Whom of those signed in here the form names.
async fn chosen(visit: &Visit<'_>, form: &Form) -> Result<Option<SignIn>> {
    Ok(visit.sign_ins().await?.into_iter().find(|account| form.get("who") == Some(account.sid.as_str())))
}

async fn page(visit: &Visit<'_>, sign_in: &SignIn, error: Option<Wrong>) -> Result<Response> {
    let texts = visit.frame.texts;
    let status = if error.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    let page = PasswordPage {
        frame: visit.frame,
        action: visit.path(PASSWORD_PATH),
        who: &sign_in.sid,
        username: &sign_in.username,
        csrf: session::form_token(&visit.cx, &visit.session, FORM, &sign_in.sid).await?,
        title: fill(texts.change_password_of, &[("username", &sign_in.username)]),
        hint: fill(texts.new_password_hint, &[("n", &visit.cx.min_password_length.to_string())]),
        error,
        back: visit.path(&format!("{ACCOUNT_PATH}?who={}", sign_in.sid)),
    };
    Ok(pages::form(status, &page, None))
}

/// Changes the password. What is wrong with the new one is told before the present one is tried: it costs no attempt.
async fn change(visit: &Visit<'_>, sign_in: &SignIn, form: &Form) -> Result<Result<Response, Wrong>> {
    let (cx, texts) = (&visit.cx, visit.frame.texts);
    let secret = |name: &str| Secret::new(form.get(name).unwrap_or_default());
    let (present, new, again) = (secret("password"), secret("new_password"), secret("new_password_again"));
    if !equal(new.expose().as_bytes(), again.expose().as_bytes()) {
        return Ok(Err(Wrong::new("new_password_again", texts.passwords_differ)));
    }
    let own = match users::find(&cx.db, &sign_in.sub).await? {
        Some(user) => user.profile.own_words(&user.username),
        None => Vec::new(),
    };
    let own = own.iter().map(String::as_str).chain([cx.look.name.as_str(), cx.issuer.as_str()]);
    let new = match password::check(&new, own, cx.min_password_length) {
        Ok(prepared) => prepared,
        Err(weak) => return Ok(Err(Wrong::new("new_password", in_words(weak, texts)))),
    };
    let prefix = session::cookie_prefix(cx);
    let cookie = |sub: &str| visit.cookie(&known::cookie_name(prefix, sub));
    let presented = prove::Presented { username: &sign_in.username, password: &present, known: &cookie };
    let proven = prove::by_password(cx, &presented).await?.filter(|proven| proven.user.sub == sign_in.sub);
    let Some(proven) = proven else { return Ok(Err(Wrong::new("password", texts.present_password_wrong))) };
    let hash = cx.passwords.hash(&new, Some(cx.peer)).await?;
    let (sub, actor) = (sign_in.sub.clone(), Actor::person(cx, &sign_in.sub));
    let (before, after) = (proven.hash.clone(), hash.clone());
    let changed = cx
        .db
        .write(move |tx| Box::pin(async move { users::change_password(tx, &actor, &sub, (&before, &after)).await }));
    let changed = changed.await?;
    if !changed.value {
        // Somebody else has changed it at this moment.
        return Ok(Err(Wrong::new("password", texts.present_password_wrong)));
    }
    if let Some(seq) = changed.seq {
        nodes::acted_on(cx, seq).await?;
    }
    // Who has just proved it is signed in here anew; should that fail, they sign in with the new one.
    let proven = Proven { hash, rehash: None, ..proven };
    let Some(Begun { sign_in, known }) = session::begin(cx, &visit.session, visit.agent(), proven).await? else {
        return Ok(Ok(pages::see_other(&cx.issuer.endpoint(LOGIN_PATH))));
    };
    let mut response = visit.done(&sign_in.sid, Done::PasswordChanged).await?;
    response.headers_mut().append(SET_COOKIE, known_cookie(visit, &sign_in.sub, &known)?);
    Ok(Ok(response))
}

fn in_words(weak: Weak, texts: &Texts) -> String {
    let (text, n) = match weak {
        Weak::Short(least) => (texts.weak_short, least),
        Weak::Long => (texts.weak_long, MAX_LENGTH),
        Weak::Control => (texts.weak_control, 0),
        Weak::Personal => (texts.weak_personal, 0),
        Weak::Common => (texts.weak_common, 0),
        Weak::Pattern => (texts.weak_pattern, 0),
    };
    fill(text, &[("n", &n.to_string())])
}
