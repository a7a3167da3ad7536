"""People at a real Chromium, as in production: signing in, refusing, switching, signing out.

The server runs by its configuration file and serves https; the client is a page on another site, or an application
with a scheme of its own or a loopback address. What a person does runs with JavaScript and without. One short pass is
by http at a loopback issuer. Screenshots of each page, light and dark, at 360 and 1280 pixels, go to
$SEALWRIGHT_TEST_SCREENSHOTS; axe-core (from $SEALWRIGHT_TEST_NODE) finds nothing to complain of on any of them.
"""

import contextlib
import secrets
import sqlite3
import tempfile
import urllib.parse

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from sites import ISSUER, NEIGHBOUR, SHOP, Certificate, Site, serving
from visit import PEOPLE, VERIFIER, Visit, as_new, chromium, equal
from sealwright import Checks, Sealwright, basic, http

SECRET = "imported-secret-of-at-least-32-characters"
CUSTOM = "com.example.app:/cb"


def apply_file(origin):
    """People; a web application at `origin`, two native ones, and one that is to ask for much."""
    users = "".join(
        f'[[user]]\nusername = "{name}"\npassword = "{password}"\nname = "{name.title()}"\n'
        for name, password in PEOPLE.items()
    )
    return users + f"""
[[resource]]
identifier = "https://notes.example.com"
name = "Notes and calendars of the whole department"

[resource.scopes]
"notes:read" = "Read your notes, and those that others share with you"
"notes:write" = "Write, move and delete notes"

[[client]]
client_id = "web"
client_name = "Web shop"
client_secret = "{SECRET}"
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
redirect_uris = ["{CUSTOM}", "http://127.0.0.1/cb"]
scope = "openid profile"

[[client]]
client_id = "stranger"
client_name = "A notebook with a name that is longer than most"
client_secret = "{SECRET}"
grant_types = ["authorization_code", "refresh_token"]
redirect_uris = ["{origin}/cb"]
scope = "openid profile email address phone groups offline_access notes:read notes:write"
"""


@contextlib.contextmanager
def visits(checks, server, arguments, scripts):
    """`flow(name)` is a check and gives a visit, in a browser that has kept nothing of the one before."""
    with chromium(arguments, scripts) as driver:
        @contextlib.contextmanager
        def flow(name):
            with checks(name if scripts else f"{name}_without_scripts"):
                as_new(driver, scripts)
                yield Visit(driver, server, SHOP, scripts)

        yield flow


def flows(flow, server, arguments, scripts):
    """Every flow, with scripts or without. Another browser has `arguments`."""
    with flow("wrong_password_then_signs_in_and_agrees") as visit:
        visit.sent(prompt="consent")
        visit.find("username")
        visit.look("login")
        visit.sign_in("ada", "not the right one at all")
        visit.wait("no word of the wrong password", lambda: visit.has("error"))
        visit.look("login-wrong")
        visit.sign_in("ada")
        visit.find("approve")
        visit.look("consent")
        visit.press("approve")
        answer = visit.answer()
        equal((bool(answer.get("code")), answer.get("iss")), (True, server.issuer))
        equal(visit.blocked(), [])

    with flow("signs_in_and_agrees_with_the_keyboard_alone") as visit:
        visit.sent(prompt="consent")
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
        visit.sent(redirect_uri="https://evil.example.com/cb")
        visit.find("request-id")
        equal(visit.driver.current_url.startswith(server.issuer), True)
        visit.look("problem")

    with flow("switches_accounts") as visit:
        visit.comes("ada")
        visit.answer()
        visit.sent(prompt="select_account")
        visit.find("another")
        visit.look("accounts")
        visit.press("another")
        equal(bool(visit.through("bob").get("code")), True)
        visit.driver.get(server.url("/account"))
        visit.wait("both are there", lambda: len(visit.driver.find_elements(By.NAME, "account")) == 2)
        visit.look("account")
        visit.driver.get(server.url("/logout"))
        visit.find("submit")
        visit.look("logout-several")
        visit.driver.find_element(By.XPATH, "//button[normalize-space()='Sign out ada']").click()
        visit.wait("no word of who stays", lambda: "Still signed in at this browser: bob" in visit.driver.page_source)
        visit.look("signed-out-one")

    with flow("signs_out") as visit:
        visit.comes("ada")
        visit.answer()
        visit.sent(logout_url(visit))
        visit.find("submit")
        visit.look("logout")
        visit.press("submit")
        equal(visit.answer("/bye"), {"state": "s"})
        visit.driver.get(server.url("/logout"))
        visit.look("signed-out")
        visit.sent(prompt="none")
        equal(visit.answer().get("error"), "login_required")

    with flow("an_answer_by_form_to_another_site") as visit:
        state = secrets.token_hex(8)
        visit.comes("ada", response_mode="form_post", state=state)
        if not scripts:
            visit.wait("no button to go on with", lambda: "Back to the application" in visit.driver.title)
            visit.look("form-post")
            visit.press("submit")
        visit.wait("never posted", lambda: state in Site.posted)
        path, site, form = Site.posted[state]
        equal((path, site, form.get("iss")), ("/cb", "cross-site", server.issuer))
        equal(sorted(form), ["code", "iss", "state"])
        visit.find("client")
        equal(visit.driver.current_url, f"{visit.origin}/cb")
        equal(visit.blocked(), [])

    with flow("takes_back_what_was_granted_and_changes_the_password") as visit, chromium(arguments, scripts) as other:
        there = Visit(other, server, SHOP, scripts)
        there.driver.get(server.url("/login"))
        there.sign_in("eve")
        there.wait("not signed in", lambda: there.has("change-password"))
        visit.comes("eve", scope="openid profile email offline_access")
        visit.answer()
        visit.driver.get(server.url("/account"))
        visit.wait("what was granted is not there", lambda: visit.driver.find_elements(By.NAME, "client"))
        visit.look("account-granted")
        visit.driver.find_element(By.NAME, "client").click()
        visit.wait("not taken back", lambda: visit.has("done") and not visit.driver.find_elements(By.NAME, "client"))
        visit.look("account-done")
        # That one, and any of a flow before.
        while visit.driver.find_elements(By.NAME, "session"):
            visit.driver.find_element(By.NAME, "session").click()
            visit.wait("no word of it", lambda: visit.has("done"))
        equal("There is no other." in visit.driver.page_source, True)
        there.driver.get(server.url("/account"))
        there.find("password")
        visit.press("change-password")
        visit.find("new_password")
        visit.look("password")
        new = f"{secrets.token_hex(8)} otter basil trumpet"
        for present, text in (("not the right one at all", new), (PEOPLE["eve"], "short"), (PEOPLE["eve"], new)):
            for field, typed in (("password", present), ("new_password", text), ("new_password_again", text)):
                visit.find(field).clear()
                visit.find(field).send_keys(typed)
            visit.press("submit")
            if text == "short":
                visit.wait("no word of the length", lambda: "needs 15 characters" in visit.driver.page_source)
                visit.look("password-wrong")
            elif present != PEOPLE["eve"]:
                visit.wait("no word of the wrong one", lambda: visit.has("error"))
        visit.wait("not changed", lambda: "The password is changed." in visit.driver.page_source)
        PEOPLE["eve"] = new
        visit.sent(prompt="login consent")
        visit.sign_in("eve")
        visit.find("approve")

    with flow("comes_by_the_name_alone") as visit:
        visit.driver.get(server.url("/"))
        visit.look("front")
        visit.press("account")
        visit.find("password")
        visit.driver.get(server.url("/nowhere"))
        visit.wait("no page that says so", lambda: "There is no such page" in visit.driver.title)
        visit.look("nowhere")

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
        visit.comes("ada", client="app", redirect_uri=CUSTOM)
        # No program here takes the scheme; that the browser tried, and that the policy let it, is in its logs.
        visit.logged(f"{CUSTOM}?code=")
        equal([line for line in visit.blocked() if "form-action" in line], [])


def once(flow, server, loopback):
    """What no script could change. Somebody listens at the port `loopback`."""

    with flow("an_application_at_a_loopback_address") as visit:
        # From https to http after a form, which browsers do not like everywhere.
        origin = f"http://127.0.0.1:{loopback}"
        visit.comes("ada", client="app", redirect_uri=f"{origin}/cb")
        equal(bool(visit.answer(origin=origin).get("code")), True)
        equal(visit.blocked(), [])

    with flow("a_request_posted_by_another_site_meets_who_is_signed_in") as visit:
        visit.comes("ada", by="post")
        equal(bool(visit.answer().get("code")), True)
        # A foreign form brings no cookie of ours; the GET of the stored request does, or nobody would be signed in.
        visit.driver.get_log("performance")
        visit.sent(by="post", prompt="none", state="posted")
        equal({name: bool(value) for name, value in visit.answer().items()}, {"code": True, "state": True, "iss": True})
        visit.logged("/oauth2/authorize?stored=")

    with flow("a_client_that_holds_the_id_token_signs_out_at_once") as visit:
        for by in ("link", "post"):
            visit.comes("ada")
            code = visit.answer()["code"]
            visit.sent(logout_url(visit, id_token_hint=redeem(server, code)), by=by)
            equal(visit.answer("/bye"), {"state": "s"}, by)
            visit.sent(prompt="none")
            equal(visit.answer().get("error"), "login_required", by)

    with flow("cookies_and_transport_are_those_of_production") as visit:
        visit.comes("ada")
        visit.answer()
        visit.driver.get(server.url("/account"))
        cookies = visit.driver.get_cookies()
        for cookie in cookies:
            found = [cookie[name] for name in ("secure", "httpOnly", "sameSite", "path", "domain")]
            equal(found, [True, True, "Lax", "/", urllib.parse.urlsplit(ISSUER).hostname], cookie["name"])
        equal([name for name in sorted(cookie["name"] for cookie in cookies) if not name.startswith("__Host-")], [])
        equal(len(cookies) > 0, True)
        # RFC 6797: http is not even tried. The client's site did not say so, and its name leads nowhere by http.
        visit.driver.get("http://login.example.com/account")
        visit.find("change-password")
        equal(visit.driver.current_url, server.url("/account"))
        visit.logged('"Non-Authoritative-Reason":"HSTS"')

    with flow("other_sites_cannot_act_for_who_is_signed_in") as visit:
        visit.comes("ada")
        visit.answer()
        signed_in = {cookie["name"]: cookie["value"] for cookie in of_server(visit)}
        forms = {
            "/login": {"username": "bob", "password": PEOPLE["bob"]},
            "/consent": {"flow": "A" * 43, "approve": "1"},
            "/account/sign-out": {"account": "x"},
            "/account/withdraw": {"client": "web"},
        }
        # With the neighbour's forms our cookies come along: SameSite speaks of sites, and not of origins.
        for origin in (SHOP, NEIGHBOUR):
            for path, form in forms.items():
                visit.sent(server.url(f"{path}?{urllib.parse.urlencode(form)}"), by="post", origin=origin)
                visit.wait(f"{path} is not refused", lambda: "This did not come from our page" in visit.driver.title)
        visit.look("cross-site")
        # Whoever else is at example.com cannot give people a session that is not theirs.
        visit.driver.get(f"{NEIGHBOUR}/toss")
        equal({cookie["name"]: cookie["value"] for cookie in of_server(visit)}, {**signed_in, "sealwright": "tossed"})
        visit.driver.get(server.url("/account"))
        visit.wait("ada is not there", lambda: len(visit.driver.find_elements(By.NAME, "account")) == 1)
        equal("Sign out ada" in visit.driver.page_source, True)
        for origin in (SHOP, NEIGHBOUR):
            visit.blocked()
            visit.driver.get(f"{origin}/frame?to={urllib.parse.quote(server.url('/account'))}")
            visit.wait("framed", lambda: any("frame-ancestors" in line for line in visit.blocked()))
            visit.driver.switch_to.frame("framed")
            equal(visit.has("change-password"), False, origin)

    with flow("an_unverified_client_that_wants_everything") as visit:
        everything = "openid profile email address phone groups offline_access notes:read notes:write"
        visit.sent(client="stranger", scope=everything)
        visit.sign_in("ada")
        visit.find("approve")
        visit.look("consent-unverified")

    with flow("a_client_that_signs_people_out_wrongly") as visit:
        visit.sent(logout_url(visit, post_logout_redirect_uri=f"{SHOP}/elsewhere"))
        visit.find("request-id")
        visit.look("not-signed-out")


def of_server(visit):
    """The cookies that the server gets from this browser, wherever it is."""
    urls = {"urls": [visit.server.url("/")]}
    return visit.driver.execute_cdp_cmd("Network.getCookies", urls)["cookies"]


def logout_url(visit, **more):
    """Where the client sends people to be signed out."""
    query = {"client_id": "web", "post_logout_redirect_uri": f"{visit.origin}/bye", "state": "s", **more}
    return visit.server.url("/logout?" + urllib.parse.urlencode(query))


def redeem(server, code):
    """The ID token for a code of the web shop's."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": f"{SHOP}/cb", "code_verifier": VERIFIER}
    url = f"https://127.0.0.1:{server.port}/oauth2/token"
    answer = http(url, form, {"Authorization": basic("web", SECRET)}, context=server.trust)
    equal(answer.status, 200, answer.body)
    return answer.json()["id_token"]


def plain(checks, server, origin):
    """The loopback issuer of development: by http, where browsers know neither `__Host-` nor Secure."""
    with checks("a_loopback_issuer_by_http"), chromium() as driver:
        visit, state = Visit(driver, server, origin), secrets.token_hex(8)
        visit.sent(prompt="consent", response_mode="form_post", state=state)
        visit.find("username")
        visit.look("branded")
        visit.sign_in("ada")
        visit.press("approve")
        visit.find("client")
        path, site, form = Site.posted[state]
        equal((path, site, form.get("iss"), "code" in form), ("/cb", "same-site", server.issuer, True))
        cookies = {(cookie["name"].split("-")[0], cookie["secure"]) for cookie in of_server(visit)}
        equal(cookies, {("sealwright", False)})
        visit.sent(logout_url(visit))
        visit.press("submit")
        equal(visit.answer("/bye"), {"state": "s"})
        equal(visit.blocked(), [])


def main():
    checks = Checks("browser")
    with contextlib.ExitStack() as stack:
        certificate = Certificate(stack.enter_context(tempfile.TemporaryDirectory()))
        shop, loopback = stack.enter_context(serving(certificate)), stack.enter_context(serving())
        with checks("server_starts_and_stops"):
            https = (ISSUER, certificate.chain, certificate.key)
            server = Sealwright("browser", None, https=https)
            server.trust = certificate.trust()
            with server.kept():
                server.apply(apply_file(SHOP))
                with sqlite3.connect(server.folder / "sealwright.db") as database:
                    # As if it had registered itself.
                    database.execute("UPDATE clients SET managed_by = 'registration' WHERE client_id = 'stranger'")
                database.close()
                server.start()
                arguments = certificate.arguments({ISSUER: server.port, SHOP: shop, NEIGHBOUR: shop})
                for scripts in (True, False):
                    with visits(checks, server, arguments, scripts) as flow:
                        flows(flow, server, arguments, scripts)
                        if scripts:
                            once(flow, server, loopback)
        origin = f"http://127.0.0.1:{loopback}"
        with checks("server_starts_and_stops_by_http"):
            server = Sealwright("browser-http", None)
            with server.kept():
                logo = server.folder / "logo.svg"
                logo.write_text(
                    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 32"><circle cx="32" cy="16" r="16" '
                    'fill="#0a7d54"/></svg>'
                )
                with server.config.open("a") as config:
                    config.write(f'[branding]\nname = "Larkspur Bank"\ncolor = "#0a6b48"\nlogo = "{logo}"\n')
                server.apply(apply_file(origin))
                server.start()
                plain(checks, server, origin)
    checks.close()


if __name__ == "__main__":
    main()
