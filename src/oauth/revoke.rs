//! `POST /oauth2/revoke` (RFC 7009). The 200 means durable, and acted on by every running node.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::OAuth;
use super::endpoint::Call;
use crate::audit::Counted;
use crate::clients::Client;
use crate::error::{Error, Result};
use crate::http::render;
use crate::issue;

pub(super) async fn revoke(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let (cx, call) = Call::read(&oauth, request).await;
    let mut client = None;
    let outcome = match &call {
        Ok(call) => answer(call, &mut client).await,
        Err(_) => Err(Error::invalid_request("")),
    };
    let (call, outcome) = match call {
        Ok(call) => (Some(call), outcome),
        Err(refusal) => (None, Err(refusal)),
    };
    cx.metrics.revocation(outcome.as_ref().err().map(|error| error.code));
    cx.audit.count(
        &cx,
        Counted::Revocation,
        client.as_ref().map(|client| &client.client_id),
        outcome.as_ref().copied(),
    );
    let mut response = match outcome {
        Ok(()) => {
            let mut done = Response::new(Body::empty());
            render::set_no_store(done.headers_mut());
            done
        }
        Err(error) => error.into_response(),
    };
    if let Some(call) = call {
        call.allow_origin(client.as_deref(), response.headers_mut());
    }
    response
}

async fn answer(call: &Call<'_>, known: &mut Option<Arc<Client>>) -> Result<()> {
    let client = call.client().await?;
    *known = Some(client.clone());
    let token = call.form.get("token").ok_or_else(|| Error::invalid_request("token is missing."))?;
    issue::revoke(&call.cx, &client, token).await
}
