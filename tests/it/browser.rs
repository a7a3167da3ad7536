//! A browser that runs no script: it keeps cookies, sends the headers that real ones send, fills forms in, and follows
//! redirects as far as this server goes. Where it is sent elsewhere, it stops and tells the address.

use std::collections::BTreeMap;

use reqwest::RequestBuilder;
use reqwest::header::{COOKIE, HeaderMap, LOCATION, SET_COOKIE, USER_AGENT};
use url::Url;

use crate::support::{FORM, Server, client, encode};

/// One browser.
#[derive(Clone)]
pub struct Browser {
    http: reqwest::Client,
    /// What paths are under.
    url: String,
    /// Of the pages of this server.
    origin: String,
    follows: bool,
    pub cookies: BTreeMap<String, String>,
    /// What a proxy says of its address.
    pub address: Option<String>,
    /// What it calls itself.
    pub agent: Option<&'static str>,
}

/// What it shows, or where it was sent.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// The address outside this server that the browser was sent to.
    pub away: Option<String>,
}

/// A form of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageForm {
    /// Where it leads.
    pub action: String,
    /// Its hidden fields.
    pub hidden: Vec<(String, String)>,
    /// Names of its other inputs.
    pub inputs: Vec<String>,
    /// Its buttons: id, name and value.
    pub buttons: Vec<(String, String, String)>,
}

impl Browser {
    /// One that follows redirects.
    pub fn new(server: &Server) -> Self {
        let origin = Url::parse(&server.issuer).unwrap().origin().ascii_serialization();
        Self { origin, ..Self::at(&server.url) }
    }

    /// One that follows nothing: each answer is looked at by itself.
    pub fn stepwise(server: &Server) -> Self {
        Self { follows: false, ..Self::new(server) }
    }

    /// One at a server that is only known by its address.
    pub fn at(url: &str) -> Self {
        let origin = Url::parse(url).unwrap().origin().ascii_serialization();
        let (url, http) = (url.to_owned(), client());
        Self { http, url, origin, follows: true, cookies: BTreeMap::new(), address: None, agent: None }
    }

    /// The same, of a server whose pages are an issuer's.
    pub fn of(url: &str, issuer: &str) -> Self {
        let origin = Url::parse(issuer).unwrap().origin().ascii_serialization();
        Self { origin, follows: false, ..Self::at(url) }
    }

    /// Posts a form as a page of ours does; `None` when the server is gone before it has answered.
    pub async fn try_post(&self, to: &str, form: &[(&str, &str)]) -> Option<u16> {
        let (_, request) = self.posting(to, form, &[("origin", &self.origin), ("sec-fetch-site", "same-origin")]);
        let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let answer = request.header(COOKIE, pairs.join("; ")).send().await.ok()?;
        Some(answer.status().as_u16())
    }

    /// GETs an address, whole or from `/` on, as from a link of somebody else's page.
    pub async fn get(&mut self, to: &str) -> Page {
        let url = self.address_of(to);
        let request = self.http.get(url.clone()).header("sec-fetch-site", "cross-site");
        self.send(url, request, true).await
    }

    /// The authorization endpoint, with parameters that may stand more than once.
    pub async fn authorize(&mut self, parameters: &[(&str, &str)]) -> Page {
        self.get(&format!("/oauth2/authorize?{}", encode(parameters))).await
    }

    /// Posts a form as a page of ours does.
    pub async fn post(&mut self, to: &str, form: &[(&str, &str)]) -> Page {
        let origin = self.origin.clone();
        self.post_with(to, form, &[("origin", &origin), ("sec-fetch-site", "same-origin")]).await
    }

    /// Posts a form with these headers.
    pub async fn post_with(&mut self, to: &str, form: &[(&str, &str)], headers: &[(&str, &str)]) -> Page {
        let (url, request) = self.posting(to, form, headers);
        self.send(url, request, true).await
    }

    /// Posts a form as a page of `origin`, another site, does: without cookies, as SameSite=Lax has it.
    pub async fn post_from(&mut self, origin: &str, to: &str, form: &[(&str, &str)]) -> Page {
        let (url, request) = self.posting(to, form, &[("origin", origin), ("sec-fetch-site", "cross-site")]);
        self.send(url, request, false).await
    }

    /// Presses the button of `page` with this name or id, with `fields` filled in or added; hidden ones go along.
    pub async fn press(&mut self, page: &Page, button: &str, fields: &[(&str, &str)]) -> Page {
        let forms = page.forms();
        let form = forms.iter().find(|form| form.button(button).is_some());
        let form = form.unwrap_or_else(|| panic!("no button {button} at {}: {}", page.url, page.text));
        let pressed = form.button(button).filter(|(_, name, _)| !name.is_empty());
        let others = form.hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let others = others.chain(pressed.map(|(_, name, value)| (name.as_str(), value.as_str())));
        let mut sent = fields.to_vec();
        sent.extend(others.filter(|(name, _)| fields.iter().all(|(known, _)| known != name)));
        let action = page.url.join(&form.action).unwrap();
        self.post(action.as_str(), &sent).await
    }

    /// Fills in the sign-in form of `page` and sends it.
    pub async fn fill_in(&mut self, page: &Page, (username, password): (&str, &str)) -> Page {
        self.press(page, "submit", &[("username", username), ("password", password)]).await
    }

    /// Does what the pages ask for, until the browser is sent away or a page asks for nothing known.
    pub async fn go_through(&mut self, url: &str, who: (&str, &str)) -> Page {
        let mut page = self.get(url).await;
        for _ in 0..4 {
            if page.has("password") {
                page = self.fill_in(&page, who).await;
            } else if page.has("approve") {
                page = self.press(&page, "approve", &[]).await;
            }
        }
        page
    }

    /// What the form of `/login` is posted with.
    pub async fn token(&mut self) -> String {
        self.get("/login").await.input("csrf")
    }

    /// Signs in at `/login`, for no client.
    pub async fn sign_in(&mut self, username: &str, password: &str) -> Page {
        let csrf = self.token().await;
        self.post("/login", &[("csrf", &csrf), ("username", username), ("password", password)]).await
    }

    /// The session's cookie.
    pub fn session(&self) -> &str {
        &self.cookies["sealwright"]
    }

    fn address_of(&self, to: &str) -> Url {
        Url::parse(&if to.starts_with('/') { format!("{}{to}", self.url) } else { to.to_owned() }).unwrap()
    }

    fn posting(&self, to: &str, form: &[(&str, &str)], headers: &[(&str, &str)]) -> (Url, RequestBuilder) {
        let url = self.address_of(to);
        let request = self.http.post(url.clone()).header("content-type", FORM).body(encode(form));
        (url, headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    }

    async fn send(&mut self, mut url: Url, mut request: RequestBuilder, mut brings_cookies: bool) -> Page {
        for _ in 0..20 {
            let mut page = self.exchange(url, request, brings_cookies).await;
            let Some(location) = page.headers.get(LOCATION) else { return page };
            assert_eq!(page.status, 303, "T-106: every redirect is a 303: {}", page.url);
            let location = location.to_str().unwrap();
            let to = page.url.join(location).unwrap();
            if to.origin().ascii_serialization() != self.origin {
                page.away = Some(location.to_owned());
                return page;
            }
            if !self.follows {
                return page;
            }
            (request, url, brings_cookies) = (self.http.get(to.clone()), to, true);
        }
        panic!("redirected without end");
    }

    async fn exchange(&mut self, url: Url, mut request: RequestBuilder, brings_cookies: bool) -> Page {
        if brings_cookies && !self.cookies.is_empty() {
            let pairs: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(COOKIE, pairs.join("; "));
        }
        if let Some(address) = &self.address {
            request = request.header("x-forwarded-for", address);
        }
        if let Some(agent) = self.agent {
            request = request.header(USER_AGENT, agent);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        for line in headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() || line.to_ascii_lowercase().contains("max-age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        Page { url, status, headers, text: answer.text().await.unwrap(), away: None }
    }
}

impl Page {
    /// The forms in it, in order.
    pub fn forms(&self) -> Vec<PageForm> {
        forms(&self.text)
    }

    /// Whether there is an input or a button of this name or id.
    pub fn has(&self, name: &str) -> bool {
        self.forms().iter().any(|form| form.button(name).is_some() || form.inputs.iter().any(|input| input == name))
    }

    /// The value of the first hidden input or button of this name.
    #[track_caller]
    pub fn input(&self, name: &str) -> String {
        let forms = self.forms();
        let hidden = forms.iter().flat_map(|form| &form.hidden).map(|(name, value)| (name, value));
        let buttons = forms.iter().flat_map(|form| &form.buttons).map(|(_, name, value)| (name, value));
        let found = hidden.chain(buttons).find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no {name}: {self:?}")).1.clone()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub fn location(&self) -> &str {
        self.header("location")
    }

    /// Whether it is one of our pages, at this path.
    pub fn is_at(&self, path: &str) -> bool {
        self.away.is_none() && self.url.path().ends_with(path)
    }

    /// The flow that the page is of.
    #[track_caller]
    pub fn flow(&self) -> String {
        parameter(&self.url, "flow").unwrap_or_else(|| panic!("no flow: {}", self.url))
    }

    /// The address that the browser was sent to.
    #[track_caller]
    pub fn redirected(&self) -> Url {
        let away = self.away.as_deref().unwrap_or_else(|| panic!("{} shows {}", self.url, self.text));
        Url::parse(away).unwrap()
    }

    /// A parameter of that address.
    #[track_caller]
    pub fn parameter(&self, name: &str) -> Option<String> {
        parameter(&self.redirected(), name)
    }
}

impl PageForm {
    fn button(&self, called: &str) -> Option<&(String, String, String)> {
        self.buttons.iter().find(|(id, name, _)| id == called || name == called)
    }
}

/// A parameter of a URL's query, which stands there at most once.
#[track_caller]
pub fn parameter(url: &Url, name: &str) -> Option<String> {
    let mut found: Vec<String> =
        url.query_pairs().filter(|(known, _)| known == name).map(|(_, value)| value.into_owned()).collect();
    assert!(found.len() < 2, "{name} stands twice in {url}");
    found.pop()
}

/// The forms of a page. Reads what we write: attributes in double quotes, the four entities and numeric ones.
pub fn forms(text: &str) -> Vec<PageForm> {
    text.split("<form").skip(1).map(|rest| rest.split("</form>").next().unwrap()).map(form).collect()
}

fn form(text: &str) -> PageForm {
    let (head, body) = text.split_once('>').unwrap();
    let mut form = PageForm { action: attribute(head, "action").unwrap_or_default(), ..PageForm::default() };
    for tag in body.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let text = |name: &str| attribute(tag, name).unwrap_or_default();
        match (tag.split_ascii_whitespace().next(), text("type").as_str()) {
            (Some("button"), _) => form.buttons.push((text("id"), text("name"), text("value"))),
            (Some("input"), "hidden") => form.hidden.push((text("name"), text("value"))),
            (Some("input"), _) => form.inputs.push(text("name")),
            _ => {}
        }
    }
    form
}

/// An attribute of an element.
pub fn attribute(tag: &str, name: &str) -> Option<String> {
    let tag = tag.replace(['\n', '\t'], " ");
    let rest = tag.split_once(&format!(" {name}=\""))?.1;
    Some(unescape(rest.split('"').next().unwrap()))
}

pub fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, after) = after.split_once(';').unwrap();
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            number => char::from_u32(number.strip_prefix('#').unwrap().parse().unwrap()).unwrap(),
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[test]
fn the_browser_reads_the_forms_that_we_write() {
    let page = "<form method=\"post\" action=\"/login?a=1&#38;b=2\"><input type=\"hidden\" name=\"csrf\"\n value=\"&#60;&quot;x\">\
                <input id=\"username\" name=\"username\"><button name=\"submit\" id=\"go\" value=\"1\">Go</button></form>";
    let form = PageForm {
        action: "/login?a=1&b=2".into(),
        hidden: vec![("csrf".into(), "<\"x".into())],
        inputs: vec!["username".into()],
        buttons: vec![("go".into(), "submit".into(), "1".into())],
    };
    assert_eq!(forms(page), [form]);
}
