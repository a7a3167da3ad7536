//! `/account`: who is signed in at this browser, and signing out.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use time::OffsetDateTime;
use tower_sessions::Session;

use super::{MAX_BODY, Visit};
use crate::clock::{Micros, SECOND};
use crate::cx::Services;
use crate::error::Result;
use crate::http::form::read_form;
use crate::pages::texts::fill;
use crate::pages::{self, Frame};
use crate::session;
use crate::wire::LOGIN_PATH;

const FORM: &str = "sign-out";

#[derive(Template)]
#[template(path = "account.html")]
struct HomePage<'p> {
    frame: Frame<'p>,
    action: String,
    csrf: String,
    accounts: Vec<Account>,
    another: String,
}

struct Account {
    sid: String,
    username: String,
    since: String,
    sign_out: String,
}

/// `GET /account`.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let browser = session::browser(&visit.session).await?;
    let texts = visit.frame.texts;
    let accounts: Vec<Account> = session::sign_ins(&visit.cx, &browser)
        .await?
        .into_iter()
        .map(|account| Account {
            since: fill(texts.since, &[("time", &minute(account.auth_time))]),
            sign_out: fill(texts.sign_out_of, &[("username", &account.username)]),
            sid: account.sid,
            username: account.username,
        })
        .collect();
    if accounts.is_empty() {
        return Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH)));
    }
    let page = HomePage {
        frame: visit.frame,
        action: visit.path("/account/sign-out"),
        csrf: session::form_token(&visit.cx, &visit.session, FORM, "").await?,
        accounts,
        another: visit.path(LOGIN_PATH),
    };
    Ok(pages::form(StatusCode::OK, &page, None))
}

/// `POST /account/sign-out`: ends one sign-in of this browser.
pub async fn sign_out(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    if let Some(refused) = visit.foreign() {
        return Ok(refused);
    }
    if !visit.is_bound(&form, FORM, "").await? {
        return Ok(pages::see_other(&visit.cx.issuer.endpoint("/account")));
    }
    let browser = session::browser(&visit.session).await?;
    let sid = form.get("account").unwrap_or_default();
    let accounts = session::sign_ins(&visit.cx, &browser).await?;
    if accounts.iter().any(|account| account.sid == sid) {
        session::leave(&visit.cx, &visit.session, &accounts, |account| account.sid == sid).await?;
        if accounts.len() == 1 {
            return Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH)));
        }
    }
    Ok(pages::see_other(&visit.cx.issuer.endpoint("/account")))
}

fn minute(at: Micros) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(at / SECOND) else { return String::new() };
    format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute())
}
