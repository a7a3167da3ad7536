"""What it costs those who ask for tokens when the signing keys rotate meanwhile."""

import itertools
import re
import statistics
import time
from urllib.parse import urlencode

from load import Run, clean, wrk
from sealwright import Sealwright, basic, http

# All that lives is short, so that a rotation may come every ten seconds.
SHORT = """
[tokens]
access_token_lifetime_seconds = 30
max_access_token_lifetime_seconds = 30
id_token_lifetime_seconds = 30
"""
KEYS = "[keys]\njwks_max_age_seconds = 1\npublished_seconds = 7\nactive_seconds = 10\nretiring_seconds = 46\n"
# Of a rotation: the new keys are made before it, and the key sets are rendered and fetched anew after it.
AROUND = 2
SLICE = 0.25
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


def counted(server):
    """When, the tokens issued so far, and how often a standby took over."""
    metrics = http(f"{server.management}/metrics").body.decode()

    def total(name, label):
        return sum(map(int, re.findall(rf"^{name}_total\{{[^}}]*{label}[^}}]*\}} (\d+)", metrics, re.M)))

    tokens = total("sealwright_token_requests", 'outcome="ok"')
    return time.monotonic(), tokens, total("sealwright_signing_key_steps", 'step="activate"')


def shares(samples):
    """Tokens a second of each stretch between two samples, apart: those near a rotation, and the others."""
    steps = [time for (_, _, before), (time, _, after) in itertools.pairwise(samples) if after > before]
    near, far = [], []
    for (begun, before, _), (ended, after, _) in itertools.pairwise(samples):
        is_near = any(begun < step + AROUND and ended > step - AROUND for step in steps)
        (near if is_near else far).append((after - before) / (ended - begun))
    return len(steps), near, far


def measure_rotation(seconds, **how):
    """The line below the table: one server, whose keys rotate again and again."""
    server = Sealwright("rotating", None, **how)
    text = server.config.read_text().replace("[keys]\n", KEYS) + SHORT
    server.config.write_text(text.replace("[database]\n", "[database]\ndeadline_milliseconds = 1000\n"))
    with server.kept():
        secret = re.search(r"sws_[0-9A-Za-z]+", server.apply(APPLIED))[0]
        server.start()
        time.sleep(1)
        body = urlencode({"grant_type": "client_credentials", "scope": "api:read"})
        load = {"bodies": [body], "authorization": basic("service", secret)}
        url = server.url("/oauth2/token")
        wrk(url, 2, server.folder, **load)
        run, samples = Run(url, max(8 * seconds, 24), server.folder, **load), [counted(server)]
        while run.process.poll() is None:
            time.sleep(SLICE)
            samples.append(counted(server))
        clean(run.result())
    # The last one is partly after the load.
    rotations, near, far = shares(samples[1:-2])
    near_rate, far_rate = statistics.mean(near), statistics.mean(far)
    return (
        f"While the signing keys rotate ({rotations} times, RSA keys made beside it): client credentials {near_rate:.0f}/s "
        f"within {AROUND} s of a rotation, {near_rate / far_rate:.0%} of {far_rate:.0f}/s in the rest of the same run (goal: 95 %)."
    )
