//! A whole server with a second catalogue, which there is in tests alone.

use tokio_util::sync::CancellationToken;

use super::{App, open};
use crate::apply;
use crate::clock::Clock;
use crate::config::{Config, DatabaseUrl, Issuer};
use crate::nodes;
use crate::secret::Secret;
use crate::wire::Algorithm;

const ISSUER: &str = "https://id.example.com";
const CLIENT: &str = r#"
[[client]]
client_id = "app"
token_endpoint_auth_method = "none"
application_type = "native"
grant_types = ["authorization_code"]
redirect_uris = ["com.example.app:/cb"]
scope = "openid"
"#;
const REQUEST: &str = "/oauth2/authorize?response_type=code&client_id=app&scope=openid\
                       &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256";

/// The page that a browser which accepts `languages` comes to, by our own redirects.
async fn page(http: &reqwest::Client, url: &str, path: &str, languages: &str) -> String {
    let mut cookies: Vec<String> = Vec::new();
    let mut path = path.to_owned();
    loop {
        let request = http.get(format!("{url}{path}")).header("accept", "text/html");
        let request = request.header("accept-language", languages).header("cookie", cookies.join("; "));
        let answer = request.send().await.unwrap();
        let set = answer.headers().get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
        cookies.extend(set.map(|line| line.split(';').next().unwrap().to_owned()));
        match answer.headers().get("location") {
            Some(to) => to.to_str().unwrap().strip_prefix(ISSUER).unwrap().clone_into(&mut path),
            None => return answer.text().await.unwrap(),
        }
    }
}

/// OpenID Connect Core §3.1.2.1, RP-Initiated Logout §2, RFC 9110 §12.5.4: what the client asks for comes first, then
/// what the browser accepts, then English; and the page says which it is.
#[tokio::test]
async fn oidc_core_3_1_2_1_pages_speak_the_language_that_was_asked_for() {
    let folder = std::env::temp_dir().join(format!("{:x}", u128::from_be_bytes(crate::secret::random().unwrap())));
    std::fs::create_dir(&folder).unwrap();
    let mut config = Config::default();
    config.issuer = Some(Issuer::parse(ISSUER).unwrap());
    config.http.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.management.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.database.url = DatabaseUrl::parse(&format!("sqlite:{}/sealwright.db", folder.display())).unwrap();
    config.master_key.value = Some(Secret::new("00".repeat(32)));
    let app = App::start(&config, open(&config, Clock::system(), false).await.unwrap()).await.unwrap();
    let url = format!("http://{}", app.addresses().into_iter().find(|(name, _)| *name == "http").unwrap().1);

    let services = app.services();
    let options = apply::Options {
        prune: false,
        max_lifetime: 3600,
        algorithms: Algorithm::ALL,
        min_password_length: 15,
        allow_http: false,
        issuer: ISSUER,
        service: "Sealwright",
    };
    let file = apply::parse(CLIENT, apply::Format::Toml).unwrap();
    let plan = apply::plan(&services.db, &file, &options, &services.passwords).await.unwrap();
    let applied = apply::commit(&services.db, plan, &services.passwords).await.unwrap();
    nodes::acted_on(services, applied.seq.unwrap()).await.unwrap();

    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    #[expect(clippy::disallowed_methods, reason = "a client of the server under test")]
    let builder = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let http = builder.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let good = format!("{REQUEST}&redirect_uri=com.example.app:/cb");
    for (path, german, english) in [
        (good.as_str(), "Anmelden", "Sign in"),
        (
            &format!("{REQUEST}&redirect_uri=com.example.app:/other"),
            "Diese Anfrage taugt nichts",
            "This request cannot be used",
        ),
        ("/logout?", "Sie sind abgemeldet", "You are signed out"),
    ] {
        for (locales, accepted, language) in [
            ("de-AT", "en", "de"),
            ("tlh en", "de", "en"),
            ("tlh", "de, en;q=0.5", "de"),
            ("", "tlh", "en"),
            ("", "de-CH, en;q=0.5", "de"),
        ] {
            let page = page(&http, &url, &format!("{path}&ui_locales={}", locales.replace(' ', "+")), accepted).await;
            let title = if language == "de" { german } else { english };
            assert!(page.contains(&format!("<html lang=\"{language}\">")), "{path} {locales} {accepted}: {page}");
            assert!(page.contains(&format!("<h1>{title}</h1>")), "{path} {locales} {accepted}: {page}");
        }
    }
    let document =
        http.get(format!("{url}/.well-known/openid-configuration")).send().await.unwrap().text().await.unwrap();
    assert!(document.contains(r#""ui_locales_supported":["en","de"]"#), "{document}");
    stop.cancel();
    running.await.unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}
