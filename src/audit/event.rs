//! What happens, as typed events.

use serde::Serialize;

use crate::clock::Micros;
use crate::wire::{Algorithm, GrantType};

/// What happens to an object of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is made.
    Create,
    /// Some of it becomes different.
    Change,
    /// It goes, with all it has.
    Remove,
    /// It is as it should be already.
    Unchanged,
}

/// One field that becomes different. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The name that it has in an `apply` file; for one of several, with the one: `client_secrets "2027"`.
    pub field: String,
    /// What it was; `None`: it was not set.
    pub old: Option<String>,
    /// What it will be.
    pub new: Option<String>,
}

/// What happened, with what is particular to it. Each says what its object is: a column of its own.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event")]
pub enum Event {
    /// A client was made or changed: the `client_id`.
    #[serde(rename = "client.saved")]
    ClientSaved {
        /// Whether it is new.
        action: Action,
        /// The fields that changed; never secrets.
        fields: Vec<FieldChange>,
    },
    /// A client was removed: the `client_id`.
    #[serde(rename = "client.removed")]
    ClientRemoved,
    /// A client got a credential: the `client_id`.
    #[serde(rename = "credential.added")]
    CredentialAdded {
        /// The credential's label.
        label: String,
        /// A word of `CredentialKind`.
        kind: String,
    },
    /// A client lost a credential: the `client_id`.
    #[serde(rename = "credential.removed")]
    CredentialRemoved {
        /// The credential's label.
        label: String,
        /// A word of `CredentialKind`.
        kind: String,
    },
    /// A resource was made or changed: its identifier.
    #[serde(rename = "resource.saved")]
    ResourceSaved {
        /// Whether it is new.
        action: Action,
        /// The fields that changed.
        fields: Vec<FieldChange>,
    },
    /// A resource was removed: its identifier.
    #[serde(rename = "resource.removed")]
    ResourceRemoved,
    /// A claim of people was mapped anew: its name, scope and client.
    #[serde(rename = "claim.saved")]
    ClaimSaved {
        /// Whether it is new.
        action: Action,
        /// The fields that changed.
        fields: Vec<FieldChange>,
    },
    /// A mapping of a claim was removed: its name, scope and client.
    #[serde(rename = "claim.removed")]
    ClaimRemoved,
    /// A signing key was made, and is in the JWKS: its `kid`.
    #[serde(rename = "signing_key.made")]
    SigningKeyMade {
        /// Its algorithm.
        alg: Algorithm,
        /// A word of `KeyState`: `published`, or `active` for one that signs from its first moment on.
        state: &'static str,
    },
    /// A signing key took over: its `kid`.
    #[serde(rename = "signing_key.activated")]
    SigningKeyActivated {
        /// Its algorithm.
        alg: Algorithm,
    },
    /// A signing key signs no more: its `kid`.
    #[serde(rename = "signing_key.retiring")]
    SigningKeyRetiring {
        /// Its algorithm.
        alg: Algorithm,
        /// Until when what it signed is good, and it stays in the JWKS.
        until: Micros,
    },
    /// A signing key left the JWKS: its `kid`.
    #[serde(rename = "signing_key.retired")]
    SigningKeyRetired {
        /// Its algorithm.
        alg: Algorithm,
    },
    /// A signing key was withdrawn with all that it signed: its `kid`.
    #[serde(rename = "signing_key.revoked")]
    SigningKeyRevoked {
        /// Its algorithm.
        alg: Algorithm,
    },
    /// A signing key that was made elsewhere is in the JWKS: its `kid`.
    #[serde(rename = "signing_key.imported")]
    SigningKeyImported {
        /// Its algorithm.
        alg: Algorithm,
    },
    /// Another master key seals from now on: its id.
    #[serde(rename = "master_key.turned")]
    MasterKeyTurned {
        /// The id of the one that did.
        from: String,
    },
    /// The first key of message authentication codes was made.
    #[serde(rename = "mac_key.made")]
    MacKeyMade,
    /// A person gave a client a grant: its id.
    #[serde(rename = "grant.made")]
    GrantMade {
        /// To whom.
        client_id: String,
        /// What it covers.
        scope: String,
        /// Where.
        resources: Vec<String>,
    },
    /// A client got tokens by a person's grant: its id.
    #[serde(rename = "tokens.issued")]
    TokensIssued {
        /// By what: `authorization_code` or `refresh_token`.
        grant_type: GrantType,
        /// Whose.
        sub: String,
        /// What the access token may do.
        scope: String,
        /// Its `jti`.
        jti: String,
    },
    /// A grant was taken back with all that came of it: its id.
    #[serde(rename = "grant.revoked")]
    GrantRevoked {
        /// Why.
        reason: &'static str,
    },
    /// A token was taken back: its `jti`.
    #[serde(rename = "token.revoked")]
    TokenRevoked,
    /// A person was made or changed: their `sub`.
    #[serde(rename = "user.saved")]
    UserSaved {
        /// Whether they are new.
        action: Action,
        /// The names of the fields that changed; what they hold is the person's.
        fields: Vec<String>,
    },
    /// A person was removed: their `sub`.
    #[serde(rename = "user.removed")]
    UserRemoved,
    /// A person was switched off: their `sub`.
    #[serde(rename = "user.disabled")]
    UserDisabled,
    /// A person was switched on again: their `sub`.
    #[serde(rename = "user.enabled")]
    UserEnabled,
    /// A person got a password that somebody else chose: their `sub`.
    #[serde(rename = "password.set")]
    PasswordSet,
    /// A person chose another password for themselves: their `sub`.
    #[serde(rename = "password.changed")]
    PasswordChanged,
    /// A person signed in: their `sub`.
    #[serde(rename = "sign_in")]
    SignedIn {
        /// What clients will know the session by.
        sid: String,
        /// By what (RFC 8176).
        amr: String,
    },
    /// Somebody tried to sign in as a person, and did not: their `sub`. Of attempts at which no password was looked at
    /// there are samples (`request.refused`): nothing else bounds their number.
    #[serde(rename = "sign_in.failed")]
    SignInFailed {
        /// `wrong` or `disabled`.
        why: &'static str,
    },
    /// A person signed out: their `sub`.
    #[serde(rename = "sign_out")]
    SignedOut {
        /// What clients knew the session by.
        sid: String,
    },
    /// A person agreed to what a client asked for: the `client_id`.
    #[serde(rename = "consent.given")]
    ConsentGiven {
        /// Scope tokens, parted by spaces.
        scope: String,
        /// Identifiers of the resources.
        resources: Vec<String>,
    },
    /// A person took back what they had agreed to for a client: the `client_id`.
    #[serde(rename = "consent.withdrawn")]
    ConsentWithdrawn,
    /// A request was refused, a sample: the client that was named, if it exists; of a sign-in the person's `sub`, and
    /// never the name that was typed: it may be a password.
    #[serde(rename = "request.refused")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The error code; of a sign-in `unknown`, `throttled` or `malformed`.
        error: &'static str,
    },
}
