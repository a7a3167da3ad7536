//! `GET` and `POST /userinfo` (OpenID Connect Core §5.3): what the bearer of a token may know of the person.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value};

use crate::audit::Counted;
use crate::claims::{self, Place};
use crate::clients::Client;
use crate::cx::{Cx, Services};
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::render::set_no_store;
use crate::http::{cors, form, render, view};
use crate::issue::{self, AccessClaims};
use crate::keys::Typ;
use crate::secret::Secret;
use crate::users;
use crate::wire::USERINFO_PATH;

/// The largest body: a token and some words around it.
const LARGEST_BODY: usize = 32 * 1024;
const FORM: &[u8] = b"application/x-www-form-urlencoded";

pub(super) async fn userinfo(State(services): State<Arc<Services>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut cx = view(&services, &parts.extensions);
    let mut client = None;
    let outcome = match bearer(&parts.method, parts.uri.query(), &parts.headers, body).await {
        Ok(Some(token)) => {
            // A body may take its time.
            cx.now = cx.clock.now();
            answer(&cx, token.expose(), &mut client).await.map_err(Refusal::of)
        }
        Ok(None) => Err(Refusal::Nothing),
        Err(error) => Err(Refusal::of(error)),
    };
    let client_id = client.as_ref().map(|client| &client.client_id);
    let counted = outcome.as_ref().map(drop).map_err(Refusal::error);
    cx.audit.count(&cx, Counted::Userinfo, client_id, counted.as_ref().map(drop));
    let mut response = outcome.unwrap_or_else(Refusal::into_response);
    cors::allow_client(&mut response, &parts.headers, client.as_deref());
    response
}

pub(super) async fn preflight(State(services): State<Arc<Services>>, headers: HeaderMap) -> Response {
    cors::preflight_client(&services.clients, &headers, "GET, POST")
}

async fn answer(cx: &Cx<'_>, token: &str, caller: &mut Option<Arc<Client>>) -> Result<Response> {
    let dead = || Error::new(Code::InvalidToken, "The access token is expired, revoked, or not one of ours.");
    let described = issue::describe(cx, token).await?.ok_or_else(dead)?;
    let granted = &described.claims;
    let client = cx.clients.get(&granted.client_id).await?.ok_or_else(dead)?;
    *caller = Some(client.clone());
    // A token for another resource is none for us (RFC 9700 §2.3).
    if !granted.aud.iter().any(|audience| audience == cx.issuer.endpoint(USERINFO_PATH)) {
        return Err(Error::new(Code::InvalidToken, "The access token is for another resource."));
    }
    // Nor has a client that lost it since.
    if !granted.scope.contains("openid") || !client.metadata.scope.contains("openid") {
        return Err(Error::new(Code::InsufficientScope, "The access token does not have the scope openid."));
    }
    // A service has no person behind it.
    let user = users::find(&cx.db, &granted.sub).await?.filter(|user| !user.disabled).ok_or_else(dead)?;
    let told = claims(cx, granted, &client, &user).await?;
    let response = match client.metadata.userinfo_signed_response_alg {
        None => render::json(StatusCode::OK, &told),
        Some(algorithm) => signed(issue::sign(cx, algorithm, Typ::Jwt, &for_client(cx, &client, told)).await?),
    };
    // The last thing before the answer: without a lease this node does not know what was revoked elsewhere.
    cx.require_lease()?;
    Ok(response)
}

async fn claims(
    cx: &Cx<'_>,
    granted: &AccessClaims,
    client: &Client,
    user: &users::User,
) -> Result<Map<String, Value>> {
    let facts = issue::facts_of(cx, granted).await?.unwrap_or_default();
    let mut told = claims::of(cx, user, client, (&granted.scope, &facts.claims), Place::Userinfo);
    // OpenID Connect Core §5.3.2: always there, and the same as in the ID token.
    told.insert("sub".to_owned(), Value::from(user.sub.as_str()));
    Ok(told)
}

/// OpenID Connect Core §5.3.2: signed claims say from whom they are and for whom.
fn for_client(cx: &Cx<'_>, client: &Client, mut told: Map<String, Value>) -> Map<String, Value> {
    told.insert("iss".to_owned(), Value::from(cx.issuer.as_str()));
    told.insert("aud".to_owned(), Value::from(client.client_id.as_ref()));
    told
}

fn signed(token: String) -> Response {
    let mut response = Response::new(Body::from(token));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwt"));
    set_no_store(response.headers_mut());
    response
}

/// The token that the request carries (RFC 6750 §2), in the header or in the form: once, and never in the query.
async fn bearer(method: &Method, query: Option<&str>, headers: &HeaderMap, body: Body) -> Result<Option<Secret>> {
    let in_query = query
        .is_some_and(|query| url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "access_token"));
    if in_query {
        return Err(Error::invalid_request("The access token must not be in the URL."));
    }
    let in_header = in_header(headers)?;
    let is_form = headers
        .get(CONTENT_TYPE)
        .is_some_and(|of| of.as_bytes().get(..FORM.len()).is_some_and(|start| start.eq_ignore_ascii_case(FORM)));
    if method != Method::POST || !is_form {
        return Ok(in_header);
    }
    let form: Form = form::read_form(headers, body, LARGEST_BODY).await?;
    match (in_header, form.get("access_token")) {
        (Some(_), Some(_)) => Err(Error::invalid_request("The access token is there twice.")),
        (in_header, in_body) => Ok(in_header.or_else(|| in_body.map(Secret::new))),
    }
}

fn in_header(headers: &HeaderMap) -> Result<Option<Secret>> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return if headers.contains_key(AUTHORIZATION) {
            Err(Error::invalid_request("There is more than one Authorization header."))
        } else {
            Ok(None)
        };
    };
    let text = line.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => Ok(Some(Secret::new(token.trim()))),
        // Another way to authenticate is none for this endpoint.
        _ => Ok(None),
    }
}

/// RFC 6750 §3: how a resource says no.
enum Refusal {
    /// No token at all: the scheme and nothing else.
    Nothing,
    Error(Error),
}

impl Refusal {
    fn of(error: Error) -> Self {
        Self::Error(error)
    }

    fn error(&self) -> Error {
        match self {
            Self::Nothing => Error::new(Code::InvalidToken, "There is no access token."),
            Self::Error(error) => Error::new(error.code, error.detail().to_owned()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let challenge = match &self {
            Self::Nothing => "Bearer realm=\"sealwright\"".to_owned(),
            Self::Error(error) => {
                let scope = if error.code == Code::InsufficientScope { ", scope=\"openid\"" } else { "" };
                format!(
                    "Bearer realm=\"sealwright\", error=\"{}\", error_description=\"{}\"{scope}",
                    error.code.as_str(),
                    error.detail()
                )
            }
        };
        let mut response = match self {
            // RFC 6750 §3.1: who shows nothing is told no error.
            Self::Nothing => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::UNAUTHORIZED;
                set_no_store(response.headers_mut());
                response
            }
            Self::Error(error) => error.into_response(),
        };
        let refused = [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        if refused.contains(&response.status())
            && let Ok(challenge) = HeaderValue::from_str(&challenge)
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
