"""Envoy as the gateway: jwt_authn with our remote JWKS lets good tokens through and refuses every doctored one."""

import json
import secrets
import time

from cryptography.hazmat.primitives import serialization
from joserfc.jwk import import_key

import gateway as gw
from envoy_proxy import envoy_before
from sealwright import Checks, Sealwright, equal, http

SECRET = secrets.token_urlsafe(32)
LIFETIME = 4  # seconds, of the token that is to run out


def apply_file(alg, lifetime=300):
    """One API that the gateway guards, with tokens signed by `alg`, another that it does not, and a client of both."""
    return f"""
[[resource]]
identifier = "https://api.example.com"
name = "Orders API"
scopes = {{ "orders:read" = "Read orders", "orders:write" = "Change orders" }}
access_token_lifetime = {lifetime}
access_token_signed_response_alg = "{alg}"

[[resource]]
identifier = "https://other.example.com"
name = "Other API"
scopes = {{ "other:read" = "Read" }}
access_token_signed_response_alg = "{alg}"

[[client]]
client_id = "orders-sync"
client_name = "Orders sync"
grant_types = ["client_credentials"]
token_endpoint_auth_method = "client_secret_basic"
client_secret = "{SECRET}"
scope = "orders:read orders:write other:read"
resources = ["https://api.example.com", "https://other.example.com"]
"""


def key_forms(server, token):
    """What an attacker might take for the shared secret: the signing key's public half, in each form it has."""
    kid = json.loads(gw.decode(token.split(".")[0]))["kid"]
    published = http(server.url("/.well-known/jwks.json"))
    jwk = next(key for key in published.json()["keys"] if key["kid"] == kid)
    public = import_key(jwk).raw_value
    spki, pem = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.PEM
    forms = {
        "pem": public.public_bytes(pem, spki),
        "der": public.public_bytes(serialization.Encoding.DER, spki),
        "jwk": json.dumps(jwk, separators=(",", ":")).encode(),
        "jwks": published.body,
        "member": (jwk.get("x") or jwk["n"]).encode(),
        "raw": gw.decode(jwk.get("x") or jwk["n"]),
        "empty": b"",
    }
    forms["pem_stripped"] = forms["pem"].strip()
    return forms


def check(checks, server, gateway, alg):
    """All that the gateway must do with tokens of one algorithm."""
    short = server.token("orders-sync", SECRET, scope="orders:read")
    server.apply(apply_file(alg))
    good = server.token("orders-sync", SECRET, scope="orders:read")

    with checks(f"{alg}_fresh_short_lived_token_is_let_through"):
        gateway.must_pass(short)
    with checks(f"{alg}_good_token_is_let_through"):
        equal(json.loads(gw.decode(good.split(".")[0]))["alg"], alg)
        gateway.must_pass(good)
    with checks(f"{alg}_token_without_the_scope_is_refused"):
        gateway.must_refuse(server.token("orders-sync", SECRET, scope="orders:write"), (403,), "RBAC")
    with checks(f"{alg}_token_for_another_audience_is_refused"):
        gateway.must_refuse(server.token("orders-sync", SECRET, scope="other:read"), (403,), "Audiences")
    with checks(f"{alg}_tampered_signature_is_refused"):
        gateway.must_refuse(gw.tampered_signature(good))
    with checks(f"{alg}_tampered_claims_are_refused"):
        gateway.must_refuse(gw.tampered_claims(good, exp=int(time.time()) + 86400))
    with checks(f"{alg}_alg_none_is_refused"):
        for name in ("none", "None", "NONE"):
            gateway.must_refuse(gw.alg_none(good, name))
    with checks(f"{alg}_hmac_keyed_with_the_public_key_is_refused"):
        for secret in key_forms(server, good).values():
            for keep_kid in (True, False):
                gateway.must_refuse(gw.hmac_confused(good, secret, keep_kid))
    with checks(f"{alg}_no_token_is_refused"):
        gateway.must_refuse(None)
    with checks(f"{alg}_garbage_is_refused"):
        for garbage in ("", "x", "a.b.c", good.rsplit(".", 1)[0], good + "x"):
            gateway.must_refuse(garbage)
    with checks(f"{alg}_expired_token_is_refused"):
        claims = gw.claims(short)
        equal(claims["exp"] - claims["iat"], LIFETIME)
        # Envoy allows one second of skew.
        time.sleep(max(0.0, claims["exp"] + 2.5 - time.time()))
        gateway.must_refuse(short, because="expired")
    with checks(f"{alg}_good_token_is_still_let_through"):
        gateway.must_pass(good)


def main():
    checks = Checks("envoy")
    for alg in ("EdDSA", "RS256"):
        with checks(f"{alg}_gateway_starts_and_stops"), Sealwright(f"envoy-{alg}", apply_file(alg, LIFETIME)) as server:
            with envoy_before(server, "https://api.example.com") as gateway:
                check(checks, server, gateway, alg)
    checks.close()


if __name__ == "__main__":
    main()
