"""What the gateway scripts share: a service to protect, a filled-in template, requests, and doctored tokens."""

import base64
import hashlib
import hmac
import http.server
import json
import threading
from pathlib import Path

from sealwright import http as request


class Upstream:
    """The service behind the gateway: answers 200 to everything and counts what reached it."""

    def __init__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(handler):
                self.reached += 1
                handler.send_response(200)
                handler.send_header("Content-Length", "3")
                handler.end_headers()
                handler.wfile.write(b"ok\n")

            def log_message(handler, *_):
                pass

        self.reached = 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        # A gateway that ends cuts the connections that it kept.
        self._server.handle_error = lambda *_: None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


def fill(template, target, **words):
    """Writes the file `template` of this folder to `target` with each `${WORD}` replaced."""
    text = (Path(__file__).parent / template).read_text()
    for word, value in words.items():
        text = text.replace("${" + word + "}", str(value))
    Path(target).write_text(text)


class Gateway:
    """Asks for a page through the gateway and says how it went."""

    def __init__(self, port, upstream):
        self.url, self.upstream = f"http://127.0.0.1:{port}/orders", upstream

    def get(self, token=None):
        """The answer to GET with this bearer token."""
        return request(self.url, headers={} if token is None else {"Authorization": f"Bearer {token}"})

    def must_pass(self, token):
        """Raises unless the gateway lets the token through."""
        before = self.upstream.reached
        status = self.get(token).status
        if (status, self.upstream.reached) != (200, before + 1):
            raise AssertionError(f"not let through: {status}")

    def must_refuse(self, token, statuses=(401,), because=""):
        """Raises unless the gateway refuses the token, for this reason, and the service behind sees nothing."""
        before = self.upstream.reached
        answer = self.get(token)
        reached = self.upstream.reached - before
        if answer.status not in statuses or reached or because not in answer.body.decode():
            raise AssertionError(f"answered {answer.status} {answer.body!r}, service reached {reached} times")


def encode(raw):
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text):
    """The bytes of base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims(token):
    """The payload of a JWT, unverified."""
    return json.loads(decode(token.split(".")[1]))


def tampered_signature(token):
    """The same token with one bit of its signature turned."""
    head, body, signature = token.split(".")
    raw = bytearray(decode(signature))
    raw[len(raw) // 2] ^= 1
    return f"{head}.{body}.{encode(bytes(raw))}"


def tampered_claims(token, **changes):
    """The same header and signature over other claims."""
    head, body, signature = token.split(".")
    return f"{head}.{encode(json.dumps({**json.loads(decode(body)), **changes}).encode())}.{signature}"


def alg_none(token, alg="none"):
    """The claims without a signature."""
    return f"{encode(json.dumps({'alg': alg, 'typ': 'at+jwt'}).encode())}.{token.split('.')[1]}."


def hmac_confused(token, secret, keep_kid):
    """The claims under HS256, keyed with bytes that everybody knows: the published key in one of its forms."""
    head, body, _ = token.split(".")
    header = {"alg": "HS256", "typ": "at+jwt"}
    if keep_kid:
        header["kid"] = json.loads(decode(head))["kid"]
    signed = f"{encode(json.dumps(header).encode())}.{body}"
    return f"{signed}.{encode(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
