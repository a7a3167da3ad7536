"""Measures the server and its ceilings with wrk, prints a Markdown table and adds it to RESULTS.md (see run.sh)."""

import argparse
import base64
import os
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlencode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "interop"))
from ceilings import RELEASE, SERVER_CORE, Ceilings, Once, assertion_forms, token_form  # noqa: E402
from growth import measure_growth  # noqa: E402
from load import wrk  # noqa: E402
from people import measure_people, resident  # noqa: E402
from rotation import measure_rotation  # noqa: E402
from sealwright import ROOT, Sealwright, basic, http  # noqa: E402

RESULTS = HERE / "RESULTS.md"

RESOURCE = """
[[resource]]
identifier = "https://{alg}.example.com"
name = "{alg}"
scopes = {{ "{alg}:read" = "Read" }}
access_token_lifetime = 3600
access_token_signed_response_alg = "{name}"
"""
RESOURCES = RESOURCE.format(alg="eddsa", name="EdDSA") + RESOURCE.format(alg="rs256", name="RS256")
SERVICE = """
[[client]]
client_id = "{id}"
client_name = "{id}"
grant_types = ["client_credentials"]
token_endpoint_auth_method = "{method}"
scope = "eddsa:read rs256:read"
resources = ["https://eddsa.example.com", "https://rs256.example.com"]
"""
GATEWAY = """
[[client]]
client_id = "gateway"
token_endpoint_auth_method = "client_secret_basic"
grant_types = []
serves = ["https://eddsa.example.com"]
"""


def set_up(server, key):
    """Resources and clients; returns the Authorization headers of the service and of the gateway."""
    public = subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"], capture_output=True, check=True
    ).stdout[-32:]
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    jwk = f'{{ kty = "OKP", crv = "Ed25519", alg = "EdDSA", use = "sig", kid = "bench", x = "{x}" }}'
    server.apply(RESOURCES)
    server.apply(
        SERVICE.format(id="signer", method="private_key_jwt")
        + f'token_endpoint_auth_signing_alg = "EdDSA"\njwks = {{ keys = [{jwk}] }}\n'
    )
    headers = []
    service = SERVICE.format(id="service", method="client_secret_basic")
    for client_id, text in (("service", service), ("gateway", GATEWAY)):
        # Generated secrets are what a service has; a chosen one would be hashed slowly the first time.
        secret = re.search(r"sws_[0-9A-Za-z]+", server.apply(text))
        headers.append(basic(client_id, secret[0]))
    return headers


def introspection_forms(tokens, server, gateway):
    """A body for each token; raises unless the server calls the first and the last of them active."""
    for token in (tokens[0], tokens[-1]):
        answer = http(server.url("/oauth2/introspect"), {"token": token}, {"Authorization": gateway})
        if not answer.json().get("active"):
            raise RuntimeError(f"introspection: {answer.status} {answer.body!r}")
    return [urlencode({"token": token}) for token in tokens]


def measure(server, seconds, key, ceilings):
    """All rows of the table, and the memory and start lines below it."""
    service, gateway = set_up(server, key)
    starts = []
    for _ in range(5):
        starts.append(server.start())
        time.sleep(0.3)
        server.halt()
    server.start()
    time.sleep(2)
    idle, folder, rows = resident(server), server.folder, []
    token, introspect = server.url("/oauth2/token"), server.url("/oauth2/introspect")

    def add(path, ceiling_name, ceiling, goal, run):
        run(max(1, seconds // 4))
        rows.append(ceilings.compare(path, ceiling_name, ceiling, goal, run))

    def asking(url, **how):
        return lambda seconds: wrk(url, seconds, folder, **how)

    asking_eddsa = asking(token, bodies=[token_form("eddsa")], authorization=service)
    add("client_credentials, EdDSA, client_secret_basic", "parse and sign", "parse-eddsa", 0.6, asking_eddsa)
    asking_rs256 = asking(token, bodies=[token_form("rs256")], authorization=service)
    add("client_credentials, RS256, client_secret_basic", "signing alone", "sign-rs256", 0.9, asking_rs256)
    # Each assertion may be used once: as many as the ceiling could use, so that they do not run out.
    rate = ceilings.rate("verify-sign")
    forms = Once(assertion_forms(Once.needed(rate, ceilings), server.issuer, key), rate)
    add(
        "client_credentials, EdDSA, private_key_jwt", "verify and sign", "verify-sign", 0.6,
        lambda seconds: wrk(token, seconds, folder, bodies=forms.take(seconds)),
    )

    tokens_file, rate = folder / "tokens", ceilings.rate("ok-verify")
    tokens = set()
    while len(tokens) < Once.needed(rate, ceilings):
        wrk(token, 4, folder, bodies=[token_form("eddsa")], authorization=service, collect=tokens_file)
        tokens.update(tokens_file.read_text().split())
    # A server that has just started has seen none of them.
    server.halt()
    server.start()
    asking_eddsa(max(1, seconds // 4))
    bodies = introspection_forms(list(tokens), server, gateway)
    forms = Once(bodies, rate)
    add(
        "introspection, not seen before", "ok and verify", "ok-verify", None,
        lambda seconds: wrk(introspect, seconds, folder, bodies=forms.take(seconds), authorization=gateway),
    )
    for count in (1, 1000):
        name = f"introspection, seen before, {count} token{'s' * (count > 1)}"
        add(name, "ok", "ok", 0.5, asking(introspect, bodies=bodies[:count], authorization=gateway))
    add("JWKS", "ok", "ok", 0.8, asking(server.url("/.well-known/jwks.json")))
    add("discovery", "ok", "ok", 0.8, asking(server.url("/.well-known/oauth-authorization-server")))
    after = resident(server)
    below = [measure_people(server, seconds, ceilings, add, service)]
    signing = {name: ceilings.median(name) for name in ("sign-eddsa", "sign-rs256", "verify-eddsa", "parse-rs256")}
    below[:0] = [
        f"Memory: {idle:.0f} MB idle (goal: under 40), {after:.0f} MB after the load.",
        f"Start to ready on an existing database: {statistics.median(starts) * 1000:.0f} ms, the median of "
        f"{len(starts)}, asked every 20 ms (goal: under 300).",
        f"Signing alone, a second: Ed25519 {signing['sign-eddsa']:.0f}, RS256 {signing['sign-rs256']:.0f}; "
        f"verifying Ed25519 {signing['verify-eddsa']:.0f}; parse and sign RS256 {signing['parse-rs256']:.0f}.",
    ]
    return rows, below


def previous_ratios(database):
    """The ratios of the newest table for this kind of database, by path."""
    ratios, inside = {}, False
    for line in RESULTS.read_text().splitlines():
        if line.startswith("## "):
            if ratios:
                break
            inside = line.endswith(f", {database}")
        cells = [cell.strip() for cell in line.split("|")]
        if inside and len(cells) > 7 and cells[6].endswith("%"):
            ratios[cells[1]] = cells[6]
    return ratios


def table(rows, database):
    """The Markdown table."""
    before = previous_ratios(database)
    lines = [
        "| path | rate/s | p50 ms | p99 ms | ceiling/s | ratio | goal | before | failed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path, load, ceiling_name, ceiling, ratio, goal in rows:
        goal_text = "—" if goal is None else f"{goal:.0%}"
        lines.append(
            f"| {path} | {load.rate:.0f} | {load.p50:.2f} | {load.p99:.2f} | {ceiling:.0f} ({ceiling_name}) "
            f"| {ratio:.0%} | {goal_text} | {before.get(path, '—')} | {load.errors} |"
        )
    return "\n".join(lines)


def heading(database):
    """Date, processor, commit (with a plus when the tree has changes), database."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    describe = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    today, processor = datetime.now(timezone.utc).date(), model[1] if model else "unknown processor"
    return f"## {today}, {processor}, {commit}, {database}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("The benchmark needs two cores: one for the server, one for the load.")
    seconds = 2 if options.quick else 8
    database = "PostgreSQL" if options.postgres else "SQLite"
    url = os.environ["SEALWRIGHT_TEST_POSTGRES"] if options.postgres else None
    server = Sealwright("bench", None, database=url, binary=str(RELEASE / "sealwright"), prefix=SERVER_CORE)
    with server.kept():
        key = server.folder / "client.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True)
        ceilings = Ceilings(server.folder, key, seconds)
        try:
            rows, below = measure(server, seconds, key, ceilings)
        finally:
            ceilings.stop()
    how = {"binary": server.binary, "prefix": SERVER_CORE}
    below += measure_growth(seconds, RESOURCES, url, **how)
    if not url:
        below.append(measure_rotation(seconds, **how))
    text = "\n".join([heading(database), "", table(rows, database), "", *(f"- {line}" for line in below)])
    print(f"\n{text}")
    if not options.quick:
        head, mark, older = RESULTS.read_text().partition("\n## ")
        RESULTS.write_text(f"{head.rstrip()}\n\n{text}\n" + (f"\n## {older}" if mark else ""))


if __name__ == "__main__":
    main()
