//! `POST /oauth2/revoke` (RFC 7009). The 200 means durable, and acted on by every running node.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;

use super::OAuth;
use super::endpoint::Call;
use crate::audit::Counted;
use crate::error::{Error, Result};
use crate::http::render;
use crate::issue;

pub(super) async fn revoke(State(oauth): State<Arc<OAuth>>, request: Request) -> Response {
    let (mut call, body) = Call::begin(&oauth, request);
    let outcome = answer(&mut call, body).await;
    call.cx.metrics.revocation(outcome.as_ref().err().map(|error| error.code));
    let outcome = outcome.map(|()| {
        let mut done = Response::new(Body::empty());
        render::set_no_store(done.headers_mut());
        done
    });
    let response = call.finish(Counted::Revocation, outcome).await;
    call.allow_origin(response)
}

async fn answer(call: &mut Call<'_>, body: Body) -> Result<()> {
    call.read(body).await?;
    let client = call.authenticate().await?;
    let token = call.form.get("token").ok_or_else(|| Error::invalid_request("token is missing."))?;
    issue::revoke(&call.cx, &client, token).await
}
