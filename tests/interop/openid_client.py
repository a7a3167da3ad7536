"""npm's openid-client as the client of people. It runs in openid_client.mjs; the person and the server are here.

The two talk in lines: the client says which address to open (`open URL`) and hears where the browser ended; `ok NAME`
is a check that passed.
"""

import os
import subprocess
import sys
from pathlib import Path

import person
from sealwright import Checks

SCRIPT = Path(__file__).with_suffix(".mjs")
EXPECTED = ["discovery", "login", "id_token", "userinfo", "refresh", "logout"]


def main():
    checks = Checks("openidclient")
    with person.served(checks, "openid-client") as (server, browser):
        # Modules are looked for beside the script: it is run from where npm has installed them.
        modules = Path(os.environ["SEALWRIGHT_TEST_NODE"])
        script = modules / SCRIPT.name
        script.write_text(SCRIPT.read_text())
        words = [person.CLIENT, person.SECRET, person.REDIRECT_URI, person.POST_LOGOUT_REDIRECT_URI, person.SCOPE]
        with subprocess.Popen(
            ["node", str(script), server.issuer, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True,
        ) as client:
            passed = []
            for line in client.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "open":
                    end = browser.log_in(rest)
                    client.stdin.write(end + "\n")
                    client.stdin.flush()
                elif word == "ok":
                    passed.append(rest)
                else:
                    print(line, end="")
            client.wait(30)
        for name in EXPECTED:
            with checks(name):
                if name not in passed:
                    raise AssertionError(f"openid-client did not get there; it ended with {client.returncode}")
    checks.close()


if __name__ == "__main__":
    main()
