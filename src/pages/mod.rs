//! Pages for people: one layout, strict headers, and problems told in words wherever they come from.

pub mod texts;

use std::sync::Arc;

use askama::Template;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, ORIGIN, REFERRER_POLICY,
    RETRY_AFTER, SET_COOKIE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use url::{Host, Url};

use crate::config::Issuer;
use crate::cx::Services;
use crate::error::{Code, Error};
use crate::http::layers::Peer;
use crate::http::render::{self, Failure, set_no_store};
use crate::look::Look;
use crate::secret::sha256;
use texts::Texts;

/// What of a page is on every page.
#[derive(Clone, Copy)]
pub struct Frame<'s> {
    /// How it looks.
    pub look: &'s Look,
    /// What it says.
    pub texts: &'static Texts,
}

impl<'s> Frame<'s> {
    /// For a request with these headers; `locales` are what the client asked for (`ui_locales`), the preferred first.
    pub fn new(look: &'s Look, headers: &HeaderMap, locales: &[String]) -> Self {
        let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let accepted = texts::accepted(header);
        Self { look, texts: texts::choose(locales.iter().map(String::as_str).chain(accepted)) }
    }

    /// For a request of which no more is read than its query: a client's `ui_locales` may stand there.
    fn of(look: &'s Look, request: &Request) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let found = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "ui_locales");
        let locales = found.map(|(_, value)| texts::tags(&value)).unwrap_or_default();
        Self::new(look, request.headers(), &locales)
    }
}

/// What a page may do beside showing itself and loading our own style and images.
#[derive(Clone, Debug, Default)]
pub struct Policy<'p> {
    /// Where its forms may lead, as [`form_action`] says it, beside this server.
    pub form_action: Option<String>,
    /// The one script in it.
    pub script: Option<&'p str>,
}

/// A page that nobody may keep.
pub fn html(status: StatusCode, page: &impl Template, policy: &Policy<'_>) -> Response {
    let body = match page.render() {
        Ok(body) => body,
        Err(cause) => return Error::internal(cause).into_response(),
    };
    let Ok(policy) = HeaderValue::try_from(header(policy)) else {
        return Error::internal("a policy that is no header").into_response();
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    set_no_store(headers);
    response
}

fn header(policy: &Policy<'_>) -> String {
    let mut text = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'; \
                    form-action 'self'"
        .to_owned();
    if let Some(origin) = &policy.form_action {
        text.push(' ');
        text.push_str(origin);
    }
    if let Some(script) = policy.script {
        text.push_str("; script-src 'sha256-");
        BASE64_STANDARD.encode_string(sha256(script.as_bytes()), &mut text);
        text.push('\'');
    }
    text
}

/// A page with a form, which leads to us, and from there on to `redirect_uri`: Chromium applies `form-action` to
/// redirects, too.
pub fn form(status: StatusCode, page: &impl Template, redirect_uri: Option<&str>) -> Response {
    form_with(status, page, &Policy { form_action: redirect_uri.map(form_action), script: None })
}

/// A page with a form that leads where its policy says.
pub fn form_with(status: StatusCode, page: &impl Template, policy: &Policy<'_>) -> Response {
    let mut response = html(status, page, policy);
    // With no-referrer the Origin of a form's POST would be null.
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

/// What `form-action` says of a redirect URI, as browsers apply it to the redirect after a form, too: its origin, or
/// `com.example.app:`. The grammar has no IPv6 addresses and only one IPv4 address; of others the scheme stands.
pub fn form_action(redirect_uri: &str) -> String {
    let Ok(url) = Url::parse(redirect_uri) else { return "'none'".to_owned() };
    let by_origin = match url.host() {
        Some(Host::Domain(_)) => url.origin().is_tuple(),
        Some(Host::Ipv4(address)) => address == std::net::Ipv4Addr::LOCALHOST,
        Some(Host::Ipv6(_)) | None => false,
    };
    if by_origin { url.origin().ascii_serialization() } else { format!("{}:", url.scheme()) }
}

/// 303 to `to`, so that what was posted is not posted on (RFC 9700 §4.12).
pub fn see_other(to: &str) -> Response {
    let Ok(location) = HeaderValue::from_str(to) else {
        return Error::internal("a location is no header").into_response();
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(LOCATION, location);
    set_no_store(response.headers_mut());
    response
}

/// `uri` with these parameters behind what its query has already, which stays (RFC 6749 §3.1.2).
pub fn with_query(uri: &str, parameters: &[(&str, &str)]) -> String {
    if parameters.is_empty() {
        return uri.to_owned();
    }
    let separator = match uri.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    format!("{uri}{separator}{}", encode(parameters))
}

/// These parameters as a query, or as a fragment.
pub fn encode(parameters: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// Whether a form was sent by a page that is not ours: the browser's own word first, then `Origin`. One that says
/// neither is left to the token that ties the form to its session (T-100).
pub fn is_foreign(headers: &HeaderMap, issuer: &Issuer) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site.as_bytes() != b"same-origin";
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let own = Url::parse(issuer.as_str()).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    origin.as_bytes() != own.as_bytes()
}

/// What went wrong, in words of one language.
#[derive(Clone, Debug)]
struct Problem {
    texts: &'static Texts,
    title: String,
    text: String,
    request_id: String,
}

/// A page in the language of `texts` that says what happened (`title`) and what to do (`text`). [`dress`], around
/// people's routes, gives it its looks.
pub fn problem(status: StatusCode, texts: &'static Texts, (title, text): (&str, &str), request_id: &str) -> Response {
    let mut response = Response::new(Body::from(format!("{title}\n\n{text}\n\n{request_id}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    set_no_store(response.headers_mut());
    let (title, text, request_id) = (title.to_owned(), text.to_owned(), request_id.to_owned());
    response.extensions_mut().insert(Problem { texts, title, text, request_id });
    response
}

/// An error as a page in the language of `texts`, where the request says in which in a way that [`dress`] does not see.
pub fn failed(error: Error, texts: &'static Texts, request_id: &str) -> Response {
    let problem = in_words(&error, texts, request_id.to_owned());
    let mut response = error.into_response();
    response.extensions_mut().insert(problem);
    response
}

/// Whether whoever asks would rather have a page than JSON (RFC 9110 §12.5.1): browsers name HTML, programs do not.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    let header = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let known = |kind: &&str| ["text/html", "application/json", "*/*"].contains(kind);
    texts::accepted(header).into_iter().find(known) == Some("text/html")
}

/// What is answered where there is nothing: a page to people, JSON to programs.
pub fn unknown(services: &Services, request: &Request) -> Response {
    let error = Error::new(Code::NotFound, "There is no such page.");
    if !prefers_html(request.headers()) {
        return error.into_response();
    }
    let frame = Frame::of(&services.look, request);
    let mut response = problem_page(frame, StatusCode::NOT_FOUND, &in_words(&error, frame.texts, request_id(request)));
    render::log(&mut response, error);
    response
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'p> {
    frame: Frame<'p>,
    title: &'p str,
    text: &'p str,
    request_id: &'p str,
}

fn problem_page(frame: Frame<'_>, status: StatusCode, problem: &Problem) -> Response {
    let Problem { texts, title, text, request_id } = problem;
    html(status, &ProblemPage { frame: Frame { texts, ..frame }, title, text, request_id }, &Policy::default())
}

fn request_id(request: &Request) -> String {
    request.extensions().get::<Peer>().map(|peer| peer.request_id.as_str().to_owned()).unwrap_or_default()
}

/// The middleware of people's routes: whatever goes wrong there, they get a page and no JSON.
pub async fn dress(State(services): State<Arc<Services>>, request: Request, next: Next) -> Response {
    let request_id = request_id(&request);
    let frame = Frame::of(&services.look, &request);
    let mut response = next.run(request).await;
    if response.status() == StatusCode::INTERNAL_SERVER_ERROR && response.headers().get(CONTENT_TYPE).is_none() {
        // The session layer could not keep the session, and says nothing else.
        response = Error::unavailable("The session cannot be kept; try again.", 2).into_response();
    }
    let problem = response.extensions_mut().remove::<Problem>();
    let failure = response.extensions().get::<Failure>().cloned();
    // An error that the client is told, by a redirect or a form, is only there to be logged.
    let is_bare = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let bare = failure.as_ref().filter(|_| is_bare);
    let Some(problem) = problem.or_else(|| bare.map(|failure| in_words(&failure.0, frame.texts, request_id))) else {
        return response;
    };
    let mut dressed = problem_page(frame, response.status(), &problem);
    for name in [RETRY_AFTER, SET_COOKIE, ALLOW] {
        for value in response.headers().get_all(&name) {
            dressed.headers_mut().append(name.clone(), value.clone());
        }
    }
    if let Some(failure) = failure {
        dressed.extensions_mut().insert(failure);
    }
    dressed
}

fn in_words(error: &Error, texts: &'static Texts, request_id: String) -> Problem {
    let (title, text) = match error.code {
        Code::TemporarilyUnavailable | Code::Crowded => (texts.busy, texts.busy_text),
        Code::TooManyRequests => (texts.too_many, texts.too_many_text),
        Code::NotFound => (texts.not_found, texts.not_found_text),
        Code::ServerError => (texts.our_fault, texts.our_fault_text),
        _ => (texts.bad_request, texts.bad_request_text),
    };
    Problem { texts, title: title.to_owned(), text: text.to_owned(), request_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t92_a_policy_allows_what_the_page_needs_and_no_more() {
        let plain = header(&Policy::default());
        assert!(plain.ends_with("form-action 'self'") && plain.contains("frame-ancestors 'none'"));
        assert!(!plain.contains("script-src") && !plain.contains("unsafe"));
        let policy = Policy { form_action: Some(form_action("https://rp.test/cb")), script: Some("a()") };
        let text = header(&policy);
        assert!(text.contains("form-action 'self' https://rp.test; script-src 'sha256-"), "{text}");
    }

    /// OpenID Connect Core §3.1.2.1: `ui_locales` come before what the browser accepts, also for what is not answered.
    #[test]
    fn oidc_core_3_1_2_1_an_error_is_told_in_the_language_that_was_asked_for() {
        let look = Look::new(&crate::config::Config::default()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_LANGUAGE, HeaderValue::from_static("en"));
        for (locales, language) in [(&["tlh", "de-AT"][..], "de"), (&[], "en")] {
            let locales: Vec<String> = locales.iter().map(|tag| (*tag).to_owned()).collect();
            let frame = Frame::new(&look, &headers, &locales);
            let mut response = failed(Error::invalid_request("No."), frame.texts, "the-id");
            let problem = response.extensions_mut().remove::<Problem>().unwrap();
            assert_eq!((problem.texts.language, problem.request_id.as_str()), (language, "the-id"));
            assert_eq!(problem.title, frame.texts.bad_request);
            assert!(response.extensions().get::<Failure>().is_some(), "it is logged, too");
        }
    }

    #[test]
    fn rfc9110_12_5_1_browsers_get_pages_and_programs_get_json() {
        let prefers = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            prefers_html(&headers)
        };
        assert!(prefers("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"));
        assert!(prefers("application/json;q=0.5, text/html"));
        for program in
            ["", "*/*", "application/json", "application/json, text/html", "text/html;q=0.5, */*", "text/css"]
        {
            assert!(!prefers(program), "{program}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn t100_the_browsers_word_comes_before_the_origin() {
        let issuer = Issuer::parse("https://id.example.com/a").unwrap();
        let foreign = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_str(value).unwrap());
            }
            is_foreign(&headers, &issuer)
        };
        assert!(!foreign(&[]) && !foreign(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(!foreign(&[("origin", "https://id.example.com")]));
        for site in ["cross-site", "same-site", "none", "", "Same-Origin"] {
            assert!(foreign(&[("sec-fetch-site", site), ("origin", "https://id.example.com")]), "{site}");
        }
        for origin in
            ["null", "https://id.example.com:8443", "http://id.example.com", "https://id.example.com.evil.example"]
        {
            assert!(foreign(&[("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn rfc6749_3_1_2_a_query_that_is_there_stays() {
        let state = [("state", "a b&c")];
        assert_eq!(with_query("https://rp.test/out", &state), "https://rp.test/out?state=a+b%26c");
        assert_eq!(with_query("https://rp.test/out?", &state), "https://rp.test/out?state=a+b%26c");
        assert_eq!(with_query("https://rp.test/out?x=1", &state), "https://rp.test/out?x=1&state=a+b%26c");
        assert_eq!(with_query("https://rp.test/out", &[]), "https://rp.test/out");
    }

    #[test]
    fn form_action_is_the_origin_or_the_scheme() {
        for (uri, source) in [
            ("https://rp.test/cb?a=b", "https://rp.test"),
            ("https://rp.test:8443/cb", "https://rp.test:8443"),
            ("http://127.0.0.1:3000/cb", "http://127.0.0.1:3000"),
            ("http://localhost:3000/cb", "http://localhost:3000"),
            ("http://[::1]:3000/cb", "http:"),
            ("https://192.0.2.1/cb", "https:"),
            ("com.example.app:/cb", "com.example.app:"),
            ("com.example.app://host/cb", "com.example.app:"),
        ] {
            assert_eq!(form_action(uri), source, "{uri}");
        }
    }
}
