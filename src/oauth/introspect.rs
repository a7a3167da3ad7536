//! `POST /oauth2/introspect` (RFC 7662).

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;

use super::OAuth;
use super::endpoint::Call;
use crate::audit::Counted;
use crate::clients::Client;
use crate::error::{Error, Result};
use crate::http::render;
use crate::issue::{self, AccessClaims, RefreshToken};

/// All that is said of any other.
const INACTIVE: Bytes = Bytes::from_static(br#"{"active":false}"#);

pub(super) async fn introspect(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let (mut call, body) = Call::begin(&oauth, request);
    let outcome = answer(&mut call, body).await;
    match &outcome {
        Ok(found) => call.cx.metrics.introspected(found.is_some()),
        Err(error) => call.cx.metrics.introspection_refused(error.code),
    }
    let outcome = outcome.map(|found| render::json_bytes(StatusCode::OK, found.unwrap_or(INACTIVE)));
    call.finish(Counted::Introspection, outcome).await
}

/// What is said of a live token that the client may know of.
async fn answer(call: &mut Call<'_>, body: Body) -> Result<Option<Bytes>> {
    call.read(body).await?;
    let client = call.authenticate().await?;
    // RFC 7662 §2.1: the endpoint requires authorization, which a public client cannot show.
    if !client.is_confidential() {
        return Err(Error::invalid_client());
    }
    let token = call.form.get("token").ok_or_else(|| Error::invalid_request("token is missing."))?;
    let found = if let Some(token) = RefreshToken::open(&call.cx.mac, token) {
        // Only whom it was issued to may know of it.
        issue::describe_refresh(&call.cx, &client, token).await?
    } else {
        let found = issue::describe(&call.cx, token).await?;
        found.filter(|found| may_know(&client, &found.claims)).map(|found| found.answer.clone())
    };
    // The last thing before the answer: without a lease this node does not know what was revoked elsewhere.
    call.cx.require_lease()?;
    Ok(found)
}

/// A client may know of what it was issued and of what is meant for a resource that it serves.
fn may_know(client: &Client, claims: &AccessClaims) -> bool {
    claims.client_id == *client.client_id
        || claims.aud.iter().any(|audience| client.metadata.serves.iter().any(|served| served == audience))
}
