//! Words of the wire. A vocabulary is an enum whose spelling, parsing and listing come from one place, so that
//! dispatch, discovery documents, validation and metric labels cannot drift apart.

use std::fmt;
use std::str::FromStr;

/// Declares an enum of wire words: `as_str`, `ALL`, `FromStr`, `Display`, and serde as the word.
macro_rules! vocabulary {
    ($(#[$outer:meta])* $vis:vis enum $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[$inner])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every word of this vocabulary, in the order of its definition.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::wire::UnknownWord;
            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err($crate::wire::UnknownWord) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use vocabulary;

/// A word that the vocabulary does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a known word")]
pub struct UnknownWord;

vocabulary! {
    /// Grants (RFC 6749 §4) that the token endpoint knows.
    pub enum GrantType {
        /// RFC 6749 §4.1, with PKCE (RFC 7636).
        AuthorizationCode = "authorization_code",
        /// RFC 6749 §6.
        RefreshToken = "refresh_token",
        /// RFC 6749 §4.4.
        ClientCredentials = "client_credentials",
    }
}

vocabulary! {
    /// How an authorization response comes back (OAuth 2.0 Multiple Response Types §2.1, Form Post Response Mode).
    pub enum ResponseMode {
        /// In the query of the redirect URI: the default.
        Query = "query",
        /// In its fragment.
        Fragment = "fragment",
        /// As a form that the browser posts.
        FormPost = "form_post",
    }
}

vocabulary! {
    /// What a client asks to happen at sign-in (OpenID Connect Core §3.1.2.1).
    pub enum Prompt {
        /// Nothing is shown.
        None = "none",
        /// The person proves who they are again.
        Login = "login",
        /// The person is asked again.
        Consent = "consent",
        /// The person chooses an account.
        SelectAccount = "select_account",
    }
}

vocabulary! {
    /// Authentication context classes (OpenID Connect Core §2, `acr`): what signing in proved. Absolute URIs, as Core
    /// wants them; these are the ones of SAML 2.0 Authentication Context §3.4, which clients know from other servers.
    pub enum Acr {
        /// A password, over a protected connection.
        Password = "urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport",
    }
}

impl Acr {
    /// By what it is reached (RFC 8176), words parted by spaces.
    pub const fn amr(self) -> &'static str {
        match self {
            Self::Password => "pwd",
        }
    }
}

vocabulary! {
    /// What kind of application a client is (OpenID Connect Registration §2): which redirect URIs it may have.
    pub enum ApplicationType {
        /// On a web server: https redirect URIs.
        Web = "web",
        /// On a person's device: loopback, private-use schemes, or claimed https (RFC 8252 §7).
        Native = "native",
    }
}

vocabulary! {
    /// How a client authenticates (RFC 7591 §2, `token_endpoint_auth_method`).
    pub enum AuthMethod {
        /// RFC 6749 §2.3.1, HTTP Basic.
        ClientSecretBasic = "client_secret_basic",
        /// RFC 6749 §2.3.1, in the body.
        ClientSecretPost = "client_secret_post",
        /// RFC 7523 §2.2 as updated by RFC 10070.
        PrivateKeyJwt = "private_key_jwt",
        /// A public client.
        None = "none",
    }
}

vocabulary! {
    /// Signature algorithms (RFC 7518 §3.1, RFC 8037, RFC 9864) that we sign with and accept.
    pub enum Algorithm {
        /// RSASSA-PKCS1-v1_5 with SHA-256.
        Rs256 = "RS256",
        /// Ed25519 under its polymorphic name (RFC 8037).
        EdDsa = "EdDSA",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// RSASSA-PSS with SHA-256.
        Ps256 = "PS256",
    }
}

vocabulary! {
    /// What `alg` calls an Ed25519 signature: most verifiers know the older name, RFC 9864 gives it its own.
    pub enum EdDsaName {
        /// The polymorphic name (RFC 8037).
        EdDsa = "EdDSA",
        /// The fully specified name (RFC 9864).
        Ed25519 = "Ed25519",
    }
}

impl Algorithm {
    /// The JOSE names that mean this algorithm; Ed25519 has two, the polymorphic and the fully specified (RFC 9864).
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Rs256 => &["RS256"],
            Self::EdDsa => &["EdDSA", "Ed25519"],
            Self::Es256 => &["ES256"],
            Self::Ps256 => &["PS256"],
        }
    }

    /// The algorithm of this exact JOSE name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.names().contains(&name))
    }
}

vocabulary! {
    /// What an access token looks like to its resource.
    pub enum TokenFormat {
        /// RFC 9068.
        Jwt = "jwt",
        /// A random reference; the resource introspects it.
        Opaque = "opaque",
    }
}

vocabulary! {
    /// Who made a row, and so who may silently change it.
    pub enum ManagedBy {
        /// `sealwright apply`.
        Apply = "apply",
        /// An administrator, by the UI or the REST API.
        Admin = "admin",
        /// The client itself (RFC 7591): nobody has vouched for it.
        Registration = "registration",
        /// The server itself.
        System = "system",
    }
}

vocabulary! {
    /// Which grants end with the sign-in that they came of.
    pub enum EndGrants {
        /// Those that do not work while the person is away: without `offline_access`.
        Online = "online",
        /// All of them.
        All = "all",
        /// None of them.
        None = "none",
    }
}

impl EndGrants {
    /// Whether a grant ends with its sign-in that has `offline_access`, or has not.
    pub fn ends(self, offline: bool) -> bool {
        match self {
            Self::Online => !offline,
            Self::All => true,
            Self::None => false,
        }
    }
}

vocabulary! {
    /// What a client's credential is.
    pub enum CredentialKind {
        /// A secret that we generated: its SHA-256, in base64url.
        GeneratedSecret = "generated_secret",
        /// A secret that was chosen elsewhere: Argon2id, as a PHC string.
        ImportedSecret = "imported_secret",
        /// A public key as a JWK.
        Jwk = "jwk",
    }
}

vocabulary! {
    /// Whom a client assertion must name as its audience.
    pub enum AssertionAudience {
        /// The issuer, as a string (RFC 10070).
        Issuer = "issuer",
        /// The issuer, or the token endpoint's URL as RFC 7523 allowed; both as a string.
        IssuerOrTokenEndpoint = "issuer_or_token_endpoint",
    }
}

/// Where the token endpoint is, under the issuer.
pub const TOKEN_PATH: &str = "/oauth2/token";
/// Where the authorization endpoint is, under the issuer.
pub const AUTHORIZATION_PATH: &str = "/oauth2/authorize";
/// Where the userinfo endpoint is, under the issuer. With the issuer before it, the identifier of the resource that
/// owns the OpenID scopes.
pub const USERINFO_PATH: &str = "/userinfo";
/// Where signing out at a client's request is, under the issuer.
pub const LOGOUT_PATH: &str = "/logout";
/// Where people sign in, under the issuer.
pub const LOGIN_PATH: &str = "/login";
/// Where people see what is theirs, under the issuer.
pub const ACCOUNT_PATH: &str = "/account";
/// Where people are asked, under the issuer.
pub const CONSENT_PATH: &str = "/consent";

/// A set of scope tokens (RFC 6749 §3.3): their one text, each once, sorted, parted by single spaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Box<str>);

impl Scope {
    /// Whether `token` is a scope token: 1 or more of `%x21 / %x23-5B / %x5D-7E`, at most 256 here.
    pub fn is_token(token: &str) -> bool {
        (1..=256).contains(&token.len()) && token.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
    }

    /// The tokens, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(' ')
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every token of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        // Both are sorted: what was passed by is not looked for again.
        let mut others = other.iter();
        self.iter().all(|token| others.any(|other| other == token))
    }

    /// Whether `token` is in this set.
    pub fn contains(&self, token: &str) -> bool {
        self.iter().any(|own| own == token)
    }

    /// The tokens for which `keep` holds.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        self.iter().filter(|token| keep(token)).collect()
    }
}

/// A text that RFC 6749 §3.3 does not allow as a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is a list of tokens of visible ASCII without quote and backslash, parted by single spaces")]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;

    /// Tokens parted by single spaces; the empty text is the empty set; a repeated token counts once.
    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let tokens: Vec<&str> = if text.is_empty() { Vec::new() } else { text.split(' ').collect() };
        if tokens.iter().all(|token| Self::is_token(token)) {
            Ok(tokens.into_iter().collect())
        } else {
            Err(InvalidScope)
        }
    }
}

impl<'t> FromIterator<&'t str> for Scope {
    /// Of tokens that are in scopes already.
    fn from_iter<T: IntoIterator<Item = &'t str>>(tokens: T) -> Self {
        let mut tokens: Vec<&str> = tokens.into_iter().collect();
        tokens.sort_unstable();
        tokens.dedup();
        Self(tokens.join(" ").into())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc6749_3_3_scope_tokens() {
        assert_eq!("b a b".parse::<Scope>().unwrap().to_string(), "a b");
        for bad in [" a", "a ", "a  b", "a\tb", "a\"b", "a\\b", "ä", "a\u{0}"] {
            assert_eq!(bad.parse::<Scope>(), Err(InvalidScope), "{bad:?}");
        }
    }

    proptest! {
        /// What sets of texts say is the truth.
        #[test]
        fn scopes_compare_as_sets(one in "[abc ]{0,12}", other in "[abc ]{0,12}") {
            use std::collections::BTreeSet;
            let sets = [&one, &other].map(|text| text.split_whitespace().collect::<BTreeSet<_>>());
            let scopes = sets.clone().map(|set| set.into_iter().rev().collect::<Scope>());
            prop_assert_eq!(scopes[0].is_subset(&scopes[1]), sets[0].is_subset(&sets[1]));
            prop_assert_eq!(scopes[0] == scopes[1], sets[0] == sets[1]);
            for (scope, set) in scopes.iter().zip(&sets) {
                prop_assert!(scope.iter().eq(set.iter().copied()));
                prop_assert_eq!(scope.is_empty(), set.is_empty());
                for token in ["a", "b", "ab", "abc", ""] {
                    prop_assert_eq!(scope.contains(token), set.contains(token));
                }
                prop_assert_eq!(scope.filter(|token| token > "b"), set.iter().copied().filter(|token| *token > "b").collect());
            }
        }

        #[test]
        fn a_scope_that_parses_prints_and_parses_to_itself(text in ".{0,64}") {
            if let Ok(scope) = text.parse::<Scope>() {
                prop_assert_eq!(scope.to_string().parse::<Scope>().unwrap(), scope);
            }
        }
    }
}
