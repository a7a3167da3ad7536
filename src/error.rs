//! One table of error codes and the one error type that services and protocols return.

use std::borrow::Cow;
use std::fmt;

/// What went wrong, in the words of the wire: the `error` member and the HTTP status that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// RFC 6749 §5.2: malformed, a parameter missing, repeated or over size.
    InvalidRequest,
    /// As [`Code::InvalidRequest`], for a body over the limit (HTTP 413).
    RequestTooLarge,
    /// RFC 6749 §5.2: client authentication failed. The text says why only to who has proved to be the client.
    InvalidClient,
    /// RFC 6749 §5.2: the grant presented is invalid, expired, used or somebody else's.
    InvalidGrant,
    /// RFC 6749 §5.2: this client may not use this grant.
    UnauthorizedClient,
    /// RFC 6749 §5.2: no such grant here.
    UnsupportedGrantType,
    /// RFC 6749 §5.2: a scope that is unknown, malformed or not the client's.
    InvalidScope,
    /// RFC 8707 §2: a resource that is unknown, malformed or not the client's.
    InvalidTarget,
    /// RFC 9396 §5: details that are unknown, malformed or not granted.
    InvalidAuthorizationDetails,
    /// RFC 6749 §4.1.2.1: the person, or the server for the person, said no.
    AccessDenied,
    /// RFC 6749 §4.1.2.1.
    UnsupportedResponseType,
    /// OpenID Connect Core §3.1.2.6: with `prompt=none`, somebody would have to sign in.
    LoginRequired,
    /// OpenID Connect Core §3.1.2.6: with `prompt=none`, somebody would have to be asked.
    ConsentRequired,
    /// OpenID Connect Core §3.1.2.6: with `prompt=none`, an account would have to be chosen.
    AccountSelectionRequired,
    /// OpenID Connect Core §6.
    RequestNotSupported,
    /// OpenID Connect Core §6.
    RequestUriNotSupported,
    /// OpenID Connect Core §3.1.2.6.
    RegistrationNotSupported,
    /// OpenID Connect Core Unmet Authentication Requirements §3: the authentication context that was demanded.
    UnmetAuthenticationRequirements,
    /// RFC 6750 §3.1: the bearer token is missing, expired, revoked or malformed.
    InvalidToken,
    /// RFC 6750 §3.1: the token may not do this.
    InsufficientScope,
    /// Too busy, or the database is gone: nothing happened; try again after [`Error::retry_after`].
    TemporarilyUnavailable,
    /// RFC 6585 §4: too much of this from one address; try again after [`Error::retry_after`]. Told to who asks, and to no
    /// client that they come from.
    TooManyRequests,
    /// Too much of this in all: as [`Code::TooManyRequests`].
    Crowded,
    /// No such page.
    NotFound,
    /// The page does not take this method.
    MethodNotAllowed,
    /// A mistake of ours; the cause is in the log under the request id.
    ServerError,
}

impl Code {
    /// The `error` member and the HTTP status.
    pub const fn wire(self) -> (&'static str, u16) {
        match self {
            Self::InvalidRequest => ("invalid_request", 400),
            Self::RequestTooLarge => ("invalid_request", 413),
            Self::InvalidClient => ("invalid_client", 401),
            Self::InvalidGrant => ("invalid_grant", 400),
            Self::UnauthorizedClient => ("unauthorized_client", 400),
            Self::UnsupportedGrantType => ("unsupported_grant_type", 400),
            Self::InvalidScope => ("invalid_scope", 400),
            Self::InvalidTarget => ("invalid_target", 400),
            Self::InvalidAuthorizationDetails => ("invalid_authorization_details", 400),
            Self::AccessDenied => ("access_denied", 403),
            Self::UnsupportedResponseType => ("unsupported_response_type", 400),
            Self::LoginRequired => ("login_required", 400),
            Self::ConsentRequired => ("consent_required", 400),
            Self::AccountSelectionRequired => ("account_selection_required", 400),
            Self::RequestNotSupported => ("request_not_supported", 400),
            Self::RequestUriNotSupported => ("request_uri_not_supported", 400),
            Self::RegistrationNotSupported => ("registration_not_supported", 400),
            Self::UnmetAuthenticationRequirements => ("unmet_authentication_requirements", 400),
            Self::InvalidToken => ("invalid_token", 401),
            Self::InsufficientScope => ("insufficient_scope", 403),
            Self::TemporarilyUnavailable | Self::Crowded => ("temporarily_unavailable", 503),
            Self::TooManyRequests => ("temporarily_unavailable", 429),
            Self::NotFound => ("not_found", 404),
            Self::MethodNotAllowed => ("method_not_allowed", 405),
            Self::ServerError => ("server_error", 500),
        }
    }

    /// The `error` member.
    pub const fn as_str(self) -> &'static str {
        self.wire().0
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        self.wire().1
    }
}

/// A refusal or a failure: what is written for the caller is safe to show, and `cause` is for the log.
pub struct Error {
    /// The code that the caller sees.
    pub code: Code,
    detail: Cow<'static, str>,
    /// What the log says beside it.
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
}

/// What services and handlers return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a code and a text for the caller: never input, never a secret. It goes into JSON, into redirects
    /// and into headers as it is, so what RFC 6749 §5.2 does not let it have becomes a question mark.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let is_fit = |c: char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
        let mut detail = detail.into();
        if !detail.chars().all(is_fit) {
            detail = detail.chars().map(|c| if is_fit(c) { c } else { '?' }).collect();
        }
        Self { code, detail, cause: None, retry_after: None }
    }

    /// `error_description`: printable ASCII without `"` and `\`.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The same, with what the log should know.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The same; it may be tried again in `seconds`.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 503: nothing happened, try again in `seconds`.
    pub fn unavailable(detail: &'static str, seconds: u32) -> Self {
        Self::new(Code::TemporarilyUnavailable, detail).after(seconds)
    }

    /// 500: a mistake of ours.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::ServerError, "An internal error; the log has it under this request id.").because(cause)
    }

    /// 400 `invalid_request`.
    pub fn invalid_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// 401 `invalid_client`: one text for every reason, so that nobody learns which clients exist.
    pub fn invalid_client() -> Self {
        Self::new(Code::InvalidClient, "Client authentication failed.")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6749_5_2_a_text_has_the_characters_that_it_may_have() {
        for (text, expected) in [
            ("Plain: 'text' ~!", "Plain: 'text' ~!"),
            ("\"quoted\"", "?quoted?"),
            ("back\\slash", "back?slash"),
            ("two\r\nlines\u{7f}\0", "two??lines??"),
            ("\u{a7} 5.2, na\u{ef}ve, \u{1f511}", "? 5.2, na?ve, ?"),
        ] {
            assert_eq!(Error::new(Code::InvalidRequest, text).detail(), expected);
            assert_eq!(Error::invalid_request(text.to_owned()).detail(), expected);
        }
    }
}
