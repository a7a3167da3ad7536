//! How long sessions last, and what of them is kept.

use std::time::Duration;

use sealwright::jobs;
use sealwright::store::sessions;

use crate::browser::Browser;
use crate::login::{PASSWORD, PEOPLE};
use crate::support::{Server, both};

const MINUTE: Duration = Duration::from_mins(1);

fn key(cookie: &str) -> sessions::Key {
    let raw = base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, cookie).unwrap();
    sealwright::secret::sha256(&raw)
}

/// Whether the row is there, live or not.
async fn is_kept(server: &Server, cookie: &str) -> bool {
    let id = key(cookie);
    server
        .services
        .db
        .read(move |conn| Box::pin(async move { sessions::get(conn, &id, 0).await }))
        .await
        .unwrap()
        .is_some()
}

both! {
    /// S-81: 30 minutes without use and 12 hours in all.
    async fn a_sign_in_ends_unused_and_in_the_end(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut browser = Browser::stepwise(&server);
        browser.sign_in("Ada", PASSWORD).await;
        for _ in 0..3 {
            server.clock.advance(20 * MINUTE);
            assert_eq!(browser.get("/account").await.status, 200, "use keeps it alive");
        }
        server.clock.advance(31 * MINUTE);
        assert_eq!(browser.get("/account").await.status, 303);
        browser.sign_in("Ada", PASSWORD).await;
        for _ in 0..28 {
            server.clock.advance(25 * MINUTE);
            assert_eq!(browser.get("/account").await.status, 200);
        }
        server.clock.advance(25 * MINUTE);
        assert_eq!(browser.get("/account").await.status, 303, "twelve hours are over");
        server.stop().await;
    }

    /// Copies of one anonymous session that all sign in at once: one becomes the next session. Nobody keeps a second one
    /// to plant in another's browser.
    async fn t101_of_copies_of_a_session_one_signs_in(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let mut first = Browser::stepwise(&server);
        let csrf = first.token().await;
        let attempts = (0..6).map(|_| {
            let (mut copy, csrf) = (Browser::stepwise(&server), csrf.clone());
            copy.cookies = first.cookies.clone();
            async move {
                let form = [("csrf", csrf.as_str()), ("username", "Ada"), ("password", PASSWORD)];
                (copy.post("/login", &form).await.status, copy)
            }
        });
        let mut signed_in = 0;
        for (status, mut copy) in futures_util::future::join_all(attempts).await {
            assert!([303, 403].contains(&status), "{status}");
            let inside = copy.get("/account").await.status == 200;
            assert_eq!(inside, status == 303);
            signed_in += usize::from(inside);
        }
        assert_eq!(signed_in, 1);
        assert_eq!(first.get("/account").await.status, 303, "the copied id leads nowhere");
        server.stop().await;
    }

    /// T-190: a visitor at whose browser nobody signs in leaves a row for half an hour, and what needs no session makes
    /// none.
    async fn t190_sessions_of_nobody_are_short(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let (mut visitor, mut person) = (Browser::stepwise(&server), Browser::stepwise(&server));
        assert!(visitor.get("/static/none.css").await.headers.get("set-cookie").is_none());
        assert!(visitor.get("/.well-known/jwks.json").await.headers.get("set-cookie").is_none());
        visitor.token().await;
        person.sign_in("Ada", PASSWORD).await;
        assert!(is_kept(&server, visitor.session()).await && is_kept(&server, person.session()).await);
        server.clock.advance(31 * MINUTE);
        jobs::sweep_once(&server.services).await.unwrap();
        assert!(!is_kept(&server, visitor.session()).await && is_kept(&server, person.session()).await);
        server.clock.advance(12 * 60 * MINUTE);
        jobs::sweep_once(&server.services).await.unwrap();
        assert!(!is_kept(&server, person.session()).await);
        server.stop().await;
    }
}
