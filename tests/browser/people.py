"""People at a real Chromium, with the headers that production has: signing in, refusing, switching, signing out.

Each flow runs with JavaScript and without. The client is a page on another origin (a loopback server), or an
application with a scheme of its own. Screenshots of each page, light and dark, at 360 and 1280 pixels, go to
$SEALWRIGHT_TEST_SCREENSHOTS; axe-core (from $SEALWRIGHT_TEST_NODE) finds nothing to complain of on any of them.
"""

import base64
import contextlib
import http.server
import os
import secrets
import sys
import threading
import time
import urllib.parse
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "interop"))
from sealwright import Checks, Sealwright, equal, free_port  # noqa: E402

SCREENSHOTS = Path(os.environ.get("SEALWRIGHT_TEST_SCREENSHOTS") or "target/screenshots")
AXE = Path(os.environ["SEALWRIGHT_TEST_NODE"]) / "node_modules/axe-core/axe.min.js"
PEOPLE = {
    "ada": "ada rows 9 gulls home", "bob": "bob mends 4 lamps nightly", "eve": "eve carves 7 spoons slowly",
}
CUSTOM = "com.example.app:/cb"
# RFC 7636, Appendix B: nobody redeems these codes.
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def apply_file(port):
    """People, a web application at `port`, and a native one."""
    users = "".join(
        f'[[user]]\nusername = "{name}"\npassword = "{password}"\nname = "{name.title()}"\n'
        for name, password in PEOPLE.items()
    )
    origin = f"http://127.0.0.1:{port}"
    return users + f"""
[[client]]
client_id = "web"
client_name = "Web shop"
client_secret = "imported-secret-of-at-least-32-characters"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["{origin}/cb"]
post_logout_redirect_uris = ["{origin}/bye"]
scope = "openid profile email offline_access"

[[client]]
client_id = "app"
client_name = "Pocket shop"
token_endpoint_auth_method = "none"
application_type = "native"
grant_types = ["authorization_code"]
redirect_uris = ["{CUSTOM}"]
scope = "openid profile"
"""


class Client(http.server.BaseHTTPRequestHandler):
    """The client's page: it shows that it was reached, and the browser's address tells the answer, or what was posted."""

    # What forms brought, by state.
    posted = {}

    def do_POST(self):  # pylint: disable=invalid-name
        """The form of form_post."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = dict(urllib.parse.parse_qsl(body))
        Client.posted[form.get("state")] = (self.path, self.headers["Origin"], form)
        self.do_GET()

    def do_GET(self):  # pylint: disable=invalid-name
        """Any page."""
        body = b'<!doctype html><html lang="en"><title>client</title><h1 id="client">Back at the client</h1></html>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):  # pylint: disable=arguments-differ
        """Says nothing."""


@contextlib.contextmanager
def client_at(port):
    """Serves the client's page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Client)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def chromium(scripts=True):
    """A browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("SEALWRIGHT_TEST_CHROMIUM", "/usr/bin/chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--no-proxy-server"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_page_load_timeout(30)
    if not scripts:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        yield driver
    finally:
        driver.quit()


class Visit:
    """One person's way through the pages."""

    def __init__(self, driver, server, port, scripts=True):
        self.driver, self.server, self.scripts = driver, server, scripts
        self.origin = f"http://127.0.0.1:{port}"

    def url(self, client="web", **more):
        """Where the client sends the browser."""
        parameters = {
            "response_type": "code", "client_id": client, "scope": "openid profile", "state": secrets.token_hex(8),
            "redirect_uri": CUSTOM if client == "app" else f"{self.origin}/cb",
            "code_challenge": CHALLENGE, "code_challenge_method": "S256", **more,
        }
        return self.server.url("/oauth2/authorize?" + urllib.parse.urlencode(parameters))

    def wait(self, what, condition):
        """Waits until it is so."""
        WebDriverWait(self.driver, 20).until(lambda _: condition(), f"{what}; at {self.driver.current_url}")

    def find(self, name):
        """The element with this id."""
        self.wait(f"no #{name}", lambda: self.driver.find_elements(By.ID, name))
        return self.driver.find_element(By.ID, name)

    def has(self, name):
        """Whether the page has the element with this id."""
        return bool(self.driver.find_elements(By.ID, name))

    def sign_in(self, username, password=None):
        """Fills the form in and sends it."""
        self.find("username").clear()
        self.find("username").send_keys(username)
        self.find("password").send_keys(password or PEOPLE[username])
        self.press("submit")

    def press(self, name):
        """Presses a button; the page that comes of it is there after."""
        button = self.find(name)
        button.click()

    def comes(self, username, decision="approve", **more):
        """Is sent here by the client, signs in, and decides."""
        self.driver.get(self.url(prompt="consent", **more))
        self.sign_in(username)
        self.press(decision)

    def keys(self, *keys):
        """Types, wherever the keyboard is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, name):
        """Goes to the element with this id by the tabulator; it shows that the keyboard is there."""
        self.find(name)
        for _ in range(12):
            here = self.driver.switch_to.active_element
            if here.get_attribute("id") == name:
                equal(here.value_of_css_property("outline-style") == "none", False, f"#{name} shows no focus")
                return
            self.keys(Keys.TAB)
        raise AssertionError(f"the tabulator does not lead to #{name} at {self.driver.current_url}")

    def answer(self, page="/cb"):
        """What the client was told, once the browser is there."""
        self.wait("not back at the client", lambda: self.driver.current_url.startswith(self.origin + page))
        query = urllib.parse.urlsplit(self.driver.current_url).query
        return dict(urllib.parse.parse_qsl(query))

    def through(self, username):
        """Does what the pages ask for; what the client was told at the end."""
        for _ in range(50):
            self.wait("no page that is known", lambda: (
                any(map(self.has, ("submit", "approve", "client"))) or self.driver.find_elements(By.NAME, "account")
            ))
            if self.has("client"):
                break
            try:
                if self.has("approve"):
                    self.driver.find_element(By.NAME, "approve").click()
                elif self.has("submit"):
                    self.sign_in(username)
                else:
                    account = f"//button[@name='account'][normalize-space()='{username}']"
                    self.driver.find_element(By.XPATH, account).click()
            except WebDriverException:
                # The browser went on between the look and the press, which its driver says in several ways.
                time.sleep(0.05)
        return self.answer()

    def look(self, name):
        """Screenshots of this page, and what axe-core has to say."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
                "features": [{"name": "prefers-color-scheme", "value": scheme}],
            })
            for width in (360, 1280):
                self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
                    "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False,
                })
                size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
                shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {
                    "captureBeyondViewport": True,
                    "clip": {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1},
                })
                (SCREENSHOTS / f"{name}-{scheme}-{width}.png").write_bytes(base64.b64decode(shot["data"]))
                if self.scripts:
                    self.complain(f"{name}, {scheme}, {width}")
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def complain(self, where):
        """Raises with each violation that axe-core finds. It comes by the driver, past the page's policy."""
        self.driver.execute_script(AXE.read_text())
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
            ".then(r => done(r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | '))),"
            " e => done([String(e)]));"
        )
        equal(found, [], where)
        wide = self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        equal(wide > 0, False, f"{where}: wider than the window")

    def blocked(self):
        """What the browser refused for the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]
                and "Content Security Policy" in entry["message"]]


def flows(checks, server, port, scripts):
    """Every flow, in a browser of its own each."""
    kind = "" if scripts else "_without_scripts"

    @contextlib.contextmanager
    def flow(name):
        with checks(name + kind), chromium(scripts) as driver:
            yield Visit(driver, server, port, scripts)

    with flow("wrong_password_then_signs_in_and_agrees") as visit:
        visit.driver.get(visit.url(prompt="consent"))
        visit.find("username")
        visit.look(f"login{kind}")
        visit.sign_in("ada", "not the right one at all")
        visit.wait("no word of the wrong password", lambda: visit.has("error"))
        visit.look(f"login-wrong{kind}")
        visit.sign_in("ada")
        visit.find("approve")
        visit.look(f"consent{kind}")
        visit.press("approve")
        answer = visit.answer()
        equal((bool(answer.get("code")), answer.get("iss")), (True, server.issuer))
        equal(visit.blocked(), [])

    with flow("signs_in_and_agrees_with_the_keyboard_alone") as visit:
        visit.driver.get(visit.url(prompt="consent"))
        visit.tab_to("username")
        visit.keys("ada")
        visit.tab_to("password")
        visit.keys(PEOPLE["ada"], Keys.ENTER)
        visit.tab_to("approve")
        visit.keys(Keys.ENTER)
        equal(bool(visit.answer().get("code")), True)

    with flow("refuses") as visit:
        visit.comes("ada", "deny")
        equal(visit.answer().get("error"), "access_denied")

    with flow("a_client_that_asks_for_nonsense_is_told_on_a_page") as visit:
        visit.driver.get(visit.url(redirect_uri="https://evil.example.com/cb"))
        equal(visit.driver.current_url.startswith(server.issuer), True)
        visit.look(f"problem{kind}")

    with flow("switches_accounts") as visit:
        visit.comes("ada")
        visit.answer()
        visit.driver.get(visit.url(prompt="select_account"))
        visit.find("another")
        visit.look(f"accounts{kind}")
        visit.press("another")
        equal(bool(visit.through("bob").get("code")), True)
        visit.driver.get(server.url("/account"))
        visit.wait("both are there", lambda: len(visit.driver.find_elements(By.NAME, "account")) == 2)
        visit.look(f"account{kind}")
        visit.driver.get(server.url("/logout"))
        visit.find("submit")
        visit.look(f"logout-several{kind}")
        visit.driver.find_element(By.XPATH, "//button[normalize-space()='Sign out ada']").click()
        visit.wait("no word of who stays", lambda: "Still signed in at this browser: bob" in visit.driver.page_source)
        visit.look(f"signed-out-one{kind}")

    with flow("signs_out") as visit:
        visit.comes("ada")
        visit.answer()
        query = {"client_id": "web", "post_logout_redirect_uri": f"{visit.origin}/bye", "state": "s"}
        visit.driver.get(server.url("/logout?" + urllib.parse.urlencode(query)))
        visit.find("submit")
        visit.look(f"logout{kind}")
        visit.press("submit")
        equal(visit.answer("/bye"), {"state": "s"})
        visit.driver.get(server.url("/logout"))
        visit.look(f"signed-out{kind}")
        visit.driver.get(visit.url(prompt="none"))
        equal(visit.answer().get("error"), "login_required")

    with flow("an_answer_by_form_to_another_origin") as visit:
        state = secrets.token_hex(8)
        visit.comes("ada", response_mode="form_post", state=state)
        if not scripts:
            visit.wait("no button to go on with", lambda: "Back to the application" in visit.driver.title)
            visit.look(f"form-post{kind}")
            visit.press("submit")
        visit.wait("never posted", lambda: state in Client.posted)
        path, _, form = Client.posted[state]
        equal((path, bool(form.get("code")), form.get("iss"), sorted(form)), ("/cb", True, server.issuer, ["code", "iss", "state"]))
        visit.find("client")
        equal(visit.driver.current_url, f"{visit.origin}/cb")
        equal(visit.blocked(), [])

    with flow("takes_back_what_was_granted_and_changes_the_password") as visit, chromium(scripts) as other:
        there = Visit(other, server, port, scripts)
        there.driver.get(server.url("/login"))
        there.sign_in("eve")
        there.wait("not signed in", lambda: there.has("change-password"))
        visit.comes("eve", scope="openid profile email offline_access")
        visit.answer()
        visit.driver.get(server.url("/account"))
        visit.wait("what was granted is not there", lambda: visit.driver.find_elements(By.NAME, "client"))
        visit.look(f"account-granted{kind}")
        visit.driver.find_element(By.NAME, "client").click()
        visit.wait("not taken back", lambda: visit.has("done") and not visit.driver.find_elements(By.NAME, "client"))
        visit.look(f"account-done{kind}")
        # That one, and any of a flow before.
        while visit.driver.find_elements(By.NAME, "session"):
            visit.driver.find_element(By.NAME, "session").click()
            visit.wait("no word of it", lambda: visit.has("done"))
        equal("There is no other." in visit.driver.page_source, True)
        there.driver.get(server.url("/account"))
        there.find("password")
        visit.press("change-password")
        visit.find("new_password")
        visit.look(f"password{kind}")
        new = f"{secrets.token_hex(8)} otter basil trumpet"
        for present, text in (("not the right one at all", new), (PEOPLE["eve"], "short"), (PEOPLE["eve"], new)):
            for field, typed in (("password", present), ("new_password", text), ("new_password_again", text)):
                visit.find(field).clear()
                visit.find(field).send_keys(typed)
            visit.press("submit")
            if text == "short":
                visit.wait("no word of the length", lambda: "needs 15 characters" in visit.driver.page_source)
                visit.look(f"password-wrong{kind}")
            elif present != PEOPLE["eve"]:
                visit.wait("no word of the wrong one", lambda: visit.has("error"))
        visit.wait("not changed", lambda: "The password is changed." in visit.driver.page_source)
        PEOPLE["eve"] = new
        visit.driver.get(visit.url(prompt="login consent"))
        visit.sign_in("eve")
        visit.find("approve")

    with flow("comes_by_the_name_alone") as visit:
        visit.driver.get(server.url("/"))
        visit.look(f"front{kind}")
        visit.press("account")
        visit.find("password")
        visit.driver.get(server.url("/nowhere"))
        visit.wait("no page that says so", lambda: "There is no such page" in visit.driver.title)
        visit.look(f"nowhere{kind}")

    with flow("two_tabs_at_once") as visit:
        driver = visit.driver
        urls = [visit.url(state=f"tab{n}", prompt="consent") for n in (1, 2)]
        driver.get(urls[0])
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        if not scripts:
            driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.get(urls[1])
        second = driver.current_window_handle
        visit.sign_in("ada")
        visit.find("approve")
        driver.switch_to.window(first)
        # The other tab has signed this browser in meanwhile, so a page of before may ask once more.
        equal(visit.through("ada").get("state"), "tab1")
        driver.switch_to.window(second)
        equal(visit.through("ada").get("state"), "tab2")

    with flow("an_application_with_its_own_scheme") as visit:
        visit.comes("ada", client="app")
        # No program here takes the scheme; that the browser tried, and that the policy let it, is in its logs.
        visit.wait("never sent to the scheme", lambda: any(
            CUSTOM in entry["message"] for entry in visit.driver.get_log("performance")
        ))
        equal([line for line in visit.blocked() if "form-action" in line], [])


def main():
    checks, port = Checks("browser"), free_port()
    with checks("server_starts_and_stops"), client_at(port), Sealwright("browser", apply_file(port)) as server:
        for scripts in (True, False):
            flows(checks, server, port, scripts)
    checks.close()


if __name__ == "__main__":
    main()
