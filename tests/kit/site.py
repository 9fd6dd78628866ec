"""A server in a process of its own, and the command line beside it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil

from tests.kit.forked import Forked, Forker, forker
from tests.kit.live import end_workers
from tests.kit.rows import store_url

TIMEOUT_S = 120.0
START_S = 120.0
"""How long a process may take to start or end; other tests may keep the machine busy."""

ONSTART = """
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 500 --slots 4 --load-s 0 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --perf 2000
"""


def programs() -> Forker:
    """For servers, gateways and commands."""
    return forker("posthouse.app.wiring", "posthouse.gateway.service", "pydantic.type_adapter", "uvloop")


class Site:
    """A directory with at most one server, and commands that are run in it."""

    forks = True
    """The server, too, off a process that has imported it already: a start is no measure of one then."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = {name: text for name, text in os.environ.items() if not name.startswith("POSTHOUSE_")}
        if (url := store_url(directory)).startswith("postgresql"):
            self.environ["POSTHOUSE_DATABASE__URL"] = url
        self.within: list[str] = []
        """What the server's command begins with: where it runs."""
        self.server: Forked | subprocess.Popen[str] | None = None

    def start(self, *flags: str) -> dict[str, Any]:
        """Starts a server on a free port; what it says of itself."""
        argv = ["serve", "--json", "--port", "0", *flags]
        if self.forks and not self.within:
            self.server = programs().start("posthouse", argv, self.directory, self.environ)
        else:
            argv, pipe = [*self.within, sys.executable, "-m", "posthouse", *argv], subprocess.PIPE
            self.server = subprocess.Popen(
                argv, cwd=self.directory, env=self.environ, stdout=pipe, stderr=pipe, text=True, start_new_session=True
            )
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, self.server.communicate(timeout=START_S)[1]
        facts: dict[str, Any] = json.loads(line)
        self.environ["POSTHOUSE_URL"] = facts["url"]
        return facts

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Sends the signal; the server's exit code, and what it said, but for what it says of the machine's wall."""
        assert self.server is not None
        server, self.server = self.server, None
        server.send_signal(number)
        lines = server.communicate(timeout=START_S)[1].splitlines(keepends=True)
        return server.wait(), "".join(line for line in lines if "[warning  ] workers " not in line)

    def run(self, *argv: str, text: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return programs().run("posthouse", argv, self.directory, self.environ | environ, text, START_S)

    def json(self, *argv: str) -> Any:
        done = self.run(*argv, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def states(self) -> list[str]:
        """Of its workers. It is no command, for who waits asks often."""
        url, data = self.environ["POSTHOUSE_URL"], self.directory / "posthouse-data"
        trust = ssl.create_default_context(cafile=data / "authority.cer") if url.startswith("https:") else None
        request = Request(
            f"{url}/v1/workers", headers={"Authorization": f"Bearer {(data / 'admin-key').read_text().strip()}"}
        )
        with urlopen(request, timeout=START_S, context=trust) as answer:
            return sorted(row["state"] for row in json.load(answer))

    def processes(self) -> list[psutil.Process]:
        """The processes of workers, without the du that measures their disk now and then."""
        workers = str(self.directory / "posthouse-data" / "workers")
        there = psutil.process_iter(["cwd", "name"])
        return [p for p in there if (p.info["cwd"] or "").startswith(workers) and p.info["name"] != "du"]

    def clear(self) -> None:
        """Ends whatever a failed test left: servers, also one that has taken over, gateways, workers."""
        here = str(self.directory.resolve())
        while left := [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == here]:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.02)
        if self.server is not None:
            self.stop(signal.SIGKILL)
        end_workers(self.directory / "posthouse-data")


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)
