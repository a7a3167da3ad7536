"""T-190: strangers without cookies ask the authorization endpoint, from addresses all over the world. Rows, the database's
files and the server's memory stay within their bounds, what has ended makes room, and services get their tokens meanwhile.

Usage: strangers.py. $SEALWRIGHT_ROUNDS says how many requests; with a million and more it goes on until sign-ins that were
begun have ended and were swept. wrk asks from one core; the server has the other."""

import os
import re
import secrets
import sqlite3
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))
from ceilings import SERVER_CORE  # noqa: E402
from load import Run  # noqa: E402
from people import resident  # noqa: E402
from sealwright import Checks, Sealwright, http  # noqa: E402

REQUESTS = int(os.environ.get("SEALWRIGHT_ROUNDS") or 100_000)
# Seconds after which a sign-in that was begun has ended (900), and somebody has swept it (60).
SWEPT = 1000 if REQUESTS >= 1_000_000 else 0
SLICE = 20  # seconds of one run of wrk
WAITING = 20_000  # rows that strangers may leave
AT_WORK = 500  # requests that may be admitted while one count of all holds
MB = 1024 * 1024
LOG = 64 * MB  # of SQLite's write-ahead log
SECRET = secrets.token_urlsafe(32)

APPLY = f"""
[[resource]]
identifier = "https://api.example.com"
scopes = {{ "orders:read" = "Read orders" }}

[[client]]
client_id = "shop"
client_secret = "{SECRET}"
grant_types = ["authorization_code"]
redirect_uris = ["https://shop.example.com/cb"]
scope = "openid"

[[client]]
client_id = "orders-sync"
client_secret = "{SECRET}"
scope = "orders:read"
"""


class Seen:
    """What was seen of the server: the most so far, and how it was when as much waited as may."""

    def __init__(self, server):
        self.server, self.live, self.rows, self.files, self.tokens, self.full = server, 0, 0, 0, 0, None

    def look(self):
        """Takes the most of each, and asks for a service's token, which raises when there is none."""
        with sqlite3.connect(f"file:{self.server.folder}/sealwright.db?mode=ro", uri=True, timeout=30) as database:
            def one(sql, *values):
                return database.execute(sql, values).fetchone()[0]

            now = time.time_ns() // 1000
            waits = "SELECT COUNT(*) FROM {} WHERE source IS NOT NULL AND expires_at > ?"
            live = sum(one(waits.format(table), now) for table in ("sessions", "artifacts"))
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = sum(one(f'SELECT COUNT(*) FROM "{table}"') for table in tables)
        database.close()
        size = sum(path.stat().st_size for path in self.server.folder.glob("sealwright.db*"))
        self.live, self.rows, self.files = max(self.live, live), max(self.rows, rows), max(self.files, size)
        if self.full is None and live >= WAITING * 19 // 20:
            self.full = self.files, self.memory()
        self.server.token("orders-sync", SECRET)
        self.tokens += 1

    def memory(self):
        """The most that it had, in MB."""
        return round(resident(self.server, "VmHWM"))

    def answers(self):
        """Status → how many of the authorization endpoint's answers had it."""
        line = r'sealwright_http_requests_total\{route="/oauth2/authorize",method="GET",status="(\d+)"\} (\d+)'
        metrics = http(f"{self.server.management}/metrics").body.decode()
        return {status: int(count) for status, count in re.findall(line, metrics)}


def ask(seen, url):
    """One run of wrk, looked at meanwhile; how many requests."""
    run = Run(url, SLICE, seen.server.folder, strangers=1)
    try:
        while run.process.poll() is None:
            seen.look()
            time.sleep(2)
        return run.result().requests
    finally:
        run.process.kill()


def main():
    """Floods, in runs of wrk, and judges what was seen."""
    checks = Checks("strangers")
    server = Sealwright("strangers", APPLY, prefix=SERVER_CORE)
    text = server.config.read_text().replace("[http]\n", '[http]\ntrusted_proxies = ["127.0.0.0/8"]\n')
    server.config.write_text(f"{text}[sessions]\nwaiting = {WAITING}\nwaiting_per_address = 1000\n")
    asks = {
        "response_type": "code", "client_id": "shop", "redirect_uri": "https://shop.example.com/cb", "scope": "openid",
        "state": "s" * 40, "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256",
    }
    with server:
        seen, asked, began = Seen(server), 0, time.monotonic()
        while asked < REQUESTS or time.monotonic() - began < SWEPT:
            asked += ask(seen, server.url(f"/oauth2/authorize?{urlencode(asks)}"))
            print(f"{asked} asked, {seen.answers()}, {seen.live} live of {seen.rows} rows, {seen.files // MB} MB of files, "
                  f"{seen.memory()} MB of memory", flush=True)
        seconds, answers = time.monotonic() - began, seen.answers()
        with checks(f"{asked} requests in {seconds:.0f} s were begun or refused: {answers}"):
            assert set(answers) == {"303", "503"}, answers
            assert sum(answers.values()) >= asked, answers
        with checks(f"{seen.live} rows of strangers are live at the most"):
            assert WAITING * 19 // 20 <= seen.live <= WAITING + AT_WORK, seen.live
        # Until they are swept, what has ended lies beside what came instead.
        with checks(f"all tables have {seen.rows} rows at the most"):
            assert seen.rows <= 2 * WAITING + AT_WORK, seen.rows
        if SWEPT:
            # Each leaves a session and a sign-in.
            with checks(f"what has ended made room: {answers['303']} were begun"):
                assert answers["303"] * 2 >= WAITING * 14 // 10, answers
        size, memory = seen.full
        with checks(f"the files have {seen.files // MB} MB at the most, and {size // MB} when as much waits as may"):
            assert seen.files <= 2 * size + LOG, seen.files
        with checks(f"the server has {seen.memory()} MB of memory at the most, and {memory} then"):
            assert seen.memory() <= memory + 20, seen.memory()
        with checks(f"a service got {seen.tokens} tokens meanwhile, one in 4 s at least"):
            assert seen.tokens >= seconds / 4, seen.tokens
    checks.close()


if __name__ == "__main__":
    main()
