//! `POST /oauth2/token`: authenticate, let the grant decide, issue.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;

use super::OAuth;
use super::endpoint::Call;
use super::grants::{authorization_code, client_credentials, refresh_token};
use crate::audit::Counted;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::http::render;
use crate::issue::{self, TokenResponse};
use crate::wire::GrantType;

pub(super) async fn token(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let (mut call, body) = Call::begin(&oauth, request);
    let outcome = answer(&mut call, body).await;
    let grant = grant_type(&call.form).ok();
    call.cx.metrics.token_request(grant, outcome.as_ref().err().map(|error| error.code));
    let outcome = outcome.map(|tokens| render::json(StatusCode::OK, &tokens));
    let response = call.finish(Counted::Token, outcome).await;
    call.allow_origin(response)
}

async fn answer(call: &mut Call<'_>, body: Body) -> Result<TokenResponse> {
    call.read(body).await?;
    let started = call.cx.clock.monotonic();
    let client = call.authenticate().await?;
    let grant = grant_type(&call.form)?;
    if !client.metadata.grant_types.contains(&grant) {
        return Err(Error::new(Code::UnauthorizedClient, "This client may not use this grant."));
    }
    // RFC 9396 §5. Passed over, the client would hold a token of another kind than it asked for.
    if call.form.get("authorization_details").is_some() {
        return Err(Error::new(Code::InvalidAuthorizationDetails, "No type of authorization_details is known here."));
    }
    let issue = match grant {
        GrantType::AuthorizationCode => authorization_code::decide(&call.cx, &client, &call.form)?,
        GrantType::RefreshToken => refresh_token::decide(&call.cx, &client, &call.form)?,
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
