"""Where drills take place: a server in a process of its own, its endpoint, and what is measured of it."""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.kit.site import Site

RESULTS = Path(__file__).parent / "results"
ONSTART = f'exec "$PYTHON" -I -S {Path(__file__).with_name("worker.py")}\n'
QUICK = {
    "POSTHOUSE_ENGINE__TICK_S": "0.2",
    "POSTHOUSE_PROVIDERS__PROCESS__POLL_S": "0.5",
    "POSTHOUSE_ENGINE__STABILIZATION_S": "1",
    "POSTHOUSE_PROVIDERS__PROCESS__GRACE_S": "2",
    "POSTHOUSE_SERVER__LOG_LEVEL": "error",
}
"""Settings by which the loop runs quicker than in earnest: more happens in the time."""


class Ground(Site):
    """A site with one endpoint named `drill`, whose workers are `tests/resilience/worker.py`."""

    forks = False

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory)
        self.environ |= QUICK | {f"POSTHOUSE_{name.upper()}": str(value) for name, value in settings.items()}
        self.url = ""
        self.key = ""

    def begin(self, onstart: str = ONSTART, env: str = "-p 3000:3000", **scaling: Any) -> None:
        """Starts the server, makes the endpoint, and gives it what it may rent."""
        self.open(onstart, env, **scaling)
        self.json("workergroup", "create", "--endpoint", "drill", "--template", "drill")

    def open(self, onstart: str = ONSTART, env: str = "-p 3000:3000", **scaling: Any) -> None:
        """Starts the server and makes the endpoint, which may rent nothing yet."""
        facts = self.start()
        self.url, self.key = facts["url"], Path(facts["admin_key_file"]).read_text().strip()
        self.environ["POSTHOUSE_API_KEY"] = self.key
        (self.directory / "onstart.sh").write_text(onstart)
        self.json("template", "create", "--name", "drill", "--env", env, "--onstart", "onstart.sh")
        flags = [word for name, value in scaling.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        self.json("endpoint", "create", "drill", *flags)

    def start_again(self) -> None:
        """Starts the server at the address where it was."""
        self.start("--port", self.url.rpartition(":")[2])

    def owner(self) -> int:
        """The process that owns the data directory; 0 for an instant while one takes over."""
        return int((self.directory / "posthouse-data" / "lock").read_text() or 0)

    def process(self) -> psutil.Process:
        """The server's."""
        assert self.server is not None
        return psutil.Process(self.server.pid)


@contextmanager
def ground(**settings: Any) -> Iterator[Ground]:
    """A ground in a directory of its own; whatever is left there is ended and removed."""
    with tempfile.TemporaryDirectory(prefix="posthouse-drill-") as directory:
        made = Ground(Path(directory), **settings)
        try:
            yield made
        finally:
            made.clear()


def until(reached: Any, timeout_s: float = 120.0) -> float:
    """Waits for a condition; the seconds that it took. Raises: TimeoutError."""
    began = time.monotonic()
    while not reached():
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def options(about: str, **defaults: float) -> argparse.Namespace:
    """The command line of a drill: one number for each of `defaults`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help="how many")
    return parser.parse_args()


def conclude(name: str, figures: dict[str, Any], violations: list[str]) -> int:
    """The exit code, 1 if something was violated. Prints the figures and keeps them in `tests/resilience/results`."""
    for what, value in figures.items():
        print(f"{what:<28} {value}")
    for violation in violations[:20]:
        print(f"VIOLATION: {violation}")
    print(f"{name}: {'BROKEN' if violations else 'holds'}")
    machine: dict[str, Any] = {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "os": platform.system(),
    }
    versions = {"python": platform.python_version(), **{p: version(p) for p in ("posthouse", "httptools", "uvloop")}}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    machine["load_average"] = [round(load, 1) for load in os.getloadavg()]
    record = {"drill": name, "at": at, "holds": not violations, "figures": figures, "violations": violations[:20]}
    RESULTS.mkdir(exist_ok=True)
    record |= {"machine": machine, "versions": versions}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 1 if violations else 0
