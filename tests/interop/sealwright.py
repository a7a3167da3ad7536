"""A Sealwright server in a temporary folder, and a count of checks: what the scripts beside this one share.

Standard library only. The binary is $SEALWRIGHT, or target/debug/sealwright of this tree.
"""

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("SEALWRIGHT") or str(
    ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "sealwright"
)


def clean_environment():
    """This environment without SEALWRIGHT_…: the server takes each for a setting, and unknown ones for errors."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SEALWRIGHT_")}


def free_port():
    """A loopback port that nobody has just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, ready, process, log, seconds=20):
    """Waits until `ready()` is true; fails when `process` ends or time runs out, with the end of its `log`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode}: {tail(log)}")
        if ready():
            return
        time.sleep(0.02)
    raise RuntimeError(f"{what} was not ready in {seconds} s: {tail(log)}")


def tail(log):
    """The last lines of a log file, on one line."""
    return " | ".join(Path(log).read_text(errors="replace").splitlines()[-12:])


def stop(process):
    """SIGTERM, and SIGKILL for one that does not listen."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Answer:
    """Status, headers and body of an HTTP answer, whatever its status."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        """The body, which must be JSON."""
        return json.loads(self.body)


def http(url, form=None, headers=None, timeout=10, context=None):
    """GET, or POST of `form`; `context` says whose certificates are trusted. Status 0 when nobody answers."""
    data = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(url, data=data, headers=headers or {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as refusal:
        return Answer(refusal.code, refusal.headers, refusal.read())
    except OSError as nobody:
        return Answer(0, {}, str(nobody).encode())


def basic(client_id, secret):
    """The Authorization header of client_secret_basic (RFC 6749 §2.3.1: both parts are form-encoded first)."""
    pair = f"{urllib.parse.quote_plus(client_id)}:{urllib.parse.quote_plus(secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def psql(url, text):
    """By PostgreSQL's own client, which is where its server is."""
    found = shutil.which("psql") or sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/psql")))[-1]
    command = [found, url, "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def new_database():
    """The URL of an empty database at $SEALWRIGHT_TEST_POSTGRES."""
    url, name = os.environ["SEALWRIGHT_TEST_POSTGRES"], f"sealwright_{secrets.token_hex(8)}"
    psql(url, f"CREATE DATABASE {name}")
    return urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()


class Sealwright:
    """One server on a database of its own; `with Sealwright(name, apply) as server:` runs it.

    With `https` (the issuer, the certificate's file, its key's) it listens by TLS alone, else by http alone.
    """

    def __init__(
        self, name, apply_file, algorithms=("RS256", "EdDSA"), database=None, binary=BINARY, prefix=(), https=None
    ):
        self.name, self.binary, self.prefix = name, binary, list(prefix)
        self._folder = tempfile.TemporaryDirectory(prefix=f"sealwright-{name}-")
        self.folder = Path(self._folder.name)
        self.port, self.management_port = free_port(), free_port()
        listen = f'listen = ["127.0.0.1:{self.port}"]\n'
        if https:
            self.issuer, certificate, private_key = map(str, https)
            listeners = f"[http]\nlisten = []\n[tls]\n{listen}certificate = {json.dumps(certificate)}\n"
            listeners += f"private_key = {json.dumps(private_key)}\n"
        else:
            self.issuer, listeners = f"http://127.0.0.1:{self.port}", f"[http]\n{listen}"
        # Where this server is; the issuer, unless another one has that name.
        self.address = self.issuer
        self.management = f"http://127.0.0.1:{self.management_port}"
        self.config = self.folder / "config.toml"
        self.apply_file, self.database = apply_file, database
        self.process = None
        logs = Path(os.environ.get("SEALWRIGHT_TEST_LOGS") or self.folder)
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}-sealwright.log"
        self.log.write_text("")
        if database:
            # PostgreSQL wants a master key that somebody chose: a node must not invent one for all the others.
            (self.folder / "master.key").touch(mode=0o600)
            (self.folder / "master.key").write_text(os.urandom(32).hex() + "\n")
        master_key = json.dumps(str(self.folder / "master.key"))
        self.config.write_text(
            f'issuer = "{self.issuer}"\n'
            f"{listeners}"
            f'[management]\nlisten = ["127.0.0.1:{self.management_port}"]\n'
            f"[database]\nurl = {json.dumps(database or f'sqlite:{self.folder}/sealwright.db')}\n"
            f"[master_key]\nfile = {master_key}\n"
            f"[keys]\nalgorithms = {json.dumps(list(algorithms))}\n"
            "[log]\nrequests = false\n"
        )

    def __enter__(self):
        try:
            if self.apply_file:
                self.apply(self.apply_file)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.halt()
        self._folder.cleanup()

    @contextlib.contextmanager
    def kept(self):
        """Stops the server and removes its folder at the end; starting it is left to the caller."""
        try:
            yield self
        finally:
            self.__exit__()

    def run(self, *words):
        """Runs `sealwright WORDS --config …`; returns what it printed, raises with its stderr when it failed."""
        command = [self.binary, *words, "--config", str(self.config)]
        nothing = subprocess.DEVNULL
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, stdin=nothing, timeout=60, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def apply(self, text):
        """Applies the TOML `text`; returns what `sealwright apply` printed."""
        if self.database and not self.process:
            # On PostgreSQL nothing migrates by itself: several nodes share the database.
            self.run("migrate")
        path = self.folder / "apply.toml"
        path.touch(mode=0o600)
        path.write_text(text)
        return self.run("apply", str(path))

    def beside(self):
        """Another server of the same issuer on the same PostgreSQL database, with this one's configuration."""
        other = Sealwright(f"{self.name}-beside", None, database=self.database, binary=self.binary, prefix=self.prefix)
        text = self.config.read_text().replace(f"[http]\nlisten = [\"127.0.0.1:{self.port}\"]", f"[http]\nlisten = [\"127.0.0.1:{other.port}\"]")
        text = text.replace(f"127.0.0.1:{self.management_port}", f"127.0.0.1:{other.management_port}")
        other.config.write_text(text)
        other.issuer = self.issuer
        return other

    def start(self):
        """Starts the server and waits until it is ready; returns how many seconds that took."""
        with self.log.open("a") as log:
            began = time.monotonic()
            self.process = subprocess.Popen(
                [*self.prefix, self.binary, "serve", "--config", str(self.config)],
                env=clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        wait_for("sealwright serve", self.is_ready, self.process, self.log)
        return time.monotonic() - began

    def is_ready(self):
        """Whether the management listener says so."""
        return http(f"{self.management}/health/ready", timeout=2).status == 200

    def kill(self):
        """`kill -9`."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def halt(self):
        """Stops the server, if it runs."""
        if self.process:
            stop(self.process)
            self.process = None

    def url(self, path):
        """An address of this server."""
        return self.address + path

    def token(self, client_id, secret, **parameters):
        """An access token by client credentials and client_secret_basic."""
        form = {"grant_type": "client_credentials", **parameters}
        answer = http(self.url("/oauth2/token"), form, {"Authorization": basic(client_id, secret)})
        if answer.status != 200:
            raise RuntimeError(f"token request: {answer.status} {answer.body!r}")
        return answer.json()["access_token"]


class Checks:
    """Counts checks; `with checks("name"):` is one, and it fails when its body raises. They may be nested."""

    def __init__(self, title):
        self.title, self.passed, self.failed = title, 0, 0

    @contextlib.contextmanager
    def __call__(self, name):
        try:
            yield
        except Exception as error:  # pylint: disable=broad-except
            self.failed += 1
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(line.filename).name}:{line.lineno}"
            print(f"FAIL {name} ({where}) {type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            self.passed += 1
            print(f"ok {name}", flush=True)

    def close(self):
        """Prints the total and ends the process: 1 when anything failed, or nothing was checked."""
        print(f"{self.title}: {self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed or not self.passed else 0)


def equal(found, expected, about=""):
    """Raises when the two differ, and says both."""
    if found != expected:
        raise AssertionError(f"{about} expected {expected!r}, found {found!r}".strip())
