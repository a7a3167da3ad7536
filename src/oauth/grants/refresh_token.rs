//! The refresh token grant (RFC 6749 §6), with rotation (RFC 9700 §4.14.2).

use std::sync::Arc;

use super::Narrowing;
use crate::clients::Client;
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::issue::{Issue, RefreshToken};

/// The client gets the next tokens of what the person granted. Scopes and resources may narrow the access token; the
/// refresh token goes on standing for all that was granted.
///
/// # Errors
/// `invalid_request` for a missing `refresh_token`, `invalid_grant` for one that we did not make, `invalid_scope` for a
/// malformed scope. The token's own refusals come with its rotation: [`Issue::Rotate`].
pub fn decide(cx: &Cx<'_>, client: &Arc<Client>, form: &Form) -> Result<Issue> {
    let presented = form.get("refresh_token").ok_or_else(|| Error::invalid_request("refresh_token is missing."))?;
    let refused = || Error::new(Code::InvalidGrant, "This is not a refresh token.");
    let token = RefreshToken::open(&cx.mac, presented).ok_or_else(refused)?;
    let scope = form.get("scope").map(str::parse).transpose();
    let scope = scope.map_err(|_| Error::new(Code::InvalidScope, "The scope is malformed."))?;
    let narrowing = Narrowing { scope, ..Narrowing::read(cx.resources.load_full(), client, form) };
    Ok(Issue::Rotate { token, judge: Box::new(move |grant| narrowing.of(grant)) })
}
