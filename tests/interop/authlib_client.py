"""Python's Authlib as the client, joserfc as the verifier: tokens, introspection, revocation, four algorithms."""

import json
import secrets
import warnings

from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from sealwright import Checks, Sealwright, equal, http

ALGORITHMS = ["EdDSA", "RS256", "ES256", "PS256"]
SECRET = secrets.token_urlsafe(32)


def audience(alg):
    """The resource whose tokens are signed with `alg`."""
    return f"https://{alg.lower()}.example.com"


def private_keys():
    """The keys that clients of private_key_jwt sign with, by algorithm."""
    return {
        "EdDSA": OKPKey.generate_key("Ed25519"),
        "RS256": RSAKey.generate_key(2048),
        "ES256": ECKey.generate_key("P-256"),
    }


def apply_file(keys):
    """One resource an algorithm; a client for each secret method and for each key."""
    resources = json.dumps([audience(alg) for alg in ALGORITHMS])
    text = ""
    for alg in ALGORITHMS:
        text += (
            f'[[resource]]\nidentifier = "{audience(alg)}"\nname = "{alg}"\n'
            f'scopes = {{ "{alg}:read" = "Read" }}\naccess_token_signed_response_alg = "{alg}"\n'
        )
    for method in ("client_secret_basic", "client_secret_post"):
        text += client(method, method, resources, f'client_secret = "{SECRET}"\n')
    for alg, key in keys.items():
        public = json.dumps(key.as_dict(private=False, alg=alg, use="sig"))
        # A JSON object of strings is a TOML inline table once its colons are equals signs.
        table = "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in json.loads(public).items()) + " }"
        more = f'token_endpoint_auth_signing_alg = "{alg}"\njwks = {{ keys = [{table}] }}\n'
        text += client(f"signs-{alg}", "private_key_jwt", resources, more)
    return text


def client(client_id, method, resources, more):
    """A `[[client]]` of an apply file."""
    return (
        f'[[client]]\nclient_id = "{client_id}"\nclient_name = "{client_id}"\ngrant_types = ["client_credentials"]\n'
        f'token_endpoint_auth_method = "{method}"\nscope = "{" ".join(f"{alg}:read" for alg in ALGORITHMS)}"\n'
        f"resources = {resources}\n{more}"
    )


def session(server, client_id, method, credential):
    """An Authlib session that finds its endpoints by discovery, as an application would."""
    metadata = http(server.url("/.well-known/oauth-authorization-server")).json()
    equal(metadata["issuer"], server.issuer)
    return OAuth2Session(
        client_id, credential, token_endpoint_auth_method=method, revocation_endpoint_auth_method=method, **metadata
    )


def live_and_die(oauth, token):
    """Introspects, revokes and introspects again, each authenticated as this client."""
    value = token["access_token"]
    active = oauth.introspect_token(oauth.metadata["introspection_endpoint"], token=value).json()
    equal(active["active"], True, "before revocation")
    equal(active["client_id"], oauth.client_id)
    equal(active["scope"], "EdDSA:read")
    answer = oauth.revoke_token(oauth.metadata["revocation_endpoint"], token=value)
    equal(answer.status_code, 200, "revocation")
    inactive = oauth.introspect_token(oauth.metadata["introspection_endpoint"], token=value).json()
    equal(inactive, {"active": False}, "after revocation")


def main():
    # joserfc warns of the name `EdDSA`, which RFC 9864 replaces by `Ed25519` and most verifiers still expect.
    warnings.simplefilter("ignore", SecurityWarning)
    checks = Checks("authlib")
    keys = private_keys()
    with checks("server_starts_and_stops"), Sealwright("authlib", apply_file(keys), algorithms=ALGORITHMS) as server:
        for method in ("client_secret_basic", "client_secret_post"):
            with checks(f"{method}_token_introspect_revoke"):
                oauth = session(server, method, method, SECRET)
                live_and_die(oauth, oauth.fetch_token(grant_type="client_credentials", scope="EdDSA:read"))

        for alg, key in keys.items():
            with checks(f"private_key_jwt_{alg}_token_introspect_revoke"):
                oauth = session(server, f"signs-{alg}", "private_key_jwt", key)
                oauth.register_client_auth_method(PrivateKeyJWT(server.issuer, alg=alg))
                live_and_die(oauth, oauth.fetch_token(grant_type="client_credentials", scope="EdDSA:read"))

        with checks("private_key_jwt_with_the_explicit_type_of_rfc_10070"):
            oauth = session(server, "signs-EdDSA", "private_key_jwt", keys["EdDSA"])
            typed = PrivateKeyJWT(server.issuer, alg="EdDSA", headers={"typ": "client-authentication+jwt"})
            oauth.register_client_auth_method(typed)
            oauth.fetch_token(grant_type="client_credentials", scope="EdDSA:read")

        with checks("private_key_jwt_for_another_audience_is_refused"):
            oauth = session(server, "signs-EdDSA", "private_key_jwt", keys["EdDSA"])
            oauth.register_client_auth_method(PrivateKeyJWT("https://other.example.com", alg="EdDSA"))
            refused(oauth, "invalid_client")

        with checks("private_key_jwt_with_another_key_is_refused"):
            oauth = session(server, "signs-EdDSA", "private_key_jwt", OKPKey.generate_key("Ed25519"))
            oauth.register_client_auth_method(PrivateKeyJWT(server.issuer, alg="EdDSA"))
            refused(oauth, "invalid_client")

        with checks("wrong_secret_is_refused"):
            refused(session(server, "client_secret_basic", "client_secret_basic", SECRET[:-1] + "!"), "invalid_client")

        jwks = http(server.url("/.well-known/jwks.json")).json()
        for alg in ALGORITHMS:
            with checks(f"{alg}_token_verifies_against_the_jwks"):
                verify(server, jwks, alg)
    checks.close()


def refused(oauth, code):
    """The token request must fail with this error code."""
    try:
        oauth.fetch_token(grant_type="client_credentials", scope="EdDSA:read")
    except OAuthError as refusal:
        equal(refusal.error, code)
    else:
        raise AssertionError("a token was issued")


def verify(server, jwks, alg):
    """joserfc verifies one token by the `kid` in its header, and its claims are those of RFC 9068."""
    oauth = session(server, "client_secret_basic", "client_secret_basic", SECRET)
    value = oauth.fetch_token(grant_type="client_credentials", scope=f"{alg}:read")["access_token"]
    token = jwt.decode(value, KeySet.import_key_set(jwks), algorithms=[alg])
    equal(token.header["typ"], "at+jwt")
    equal(token.header["alg"], alg)
    published = [key for key in jwks["keys"] if key["kid"] == token.header["kid"]]
    equal([(key["alg"], key["use"]) for key in published], [(alg, "sig")])
    jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": server.issuer},
        aud={"essential": True, "value": audience(alg)},
        sub={"essential": True, "value": "client_secret_basic"},
        client_id={"essential": True, "value": "client_secret_basic"},
        scope={"essential": True, "value": f"{alg}:read"},
        exp={"essential": True},
        iat={"essential": True},
        jti={"essential": True},
    ).validate(token.claims)


if __name__ == "__main__":
    main()
