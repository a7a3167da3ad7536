//! What pages say comes from the catalogue (src/pages/texts.rs), so that another language is another catalogue and no
//! more.

use std::collections::BTreeSet;
use std::path::Path;

use crate::browser::{Browser, Page, attribute, unescape};
use crate::people::{ADA, BOB, PEOPLE, authorization_url};
use crate::support::{Server, both};

/// The attributes that people read or hear.
const SPOKEN: [&str; 8] = [
    "alt",
    "aria-description",
    "aria-label",
    "aria-placeholder",
    "aria-roledescription",
    "label",
    "placeholder",
    "title",
];

fn has_words(text: &str) -> bool {
    text.contains(char::is_alphabetic)
}

/// `text` without what stands between these two, and what stood there.
fn without<'t>(text: &'t str, open: &str, close: &str) -> (String, Vec<&'t str>) {
    let mut parts = text.split(open);
    let mut left = parts.next().unwrap().to_owned();
    let mut inside = Vec::new();
    for part in parts {
        let (within, after) = part.split_once(close).unwrap_or_else(|| panic!("{open}{part}"));
        inside.push(within);
        left.push_str(after);
    }
    (left, inside)
}

/// What people read of a page: its texts, and the spoken attributes of its tags. Style and script are no texts.
fn texts(page: &str) -> Vec<String> {
    let (page, _) = without(page, "<script>", "</script>");
    let mut found = Vec::new();
    for part in page.split('<').skip(1) {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("{part}"));
        found.extend(SPOKEN.iter().filter_map(|name| attribute(tag, name)));
        found.push(unescape(text));
    }
    found.into_iter().map(|text| text.trim().to_owned()).filter(|text| has_words(text)).collect()
}

#[test]
fn templates_have_no_words_of_their_own() {
    let mut count = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let template = std::fs::read_to_string(&path).unwrap();
        let (template, _) = without(&template, "{#", "#}");
        let (template, said) = without(&template, "{%", "%}");
        for said in said.iter().filter(|said| !said.contains("extends \"layout.html\"")) {
            assert!(!said.contains('"'), "{}: {said}", path.display());
        }
        // In a tag, a name of an input may choose among its attributes; words for people may stand nowhere.
        let (template, filled) = without(&template, "{{", "}}");
        for filled in filled.iter().filter(|filled| filled.contains('"')) {
            assert!(filled.trim().starts_with("self.state(\""), "{}: {filled}", path.display());
        }
        assert_eq!(texts(&template), [""; 0], "{}", path.display());
        count += 1;
    }
    assert!(count > 10, "{count}");
}

/// The texts of the English catalogue, each as the pieces between what is filled in.
fn catalogue() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pages/texts.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let english = source.split_once("static ENGLISH: Texts = Texts {").unwrap().1.split_once("\n};").unwrap().0;
    let literals = english.split('"').skip(1).step_by(2).map(|literal| {
        let (mut lines, mut text) = (literal.split("\\\n"), String::new());
        text.push_str(lines.next().unwrap());
        lines.for_each(|line| text.push_str(line.trim_start()));
        text.replace("\\u{a0}", "\u{a0}")
    });
    let pieces = |text: String| {
        let mut pieces = vec![String::new()];
        for part in text.split_inclusive(['{', '}']) {
            pieces.last_mut().unwrap().push_str(part.trim_end_matches(['{', '}']));
            match part.chars().last() {
                Some('{') => pieces.push(String::new()),
                // What stood in the braces is anything.
                Some('}') => *pieces.last_mut().unwrap() = String::new(),
                _ => {}
            }
        }
        pieces
    };
    literals.map(pieces).collect()
}

/// Whether `text` is these pieces, with something between each two of them.
fn is_made_of(text: &str, pieces: &[String]) -> bool {
    let [first, middle @ .., last] = pieces else { return pieces.first().is_some_and(|only| only == text) };
    let Some(mut rest) = text.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str())) else {
        return false;
    };
    for piece in middle {
        let Some(at) = rest.find(piece.as_str()) else { return false };
        rest = &rest[at + piece.len()..];
    }
    !rest.is_empty()
}

/// What on these pages is nobody's words: names of people, applications and APIs, and what scopes of others mean.
const DATA: [&str; 7] = ["Sealwright", "ada", "bob", "Web shop", "Orders API", "Read orders", "Firefox, Linux"];

#[track_caller]
fn assert_of_the_catalogue(page: &Page) {
    let catalogue = catalogue();
    let known = |text: &str| DATA.contains(&text) || catalogue.iter().any(|pieces| is_made_of(text, pieces));
    let found = texts(&page.text);
    assert!(found.len() > 3, "{page:?}");
    for text in found {
        let title = text.strip_suffix(" – Sealwright").unwrap_or(&text);
        let title = title.strip_prefix("Error: ").unwrap_or(title);
        let is_id = page.header("x-request-id") == text;
        assert!(is_id || known(title), "{text:?} at {}", page.url);
    }
}

both! {
    async fn every_word_of_a_page_is_of_the_catalogue_or_of_somebodys_data(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::new(&server);
        let ask = |more: &[(&str, &str)]| authorization_url(&server, "openid profile email groups offline_access orders:read", more);
        let mut pages = vec![browser.get("/logout").await];
        // Refused, and asked; answered by a form.
        pages.push(browser.get(&ask(&[("redirect_uri", "https://evil.example.com")])).await);
        pages.push(browser.get(&ask(&[("response_mode", "form_post")])).await);
        let login = pages.last().unwrap().clone();
        pages.push(browser.press(&login, "submit", &[("username", "ada"), ("password", "wrong")]).await);
        pages.push(browser.press(&login, "submit", &[("csrf", "x")]).await);
        pages.push(browser.fill_in(&login, ADA).await);
        let consent = pages.last().unwrap().clone();
        assert!(consent.has("approve"), "{consent:?}");
        pages.push(browser.press(&consent, "approve", &[("csrf", "x")]).await);
        pages.push(browser.press(&consent, "approve", &[]).await);
        pages.push(browser.press(&consent, "approve", &[]).await);
        // Several people, here and elsewhere.
        browser.sign_in(BOB.0, BOB.1).await;
        let mut other = Browser::new(&server);
        other.agent = Some("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
        other.sign_in(ADA.0, ADA.1).await;
        pages.push(browser.get(&ask(&[("prompt", "select_account")])).await);
        pages.push(browser.get(&ask(&[("prompt", "login"), ("login_hint", "ada")])).await);
        assert!(browser.get(&ask(&[("login_hint", "ada")])).await.parameter("code").is_some());
        let account = browser.get("/account").await;
        let password = account.text.split("href=\"").find(|part| part.starts_with("/account/password")).unwrap();
        let password = browser.get(password.split('"').next().unwrap()).await;
        for new in ["", "passwordpassword", "lovelacelovelaceada", "otter basil trumpet 51 quilt"] {
            let form = [("password", "wrong and wrong"), ("new_password", new), ("new_password_again", new)];
            pages.push(browser.press(&password, "submit", &form).await);
        }
        pages.extend([account.clone(), password]);
        pages.push(browser.post_from("https://shop.example.com", "/account/withdraw", &[]).await);
        pages.push(browser.press(&account, "session", &[]).await);
        pages.push(browser.press(&account, "client", &[]).await);
        pages.push(browser.press(&account, "client", &[("csrf", "x")]).await);
        pages.push(browser.get("/logout?client_id=web").await);
        pages.push(browser.get("/logout?client_id=nobody").await);
        pages.push(browser.get("/logout").await);
        let asked = pages.last().unwrap().clone();
        pages.push(browser.press(&asked, "account", &[]).await);
        let last = browser.get("/logout").await;
        pages.extend([browser.press(&last, "submit", &[]).await, last]);
        pages.iter().for_each(assert_of_the_catalogue);
        let title = |page: &Page| page.text.split("<title>").nth(1).unwrap().split(" – ").next().unwrap().to_owned();
        let titles: BTreeSet<String> = pages.iter().map(title).collect();
        let expected = [
            "Allow access?",
            "Back to the application",
            "Change the password of ada",
            "Choose an account",
            "Error: Allow access?",
            "Error: Change the password of ada",
            "Error: Sign in",
            "Error: Your account",
            "Sign in",
            "Sign out?",
            "This did not come from our page",
            "This request cannot be used",
            "This sign-in has ended",
            "You are signed out",
            "You were not signed out",
            "Your account",
        ];
        assert_eq!(titles, expected.map(str::to_owned).into(), "the pages that were read");
    }
}

#[test]
fn a_word_that_the_catalogue_has_not_is_found() {
    let catalogue = catalogue();
    assert!(catalogue.len() > 100, "{}", catalogue.len());
    let known = |text: &str| catalogue.iter().any(|pieces| is_made_of(text, pieces));
    for text in
        ["Sign in", "Sign out ada", "since 2026-01-01 10:00\u{a0}UTC", "Web shop asks for access to your account."]
    {
        assert!(known(text), "{text}");
    }
    for text in ["Sign", "Sign in now", "Sign out ", "Web shop wants your account."] {
        assert!(!known(text), "{text}");
    }
    let page =
        "<p title=\"One\">Two <b>3</b></p><script>four</script><img alt=\"\" src=\"five\"><p> Six &#38; seven</p>";
    assert_eq!(texts(page), ["One", "Two", "Six & seven"]);
}
