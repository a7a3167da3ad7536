"""Verifies Sealwright's access tokens, with joserfc (the JOSE half of Authlib).

python verify.py ISSUER AUDIENCE    reads a token a line; prints `ok SUBJECT` or `no REASON` for each.
"""

import json
import re
import sys
import time
import urllib.request

from joserfc import jws, jwt
from joserfc.jwk import import_key

ALGORITHMS = ["EdDSA", "RS256"]  # what your API's tokens are signed with; add "Ed25519" where the server is told to say so
SKEW = 5  # seconds that clocks may differ
GAP = 5  # seconds between two fetches at least, however many tokens name keys that nobody knows


class Verifier:
    """Keeps the JWKS for its max-age; a kid that is not in it has it fetched once more."""

    def __init__(self, issuer, audience):
        self.issuer, self.audience = issuer, audience
        self._keys, self._until, self._asked = {}, 0, -GAP
        # One registry checks the claims; each of these must be there.
        self._claims = jwt.JWTClaimsRegistry(
            leeway=SKEW, exp={"essential": True}, sub={"essential": True},
            iss={"essential": True, "value": issuer}, aud={"essential": True, "value": audience},
        )

    def verify(self, token):
        """The claims of a good token; raises for every other."""
        header = jws.extract_compact(token.encode()).headers()
        # RFC 9068 §4: an ID token is signed by the same keys, and is no access token.
        if header.get("typ", "").lower().removeprefix("application/") != "at+jwt":
            raise ValueError("typ")
        key = self._key(header["kid"])
        if header["alg"] not in ALGORITHMS or header["alg"] != key.get("alg"):
            raise ValueError("alg")
        claims = jwt.decode(token, key, algorithms=ALGORITHMS).claims
        self._claims.validate(claims)
        return claims

    def _key(self, kid):
        now = time.monotonic()
        if now >= self._until:
            self._keys = {}
        if kid not in self._keys and now - self._asked >= GAP:
            self._asked = now
            with urllib.request.urlopen(f"{self.issuer}/.well-known/jwks.json", timeout=3) as answer:
                found = re.search(r"max-age=(\d+)", answer.headers.get("Cache-Control", ""))
                self._keys = {key["kid"]: import_key(key) for key in json.load(answer)["keys"]}
            self._until = now + max(GAP, int(found[1]) if found else 0)
        return self._keys[kid]


if __name__ == "__main__":
    verifier = Verifier(*sys.argv[1:])
    for line in sys.stdin:
        try:
            print("ok", verifier.verify(line.strip())["sub"], flush=True)
        except Exception as error:  # whatever it is: not verified
            print("no", repr(error).replace("\n", " "), flush=True)
