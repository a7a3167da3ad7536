"""nginx as the gateway: it introspects each token, so a revoked one is refused from the moment of revocation's 200."""

import base64
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import gateway as gw
from sealwright import Checks, Sealwright, basic, equal, free_port, http, stop, wait_for

SECRET = secrets.token_urlsafe(32)
GATEWAY_SECRET = secrets.token_urlsafe(32)
ROUNDS = 50

APPLY = f"""
[[resource]]
identifier = "https://api.example.com"
name = "Orders API"
scopes = {{ "orders:read" = "Read orders", "orders:write" = "Change orders" }}
access_token_format = "FORMAT"

[[resource]]
identifier = "https://other.example.com"
name = "Other API"
scopes = {{ "other:read" = "Read" }}

[[client]]
client_id = "orders-sync"
client_name = "Orders sync"
grant_types = ["client_credentials"]
token_endpoint_auth_method = "client_secret_basic"
client_secret = "{SECRET}"
scope = "orders:read orders:write other:read"
resources = ["https://api.example.com", "https://other.example.com"]

[[client]]
client_id = "edge-gateway"
token_endpoint_auth_method = "client_secret_basic"
client_secret = "{GATEWAY_SECRET}"
grant_types = []
serves = ["https://api.example.com"]
"""

# The rest of an nginx.conf, for a process of our own: Debian's loads the module and makes these folders by itself.
MAIN = """
load_module {module};
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {log} warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def start_nginx(folder, log):
    """Starts nginx on `folder`/site.conf."""
    module = next(Path("/usr").glob("*/nginx/modules/ngx_http_js_module.so"))
    root = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(MAIN.format(module=module, user=root, folder=folder, log=log))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)]
    with log.open("w") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def revoke(server, token):
    """Revokes the token as the client it was issued to; raises unless the answer is 200."""
    answer = http(server.url("/oauth2/revoke"), {"token": token}, {"Authorization": basic("orders-sync", SECRET)})
    equal(answer.status, 200, "revocation")


def check(checks, server, gateway, form):
    """All that the gateway must do with tokens of one format."""
    good = server.token("orders-sync", SECRET, scope="orders:read")
    last = revoked = server.token("orders-sync", SECRET, scope="orders:read")
    with checks(f"{form}_good_token_is_let_through"):
        equal(good.count("."), 2 if form == "jwt" else 0, "dots in the token:")
        for _ in range(3):
            gateway.must_pass(good)
    with checks(f"{form}_revoked_token_is_refused_from_the_moment_of_the_200"):
        for _ in range(ROUNDS):
            gateway.must_pass(revoked)
            revoke(server, revoked)
            gateway.must_refuse(revoked)
            last, revoked = revoked, server.token("orders-sync", SECRET, scope="orders:read")
    with checks(f"{form}_other_tokens_of_the_client_live_on"):
        gateway.must_pass(good)
    with checks(f"{form}_token_for_another_audience_is_refused"):
        gateway.must_refuse(server.token("orders-sync", SECRET, scope="other:read"))
    with checks(f"{form}_token_without_the_scope_is_refused"):
        gateway.must_refuse(server.token("orders-sync", SECRET, scope="orders:write"), (403,))
    with checks(f"{form}_garbage_is_refused"):
        for garbage in ("", "x", "a.b.c", "x&token=" + good, good + "x", good[:-1], "sws_" + "0" * 49):
            gateway.must_refuse(garbage)
    if form == "jwt":
        with checks("jwt_tampered_tokens_are_refused"):
            gateway.must_refuse(gw.tampered_signature(good))
            gateway.must_refuse(gw.tampered_claims(good, jti="other"))
            gateway.must_refuse(gw.alg_none(good))
    with checks(f"{form}_no_token_is_refused"):
        gateway.must_refuse(None)
    with checks(f"{form}_nobody_to_ask_is_a_refusal"):
        server.halt()
        gateway.must_refuse(good, (500, 503))
    with checks(f"{form}_after_a_restart_a_good_token_is_good_and_a_revoked_one_is_not"):
        server.start()
        gateway.must_pass(good)
        gateway.must_refuse(last)


def run(checks, form):
    """One server and one nginx, with tokens of one format."""
    with Sealwright(f"nginx-{form}", APPLY.replace("FORMAT", form)) as server:
        upstream, port = gw.Upstream(), free_port()
        credentials = base64.b64encode(f"edge-gateway:{GATEWAY_SECRET}".encode()).decode()
        gw.fill(
            "nginx.conf", server.folder / "site.conf", FOLDER=Path(__file__).parent, AUDIENCE="https://api.example.com",
            SEALWRIGHT_PORT=server.port, UPSTREAM_PORT=upstream.port, LISTEN_PORT=port, GATEWAY_CREDENTIALS=credentials,
        )
        log = server.log.with_name(f"nginx-{form}.log")
        nginx = start_nginx(server.folder, log)
        try:
            wait_for("nginx", lambda: http(f"http://127.0.0.1:{port}/").status != 0, nginx, log)
            check(checks, server, gw.Gateway(port, upstream), form)
        finally:
            stop(nginx)


def main():
    checks = Checks("nginx")
    for form in ("jwt", "opaque"):
        with checks(f"{form}_gateway_starts_and_stops"):
            run(checks, form)
    checks.close()


if __name__ == "__main__":
    main()
