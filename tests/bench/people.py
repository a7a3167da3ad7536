"""What people cost: codes, refresh tokens and sign-ins."""

import base64
import hashlib
import itertools
import json
import re
import secrets
import sqlite3
import string
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode

from ceilings import CODES, Once
from load import Run, clean, wrk
from sealwright import basic, http, psql

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
CALLBACK = "https://web.example.com/callback"
API = "https://eddsa.example.com"
VERIFIER = "a-verifier-of-forty-three-characters-or-more-0123"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
DAY = 86_400_000_000
PEOPLE = 1000
WEB = """
[[client]]
client_id = "{id}"
client_name = "{id}"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["https://web.example.com/callback"]
id_token_signed_response_alg = "{alg}"
scope = "openid offline_access eddsa:read"
"""
USER = """
[[user]]
username = "ada"
password = "ada rows 9 gulls home"
"""


class Rows:
    """Rows that are written beside the server: SQLite by the standard library, PostgreSQL by psql."""

    def __init__(self, server):
        self.file, self.url = server.folder / "sealwright.db", server.database

    def is_postgres(self):
        """Which engine it is."""
        return bool(self.url)

    def run(self, sql):
        """One statement."""
        if self.url:
            return psql(self.url, sql)
        with sqlite3.connect(self.file, timeout=30) as database:
            database.execute(sql)
        return database.close()

    def add(self, table, columns, rows):
        """Many rows; bytes are BYTEA."""
        names = ", ".join(columns)
        if not self.url:
            with sqlite3.connect(self.file, timeout=30) as database:
                database.executemany(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})", rows)
            return database.close()
        text = {bytes: lambda cell: "\\\\x" + cell.hex(), type(None): lambda _: "\\N"}
        lines = ("\t".join(text.get(type(cell), str)(cell) for cell in row) for row in rows)
        return psql(self.url, f"COPY {table} ({names}) FROM STDIN;\n" + "\n".join(lines) + "\n\\.\n")


def resident(server, what="VmRSS"):
    """Resident memory of the server in MB; VmHWM: the most since it was last forgotten."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1000


def new_code():
    """A code as the server makes them: prefix, 43 letters, checksum."""
    text = "swc_" + "".join(secrets.choice(ALPHABET) for _ in range(43))
    return text + "".join(ALPHABET[byte % 62] for byte in hashlib.sha256(text.encode()).digest()[:6])


def add_people(rows):
    """People without a password; returns their subjects."""
    subs, now = [str(uuid.uuid4()) for _ in range(PEOPLE)], time.time_ns() // 1000
    columns = "sub username username_key profile disabled managed_by created_at updated_at".split()
    profile = json.dumps({"name": "Ada Lovelace", "email": "ada@example.com"})
    rows.add("users", columns, [(sub, sub, sub, profile, False, "apply", now, now) for sub in subs])
    return subs


def add_grants(rows, count, client_ids, subs, issuer):
    """What the authorization endpoint writes, but for the codes' minute; returns the codes."""
    codes, now = [new_code() for _ in range(count)], time.time_ns() // 1000
    facts = json.dumps({"auth_time": now // 1_000_000, "amr": ["pwd"], "nonce": "n-0S6_WzA2Mj"})
    resources = json.dumps([API, f"{issuer}/userinfo"])
    columns = (
        "id client_id sub sid scope resources facts code_hash code_expires_at redirect_uri challenge generation "
        "created_at expires_at"
    ).split()
    rows.add("grants", columns, [
        (
            secrets.token_bytes(16), client_ids[at % len(client_ids)], subs[at % len(subs)], secrets.token_urlsafe(16),
            "openid offline_access eddsa:read", resources, facts, hashlib.sha256(code.encode()).digest(), now + DAY,
            CALLBACK, CHALLENGE, 1, now, now + DAY,
        )
        for at, code in enumerate(codes)
    ])
    return codes


def redeeming(codes):
    """A body for each code."""
    form = {"grant_type": "authorization_code", "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    return [urlencode({**form, "code": code}) for code in codes]


def measure_codes(server, seconds, ceilings, add):
    """Codes to tokens with either ID token, and the rotation of what came of them."""
    rows, token = Rows(server), server.url("/oauth2/token")
    subs = add_people(rows)
    goal = CODES["PostgreSQL" if rows.is_postgres() else "SQLite"]
    kinds = {
        "RS256": ("signing alone", "sign-rs256", 0.85, ceilings.median("sign-rs256")),
        "EdDSA": ("parse and sign", "parse-eddsa", goal, 4 * goal * ceilings.median("parse-eddsa")),
    }
    refresh, web = server.folder / "refresh", None
    for alg, (ceiling_name, ceiling, at_least, rate) in kinds.items():
        client_id = f"web-{alg.lower()}"
        web = basic(client_id, re.search(r"sws_[0-9A-Za-z]+", server.apply(WEB.format(id=client_id, alg=alg)))[0])
        count = Once.needed(rate, ceilings)
        codes = Once(redeeming(add_grants(rows, count, [client_id], subs, server.issuer)), rate)
        how = {"authorization": web, "collect": refresh, "kind": "refresh_token"}
        add(
            f"code → tokens, EdDSA, ID token {alg}", ceiling_name, ceiling, at_least,
            lambda seconds, codes=codes, how=how: wrk(token, seconds, server.folder, bodies=codes.take(seconds), **how),
        )
    # Many times the connections, so that each waits for its turn; each run has its own.
    tokens = iter(refresh.read_text().split())

    def rotate(seconds):
        refresh.write_text("\n".join(itertools.islice(tokens, 500)) + "\n")
        return wrk(token, seconds, server.folder, refresh=refresh, authorization=web)

    add("refresh token rotation, EdDSA", "parse and sign", "parse-eddsa", goal, rotate)


def measure_sign_ins(server, seconds, ceilings, service):
    """A flood of wrong passwords, and what others notice of it."""
    server.apply(USER)
    page = http(server.url("/login"))
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.body.decode())[1]
    cookie = page.headers["Set-Cookie"].split(";")[0]
    form = {"csrf": csrf, "password": "not what ada's password is"}
    # Of somebody who is there, and of others who are not.
    bodies = [urlencode({**form, "username": name}) for name in ("ada", *(f"nobody-{n}" for n in range(50)))]
    idle = resident(server)
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    folder = server.folder
    flood = Run(server.url("/login"), seconds + 2, folder, bodies=bodies, connections=32, cookie=cookie)
    time.sleep(1)
    body = urlencode({"grant_type": "client_credentials", "scope": "eddsa:read"})
    others = {
        "client credentials": Run(
            server.url("/oauth2/token"), seconds, folder, bodies=[body], authorization=service, connections=16
        ),
        "JWKS": Run(server.url("/.well-known/jwks.json"), seconds, folder, connections=16),
    }
    loads = {name: clean(run.result()) for name, run in others.items()}
    wrong = flood.result()
    beside = "; ".join(f"{name} {load.rate:.0f}/s, p99 {load.p99:.1f} ms" for name, load in loads.items())
    return (
        f"A flood of wrong passwords at 32 connections: {wrong.rate:.1f}/s checked ({ceilings.median('argon2id'):.1f}/s by "
        f"Argon2id alone); beside it, at 16 connections each: {beside} (goal: under 20). Memory {idle:.0f} MB before, "
        f"{resident(server, 'VmHWM'):.0f} MB at the most (19 MiB a hash)."
    )


def measure_people(server, seconds, ceilings, add, service):
    """All of these; returns the line for below the table."""
    measure_codes(server, seconds, ceilings, add)
    return measure_sign_ins(server, seconds, ceilings, service)
