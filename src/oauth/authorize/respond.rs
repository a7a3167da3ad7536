//! The answer to the client, by its response mode, with `state` and `iss` in every one.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use crate::config::Issuer;
use crate::error::Error;
use crate::flow::Asked;
use crate::http::render;
use crate::pages::{self, Frame, Policy};
use crate::secret::Secret;
use crate::wire::ResponseMode;

/// Sends the form of `form_post` without a click. Its hash is in the page's policy. Not by the form's own `submit`,
/// which the button of this name stands in front of.
const SUBMIT: &str = "HTMLFormElement.prototype.submit.call(document.forms[0])";

/// What the client is told.
pub(super) type Outcome = Result<Secret, Error>;

/// Answers the client at its redirect URI (RFC 6749 §4.1.2, §4.1.2.1, RFC 9207).
pub(super) fn to_client(frame: Frame<'_>, issuer: &Issuer, asked: &Asked, outcome: Outcome) -> Response {
    let parameters = parameters(issuer, asked, &outcome);
    let mut response = match asked.response_mode {
        ResponseMode::Query => pages::see_other(&pages::with_query(&asked.redirect_uri, &parameters)),
        ResponseMode::Fragment => pages::see_other(&format!("{}#{}", asked.redirect_uri, pages::encode(&parameters))),
        ResponseMode::FormPost => form_post(frame, &asked.redirect_uri, &parameters),
    };
    if let Err(error) = outcome {
        render::log(&mut response, error);
    }
    response
}

type Parameters<'a> = Vec<(&'static str, &'a str)>;

fn parameters<'a>(issuer: &'a Issuer, asked: &'a Asked, outcome: &'a Outcome) -> Parameters<'a> {
    let mut parameters = match outcome {
        Ok(code) => vec![("code", code.expose())],
        Err(error) => vec![("error", error.code.as_str()), ("error_description", error.detail())],
    };
    parameters.extend(asked.state.as_deref().map(|state| ("state", state)));
    parameters.push(("iss", issuer.as_str()));
    parameters
}

#[derive(Template)]
#[template(path = "form_post.html")]
struct FormPost<'a> {
    frame: Frame<'a>,
    action: &'a str,
    parameters: &'a Parameters<'a>,
    script: &'static str,
}

/// OAuth 2.0 Form Post Response Mode: the script, or without it a button.
fn form_post(frame: Frame<'_>, action: &str, parameters: &Parameters<'_>) -> Response {
    let policy = Policy { form_action: Some(pages::form_action(action)), script: Some(SUBMIT) };
    pages::form_with(StatusCode::OK, &FormPost { frame, action, parameters, script: SUBMIT }, &policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::error::Code;
    use crate::look::Look;
    use http_body_util::BodyExt;

    fn asked(uri: &str, mode: ResponseMode) -> Asked {
        Asked { state: Some("a b&\"><script>".into()), ..Asked::of("client", uri, mode) }
    }

    fn look() -> Look {
        Look::new(&Config::default()).unwrap()
    }

    fn frame(look: &Look) -> Frame<'_> {
        Frame::new(look, &http::HeaderMap::new(), &[])
    }

    fn location(uri: &str, mode: ResponseMode, outcome: Outcome) -> String {
        let issuer = Issuer::parse("https://issuer.example").unwrap();
        let response = to_client(frame(&look()), &issuer, &asked(uri, mode), outcome);
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()["cache-control"], "no-store");
        response.headers()["location"].to_str().unwrap().to_owned()
    }

    #[test]
    fn rfc9207_state_and_iss_are_in_every_answer() {
        let end = "state=a+b%26%22%3E%3Cscript%3E&iss=https%3A%2F%2Fissuer.example";
        let code = || Ok(Secret::new("swc_1"));
        let query = |uri: &str| location(uri, ResponseMode::Query, code());
        assert_eq!(query("https://rp.test/cb"), format!("https://rp.test/cb?code=swc_1&{end}"));
        assert_eq!(query("https://rp.test/cb?"), format!("https://rp.test/cb?code=swc_1&{end}"));
        assert_eq!(query("https://rp.test/cb?a=b"), format!("https://rp.test/cb?a=b&code=swc_1&{end}"));
        assert_eq!(query("com.example.app:/cb"), format!("com.example.app:/cb?code=swc_1&{end}"));
        let fragment = location("https://rp.test/cb?a=b", ResponseMode::Fragment, code());
        assert_eq!(fragment, format!("https://rp.test/cb?a=b#code=swc_1&{end}"));
        let refused = Err(Error::new(Code::AccessDenied, "No."));
        let refused = location("https://rp.test/cb", ResponseMode::Query, refused);
        assert_eq!(refused, format!("https://rp.test/cb?error=access_denied&error_description=No.&{end}"));
    }

    /// T-90: whatever the state holds, the page has one form with these fields, and one script.
    #[tokio::test]
    async fn t90_form_post_cannot_be_broken_out_of() {
        let issuer = Issuer::parse("https://issuer.example").unwrap();
        let asked = asked("https://rp.test/cb?a=1&b=2", ResponseMode::FormPost);
        let response = to_client(frame(&look()), &issuer, &asked, Ok(Secret::new("swc_1")));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["cache-control"], "no-store");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("form-action 'self' https://rp.test; script-src 'sha256-"), "{policy}");
        let page = response.into_body().collect().await.unwrap().to_bytes();
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert_eq!(page.matches("<script").count(), 1);
        assert_eq!(page.matches("<input").count(), 3);
        assert_eq!(page.matches("<form").count(), 1);
        assert!(page.contains(&format!("<script>{SUBMIT}</script>")) && page.contains("<button"));
        assert!(page.contains("rel=\"stylesheet\"") && policy.contains("style-src 'self'"), "as the other pages");
        assert!(!page.contains("a b&\""));
    }
}
