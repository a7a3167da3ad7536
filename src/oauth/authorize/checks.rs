//! What must hold of an authorization request: a table of pure functions, in the order in which they are asked. Each
//! reads its parameters and writes what it found into [`Asked`]; what it refuses, the client is told.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::request;
use crate::claims::{ClaimsRequest, Mappers, Wanted, is_of_tokens};
use crate::clients::Client;
use crate::config::Issuer;
use crate::error::{Code, Error, Result};
use crate::flow::Asked;
use crate::form::Form;
use crate::issue;
use crate::keys::{KeyRing, json};
use crate::oauth::targets;
use crate::pages::texts;
use crate::resources::Catalog;
use crate::wire::{Acr, GrantType, Prompt, ResponseMode, Scope};

/// Longest `state`: it travels in a URL.
const LONGEST_STATE: usize = 4096;
/// Longest `nonce`: it is carried in the ID token.
const LONGEST_NONCE: usize = 1024;
/// Longest `login_hint`: an e-mail address has 254.
const LONGEST_HINT: usize = 256;
/// Bounds of the claims request: bytes, depth (T-182), claims.
const CLAIMS: (usize, usize, usize) = (8192, 8, 100);

/// What the checks look at.
pub(super) struct Request<'r> {
    /// The parameters.
    pub form: &'r Form,
    /// Who asks.
    pub client: &'r Client,
    /// Resources and scopes.
    pub catalog: &'r Catalog,
    /// Claims of operators.
    pub mappers: &'r Mappers,
    /// Our keys.
    pub ring: &'r KeyRing,
    /// Who we are.
    pub issuer: &'r Issuer,
}

type Check = fn(&Request<'_>, &mut Asked) -> Result<()>;

/// Every check, in order. What says how to answer comes first.
pub(super) const CHECKS: &[Check] = &[
    response_mode,
    state,
    unsupported,
    response_type,
    grant_type,
    pkce,
    scope,
    nonce,
    tied,
    prompt,
    max_age,
    preferences,
    claims,
    acr,
    subject,
];

fn refuse(code: Code, detail: &'static str) -> Result<()> {
    Err(Error::new(code, detail))
}

/// OAuth 2.0 Multiple Response Types §2.1.
fn response_mode(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    let Some(word) = request.form.get("response_mode") else { return Ok(()) };
    match word.parse::<ResponseMode>() {
        Ok(mode) if request::fits(mode, &asked.redirect_uri) => Ok(()),
        Ok(_) => refuse(Code::InvalidRequest, "A form cannot be posted to this redirect_uri."),
        Err(_) => refuse(Code::InvalidRequest, "There is no such response_mode."),
    }
}

fn state(_: &Request<'_>, asked: &mut Asked) -> Result<()> {
    if asked.state.as_ref().is_some_and(|state| state.len() > LONGEST_STATE || state.chars().any(char::is_control)) {
        return refuse(Code::InvalidRequest, "The state is too long, or has control characters.");
    }
    Ok(())
}

/// OpenID Connect Core §6.1, §6.2, §7.2.1, RFC 9396 §5: what is not supported is refused, never passed over.
fn unsupported(request: &Request<'_>, _: &mut Asked) -> Result<()> {
    for (name, code) in [
        ("request", Code::RequestNotSupported),
        ("request_uri", Code::RequestUriNotSupported),
        ("registration", Code::RegistrationNotSupported),
        ("authorization_details", Code::InvalidAuthorizationDetails),
    ] {
        if request.form.get(name).is_some() {
            return refuse(code, "This parameter is not supported.");
        }
    }
    Ok(())
}

fn response_type(request: &Request<'_>, _: &mut Asked) -> Result<()> {
    match request.form.get("response_type") {
        Some("code") => Ok(()),
        Some(_) => refuse(Code::UnsupportedResponseType, "The only response_type here is code."),
        None => refuse(Code::InvalidRequest, "response_type is missing."),
    }
}

fn grant_type(request: &Request<'_>, _: &mut Asked) -> Result<()> {
    if request.client.metadata.grant_types.contains(&GrantType::AuthorizationCode) {
        return Ok(());
    }
    refuse(Code::UnauthorizedClient, "This client may not use the authorization code grant.")
}

/// RFC 7636 §4.3, RFC 9700 §2.1.1: S256 and nothing else; for public clients always.
fn pkce(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    let method = request.form.get("code_challenge_method");
    let Some(challenge) = request.form.get("code_challenge") else {
        if method.is_some() {
            return refuse(Code::InvalidRequest, "code_challenge_method without code_challenge.");
        }
        if request.client.is_confidential() && request.client.metadata.pkce_optional {
            return Ok(());
        }
        return refuse(Code::InvalidRequest, "code_challenge is missing (RFC 7636).");
    };
    // RFC 7636 §4.3: left out, the method is plain.
    if method != Some("S256") {
        return refuse(Code::InvalidRequest, "The only code_challenge_method here is S256.");
    }
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if challenge.len() != 43 || !challenge.bytes().all(base64url) {
        return refuse(Code::InvalidRequest, "The code_challenge is not base64url of 32 bytes.");
    }
    asked.code_challenge = Some(challenge.to_owned());
    Ok(())
}

/// RFC 6749 §3.3 and RFC 8707. The scope left out is all that the client may have: the pre-defined default of RFC 6749
/// §3.3, the same that the client credentials grant gives. The tokens are for the resources that own the scopes, or
/// for those that are named; for the userinfo endpoint, too, with `openid`.
fn scope(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    let (catalog, client) = (request.catalog, request.client);
    let targets = targets::named(catalog, client, request.form, |_| true)?;
    // The server's own scopes are about the person, whatever API is named beside them.
    let owned = |token: &str| {
        catalog.owner(token).is_some_and(|owner| {
            let named = |targets: &Vec<_>| targets.contains(owner);
            owner.built_in || targets.as_ref().is_none_or(named)
        })
    };
    asked.scope = match request.form.get("scope") {
        None => client.metadata.scope.filter(owned),
        Some(text) => {
            let Ok(scope) = text.parse::<Scope>() else {
                return refuse(Code::InvalidScope, "The scope is malformed.");
            };
            if !scope.is_subset(&client.metadata.scope) {
                return refuse(Code::InvalidScope, "The client may not have this scope.");
            }
            if !scope.iter().all(owned) {
                return refuse(Code::InvalidScope, "The scope does not belong to the requested resource.");
            }
            scope
        }
    };
    let mut audience = catalog.owners(&asked.scope);
    match targets {
        Some(targets) => audience.extend(targets),
        None if asked.scope.is_empty() => audience.extend(targets::all(catalog, client)),
        None => {}
    }
    let openid = asked.scope.contains("openid");
    asked.resources = audience
        .into_iter()
        .filter(|resource| openid || !resource.built_in)
        .map(|resource| resource.identifier.clone())
        .collect();
    asked.resources.sort_unstable();
    asked.resources.dedup();
    if asked.resources.is_empty() {
        return refuse(Code::InvalidTarget, "This client has no resource that a token could be for.");
    }
    Ok(())
}

fn nonce(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    asked.nonce = request.form.get("nonce").map(str::to_owned);
    if asked.nonce.as_ref().is_some_and(|nonce| nonce.len() > LONGEST_NONCE || nonce.chars().any(char::is_control)) {
        return refuse(Code::InvalidRequest, "The nonce is too long, or has control characters.");
    }
    Ok(())
}

/// RFC 9700 §2.1.1: without a challenge, a nonce ties the code to this request. It comes back in the ID token, and
/// there is none without `openid`.
fn tied(_: &Request<'_>, asked: &mut Asked) -> Result<()> {
    if asked.code_challenge.is_some() || (asked.nonce.is_some() && asked.scope.contains("openid")) {
        return Ok(());
    }
    refuse(Code::InvalidRequest, "Without code_challenge, a nonce and the scope openid are needed.")
}

/// OpenID Connect Core §3.1.2.1: `none` stands alone.
fn prompt(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    for word in request.form.get("prompt").unwrap_or_default().split(' ').filter(|word| !word.is_empty()) {
        let Ok(prompt) = word.parse() else {
            return refuse(Code::InvalidRequest, "There is no such prompt.");
        };
        if !asked.prompt.contains(&prompt) {
            asked.prompt.push(prompt);
        }
    }
    if asked.prompt.len() > 1 && asked.prompt.contains(&Prompt::None) {
        return refuse(Code::InvalidRequest, "The prompt none stands alone.");
    }
    Ok(())
}

fn max_age(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    asked.max_age = match request.form.get("max_age") {
        None => request.client.metadata.default_max_age,
        // Digits only: `parse` would take a sign.
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => match text.parse() {
            Ok(seconds) => Some(seconds),
            Err(_) => return refuse(Code::InvalidRequest, "The max_age is too large."),
        },
        Some(_) => return refuse(Code::InvalidRequest, "The max_age is not a number of seconds."),
    };
    Ok(())
}

/// Whom and how the client would like it. Languages that are not understood are passed over (OpenID Connect Core
/// §3.1.2.1), and so is `display`. `acr_values` is a wish, too: every ID token tells the `acr` that was reached, and
/// while there is one way to sign in, no wish leads to another.
fn preferences(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    asked.login_hint = request.form.get("login_hint").map(str::to_owned);
    if asked.login_hint.as_ref().is_some_and(|hint| hint.len() > LONGEST_HINT || hint.chars().any(char::is_control)) {
        return refuse(Code::InvalidRequest, "The login_hint is too long, or not a name.");
    }
    // BCP 47, by its alphabet.
    asked.ui_locales = texts::tags(request.form.get("ui_locales").unwrap_or_default());
    Ok(())
}

/// OpenID Connect Core §5.5. Without `openid` nobody speaks of a person. What the client cannot get is passed over: the
/// person is not asked for it, and must not have agreed to it when the client can.
fn claims(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    let Some(text) = request.form.get("claims") else { return Ok(()) };
    let malformed = || Error::invalid_request("The claims parameter is malformed, or too large.");
    if text.len() > CLAIMS.0 {
        return Err(malformed());
    }
    let value: Map<String, Value> = json::object(text.as_bytes()).map_err(|_| malformed())?;
    if depth(value.values()) > CLAIMS.1 {
        return Err(malformed());
    }
    let read = |name: &str| -> Result<BTreeMap<String, Option<Wanted>>> {
        // Left out and null are both "nothing here"; members that are not understood are passed over.
        let wanted = value.get(name).filter(|value| !value.is_null()).cloned();
        let mut wanted: BTreeMap<String, _> =
            wanted.map(serde_json::from_value).transpose().map_err(|_| malformed())?.unwrap_or_default();
        if wanted.len() > CLAIMS.2 {
            return Err(malformed());
        }
        let gets = |claim: &str| is_of_tokens(claim) || request.mappers.gives(request.client, claim);
        wanted.retain(|claim, _| gets(claim));
        Ok(wanted)
    };
    let wanted = ClaimsRequest { userinfo: read("userinfo")?, id_token: read("id_token")? };
    if asked.scope.contains("openid") {
        asked.claims = wanted;
    }
    Ok(())
}

/// OpenID Connect Core §5.5.1.1: an essential `acr` that nobody can reach here is refused before anybody is asked to
/// sign in. Whether the sign-in reached one that can be, [`super::decide`] asks.
fn acr(_: &Request<'_>, asked: &mut Asked) -> Result<()> {
    let values = essential_acr(asked);
    if values.is_empty() || values.iter().any(|value| value.parse::<Acr>().is_ok()) {
        return Ok(());
    }
    refuse(Code::UnmetAuthenticationRequirements, "This authentication context cannot be reached here.")
}

/// The values of which an essential `acr` must have one; none when it is not essential, or any would do. What is no
/// text stands there as the empty one, which nobody reaches.
pub(super) fn essential_acr(asked: &Asked) -> Vec<&str> {
    let Some(Some(wanted)) = asked.claims.id_token.get("acr") else { return Vec::new() };
    let values = wanted.value.iter().chain(wanted.values.iter().flatten());
    values.filter(|_| wanted.essential).map(|value| value.as_str().unwrap_or_default()).collect()
}

fn depth<'v>(values: impl Iterator<Item = &'v Value>) -> usize {
    let below = values.map(|value| match value {
        Value::Array(items) => depth(items.iter()),
        Value::Object(members) => depth(members.values()),
        _ => 0,
    });
    1 + below.max().unwrap_or(0)
}

/// Who must answer: the subject of `id_token_hint` (OpenID Connect Core §3.1.2.1) or of the claims request (§5.5.1).
fn subject(request: &Request<'_>, asked: &mut Asked) -> Result<()> {
    if let Some(text) = request.form.get("id_token_hint") {
        let hint = issue::hint(request.ring, request.issuer.as_str(), text);
        let hint = hint.filter(|hint| hint.aud.iter().any(|aud| **aud == *request.client.client_id));
        let Some(hint) = hint else {
            return refuse(Code::InvalidRequest, "The id_token_hint is not an ID token of ours for this client.");
        };
        asked.sub = Some(hint.sub);
    }
    for place in [&asked.claims.id_token, &asked.claims.userinfo] {
        let value = place.get("sub").and_then(Option::as_ref).and_then(|wanted| wanted.value.as_ref());
        let Some(value) = value else { continue };
        match value.as_str() {
            Some(sub) if asked.sub.as_deref().is_none_or(|before| before == sub) => asked.sub = Some(sub.to_owned()),
            _ => return refuse(Code::InvalidRequest, "The request names different people."),
        }
    }
    Ok(())
}
