"""Python's Authlib as the client of people: a full login, userinfo, refresh, and signing out."""

import secrets
import urllib.parse
import warnings

from authlib.integrations.requests_client import OAuth2Session
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import KeySet

import person
from sealwright import Checks, equal, http


def session(server):
    """An Authlib session that finds its endpoints by discovery."""
    metadata = http(server.url("/.well-known/openid-configuration")).json()
    equal(metadata["issuer"], server.issuer)
    return OAuth2Session(
        person.CLIENT, person.SECRET, scope=person.SCOPE, redirect_uri=person.REDIRECT_URI,
        code_challenge_method="S256", token_endpoint_auth_method="client_secret_basic", **metadata,
    )


def main():
    warnings.simplefilter("ignore", SecurityWarning)
    checks = Checks("authliblogin")
    with person.served(checks, "authlib-login") as (server, browser):
        oauth = session(server)
        nonce, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
        tokens = {}

        with checks("login"):
            url, state = oauth.create_authorization_url(
                oauth.metadata["authorization_endpoint"], nonce=nonce, code_verifier=verifier
            )
            answer = browser.log_in(url)
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(answer).query)
            equal(query["iss"], [server.issuer])
            oauth.fetch_token(
                oauth.metadata["token_endpoint"], authorization_response=answer, state=state, code_verifier=verifier
            )
            tokens.update(oauth.token)

        with checks("id_token"):
            keys = KeySet.import_key_set(http(server.url("/.well-known/jwks.json")).json())
            token = jwt.decode(tokens["id_token"], keys, algorithms=["RS256"])
            claims = CodeIDToken(
                token.claims, token.header,
                options={"iss": {"value": server.issuer}, "aud": {"value": person.CLIENT}},
                params={"nonce": nonce, "client_id": person.CLIENT, "access_token": tokens["access_token"]},
            )
            claims.validate()
            equal("email" in token.claims, False, "claims of scopes are userinfo's")

        with checks("userinfo"):
            told = oauth.get(oauth.metadata["userinfo_endpoint"]).json()
            equal((told["email"], told["email_verified"], told["name"]), ("ada@example.com", True, "Ada Lovelace"))
            equal(told["sub"], token.claims["sub"])

        with checks("refresh"):
            before = tokens["access_token"]
            oauth.refresh_token(oauth.metadata["token_endpoint"], refresh_token=tokens["refresh_token"])
            equal(oauth.token["access_token"] == before, False)
            equal(oauth.get(oauth.metadata["userinfo_endpoint"]).status_code, 200)

        with checks("logout"):
            query = urllib.parse.urlencode({
                "id_token_hint": tokens["id_token"], "state": "bye",
                "post_logout_redirect_uri": person.POST_LOGOUT_REDIRECT_URI,
            })
            page = browser.open(f"{oauth.metadata['end_session_endpoint']}?{query}")
            equal(page.away, f"{person.POST_LOGOUT_REDIRECT_URI}?state=bye")
            url, _ = oauth.create_authorization_url(oauth.metadata["authorization_endpoint"], prompt="none",
                                                    code_verifier=verifier)
            equal("error=login_required" in browser.open(url).away, True, "signed out")
    checks.close()


if __name__ == "__main__":
    main()
