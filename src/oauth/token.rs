//! `POST /oauth2/token`: authenticate, let the grant decide, issue.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::OAuth;
use super::endpoint::Call;
use super::grants::client_credentials;
use crate::audit::Counted;
use crate::clients::Client;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::render;
use crate::issue::{self, TokenResponse};
use crate::wire::GrantType;

pub(super) async fn token(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let (cx, call) = Call::read(&oauth, request).await;
    let (mut client, mut grant) = (None, None);
    let outcome = match &call {
        Ok(call) => answer(call, &mut client, &mut grant).await,
        Err(_) => Err(Error::invalid_request("")),
    };
    let (call, outcome) = match call {
        Ok(call) => (Some(call), outcome),
        Err(refusal) => (None, Err(refusal)),
    };
    cx.metrics.token_request(grant, outcome.as_ref().err().map(|error| error.code));
    if let (Err(_), None, Some(call)) = (&outcome, &client, &call) {
        client = call.named().await;
    }
    cx.audit.count(&cx, Counted::Token, client.as_ref().map(|client| &client.client_id), outcome.as_ref().map(drop));
    let mut response = match outcome {
        Ok(tokens) => render::json(StatusCode::OK, &tokens),
        Err(error) => error.into_response(),
    };
    if let Some(call) = call {
        call.allow_origin(client.as_deref(), response.headers_mut());
    }
    response
}

async fn answer(
    call: &Call<'_>,
    known: &mut Option<Arc<Client>>,
    named: &mut Option<GrantType>,
) -> Result<TokenResponse> {
    let started = call.cx.clock.monotonic();
    let grant = grant_type(&call.form);
    *named = grant.as_ref().ok().copied();
    let client = call.client().await?;
    *known = Some(client.clone());
    let grant = grant?;
    if !client.metadata.grant_types.contains(&grant) {
        return Err(Error::new(Code::UnauthorizedClient, "This client may not use this grant."));
    }
    let issue = match grant {
        GrantType::ClientCredentials => client_credentials::decide(&call.cx, &client, &call.form)?,
    };
    let tokens = issue::tokens(&call.cx, &client, issue).await?;
    call.cx.metrics.token_issue.observe_micros(call.cx.clock.monotonic() - started);
    Ok(tokens)
}

fn grant_type(form: &Form) -> Result<GrantType> {
    let word = form.get("grant_type").ok_or_else(|| Error::invalid_request("grant_type is missing."))?;
    word.parse().map_err(|_| Error::new(Code::UnsupportedGrantType, "There is no such grant here."))
}
