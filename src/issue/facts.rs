//! What is kept of a person's authorization, found by a token of it.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{AccessClaims, Facts};
use crate::cx::Cx;
use crate::error::{Error, Result};
use crate::secret::Id;
use crate::store::grants;

/// The facts of the grant that a person's token comes from; `None` for a token that comes from none.
///
/// # Errors
/// 503 when the database cannot answer.
pub async fn facts_of(cx: &Cx<'_>, claims: &AccessClaims) -> Result<Option<Facts>> {
    let Some(grant) = grant_of(&claims.jti) else { return Ok(None) };
    let facts = cx.db.read(move |conn| Box::pin(async move { grants::facts(conn, grant).await })).await?;
    facts.map(|facts| serde_json::from_str(&facts).map_err(Error::internal)).transpose()
}

/// The grant that a token of a person comes from, by its `jti`: grant id ‖ 8 random bytes. A service's has 16.
pub(super) fn grant_of(jti: &str) -> Option<Id> {
    let jti: [u8; 24] = BASE64_URL_SAFE_NO_PAD.decode(jti).ok()?.try_into().ok()?;
    jti.first_chunk().copied()
}
