//! `/account`: who is signed in at this browser; and of one of them what they granted, where else they are signed in,
//! and the way to another password.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use time::OffsetDateTime;
use tower_sessions::Session;

use super::words::{Part, host, parts};
use super::{DONE, Done, MAX_BODY, PASSWORD_PATH, SIGN_OUT_PATH, SIGN_OUT_THERE_PATH, Visit, WITHDRAW_PATH, query};
use crate::clock::{Micros, SECOND};
use crate::consents::{self, Granted};
use crate::cx::Services;
use crate::error::{Error, Result};
use crate::form::Form;
use crate::http::form::read_form;
use crate::issue;
use crate::pages::texts::fill;
use crate::pages::{self, Frame};
use crate::session::{self, SignIn};
use crate::store::sessions::Elsewhere as ElsewhereRow;
use crate::wire::{ACCOUNT_PATH, LOGIN_PATH};

/// The forms, for their tokens. The first speaks of everybody at the browser, the others of one person.
const SIGN_OUT: &str = "sign-out";
const WITHDRAW: &str = "withdraw";
const SIGN_OUT_THERE: &str = "sign-out-there";

#[derive(Template)]
#[template(path = "account.html")]
struct HomePage<'p> {
    frame: Frame<'p>,
    /// What was just done, or why nothing was.
    done: Option<String>,
    error: Option<&'static str>,
    sign_out: Action,
    accounts: Vec<Account>,
    another: String,
    /// Of whom the rest speaks.
    who: &'p str,
    granted_title: String,
    withdraw: Action,
    granted: Vec<Application>,
    elsewhere_title: String,
    sign_out_there: Action,
    elsewhere: Vec<Elsewhere>,
    password: String,
    change_password: String,
}

/// Where a form leads, and its token.
struct Action {
    path: String,
    csrf: String,
}

struct Account {
    sid: String,
    username: String,
    since: String,
    sign_out: String,
    /// To what else is theirs; `None` where that is shown.
    show: Option<String>,
    show_of: String,
}

struct Application {
    client_id: String,
    name: String,
    hosts: String,
    parts: Vec<Part>,
    offline: bool,
    since: String,
    withdraw: String,
}

struct Elsewhere {
    sid: String,
    /// Which browser, if it said so.
    agent: Option<String>,
    since: String,
    last_used: String,
    sign_out: String,
}

/// Who is signed in here, whom of them a request means, and what there is of theirs.
struct Here {
    accounts: Vec<SignIn>,
    chosen: SignIn,
    granted: Vec<Granted>,
    elsewhere: Vec<ElsewhereRow>,
}

impl Here {
    /// What a form speaks of: whom and what the page showed, in whatever order. So its token is good once: what it did is
    /// no more to be done (T-103).
    fn about(&self, form: &str) -> String {
        let mut shown: Vec<&str> = match form {
            WITHDRAW => self.granted.iter().map(|granted| &*granted.client_id).collect(),
            SIGN_OUT_THERE => self.elsewhere.iter().map(|there| &*there.sid).collect(),
            _ => self.accounts.iter().map(|account| &*account.sid).collect(),
        };
        shown.sort_unstable();
        let whose = if form == SIGN_OUT { "" } else { &*self.chosen.sid };
        format!("{whose} {}", shown.join(" "))
    }
}

/// `GET /account`.
pub async fn show(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, _) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    match here(&visit, &query(&parts)?).await? {
        Some(here) => page(&visit, &here, None).await,
        None => Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH))),
    }
}

/// `POST /account/sign-out`: ends one sign-in of this browser.
pub async fn sign_out(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    let here = match ours(&visit, &form, SIGN_OUT).await? {
        Ok(here) => here,
        Err(answer) => return Ok(answer),
    };
    let sid = form.get("account").unwrap_or_default();
    if here.accounts.iter().any(|account| account.sid == sid) {
        session::leave(&visit.cx, &visit.session, &here.accounts, |account| account.sid == sid).await?;
        if here.accounts.len() == 1 {
            return Ok(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH)));
        }
    }
    Ok(pages::see_other(&visit.cx.issuer.endpoint(ACCOUNT_PATH)))
}

/// `POST /account/sign-out-there`: ends a sign-in of the same person at another browser.
pub async fn sign_out_there(
    State(services): State<Arc<Services>>,
    session: Session,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    let here = match ours(&visit, &form, SIGN_OUT_THERE).await? {
        Ok(here) => here,
        Err(answer) => return Ok(answer),
    };
    let sid = form.get("session").unwrap_or_default();
    // Somebody else's is not theirs to end; one that has ended is as they want it.
    let there = here.elsewhere.into_iter().find(|there| there.sid == sid);
    if there.is_some() {
        session::end(&visit.cx, vec![sid.to_owned()]).await?;
    }
    visit.done(&here.chosen.sid, Done::SignedOutThere(there.and_then(|there| there.agent))).await
}

/// `POST /account/withdraw`: takes back all that the person granted one client.
pub async fn withdraw(State(services): State<Arc<Services>>, session: Session, request: Request) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let visit = Visit::new(&services, session, &parts);
    let form = read_form(&parts.headers, body, MAX_BODY).await?;
    let here = match ours(&visit, &form, WITHDRAW).await? {
        Ok(here) => here,
        Err(answer) => return Ok(answer),
    };
    let client_id = form.get("client").unwrap_or_default();
    consents::withdraw(&visit.cx, &here.chosen.sub, client_id).await?;
    let client = visit.cx.clients.get(client_id).await?;
    let name = client.as_ref().map_or(client_id, |client| client.name());
    visit.done(&here.chosen.sid, Done::Withdrawn(name.to_owned())).await
}

/// Who is signed in here, if a posted form is one of ours, of this session as it is, and of the person it was shown to;
/// what to answer, if not.
async fn ours(visit: &Visit<'_>, posted: &Form, form: &str) -> Result<Result<Here, Response>> {
    if let Some(refused) = visit.foreign() {
        return Ok(Err(refused));
    }
    let Some(here) = here(visit, posted).await? else {
        return Ok(Err(pages::see_other(&visit.cx.issuer.endpoint(LOGIN_PATH))));
    };
    if !visit.is_bound(posted, form, &here.about(form)).await? {
        return Ok(Err(page(visit, &here, Some(visit.frame.texts.out_of_date)).await?));
    }
    Ok(Ok(here))
}

/// Who is signed in at this browser: the one that `who` names, or the last used; `None` when nobody is.
async fn here(visit: &Visit<'_>, form: &Form) -> Result<Option<Here>> {
    let Some(browser) = session::find(&visit.session).await? else { return Ok(None) };
    let accounts = session::sign_ins(&visit.cx, &browser).await?;
    let named = form.get("who").and_then(|who| accounts.iter().find(|account| account.sid == who));
    let Some(chosen) = named.or(accounts.first()).cloned() else { return Ok(None) };
    session::used(&visit.cx, &chosen).await?;
    let granted = consents::of_person(&visit.cx, &chosen.sub).await?;
    let elsewhere = session::elsewhere(&visit.cx, &browser, &chosen.sub).await?;
    Ok(Some(Here { accounts, chosen, granted, elsewhere }))
}

async fn page(visit: &Visit<'_>, here: &Here, error: Option<&'static str>) -> Result<Response> {
    let (texts, chosen) = (visit.frame.texts, &here.chosen);
    let action = async |path: &str, form: &str| -> Result<Action> {
        let csrf = session::form_token(&visit.cx, &visit.session, form, &here.about(form)).await?;
        Ok(Action { path: visit.path(path), csrf })
    };
    // Said once; a page that has nothing to say leaves the session as it is.
    let done: Option<Done> = visit.session.get(DONE).await.map_err(Error::internal)?;
    if done.is_some() {
        visit.session.remove_value(DONE).await.map_err(Error::internal)?;
    }
    let of = |text: &str| fill(text, &[("username", &chosen.username)]);
    let page = HomePage {
        frame: visit.frame,
        done: done.as_ref().map(|done| done.words(texts)),
        error,
        sign_out: action(SIGN_OUT_PATH, SIGN_OUT).await?,
        accounts: here.accounts.iter().map(|account| Account::of(visit, account, chosen)).collect(),
        another: visit.path(LOGIN_PATH),
        who: &chosen.sid,
        granted_title: of(texts.granted),
        withdraw: action(WITHDRAW_PATH, WITHDRAW).await?,
        granted: applications(visit, &here.granted).await?,
        elsewhere_title: of(texts.elsewhere),
        sign_out_there: action(SIGN_OUT_THERE_PATH, SIGN_OUT_THERE).await?,
        elsewhere: here.elsewhere.iter().map(|there| Elsewhere::of(visit, there)).collect(),
        password: visit.path(&format!("{PASSWORD_PATH}?who={}", chosen.sid)),
        change_password: of(texts.change_password_of),
    };
    let status = if error.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    Ok(pages::form(status, &page, None))
}

impl Account {
    fn of(visit: &Visit<'_>, account: &SignIn, chosen: &SignIn) -> Self {
        let texts = visit.frame.texts;
        let of = |text: &str| fill(text, &[("username", &account.username)]);
        let link = || visit.path(&format!("{ACCOUNT_PATH}?who={}", account.sid));
        Self {
            sid: account.sid.clone(),
            username: account.username.clone(),
            since: fill(texts.since, &[("time", &minute(account.auth_time))]),
            sign_out: of(texts.sign_out_of),
            show: (account.sid != chosen.sid).then(link),
            show_of: of(texts.show_of),
        }
    }
}

impl Elsewhere {
    fn of(visit: &Visit<'_>, there: &ElsewhereRow) -> Self {
        let texts = visit.frame.texts;
        let since = minute(there.auth_time);
        let sign_out = match &there.agent {
            Some(agent) => fill(texts.sign_out_at, &[("browser", agent), ("time", &since)]),
            None => fill(texts.sign_out_there_of, &[("time", &since)]),
        };
        Self {
            since: fill(texts.elsewhere_since, &[("time", &since)]),
            last_used: fill(texts.last_used, &[("time", &minute(there.last_used_at))]),
            sign_out,
            agent: there.agent.clone(),
            sid: there.sid.clone(),
        }
    }
}

async fn applications(visit: &Visit<'_>, granted: &[Granted]) -> Result<Vec<Application>> {
    let texts = visit.frame.texts;
    let mut applications = Vec::with_capacity(granted.len());
    for Granted { client_id, scope, claims, resources, since } in granted {
        let Some(client) = visit.cx.clients.get(client_id).await? else { continue };
        let mut hosts: Vec<String> = client.metadata.redirect_uris.iter().map(|uri| host(uri)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        applications.push(Application {
            name: client.name().to_owned(),
            hosts: fill(texts.granted_hosts, &[("hosts", &hosts.join(", "))]),
            parts: parts(visit, &client, (scope, claims), resources),
            offline: issue::outlives_sign_in(&visit.cx, &client, scope),
            since: fill(texts.since, &[("time", &minute(*since))]),
            withdraw: fill(texts.withdraw_of, &[("client", client.name())]),
            client_id: client_id.clone(),
        });
    }
    Ok(applications)
}

fn minute(at: Micros) -> String {
    let Ok(at) = OffsetDateTime::from_unix_timestamp(at / SECOND) else { return String::new() };
    format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute())
}
