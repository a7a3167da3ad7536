//! The authorization code grant (RFC 6749 §4.1.3) with PKCE (RFC 7636).

use std::sync::Arc;

use super::Narrowing;
use crate::clients::Client;
use crate::clock::Micros;
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::Form;
use crate::issue::{Grant, Issue};
use crate::secret::{Prefix, Secret, code_challenge, equal, sha256};

/// What was presented with the code.
struct Presented {
    redirect_uri: String,
    verifier: Option<Secret>,
    now: Micros,
}

/// The client gets what the person granted when the code was made, if it presents what it was made for. Scopes are not
/// asked for here; resources may narrow the token (RFC 8707 §2.2).
///
/// # Errors
/// `invalid_request` for a missing `code` or `redirect_uri`, `invalid_grant` for what cannot be a code. The code's own
/// refusals come when it is used up: [`Issue::Redeem`].
pub fn decide(cx: &Cx<'_>, client: &Arc<Client>, form: &Form) -> Result<Issue> {
    let code = form.get("code").ok_or_else(|| Error::invalid_request("code is missing."))?;
    // RFC 6749 §4.1.3: required when it was in the authorization request, and there it always is.
    let redirect_uri = form.get("redirect_uri").ok_or_else(|| Error::invalid_request("redirect_uri is missing."))?;
    if !Prefix::Code.matches(code) {
        return Err(Error::new(Code::InvalidGrant, "This is not a code."));
    }
    let presented = Presented {
        redirect_uri: redirect_uri.to_owned(),
        verifier: form.get("code_verifier").map(Secret::new),
        now: cx.now,
    };
    let narrowing = Narrowing::read(cx.resources.load_full(), client, form);
    Ok(Issue::Redeem {
        code: sha256(code.as_bytes()),
        judge: Box::new(move |grant| {
            presented.fits(grant)?;
            narrowing.of(grant)
        }),
    })
}

impl Presented {
    /// Whether the code was made for who presents it. Only the right client comes here, and only once.
    fn fits(&self, grant: &Grant) -> Result<()> {
        let refused = |detail| Err(Error::new(Code::InvalidGrant, detail));
        if self.now >= grant.code_expires_at {
            return refused("The code has expired.");
        }
        if !equal(self.redirect_uri.as_bytes(), grant.redirect_uri.as_bytes()) {
            return refused("The redirect_uri is not that of the authorization request.");
        }
        match (&grant.challenge, &self.verifier) {
            (None, None) => Ok(()),
            (Some(challenge), Some(verifier)) if proves(verifier.expose(), challenge) => Ok(()),
            (Some(_), _) => refused("The code_verifier is missing, or does not fit the code_challenge."),
            // RFC 9700 §2.1.1: somebody took the challenge out of the authorization request.
            (None, Some(_)) => refused("There was no code_challenge in the authorization request."),
        }
    }
}

/// RFC 7636 §4.1 and §4.6, by S256: 43 to 128 unreserved characters whose hash is the challenge.
fn proves(verifier: &str, challenge: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(unreserved)
        && equal(code_challenge(verifier).as_bytes(), challenge.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7636_b_s256() {
        let (verifier, challenge) =
            ("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
        assert!(proves(verifier, challenge));
        assert!(!proves(challenge, challenge), "plain");
    }

    #[test]
    fn t12_a_verifier_is_43_to_128_unreserved_characters() {
        let fits = |verifier: &str| proves(verifier, &code_challenge(verifier));
        assert!(fits(&"a".repeat(43)) && fits(&"~".repeat(128)));
        assert!(!fits(&"a".repeat(42)) && !fits(&"a".repeat(129)));
        for bad in ["+", "/", "=", " ", "ä", "%", "\n"] {
            assert!(!fits(&("a".repeat(50) + bad)), "{bad:?}");
        }
    }
}
