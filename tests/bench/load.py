"""Loading an address with wrk from the second core."""

import itertools
import os
import re
import statistics
import subprocess
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
LOAD_CORE = ["taskset", "-c", "1"]
NAMES = itertools.count()


class Load(NamedTuple):
    """One run of wrk: requests, their rate a second, latencies in milliseconds, failed requests."""

    requests: int
    rate: float
    p50: float
    p99: float
    errors: int

    @classmethod
    def of(cls, runs):
        """Several runs as one: the medians of their rates and latencies, the sums of the rest."""
        requests, rates, p50s, p99s, errors = zip(*runs)
        return cls(sum(requests), *map(statistics.median, (rates, p50s, p99s)), sum(errors))


class Run:
    """A run of wrk that goes on; see load.lua for what it sends."""

    def __init__(self, url, seconds, folder, bodies=None, connections=64, **settings):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOAD_")}
        environment |= {f"LOAD_{name.upper()}": str(value) for name, value in settings.items() if value}
        if bodies:
            self.file = folder / f"bodies-{next(NAMES)}"
            self.file.write_text("\n".join(bodies) + "\n")
            environment["LOAD_BODIES"] = str(self.file)
        limits = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
        command = [*LOAD_CORE, "wrk", *limits, "-s", str(HERE / "load.lua"), url]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def result(self):
        """Waits for its end."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"wrk ended with {self.process.returncode}")
        requests, microseconds, p50, p99, errors = map(int, re.search(r"^RESULT (.*)$", output, re.M)[1].split())
        return Load(requests, requests * 1e6 / microseconds, p50 / 1e3, p99 / 1e3, errors)


def wrk(url, seconds, folder, **how):
    """A run, to its end."""
    return Run(url, seconds, folder, **how).result()


def warm(url, seconds, folder, **how):
    """A short run, then the one that counts."""
    wrk(url, max(1, seconds // 4), folder, **how)
    return wrk(url, seconds, folder, **how)


def clean(load):
    """The same, unless requests failed: then there is nothing to compare."""
    if load.errors:
        raise RuntimeError(f"{load.errors} of {load.requests} requests failed")
    return load
