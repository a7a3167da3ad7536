"""What this core can do at all: measured anew beside each path that is compared with it."""

import itertools
import os
import statistics
import subprocess
from typing import NamedTuple
from urllib.parse import urlencode

from load import Load, clean, wrk
from sealwright import ROOT, basic, free_port, http, stop, wait_for

RELEASE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
PROGRAM = str(RELEASE / "examples" / "ceilings")
SERVER_CORE = ["taskset", "-c", "0"]
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Codes and refresh tokens have no ceiling that one core and one disk would share. What must be reached of them is a rate
# on a machine that parses and signs 45,000 tokens a second: elsewhere, that share of what the machine parses and signs.
CODES = {"SQLite": 4000 / 45_000, "PostgreSQL": 2500 / 45_000}


class Row(NamedTuple):
    """One line of the table; `goal` is the ratio that must be reached, or None."""

    path: str
    load: Load
    ceiling_name: str
    ceiling: float
    ratio: float
    goal: float | None


def token_form(alg, **more):
    """The body of a client-credentials request."""
    return urlencode({"grant_type": "client_credentials", "scope": f"{alg}:read", **more})


def assertion_forms(count, issuer, key):
    """`count` bodies with a client assertion each."""
    command = [PROGRAM, "--assertions", str(count), "--issuer", issuer, "--client-id", "signer", "--key", str(key)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [token_form("eddsa", client_assertion_type=ASSERTION_TYPE, client_assertion=line) for line in lines]


class Ceilings:
    """The bare handlers, which wait beside the server until they are asked."""

    def __init__(self, folder, key, seconds):
        self.folder, self.rounds, self.part = folder, max(1, seconds // 2), min(2, seconds)
        port, log = free_port(), folder / "ceilings.log"
        with log.open("w") as out:
            command = [*SERVER_CORE, PROGRAM, "--listen", f"127.0.0.1:{port}", "--key", str(key)]
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        base, secret = f"http://127.0.0.1:{port}", basic("service", "sws_" + "0" * 49)
        wait_for("ceilings", lambda: http(f"{base}/ok").status == 200, self.server, log)
        self.handlers = {
            "ok": (f"{base}/ok", {}),
            "parse-eddsa": (f"{base}/sign-eddsa", {"bodies": [token_form("eddsa")], "authorization": secret}),
            "parse-rs256": (f"{base}/sign-rs256", {"bodies": [token_form("rs256")], "authorization": secret}),
            "verify-sign": (f"{base}/verify-sign", {"bodies": assertion_forms(1000, base, key)}),
        }
        self.found = {name: [] for name in self.handlers}

    def stop(self):
        """Ends it."""
        stop(self.server)

    def rate(self, name):
        """What the ceiling `name` is just now, a second."""
        if name == "ok-verify":
            return 1 / (1 / self.rate("ok") + 1 / self.rate("verify-eddsa"))
        if name in self.handlers:
            url, how = self.handlers[name]
            found = clean(wrk(url, self.part, self.folder, **how)).rate
        else:
            command = [*SERVER_CORE, PROGRAM, "--raw", name]
            found = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1])
        self.found.setdefault(name, []).append(found)
        return found

    def median(self, name):
        """Of all times that it was asked; now, if it never was."""
        return statistics.median(self.found.get(name) or [self.rate(name)])

    def compare(self, path, ceiling_name, ceiling, goal, run):
        """Rounds of the ceiling and of `run(seconds)` in turn: a machine that is slow for a while is so for both."""
        pairs = [(self.rate(ceiling), run(self.part)) for _ in range(self.rounds)]
        at_most = statistics.median(rate for rate, _ in pairs)
        ratio = statistics.median(load.rate / rate for rate, load in pairs)
        row = Row(path, Load.of([load for _, load in pairs]), ceiling_name, at_most, ratio, goal)
        each = ", ".join(f"{load.rate:.0f}/{rate:.0f}" for rate, load in pairs)
        print(f"{path}: {ratio:.0%} ({each})", flush=True)
        return row


class Once:
    """Bodies that can be used once: each run takes the next, as many as it could need at `rate`."""

    def __init__(self, bodies, rate):
        self.bodies, self.rate = iter(bodies), rate

    @staticmethod
    def needed(rate, ceilings):
        """How many for all rounds and one before."""
        return int(rate * (ceilings.part + 1)) * (ceilings.rounds + 1)

    def take(self, seconds):
        """Those of one run."""
        return list(itertools.islice(self.bodies, int(self.rate * (seconds + 1))))
