//! The client model: RFC 7591 metadata names for the API, `apply` files and export, and the few fields of our own.

use serde::{Deserialize, Serialize};

use super::redirect;
use crate::checks::{Invalid, check_lifetime, check_origin, check_text, check_uri};
use crate::wire::{Algorithm, ApplicationType, AssertionAudience, AuthMethod, GrantType, Scope};

/// The most redirect URIs of a client.
const MOST_URIS: usize = 50;

/// What a client is, without its id and its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of its own on the wire")]
pub struct ClientMetadata {
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_name: Option<Box<str>>,
    /// Its home page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_uri: Option<Box<str>>,
    /// Whom to ask about it, mail addresses most often.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub contacts: Box<[String]>,
    /// RFC 7591 §2: names the software, the same over its instances and versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_id: Option<Box<str>>,
    /// RFC 7591 §2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub software_version: Option<Box<str>>,
    /// Its logo. A link only: we never fetch or show it ourselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo_uri: Option<Box<str>>,
    /// RFC 7591 §2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_uri: Option<Box<str>>,
    /// RFC 7591 §2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos_uri: Option<Box<str>>,
    /// Where authorization responses may go: each is compared as it stands (RFC 9700 §2.1).
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub redirect_uris: Box<[String]>,
    /// Where people may go after signing out (OpenID Connect RP-Initiated Logout §2), compared as they stand.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub post_logout_redirect_uris: Box<[String]>,
    /// What kind of application it is.
    #[serde(skip_serializing_if = "is_web")]
    pub application_type: ApplicationType,
    /// What its ID tokens are signed with.
    #[serde(skip_serializing_if = "is_rs256")]
    pub id_token_signed_response_alg: Algorithm,
    /// What answers of the userinfo endpoint are signed with; left out, they are plain JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userinfo_signed_response_alg: Option<Algorithm>,
    /// How old a proof of who the person is may be, in seconds, where a request does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_max_age: Option<u32>,
    /// Whether `auth_time` is always told; we always tell it.
    #[serde(skip_serializing_if = "is_false")]
    pub require_auth_time: bool,
    /// Ours: a confidential client may do without PKCE. Public ones never.
    #[serde(skip_serializing_if = "is_false")]
    pub pkce_optional: bool,
    /// Ours: a first-party client whose people are not asked for consent.
    #[serde(skip_serializing_if = "is_false")]
    pub skip_consent: bool,
    /// Ours: it gets refresh tokens without asking for `offline_access`.
    #[serde(skip_serializing_if = "is_false")]
    pub always_refresh_token: bool,
    /// Ours: a refresh brings a new ID token, too.
    #[serde(skip_serializing_if = "is_false")]
    pub id_token_on_refresh: bool,
    /// Which grants it may use. Empty: it gets no tokens (a gateway that only introspects).
    pub grant_types: Box<[GrantType]>,
    /// How it authenticates: this way and no other.
    pub token_endpoint_auth_method: AuthMethod,
    /// With `private_key_jwt`: the one algorithm of its assertions; left out, any that fits its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint_auth_signing_alg: Option<Algorithm>,
    /// With `private_key_jwt`: where its public keys are, instead of `jwks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<Box<str>>,
    /// The scopes that it may ask for, and gets when it asks for none.
    #[serde(skip_serializing_if = "Scope::is_empty")]
    pub scope: Scope,
    /// Ours: identifiers of the resources that its tokens may be for.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub resources: Box<[String]>,
    /// Ours: identifiers of the resources that it is or guards: it may introspect tokens for them.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub serves: Box<[String]>,
    /// Ours: lifetime of its access tokens in seconds, when shorter or longer than the resource's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_lifetime: Option<u32>,
    /// Ours: browser origins from which it calls token and revocation (CORS).
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub allowed_origins: Box<[String]>,
    /// Ours: whom its assertions must name as audience.
    #[serde(skip_serializing_if = "is_issuer")]
    pub client_assertion_audience: AssertionAudience,
    /// Ours: refuse assertions without `typ: client-authentication+jwt` (RFC 10070).
    #[serde(skip_serializing_if = "is_false")]
    pub require_client_assertion_typ: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_issuer(audience: &AssertionAudience) -> bool {
    *audience == AssertionAudience::Issuer
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_web(kind: &ApplicationType) -> bool {
    *kind == ApplicationType::Web
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_rs256(algorithm: &Algorithm) -> bool {
    *algorithm == Algorithm::Rs256
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Default for ClientMetadata {
    fn default() -> Self {
        Self {
            client_name: None,
            client_uri: None,
            contacts: Box::default(),
            logo_uri: None,
            policy_uri: None,
            tos_uri: None,
            redirect_uris: Box::default(),
            post_logout_redirect_uris: Box::default(),
            application_type: ApplicationType::Web,
            id_token_signed_response_alg: Algorithm::Rs256,
            userinfo_signed_response_alg: None,
            default_max_age: None,
            require_auth_time: false,
            pkce_optional: false,
            skip_consent: false,
            always_refresh_token: false,
            id_token_on_refresh: false,
            software_id: None,
            software_version: None,
            grant_types: [GrantType::ClientCredentials].into(),
            token_endpoint_auth_method: AuthMethod::ClientSecretBasic,
            token_endpoint_auth_signing_alg: None,
            jwks_uri: None,
            scope: Scope::default(),
            resources: Box::default(),
            serves: Box::default(),
            access_token_lifetime: None,
            allowed_origins: Box::default(),
            client_assertion_audience: AssertionAudience::Issuer,
            require_client_assertion_typ: false,
        }
    }
}

impl ClientMetadata {
    /// Its lists of texts.
    pub(super) fn lists(&self) -> [&[String]; 6] {
        let Self { contacts, redirect_uris, post_logout_redirect_uris, resources, serves, allowed_origins, .. } = self;
        [contacts, redirect_uris, post_logout_redirect_uris, resources, serves, allowed_origins]
    }

    /// Everything that is wrong with it by itself; what it refers to is checked by who saves it.
    /// `max_lifetime` in seconds, `allow_http` for a `jwks_uri` by plain http.
    pub fn check(&self, max_lifetime: u32, allow_http: bool) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let texts = [
            ("client_name", self.client_name.as_deref()),
            ("software_id", self.software_id.as_deref()),
            ("software_version", self.software_version.as_deref()),
        ];
        for (field, text) in texts {
            wrong.extend(text.and_then(|text| check_text(field, text).err()));
        }
        wrong.extend(self.contacts.iter().filter_map(|text| check_text("contacts", text).err()));
        wrong.extend(self.client_uri.as_deref().and_then(|uri| check_uri("client_uri", uri, allow_http).err()));
        wrong.extend(self.jwks_uri.as_deref().and_then(|uri| check_uri("jwks_uri", uri, allow_http).err()));
        let pages = [("logo_uri", &self.logo_uri), ("policy_uri", &self.policy_uri), ("tos_uri", &self.tos_uri)];
        for (field, uri) in pages {
            wrong.extend(uri.as_deref().and_then(|uri| check_uri(field, uri, allow_http).err()));
        }
        wrong.extend(self.allowed_origins.iter().filter_map(|origin| check_origin(origin).err()));
        wrong.extend(check_lifetime("access_token_lifetime", self.access_token_lifetime, max_lifetime).err());

        let method = self.token_endpoint_auth_method;
        if method != AuthMethod::PrivateKeyJwt {
            let only = "is only for token_endpoint_auth_method = \"private_key_jwt\"";
            if self.jwks_uri.is_some() {
                wrong.push(Invalid::new("jwks_uri", only));
            }
            if self.token_endpoint_auth_signing_alg.is_some() {
                wrong.push(Invalid::new("token_endpoint_auth_signing_alg", only));
            }
        }
        // RFC 6749 §4.4: the client credentials grant is for confidential clients only.
        if method == AuthMethod::None && self.grant_types.contains(&GrantType::ClientCredentials) {
            wrong.push(Invalid::new(
                "grant_types",
                "a client that cannot authenticate (none) cannot use client_credentials",
            ));
        }
        if method == AuthMethod::None && !self.serves.is_empty() {
            wrong.push(Invalid::new("serves", "a client that cannot authenticate (none) cannot introspect"));
        }
        wrong.extend(self.check_sign_in());
        wrong
    }

    /// What concerns people: where they are sent, and the grants that need them.
    fn check_sign_in(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        let lists =
            [("redirect_uris", &self.redirect_uris), ("post_logout_redirect_uris", &self.post_logout_redirect_uris)];
        for (field, uris) in lists {
            if uris.len() > MOST_URIS {
                wrong.push(Invalid::new(field, format!("takes at most {MOST_URIS} URIs")));
            }
            wrong.extend(uris.iter().filter_map(|uri| redirect::check(field, uri, self.application_type).err()));
            if uris.iter().enumerate().any(|(at, uri)| uris[..at].contains(uri)) {
                wrong.push(Invalid::new(field, "names a URI twice"));
            }
        }
        let with_codes = self.grant_types.contains(&GrantType::AuthorizationCode);
        if with_codes && self.redirect_uris.is_empty() {
            wrong.push(Invalid::new("redirect_uris", "authorization_code needs at least one"));
        }
        if !with_codes && !self.redirect_uris.is_empty() {
            wrong.push(Invalid::new("redirect_uris", "are only for grant_types with authorization_code"));
        }
        if !with_codes && self.grant_types.contains(&GrantType::RefreshToken) {
            wrong.push(Invalid::new("grant_types", "refresh_token needs authorization_code"));
        }
        // RFC 9700 §2.1.1: public clients must use PKCE.
        if self.pkce_optional && self.token_endpoint_auth_method == AuthMethod::None {
            wrong.push(Invalid::new("pkce_optional", "is not for a client that cannot authenticate (none)"));
        }
        wrong
    }

    /// Whether authorization responses may go to `uri` (RFC 9700 §2.1).
    pub fn has_redirect_uri(&self, uri: &str) -> bool {
        redirect::is_among(&self.redirect_uris, self.application_type, uri)
    }
}

/// A `client_id`: 1 to 128 characters of `[A-Za-z0-9._~:/-]`, and not in the form of a UUID, which is a person's
/// `sub` (RFC 9700 §4.15).
pub fn check_client_id(client_id: &str) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~:/-".contains(&byte);
    if !(1..=128).contains(&client_id.len()) || !client_id.bytes().all(allowed) {
        return Err(Invalid::new("client_id", "takes 1 to 128 characters of A-Z a-z 0-9 . _ ~ : / -"));
    }
    let lower = client_id.to_ascii_lowercase();
    let bare: String = lower.trim_start_matches("urn:uuid:").chars().filter(|c| *c != '-').collect();
    if bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Invalid::new("client_id", "may not look like a UUID: those are subjects of people"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(metadata: &ClientMetadata) -> Vec<&'static str> {
        metadata.check(3600, false).iter().map(|wrong| wrong.field).collect()
    }

    #[test]
    fn a_plain_client_is_fine() {
        assert!(fields(&ClientMetadata::default()).is_empty());
    }

    #[test]
    fn t07_uris_of_other_schemes_are_refused() {
        for bad in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc/passwd",
            "blob:x",
            " https://a.test",
            "\thttps://a.test",
            "\nhttps://a.test",
            "http://a.test",
            "https://u:p@a.test",
            "https://a.test#f",
            "//a.test",
        ] {
            let bad_uri = || Some(bad.into());
            let client = ClientMetadata {
                client_uri: bad_uri(),
                logo_uri: bad_uri(),
                policy_uri: bad_uri(),
                tos_uri: bad_uri(),
                ..ClientMetadata::default()
            };
            assert_eq!(fields(&client), ["client_uri", "logo_uri", "policy_uri", "tos_uri"], "{bad:?}");
            let client = ClientMetadata {
                grant_types: [GrantType::AuthorizationCode].into(),
                redirect_uris: [bad.into()].into(),
                post_logout_redirect_uris: [bad.into()].into(),
                ..ClientMetadata::default()
            };
            assert_eq!(fields(&client), ["redirect_uris", "post_logout_redirect_uris"], "{bad:?}");
            let method = AuthMethod::PrivateKeyJwt;
            let client = ClientMetadata {
                jwks_uri: Some(bad.into()),
                token_endpoint_auth_method: method,
                ..ClientMetadata::default()
            };
            assert_eq!(fields(&client), ["jwks_uri"], "{bad:?}");
        }
    }

    #[test]
    fn rfc6749_4_4_client_credentials_needs_a_client_that_authenticates() {
        let client = ClientMetadata { token_endpoint_auth_method: AuthMethod::None, ..ClientMetadata::default() };
        assert_eq!(fields(&client), ["grant_types"]);
    }

    #[test]
    fn grants_of_people_and_redirect_uris_need_each_other() {
        let with = |grants: &[GrantType], uris: &[&str]| ClientMetadata {
            grant_types: grants.into(),
            redirect_uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            ..ClientMetadata::default()
        };
        let (code, refresh) = (GrantType::AuthorizationCode, GrantType::RefreshToken);
        assert!(fields(&with(&[code, refresh], &["https://rp.test/cb"])).is_empty());
        assert_eq!(fields(&with(&[code], &[])), ["redirect_uris"]);
        assert_eq!(fields(&with(&[], &["https://rp.test/cb"])), ["redirect_uris"]);
        assert_eq!(fields(&with(&[refresh], &[])), ["grant_types"]);
        assert_eq!(fields(&with(&[code], &["https://rp.test/cb", "https://rp.test/cb"])), ["redirect_uris"]);
        let public = ClientMetadata {
            token_endpoint_auth_method: AuthMethod::None,
            pkce_optional: true,
            ..with(&[code], &["https://rp.test/cb"])
        };
        assert_eq!(fields(&public), ["pkce_optional"]);
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        for (origin, fine) in [
            ("https://app.example.com", true),
            ("https://app.example.com:8443", true),
            ("http://localhost:3000", true),
            ("http://127.0.0.1:3000", true),
            ("https://app.example.com/", false),
            ("https://app.example.com:443", false),
            ("http://app.example.com", false),
            ("null", false),
            ("*", false),
            ("https://APP.example.com", false),
        ] {
            let client = ClientMetadata { allowed_origins: [origin.into()].into(), ..ClientMetadata::default() };
            assert_eq!(fields(&client).is_empty(), fine, "{origin}");
        }
    }

    #[test]
    fn s11_a_client_id_does_not_look_like_a_subject() {
        assert!(check_client_id("orders-sync").is_ok());
        assert!(check_client_id("https://a.example/client").is_ok());
        for bad in [
            "",
            "a b",
            "a\u{0}",
            "ä",
            "6fa459ea-ee8a-3ca4-894e-db77e160355e",
            "6FA459EAEE8A3CA4894EDB77E160355E",
            "URN:UUID:6fa459ea-ee8a-3ca4-894e-db77e160355e",
        ] {
            assert!(check_client_id(bad).is_err(), "{bad}");
        }
        assert!(check_client_id(&"a".repeat(129)).is_err());
    }
}
