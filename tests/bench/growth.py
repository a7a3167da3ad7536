"""What many clients and grants do to those who ask for tokens."""

import contextlib
import re
import statistics
from urllib.parse import urlencode

from load import clean, wrk
from people import Rows, add_grants, add_people, resident
from sealwright import Sealwright, psql

MANY = """
[[client]]
client_id = "many"
client_name = "One of many"
token_endpoint_auth_method = "client_secret_post"
scope = "eddsa:read"
resources = ["https://eddsa.example.com"]
"""
# Live grants beside all but the fewest clients.
GRANTS = 100_000
HOT = 100_000


def add_clients(rows, count):
    """Copies of the client `many`, with its secret, numbered from 1 to `count`."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    rows.run(
        "INSERT INTO clients (client_id, metadata, disabled, managed_by, created_at, updated_at) "
        f"{numbers} SELECT 'many-' || i, metadata, disabled, managed_by, created_at, updated_at "
        "FROM clients, n WHERE client_id = 'many'"
    )
    of_text = "convert_to(lpad(CAST(i AS TEXT), 16, '0'), 'UTF8')" if rows.is_postgres() else (
        "CAST(printf('%016d', i) AS BLOB)"
    )
    rows.run(
        "INSERT INTO credentials (id, client_id, kind, label, value, created_at) "
        f"{numbers} SELECT {of_text}, 'many-' || i, kind, label, value, created_at "
        "FROM credentials, n WHERE client_id = 'many'"
    )


class Crowd:
    """A server that knows `count` clients, of whom the first hundred thousand ask."""

    def __init__(self, count, resources, url, **how):
        self.count, self.hot = count, min(count, HOT)
        # By its number, where one PostgreSQL has all of them.
        if url:
            psql(url, f"CREATE DATABASE growth_{count};")
            url = f"{url.rpartition('/')[0]}/growth_{count}"
        self.server = Sealwright(f"growth-{count}", None, database=url, **how)
        self.resources, self.runs, self.started = resources, [], 0

    def begin(self):
        """Fills it, starts it, and has every client ask."""
        rows, server = Rows(self.server), self.server
        server.apply(self.resources)
        secret = re.search(r"sws_[0-9A-Za-z]+", server.apply(MANY))[0]
        add_clients(rows, self.count)
        if self.count > 1_000:
            add_grants(rows, GRANTS, [f"many-{n}" for n in range(1, GRANTS + 1)], add_people(rows), server.issuer)
        self.started = server.start()
        form = {"grant_type": "client_credentials", "client_secret": secret}
        # At least as many lines as make load.lua format each request anew, so that all runs cost it the same.
        numbers = range(max(self.hot, 2_000))
        self.bodies = [urlencode({**form, "client_id": f"many-{n % self.hot + 1}"}) for n in numbers]
        while sum(run.requests for run in self.runs) < self.hot:
            self.run(2)
        self.runs.clear()

    def run(self, seconds):
        """All of them ask."""
        self.runs.append(clean(wrk(self.server.url("/oauth2/token"), seconds, self.server.folder, bodies=self.bodies)))

    def line(self, first):
        """How it went, beside the first."""
        ratio = statistics.median(run.rate / other.rate for run, other in zip(self.runs, first.runs))
        rate, p99 = (statistics.median(getattr(run, what) for run in self.runs) for what in ("rate", "p99"))
        grants = f" and {GRANTS:,} live grants" if self.count > 1_000 else ""
        return (
            f"{self.count:,} clients{grants}, {self.hot:,} of them asking: client credentials {rate:.0f}/s ({ratio:.0%} "
            f"of the first), p99 {p99:.1f} ms, {resident(self.server):.0f} MB, ready in {self.started * 1000:.0f} ms."
        )


def measure_growth(seconds, resources, url, **how):
    """Client credentials of 1,000 clients, of 100,000 and of 1,000,000, in turn; the others wait meanwhile."""
    # A quick run is a look at whether it works.
    counts = (1_000, 100_000, 1_000_000) if seconds >= 8 else (1_000, 100_000)
    with contextlib.ExitStack() as stack:
        crowds = [Crowd(count, resources, url, **how) for count in counts]
        for crowd in crowds:
            stack.enter_context(crowd.server.kept())
        for crowd in crowds:
            crowd.begin()
        for _ in range(max(1, seconds // 2)):
            for crowd in crowds:
                crowd.run(2)
        return [crowd.line(crowds[0]) for crowd in crowds]
