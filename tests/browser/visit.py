"""A real Chromium, and one person's way through the pages with it."""

import base64
import contextlib
import os
import secrets
import sys
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
from sealwright import equal  # noqa: E402

SCREENSHOTS = Path(os.environ.get("SEALWRIGHT_TEST_SCREENSHOTS") or "target/screenshots")
AXE = Path(os.environ["SEALWRIGHT_TEST_NODE"]) / "node_modules/axe-core/axe.min.js"
PEOPLE = {
    "ada": "ada rows 9 gulls home", "bob": "bob mends 4 lamps nightly", "eve": "eve carves 7 spoons slowly",
}
# RFC 7636, Appendix B.
CHALLENGE, VERIFIER = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


@contextlib.contextmanager
def chromium(more=(), scripts=True):
    """A browser with a profile of its own, and `more` arguments."""
    options = webdriver.ChromeOptions()
    options.binary_location = os.environ.get("SEALWRIGHT_TEST_CHROMIUM", "/usr/bin/chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
                     # It is the server that sends people to https, or nobody.
                     "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable", *more):
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


def as_new(driver, scripts=True):
    """Has the browser forget its cookies and logs, and gives it one new tab."""
    before = driver.window_handles
    driver.switch_to.new_window("tab")
    new = driver.current_window_handle
    for old in before:
        driver.switch_to.window(old)
        driver.close()
    driver.switch_to.window(new)
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    for log in ("browser", "performance"):
        driver.get_log(log)


class Visit:
    """One person's way through the pages."""

    # The pages that were looked at: without scripts they are the same ones, but for what scripts pass over.
    seen = set()

    def __init__(self, driver, server, origin, scripts=True):
        self.driver, self.server, self.origin, self.scripts = driver, server, origin, scripts

    def url(self, client="web", **more):
        """Where the client sends the browser."""
        parameters = {
            "response_type": "code", "client_id": client, "scope": "openid profile", "state": secrets.token_hex(8),
            "redirect_uri": f"{self.origin}/cb", "code_challenge": CHALLENGE, "code_challenge_method": "S256", **more,
        }
        return self.server.url("/oauth2/authorize?" + urllib.parse.urlencode(parameters))

    def sent(self, to=None, by="link", origin=None, **more):
        """Is sent to the server, or to its address `to`, by a page of the client's: its link, or its form (`post`)."""
        query = urllib.parse.urlencode({"to": to or self.url(**more)})
        self.driver.get(f"{origin or self.origin}/start?{query}")
        self.press(by)

    def wait(self, what, condition):
        """Waits until it is so."""
        WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition(), f"{what}; at {self.driver.current_url}")

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
        self.sent(prompt="consent", **more)
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

    def answer(self, page="/cb", origin=None):
        """What the client was told, once the browser is there."""
        self.wait("not back at the client", lambda: (
            self.driver.current_url.startswith((origin or self.origin) + page) and self.has("client")
        ))
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
        """Screenshots of this page, and what axe-core has to say; once for each name."""
        if name in Visit.seen:
            return
        Visit.seen.add(name)
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
        if not self.driver.execute_script("return 'axe' in window"):
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

    def logged(self, text):
        """Waits until the log of what the browser loads has this text."""
        self.wait(f"no {text} in the log", lambda: any(
            text in entry["message"] for entry in self.driver.get_log("performance")
        ))

    def blocked(self):
        """What the browser refused for the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if "favicon" not in entry["message"]
                and "Content Security Policy" in entry["message"]]
