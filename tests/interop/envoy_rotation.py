"""Envoy keeps our JWKS for exactly its max-age while keys rotate every few seconds: no good token is refused. Then the
key that signs is revoked: what it signed is inactive at once, and refused when Envoy's copy has ended.

Usage: envoy_rotation.py sqlite|postgres. On PostgreSQL two servers sign, and one of them is killed again and again; Envoy
asks the other for the keys. $SEALWRIGHT_ROUNDS says how often keys rotate."""

import contextlib
import json
import os
import random
import secrets
import sys
import time

import gateway as gw
from envoy_proxy import envoy_before
from sealwright import Checks, Sealwright, basic, equal, http, new_database

SECRET = secrets.token_urlsafe(32)
API = "https://api.example.com"
MAX_AGE = 3  # seconds, of the JWKS
ACTIVE = 9  # seconds that a key signs: as soon as the next one is known to everybody
LIFETIME = 30  # seconds, of tokens
ROTATIONS = int(os.environ.get("SEALWRIGHT_ROUNDS") or 20)

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


def patient(server, path, form, client_id):
    """The answer of `server`, also where a busy machine has lost its lease for a moment."""
    began = time.monotonic()
    while True:
        answer = http(server.url(path), form, {"Authorization": basic(client_id, SECRET)})
        if answer.status == 200:
            return answer.json()
        if answer.status != 503 or time.monotonic() - began > 20:
            raise RuntimeError(f"{path}: {answer.status} {answer.body!r}")
        time.sleep(0.05)


def is_active(server, token):
    """What introspection says."""
    return patient(server, "/oauth2/introspect", {"token": token}, "edge-gateway")["active"]


def token_of(server):
    """A token of this server."""
    return patient(server, "/oauth2/token", {"grant_type": "client_credentials"}, "orders-sync")["access_token"]


def rotate(servers, gateway):
    """Gets tokens of each server in turn and shows them to the gateway, new ones and those that will soon expire, while
    keys rotate. All but the first server are killed now and then, and start again."""
    signed, alive, killed, began = set(), [], 0, time.monotonic()
    dies_at = began + random.uniform(0, ACTIVE / 2)
    while len(signed) <= ROTATIONS:
        if time.monotonic() - began > 30 + 3 * ACTIVE * ROTATIONS:
            raise AssertionError(f"only {len(signed)} keys signed")
        for server in servers:
            token = token_of(server)
            gateway.must_pass(token)
            signed.add(kid(token))
            alive.append((gw.claims(token)["exp"], token))
        # Near their end their keys have long retired.
        while alive[0][0] < time.time() + 3:
            gateway.must_pass(alive.pop(0)[1])
        if len(servers) > 1 and time.monotonic() > dies_at:
            servers[1].kill()
            servers[1].start()
            killed += 1
            dies_at = time.monotonic() + random.uniform(0, ACTIVE / 2)
        time.sleep(0.2)
    if len(servers) > 1 and killed < ROTATIONS:
        raise AssertionError(f"only {killed} times killed")


def revoke(servers, gateway):
    """Takes back the key that signs: the next one does, and the gateway knows it."""
    server = servers[0]
    # The standby that the last rotation published is known to everybody when it has been there for so long.
    token, began = token_of(server), time.monotonic()
    while kid(token_of(server)) == kid(token):
        if time.monotonic() - began > 3 * ACTIVE:
            raise AssertionError("no rotation")
        time.sleep(0.05)
    time.sleep(ACTIVE - 1.0)
    dead = token_of(server)
    gateway.must_pass(dead)
    server.run("keys", "revoke", kid(dead), "--yes")
    for server in servers:
        equal(is_active(server, dead), False)
        fresh = token_of(server)
        if kid(fresh) == kid(dead):
            raise AssertionError("the revoked key signs")
        gateway.must_pass(fresh)
    time.sleep(MAX_AGE + 1.5)
    gateway.must_refuse(dead)
    gateway.must_pass(token_of(server))


def main(engine):
    checks = Checks("envoyrotation")
    server = Sealwright(f"envoy-rotation-{engine}", APPLY, database=new_database() if engine == "postgres" else None)
    hurry(server)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(server)]
        if engine == "postgres":
            servers.append(stack.enter_context(server.beside()))
        gateway = stack.enter_context(envoy_before(server, API, MAX_AGE))
        with checks("jwks_may_be_kept_for_as_long_as_the_gateway_does"):
            kept = http(server.url("/.well-known/jwks.json")).headers["Cache-Control"]
            equal(kept, f"public, max-age={MAX_AGE}")
        with checks(f"no_good_token_is_refused_over_{ROTATIONS}_rotations"):
            rotate(servers, gateway)
        with checks("a_revoked_key_is_gone_and_the_next_one_is_known"):
            revoke(servers, gateway)
    checks.close()


if __name__ == "__main__":
    main(sys.argv[1])
