"""A person with a browser that runs no script: keeps cookies, fills forms in, follows redirects within one server.

Standard library only.
"""

import contextlib
import http.client
import http.cookies
import urllib.parse
from html.parser import HTMLParser

from sealwright import Sealwright

USERNAME, PASSWORD = "ada", "ada rows 9 gulls home"
CLIENT, SECRET = "web", "imported-secret-of-at-least-32-characters"
REDIRECT_URI = "https://shop.example.com/cb"
POST_LOGOUT_REDIRECT_URI = "https://shop.example.com/bye"
SCOPE = "openid profile email offline_access"

APPLY = f"""
[[user]]
username = "{USERNAME}"
password = "{PASSWORD}"
name = "Ada Lovelace"
email = "ada@example.com"
email_verified = true

[[client]]
client_id = "{CLIENT}"
client_name = "Web shop"
client_secret = "{SECRET}"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["{REDIRECT_URI}"]
post_logout_redirect_uris = ["{POST_LOGOUT_REDIRECT_URI}"]
scope = "{SCOPE}"
"""


class _Forms(HTMLParser):
    """Every form of a page: its action, its hidden inputs, its buttons."""

    def __init__(self, text):
        super().__init__()
        self.forms = []
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "form":
            self._open = {"action": attrs.get("action", ""), "hidden": {}, "fields": set(), "buttons": {}}
            self.forms.append(self._open)
        elif self._open is not None and tag in ("input", "button"):
            names = {attrs.get("name"), attrs.get("id")} - {None}
            self._open["fields"] |= names
            if tag == "input" and attrs.get("type") == "hidden":
                self._open["hidden"][attrs["name"]] = attrs.get("value", "")
            if tag == "button":
                pressed = {attrs["name"]: attrs.get("value", "")} if attrs.get("name") else {}
                self._open["buttons"].update({name: pressed for name in names})

    def handle_endtag(self, tag):
        if tag == "form":
            self._open = None


class Page:
    """What the browser shows; `away` is the address outside this server that it was sent to."""

    def __init__(self, url, status, text, away=None):
        self.url, self.status, self.text, self.away = url, status, text, away
        self.forms = _Forms(text).forms

    def form(self, name):
        """The form with the field or button `name`, or None."""
        return next((form for form in self.forms if name in form["fields"]), None)


class Browser:
    """One browser at the server `issuer`."""

    def __init__(self, issuer):
        self.origin = urllib.parse.urlsplit(issuer)
        self.cookies = {}

    def open(self, url, form=None):
        """GET, or POST of `form`, and the redirects that follow."""
        for _ in range(10):
            parts = urllib.parse.urlsplit(url)
            if (parts.scheme, parts.netloc) != (self.origin.scheme, self.origin.netloc):
                return Page(url, 0, "", away=url)
            status, location, text = self._exchange(parts, form)
            form = None
            if location is None:
                return Page(url, status, text)
            url = urllib.parse.urljoin(url, location)
        raise RuntimeError(f"{url} is redirected without end")

    def _exchange(self, parts, form):
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if not self.cookies:
            del headers["Cookie"]
        body = None
        if form is not None:
            body = urllib.parse.urlencode(form)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["Origin"] = f"{parts.scheme}://{parts.netloc}"
            headers["Sec-Fetch-Site"] = "same-origin"
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request("GET" if body is None else "POST", target, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            for line in answer.headers.get_all("Set-Cookie") or []:
                for name, morsel in http.cookies.SimpleCookie(line).items():
                    if morsel["max-age"] == "0" or not morsel.value:
                        self.cookies.pop(name, None)
                    else:
                        self.cookies[name] = morsel.value
            return answer.status, answer.headers.get("Location"), text
        finally:
            connection.close()

    def press(self, page, name, **fields):
        """Presses the button `name`, with `fields` filled in; hidden ones go along."""
        form = page.form(name)
        if form is None:
            raise RuntimeError(f"no form with {name} at {page.url}: {page.text[:2000]}")
        sent = {**form["hidden"], **form["buttons"].get(name, {}), **fields}
        return self.open(urllib.parse.urljoin(page.url, form["action"]), sent)

    def log_in(self, url):
        """Signs in and agrees, as far as the pages ask for it; the address at which the client is answered."""
        page = self.open(url)
        for _ in range(4):
            if page.form("password"):
                page = self.press(page, "submit", username=USERNAME, password=PASSWORD)
            elif page.form("approve"):
                page = self.press(page, "approve")
        if page.away is None:
            raise RuntimeError(f"the login ends at {page.url}: HTTP {page.status}: {page.text[:2000]}")
        return page.away


@contextlib.contextmanager
def served(checks, name):
    """A server with the person and the client above, and a browser at it; its start and its end are one check."""
    with checks("server_starts_and_stops"), Sealwright(name, APPLY) as server:
        yield server, Browser(server.issuer)
