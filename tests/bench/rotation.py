"""What it costs those who ask for tokens when the signing keys rotate meanwhile."""

import re
import statistics
import time
from urllib.parse import urlencode

from load import clean, wrk
from sealwright import Sealwright, basic, http

# All that lives is short, so that a rotation may come every ten seconds.
SHORT = """
[tokens]
access_token_lifetime_seconds = 30
max_access_token_lifetime_seconds = 30
id_token_lifetime_seconds = 30
"""
KEYS = "[keys]\njwks_max_age_seconds = 1\n"
ROTATING = "published_seconds = 7\nactive_seconds = 10\nretiring_seconds = 46\n"
APPLIED = """
[[resource]]
identifier = "https://api.example.com"
name = "API"
scopes = { "api:read" = "Read" }
access_token_signed_response_alg = "EdDSA"

[[client]]
client_id = "service"
token_endpoint_auth_method = "client_secret_basic"
scope = "api:read"
resources = ["https://api.example.com"]
"""


def rate(name, keys, seconds, **how):
    """Tokens a second of a server with these settings of its keys, and how many rotations it made meanwhile."""
    server = Sealwright(name, None, **how)
    text = server.config.read_text().replace("[keys]\n", KEYS + keys) + SHORT
    server.config.write_text(text.replace("[database]\n", "[database]\ndeadline_milliseconds = 1000\n"))
    with server.kept():
        secret = re.search(r"sws_[0-9A-Za-z]+", server.apply(APPLIED))[0]
        server.start()
        time.sleep(1)
        body = urlencode({"grant_type": "client_credentials", "scope": "api:read"})
        load = {"bodies": [body], "authorization": basic("service", secret)}
        url = server.url("/oauth2/token")
        wrk(url, 2, server.folder, **load)
        before = steps(server)
        measured = clean(wrk(url, seconds, server.folder, **load))
        return measured, steps(server) - before


def steps(server):
    """How often a standby took over."""
    metrics = http(f"{server.management}/metrics").body.decode()
    found = re.findall(r'^sealwright_signing_key_steps_total\{[^}]*step="activate"[^}]*\} (\d+)', metrics, re.M)
    return sum(map(int, found))


def measure_rotation(seconds, **how):
    """The line below the table: windows with rotations between windows without."""
    seconds = max(seconds, 2)
    still, moving, rotations = [], [], 0
    for _ in range(2):
        still.append(rate("still", "", seconds, **how)[0].rate)
        measured, made = rate("rotating", ROTATING, 2 * seconds, **how)
        moving.append(measured.rate)
        rotations += made
    still, moving = statistics.mean(still), statistics.mean(moving)
    return (
        f"While the signing keys rotate ({rotations} times in {4 * seconds} s, RSA keys made beside it): client "
        f"credentials {moving:.0f}/s, {moving / still:.0%} of {still:.0f}/s without (goal: 95 %)."
    )
