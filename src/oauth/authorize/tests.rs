//! The checks, without a database.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::checks::{CHECKS, Request};
use crate::claims::Mappers;
use crate::clients::{Client, ClientMetadata};
use crate::config::Issuer;
use crate::error::Result;
use crate::flow::Asked;
use crate::form::Form;
use crate::keys::KeyRing;
use crate::resources::{Catalog, Resource, ResourceSettings};
use crate::wire::{AuthMethod, GrantType, ManagedBy, ResponseMode, Scope};

const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const API: &str = "https://api.example.com";

fn client() -> Client {
    Client {
        client_id: "web".into(),
        metadata: ClientMetadata {
            redirect_uris: ["https://rp.test/cb".into()].into(),
            grant_types: [GrantType::AuthorizationCode].into(),
            scope: "openid profile offline_access orders:read stock:read".parse().unwrap(),
            ..ClientMetadata::default()
        },
        disabled: false,
        unverified: false,
        credentials: [].into(),
    }
}

fn catalog(issuer: &Issuer) -> Catalog {
    let api = |identifier: &str, scope: &str| {
        Arc::new(Resource {
            identifier: identifier.into(),
            settings: ResourceSettings::default(),
            scopes: [(scope.to_owned(), "In words".to_owned())].into(),
            managed_by: ManagedBy::Apply,
            built_in: false,
        })
    };
    Catalog::default()
        .with(api(API, "orders:read"))
        .with(api("https://stock.example.com", "stock:read"))
        .with(api("https://other.example.com", "other:read"))
        .with_built_in(issuer)
}

/// The request with `changes`: an empty value leaves the parameter out.
fn run(client: &Client, changes: &[(&str, &str)]) -> Result<Asked> {
    let issuer = Issuer::parse("https://issuer.example").unwrap();
    let mut parameters = vec![
        ("response_type", "code"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("scope", "openid"),
    ];
    parameters.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    parameters.extend(changes);
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let form = Form::parse(body.as_bytes()).unwrap();
    let ring = KeyRing::new(Vec::new());
    let (catalog, mappers) = (catalog(&issuer), Mappers::default());
    let request = Request { form: &form, client, catalog: &catalog, mappers: &mappers, ring: &ring, issuer: &issuer };
    let mut asked = Asked::of("web", &client.metadata.redirect_uris[0], ResponseMode::Query);
    asked.state = form.get("state").map(str::to_owned);
    CHECKS.iter().try_for_each(|check| check(&request, &mut asked))?;
    Ok(asked)
}

fn code(client: &Client, changes: &[(&str, &str)]) -> &'static str {
    let Err(error) = run(client, changes) else { return "fine" };
    // `Error::new` writes one for what RFC 6749 §4.1.2.1 does not allow; none of our texts needs it.
    assert!(!error.detail().contains('?'), "{error}");
    error.code.as_str()
}

#[test]
fn what_is_wrong_gets_its_own_error() {
    let (client, long) = (client(), "x".repeat(5000));
    for (changes, expected) in [
        (&[("response_type", "code")][..], "fine"),
        (&[("response_type", "")], "invalid_request"),
        (&[("response_type", "token")], "unsupported_response_type"),
        (&[("response_type", "code id_token")], "unsupported_response_type"),
        (&[("response_type", "none")], "unsupported_response_type"),
        (&[("response_mode", "fragment")], "fine"),
        (&[("response_mode", "form_post")], "fine"),
        (&[("response_mode", "query.jwt")], "invalid_request"),
        (&[("response_mode", "Query")], "invalid_request"),
        (&[("request", "a.b.c")], "request_not_supported"),
        (&[("request_uri", "https://rp.test/r")], "request_uri_not_supported"),
        (&[("registration", "{}")], "registration_not_supported"),
        (&[("authorization_details", "[]")], "invalid_authorization_details"),
        (&[("state", "a\u{1}b")], "invalid_request"),
        (&[("state", "\u{e4} \"\\")], "fine"),
        (&[("nonce", "a\nb")], "invalid_request"),
        (&[("scope", "openid admin")], "invalid_scope"),
        (&[("scope", "other:read")], "invalid_scope"),
        (&[("scope", "openid  profile")], "invalid_scope"),
        (&[("scope", "openid \"")], "invalid_scope"),
        (&[("resource", API), ("scope", "openid orders:read")], "fine"),
        (&[("resource", API), ("scope", "openid stock:read")], "invalid_scope"),
        (&[("resource", "https://other.example.com")], "invalid_target"),
        (&[("resource", "https://unknown.example.com")], "invalid_target"),
        (&[("audience", API), ("scope", "openid stock:read")], "invalid_scope"),
        (&[("audience", "https://unknown.example.com")], "invalid_target"),
        (&[("resource", "https://api.example.com#f")], "invalid_target"),
        (&[("resource", "orders")], "invalid_target"),
        (&[("prompt", "none")], "fine"),
        (&[("prompt", "login consent")], "fine"),
        (&[("prompt", "none login")], "invalid_request"),
        (&[("prompt", "create")], "invalid_request"),
        (&[("max_age", "0")], "fine"),
        (&[("max_age", "-1")], "invalid_request"),
        (&[("max_age", "+1")], "invalid_request"),
        (&[("max_age", "1.5")], "invalid_request"),
        (&[("max_age", "99999999999")], "invalid_request"),
        (&[("state", &long)], "invalid_request"),
        (&[("nonce", &long)], "invalid_request"),
        (&[("login_hint", &long)], "invalid_request"),
        (&[("login_hint", "a\nb")], "invalid_request"),
        (&[("claims", &long)], "invalid_request"),
        (&[("id_token_hint", "a.b.c")], "invalid_request"),
        (&[("id_token_hint", &long)], "invalid_request"),
        (&[("display", "hologram"), ("unknown", "x"), ("acr_values", "1 2")], "fine"),
        (&[("claims", r#"{"id_token":{"acr":{"essential":true}}}"#)], "fine"),
        (&[("claims", r#"{"id_token":{"acr":{"values":["2"]}}}"#)], "fine"),
        (
            &[("claims", r#"{"id_token":{"acr":{"essential":true,"values":["2"]}}}"#)],
            "unmet_authentication_requirements",
        ),
        (&[("claims", r#"{"id_token":{"acr":{"essential":true,"value":7}}}"#)], "unmet_authentication_requirements"),
    ] {
        assert_eq!(code(&client, changes), expected, "{changes:?}");
    }
    let mut service = client;
    service.metadata.grant_types = [GrantType::ClientCredentials].into();
    assert_eq!(code(&service, &[]), "unauthorized_client");
}

/// T-11, T-12: no way around S256 but the setting, and that for confidential clients only.
#[test]
fn t11_pkce_is_s256_or_nothing() {
    let long = "a".repeat(44);
    let refused = [
        &[("code_challenge_method", "plain")][..],
        &[("code_challenge_method", "")],
        &[("code_challenge_method", "s256")],
        &[("code_challenge", "")],
        &[("code_challenge", &CHALLENGE[1..])],
        &[("code_challenge", &long)],
        &[("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw+cM")],
        &[("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-c=")],
    ];
    let none = [("code_challenge", ""), ("code_challenge_method", "")];
    for method in AuthMethod::ALL {
        for optional in [false, true] {
            let mut client = client();
            client.metadata.token_endpoint_auth_method = *method;
            client.metadata.pkce_optional = optional;
            assert_eq!(run(&client, &[]).unwrap().code_challenge.as_deref(), Some(CHALLENGE));
            for changes in refused {
                assert_eq!(code(&client, changes), "invalid_request", "{method} {optional} {changes:?}");
            }
            let expected = if optional && *method != AuthMethod::None { "fine" } else { "invalid_request" };
            let [no_challenge, no_method] = none;
            assert_eq!(code(&client, &[no_challenge, no_method, ("nonce", "n")]), expected, "{method} {optional}");
            // RFC 9700 §2.1.1: something ties the code to the request, and comes back where the client looks.
            for untied in [&[][..], &[("nonce", "n"), ("scope", "orders:read")], &[("nonce", "")]] {
                let changes = [&none[..], untied].concat();
                assert_eq!(code(&client, &changes), "invalid_request", "{method} {optional} {untied:?}");
            }
        }
    }
}

#[test]
fn rfc6749_3_3_a_scope_left_out_is_all_that_the_client_may_have() {
    let client = client();
    let asked = run(&client, &[("scope", "")]).unwrap();
    assert_eq!(asked.scope, client.metadata.scope);
    let userinfo = "https://issuer.example/userinfo";
    assert_eq!(asked.resources, [API, userinfo, "https://stock.example.com"]);
    // RFC 8707 §2: narrowed to the resource; what is about the person stays.
    let asked = run(&client, &[("scope", ""), ("resource", API)]).unwrap();
    assert_eq!(asked.scope.to_string(), "offline_access openid orders:read profile");
    assert_eq!(asked.resources, [API, userinfo]);
    let asked = run(&client, &[("scope", "orders:read offline_access")]).unwrap();
    assert_eq!(asked.resources, [API], "the userinfo endpoint is for those who ask for openid");
    let asked = run(&client, &[("resource", API), ("resource", "https://stock.example.com")]).unwrap();
    assert_eq!(asked.resources, [API, userinfo, "https://stock.example.com"]);
    assert_eq!(code(&client, &[("scope", "profile")]), "invalid_target");
    let mut bare = client;
    bare.metadata.scope = Scope::default();
    assert_eq!(code(&bare, &[("scope", "")]), "invalid_target");
    bare.metadata.resources = [API.into()].into();
    assert_eq!(run(&bare, &[("scope", "")]).unwrap().resources, [API]);
    assert_eq!(code(&bare, &[("scope", ""), ("resource", userinfo)]), "invalid_target");
}

#[test]
fn oidc_core_5_5_the_claims_request_is_read_strictly() {
    let claims = |value: &serde_json::Value| run(&client(), &[("claims", &value.to_string())]);
    let asked = claims(&json!({
        "userinfo": {"given_name": {"essential": true}, "nickname": null, "name": {"unknown": 1}, "email": null, "x": null},
        "id_token": {"acr": {"values": ["1"]}},
        "other": {"a": 1},
    }))
    .unwrap();
    let known: Vec<&String> = asked.claims.userinfo.keys().collect();
    assert_eq!(known, ["given_name", "name", "nickname"], "what the client can get");
    assert!(asked.claims.userinfo["given_name"].as_ref().unwrap().essential);
    assert_eq!(asked.claims.id_token.len(), 1);
    assert!(claims(&json!({"userinfo": null})).unwrap().claims.userinfo.is_empty());
    for bad in [
        "[]",
        "null",
        "1",
        "{",
        "{}x",
        r#"{"userinfo":[]}"#,
        r#"{"userinfo":1}"#,
        r#"{"userinfo":{"a":1}}"#,
        r#"{"userinfo":{"a":null,"a":null}}"#,
    ] {
        assert_eq!(code(&client(), &[("claims", bad)]), "invalid_request", "{bad}");
    }
    let many: Map<String, Value> = (0..101).map(|n| (n.to_string(), Value::Null)).collect();
    assert!(claims(&json!({"userinfo": many})).is_err());
    let without = run(&client(), &[("claims", r#"{"userinfo":{"email":null}}"#), ("scope", "orders:read")]).unwrap();
    assert!(without.claims.userinfo.is_empty(), "nobody's claims without openid");
}

#[test]
fn t182_a_deep_claims_request_is_refused() {
    for depth in [9, 200, 2000] {
        let deep = format!(r#"{{"id_token":{{"a":{{"value":{}{}}}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(code(&client(), &[("claims", &deep)]), "invalid_request", "{depth}");
    }
}

#[test]
fn oidc_core_5_5_1_the_claims_request_may_name_the_person() {
    let named = |text: &str| run(&client(), &[("claims", text)]);
    let asked = named(r#"{"id_token":{"sub":{"value":"248289761001"}}}"#).unwrap();
    assert_eq!(asked.sub.as_deref(), Some("248289761001"));
    assert!(named(r#"{"id_token":{"sub":{"value":"a"}},"userinfo":{"sub":{"value":"b"}}}"#).is_err());
    assert!(named(r#"{"id_token":{"sub":{"value":7}}}"#).is_err());
    assert_eq!(named(r#"{"id_token":{"sub":null}}"#).unwrap().sub, None);
}

#[test]
fn preferences_that_are_not_understood_are_passed_over() {
    let asked = run(&client(), &[("ui_locales", "de-AT x_y  en"), ("max_age", "5")]).unwrap();
    assert_eq!(asked.ui_locales, ["de-AT", "en"]);
    assert_eq!(asked.max_age, Some(5));
    let mut client = client();
    client.metadata.default_max_age = Some(60);
    assert_eq!(run(&client, &[]).unwrap().max_age, Some(60));
    assert_eq!(run(&client, &[("max_age", "5")]).unwrap().max_age, Some(5));
    client.metadata.redirect_uris = ["com.example.app:/cb".into()].into();
    assert_eq!(code(&client, &[("response_mode", "form_post")]), "invalid_request");
}
