//! The openidconnect crate as the client: discovery, a full login, userinfo, refresh, and signing out.

use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreGenderClaim, CoreProviderMetadata, CoreUserInfoClaims,
};
use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EmptyAdditionalClaims, HttpRequest,
    HttpResponse, IssuerUrl, LogoutRequest, Nonce, OAuth2TokenResponse, PkceCodeChallenge, PostLogoutRedirectUrl,
    ProviderMetadataWithLogout, RedirectUrl, Scope, TokenResponse, UserInfoClaims,
};

use crate::browser::Browser;
use crate::people::{ADA, PEOPLE, WEB};
use crate::support::{Server, both, client};

/// One exchange, by the HTTP client of these tests.
async fn exchange(request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let (parts, body) = request.into_parts();
    let response =
        client().request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await?;
    let mut answer = openidconnect::http::Response::builder().status(response.status());
    *answer.headers_mut().unwrap() = response.headers().clone();
    Ok(answer.body(response.bytes().await?.to_vec()).unwrap())
}

both! {
    async fn the_openidconnect_crate_logs_in_refreshes_and_logs_out(engine) {
        let server = Server::empty(engine).await;
        server.apply(PEOPLE).await;
        let issuer = IssuerUrl::new(server.issuer.clone()).unwrap();
        let metadata = CoreProviderMetadata::discover_async(issuer.clone(), &exchange).await.unwrap();
        let logout = ProviderMetadataWithLogout::discover_async(issuer, &exchange).await.unwrap();
        let end_session = logout.additional_metadata().end_session_endpoint.clone().unwrap();
        let oidc = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new(WEB.0.to_owned()),
            Some(ClientSecret::new(WEB.1.to_owned())),
        )
        .set_redirect_uri(RedirectUrl::new(WEB.2.to_owned()).unwrap());

        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let (url, state, nonce) = oidc
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
            .add_scopes(["profile", "email", "offline_access"].map(|scope| Scope::new(scope.to_owned())))
            .set_pkce_challenge(challenge)
            .url();
        let mut browser = Browser::new(&server);
        let page = browser.go_through(url.as_str(), ADA).await;
        assert_eq!(page.parameter("state").as_ref(), Some(state.secret()));
        assert_eq!(page.parameter("iss").as_deref(), Some(server.issuer.as_str()));

        let code = AuthorizationCode::new(page.parameter("code").unwrap());
        let exchanged = oidc.exchange_code(code).unwrap().set_pkce_verifier(verifier);
        let tokens = exchanged.request_async(&exchange).await.unwrap();
        let id_token = tokens.id_token().unwrap();
        let id_verifier = oidc.id_token_verifier();
        let claims = id_token.claims(&id_verifier, &nonce).unwrap();
        let hash = AccessTokenHash::from_token(
            tokens.access_token(),
            id_token.signing_alg().unwrap(),
            id_token.signing_key(&id_verifier).unwrap(),
        );
        assert_eq!(claims.access_token_hash(), Some(&hash.unwrap()));
        assert!(claims.auth_time().is_some());

        let about = oidc.user_info(tokens.access_token().clone(), Some(claims.subject().clone())).unwrap();
        let told: CoreUserInfoClaims = about.request_async(&exchange).await.unwrap();
        assert_eq!(told.email().unwrap().as_str(), "ada@example.com");
        let _: &UserInfoClaims<EmptyAdditionalClaims, CoreGenderClaim> = &told;

        let refresh_token = tokens.refresh_token().unwrap();
        let refreshed = oidc.exchange_refresh_token(refresh_token).unwrap().request_async(&exchange).await.unwrap();
        assert_ne!(refreshed.access_token().secret(), tokens.access_token().secret());
        let about = oidc.user_info(refreshed.access_token().clone(), Some(claims.subject().clone())).unwrap();
        let _: CoreUserInfoClaims = about.request_async(&exchange).await.unwrap();

        let bye = PostLogoutRedirectUrl::new("https://shop.example.com/bye".to_owned()).unwrap();
        let request = LogoutRequest::from(end_session)
            .set_id_token_hint(id_token)
            .set_post_logout_redirect_uri(bye)
            .set_state(CsrfToken::new("bye".to_owned()));
        let page = browser.get(request.http_get_url().as_str()).await;
        assert_eq!(page.away.as_deref(), Some("https://shop.example.com/bye?state=bye"));
    }
}
