//! Who is asking: one `match` over everything that was presented. Each mixture of credentials is named or refused.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::assertion;
use super::{Client, Credential};
use crate::cx::Cx;
use crate::error::{Code, Error, Result};
use crate::form::{self, Form};
use crate::secret::{Id, Secret};
use crate::wire::AuthMethod;

/// RFC 7523 §2.2.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a request presented.
#[derive(Debug)]
enum Presented<'f> {
    /// A `client_id` and a secret, in the header or in the body.
    Secret { method: AuthMethod, client_id: String, secret: Secret },
    /// RFC 7523 §2.2; a `client_id` beside it must agree.
    Assertion { client_id: Option<&'f str>, assertion: &'f str },
    /// A `client_id` and nothing to prove it by.
    Public { client_id: &'f str },
}

/// Which client is named, whether or not it can prove it: for counting refusals.
pub fn named(authorization: Option<&str>, form: &Form) -> Option<String> {
    authorization
        .and_then(|header| basic(header).ok())
        .map(|(id, _)| id)
        .or_else(|| form.get("client_id").map(str::to_owned))
}

/// Authenticates the client of a request by what its `Authorization` header and its form say.
///
/// # Errors
/// `invalid_request` for two methods at once or contradicting names; `invalid_client`, in one text, for everything
/// that does not prove; after a proof the text may say what is wrong with the client. 503 when the database or the
/// pool for Argon2id cannot answer, or what this node knows of clients may be old.
pub async fn authenticate(cx: &Cx<'_>, authorization: Option<&str>, form: &Form) -> Result<Arc<Client>> {
    let outcome = prove(cx, authorization, form).await;
    if outcome.as_ref().is_err_and(|refused| refused.code == Code::InvalidClient) {
        // "No such client" is an answer from memory too.
        cx.require_lease()?;
    }
    outcome
}

async fn prove(cx: &Cx<'_>, authorization: Option<&str>, form: &Form) -> Result<Arc<Client>> {
    let mut single_use = None;
    let (client, method, credential) = match presented(authorization, form)? {
        Presented::Secret { method, client_id, secret } => {
            let (client, credential) = by_secret(cx, &client_id, &secret).await?;
            (client, method, Some(credential))
        }
        Presented::Assertion { client_id, assertion } => {
            let proven = assertion::verify(cx, client_id, assertion).await?;
            single_use = Some(proven.single_use);
            (proven.client, AuthMethod::PrivateKeyJwt, proven.credential)
        }
        Presented::Public { client_id } => {
            let client = cx.clients.get(client_id).await?.filter(|client| !client.is_confidential());
            (client.ok_or_else(Error::invalid_client)?, AuthMethod::None, None)
        }
    };
    let registered = client.metadata.token_endpoint_auth_method;
    if registered != method {
        let detail = format!("This client is registered for {registered}, not for {method}.");
        return Err(Error::new(Code::InvalidClient, detail));
    }
    if client.disabled {
        return Err(Error::new(Code::InvalidClient, "This client is disabled."));
    }
    if let Some(proof) = single_use {
        proof.burn(cx, &client).await?;
    }
    // Only now has it worked.
    if let Some(credential) = client.credentials.iter().find(|known| Some(known.id) == credential) {
        cx.audit.used(credential, cx.now);
    }
    Ok(client)
}

fn presented<'f>(authorization: Option<&str>, form: &'f Form) -> Result<Presented<'f>> {
    let (client_id, secret) = (form.get("client_id"), form.get("client_secret"));
    let assertion = match (form.get("client_assertion_type"), form.get("client_assertion")) {
        (None, None) => None,
        (Some(ASSERTION_TYPE), Some(assertion)) => Some(assertion),
        (Some(ASSERTION_TYPE), None) => return Err(Error::invalid_request("client_assertion is missing.")),
        (None, Some(_)) => return Err(Error::invalid_request("client_assertion_type is missing.")),
        (Some(_), _) => return Err(Error::invalid_request("client_assertion_type is none that this server knows.")),
    };
    // RFC 6749 §2.3: the client MUST NOT use more than one authentication method in each request.
    match (authorization, secret, assertion) {
        (Some(header), None, None) => {
            let (name, secret) = basic(header)?;
            if client_id.is_some_and(|id| id != name) {
                return Err(Error::invalid_request("client_id is not the client of the Authorization header."));
            }
            Ok(Presented::Secret { method: AuthMethod::ClientSecretBasic, client_id: name, secret })
        }
        (None, Some(secret), None) => {
            let client_id = client_id.ok_or_else(|| Error::invalid_request("client_id is missing."))?.to_owned();
            Ok(Presented::Secret { method: AuthMethod::ClientSecretPost, client_id, secret: Secret::new(secret) })
        }
        (None, None, Some(assertion)) => Ok(Presented::Assertion { client_id, assertion }),
        (None, None, None) => {
            client_id.map(|client_id| Presented::Public { client_id }).ok_or_else(Error::invalid_client)
        }
        _ => Err(Error::invalid_request("The request uses more than one client authentication method.")),
    }
}

/// RFC 6749 §2.3.1: HTTP Basic over the form-encoded id and secret.
fn basic(header: &str) -> Result<(String, Secret)> {
    let refused = || {
        Error::new(Code::InvalidClient, "The Authorization header is not HTTP Basic of client_id and client_secret.")
    };
    let (scheme, encoded) = header.split_once(' ').ok_or_else(refused)?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return Err(refused());
    }
    let decoded =
        zeroize::Zeroizing::new(BASE64_STANDARD.decode(encoded.trim_start_matches(' ')).map_err(|_| refused())?);
    let text = std::str::from_utf8(&decoded).map_err(|_| refused())?;
    let (client_id, secret) = text.split_once(':').ok_or_else(refused)?;
    let client_id = form::decode(client_id).filter(|id| !id.is_empty() && !id.contains('\0')).ok_or_else(refused)?;
    let secret = Secret::new(form::decode(secret).ok_or_else(refused)?);
    Ok((client_id, secret))
}

/// The client, and which of its credentials the secret is.
async fn by_secret(cx: &Cx<'_>, client_id: &str, secret: &Secret) -> Result<(Arc<Client>, Id)> {
    let client = cx.clients.get(client_id).await?;
    // An unknown client costs the hashing that a known one does, and no read; a known one is read at its first request.
    let live: Vec<&Credential> =
        client.iter().flat_map(|client| &client.credentials).filter(|credential| credential.is_live(cx.now)).collect();
    let found = cx.hasher.find(secret, &live, cx.peer).await?.map(|credential| credential.id);
    client.zip(found).ok_or_else(Error::invalid_client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use proptest::prelude::*;

    fn parse(authorization: Option<&str>, body: &str) -> Result<String> {
        let form = Form::parse(body.as_bytes())?;
        presented(authorization, &form).map(|presented| match presented {
            Presented::Secret { method, client_id, .. } => format!("{method} {client_id}"),
            Presented::Assertion { client_id, .. } => format!("assertion {}", client_id.unwrap_or("-")),
            Presented::Public { client_id } => format!("none {client_id}"),
        })
    }

    #[test]
    fn rfc6749_2_3_1_basic_is_form_encoded_inside() {
        // "a b:c+d" and "s:%/" after form encoding.
        let header = format!("Basic {}", BASE64_STANDARD.encode("a+b%3Ac%2Bd:s%3A%25%2F"));
        let (id, secret) = basic(&header).unwrap();
        assert_eq!((id.as_str(), secret.expose()), ("a b:c+d", "s:%/"));
        assert!(basic(&header.replace("Basic", "bAsIc")).is_ok());
    }

    #[test]
    fn t49_one_method_at_a_time() {
        let header = format!("Basic {}", BASE64_STANDARD.encode("a:b"));
        let assertion = format!("client_assertion=x&client_assertion_type={}", form::encode(ASSERTION_TYPE));
        assert_eq!(parse(Some(&header), "client_id=a").unwrap(), "client_secret_basic a");
        assert_eq!(parse(None, "client_id=a&client_secret=b").unwrap(), "client_secret_post a");
        assert_eq!(parse(None, &assertion).unwrap(), "assertion -");
        assert_eq!(parse(None, "client_id=a").unwrap(), "none a");
        for (header, body) in [
            (Some(header.as_str()), "client_secret=b"),
            (Some(header.as_str()), "client_id=b"),
            (Some(header.as_str()), assertion.as_str()),
            (None, &format!("client_id=a&client_secret=b&{assertion}")),
            (None, "client_secret=b"),
            (None, "client_assertion=x"),
            (None, "client_assertion=x&client_assertion_type=y"),
        ] {
            assert_eq!(parse(header, body).unwrap_err().code, Code::InvalidRequest, "{body}");
        }
        assert_eq!(parse(None, "").unwrap_err().code, Code::InvalidClient);
    }

    #[test]
    fn t180b_a_malformed_authorization_header_is_invalid_client() {
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic %%%",
            "Basic YQ==",
            "Basic Og==",
            "Bearer",
            "Bearer x",
            "Digest a=b",
            "Basic /w==",
        ] {
            assert_eq!(basic(bad).unwrap_err().code, Code::InvalidClient, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_what_we_read(id in "\\PC{1,40}", secret in "\\PC{0,60}") {
            let header = format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", form::encode(&id), form::encode(&secret))));
            let (read, read_secret) = basic(&header).unwrap();
            prop_assert_eq!((read.as_str(), read_secret.expose()), (id.as_str(), secret.as_str()));
        }

        #[test]
        fn no_header_panics(header in "\\PC{0,80}") {
            let _ = basic(&header);
        }
    }
}
