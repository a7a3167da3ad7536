"""The sites that a browser meets beside the server: a client's, on another site, and one beside the server's own.

Standard library only, and the openssl command.
"""

import base64
import contextlib
import hashlib
import html
import http.server
import ssl
import subprocess
import threading
import urllib.parse
from pathlib import Path

ISSUER = "https://login.example.com"
# Another site than the issuer's, and another origin of the same site, as browsers have it: the registrable domain.
SHOP, NEIGHBOUR = "https://shop.example.net", "https://blog.example.com"


class Certificate:
    """A certificate for all of these names in `folder`."""

    def __init__(self, folder):
        self.chain, self.key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        self.key.touch(mode=0o600)
        names = ",".join(f"DNS:{urllib.parse.urlsplit(url).hostname}" for url in (ISSUER, SHOP, NEIGHBOUR))
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", f"subjectAltName={names},IP:127.0.0.1",
            "-keyout", str(self.key), "-out", str(self.chain),
        )
        public = self._openssl("x509", "-in", str(self.chain), "-pubkey", "-noout")
        self.spki = hashlib.sha256(self._openssl("pkey", "-pubin", "-outform", "DER", given=public)).digest()

    @staticmethod
    def _openssl(*words, given=b""):
        done = subprocess.run(["openssl", *words], input=given, capture_output=True, timeout=30, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"openssl {' '.join(words)}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout

    def trust(self):
        """For a client of ours that trusts this certificate alone."""
        return ssl.create_default_context(cafile=str(self.chain))

    def arguments(self, ports):
        """What has Chromium trust it as it does any good one (HSTS counts only then), and find `ports` by URL.

        No other name leads anywhere.
        """
        rules = [f"MAP {urllib.parse.urlsplit(url).hostname}:443 127.0.0.1:{port}" for url, port in ports.items()]
        return (
            f"--ignore-certificate-errors-spki-list={base64.b64encode(self.spki).decode()}",
            f"--host-resolver-rules={', '.join(rules)}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        )


class Site(http.server.BaseHTTPRequestHandler):
    """A page that was reached: the browser's address tells the answer. Some paths do more.

    `/start?to=…` sends people on, by a link and by a posted form; `/frame?to=…` frames that address; `/toss` sets
    cookies by the names of the server's, for the whole domain.
    """

    # What forms brought, by state.
    posted = {}

    def do_POST(self):  # pylint: disable=invalid-name
        """The form of form_post."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = dict(urllib.parse.parse_qsl(body))
        Site.posted[form.get("state")] = (self.path, self.headers["Sec-Fetch-Site"], form)
        self.do_GET()

    def do_GET(self):  # pylint: disable=invalid-name
        """Any page."""
        path = urllib.parse.urlsplit(self.path)
        to = dict(urllib.parse.parse_qsl(path.query)).get("to", "")
        body = '<h1 id="client">Back at the client</h1>'
        if path.path == "/start":
            target = urllib.parse.urlsplit(to)
            inputs = "".join(
                f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
                for name, value in urllib.parse.parse_qsl(target.query, keep_blank_values=True)
            )
            body = (
                f'<a id="link" href="{html.escape(to)}">Go</a>'
                f'<form method="post" action="{html.escape(target._replace(query="").geturl())}">{inputs}'
                '<button id="post">Go</button></form>'
            )
        elif path.path == "/frame":
            body = f'<iframe id="framed" src="{html.escape(to)}"></iframe>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        if path.path == "/toss":
            for name in ("__Host-sealwright", "sealwright"):
                self.send_header("Set-Cookie", f"{name}=tossed; Domain=example.com; Path=/; Secure")
        self.end_headers()
        self.wfile.write(f'<!doctype html><html lang="en"><title>client</title>{body}</html>'.encode())

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Says nothing."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):  # pylint: disable=arguments-differ
        """A browser that closes a connection it opened ahead is no news."""


@contextlib.contextmanager
def serving(certificate=None):
    """Serves the sites, by TLS with a certificate; the port."""
    server = _Server(("127.0.0.1", 0), Site)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.chain, certificate.key)
        # The handshake belongs to the connection's own thread: browsers open some and say nothing.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
