#!/usr/bin/env python3
"""Brings two-servers.yaml up on a real engine; kills its servers, each as the owner and as the other one, and its
database, and stops its gateways, while requests go on.

`python3 deploy/compose/try.py` needs Docker with compose, on a machine whose engine may run a dozen containers. It ends
with 1 if a request failed. At its end nothing of it is left but the images. `--no-build` takes those that there are.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
NET = os.environ.get("POSTHOUSE_NET", "10.89.77")
HOST = f"{NET}.1"
PROJECT = "posthouse-try"
MODEL = "llm"
WAIT_S = 600.0
AT_ONCE = 4
OTHER = {"server-a": "server-b", "server-b": "server-a"}
PROVIDER = f"""
default_provider = "box"
[providers.box]
type = "docker"
url = "unix:///var/run/docker.sock"
host = "{HOST}"
agent = "image"
slots = 4
poll_s = 1
"""


def run(*command: str, check: bool = True) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=check).stdout.strip()


def compose(*words: str, check: bool = True) -> str:
    files = ["-f", str(HERE / "two-servers.yaml"), "-f", str(HERE / "try.yaml")]
    return run("docker", "compose", "-p", PROJECT, *files, *words, check=check)


def posthouse(server: str, *words: str) -> str:
    return compose("exec", "-T", "--workdir", "/tmp", server, "posthouse", *words)


class Callers:
    """Requests to the gateways through nginx, one after another, by a few at once."""

    def __init__(self, key: str) -> None:
        self.answers: Counter[str] = Counter()
        self.longest_s = 0.0
        self._key, self._over = key, threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
        while not self._over.is_set():
            request = urllib.request.Request(
                f"http://{HOST}:8081/v1/chat/completions",
                json.dumps(body).encode(),
                {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"},
            )
            began = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    whole = answer.read().rstrip().endswith(b"[DONE]")
                    self.answers["answered" if whole else "broken off"] += 1
            except urllib.error.HTTPError as error:
                self.answers[f"{error.code} {error.read()[:200]!r}"] += 1
            except (OSError, ValueError, http.client.HTTPException) as error:  # also what broke off in a chunk
                self.answers[repr(error)] += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def more(self, count: int = 40) -> None:
        """Waits until so many more have been answered, or one was not."""
        until, enough = time.monotonic() + WAIT_S, self.answers["answered"] + count
        while self.answers["answered"] < enough and len(+self.answers) < 2:
            assert time.monotonic() < until, self.answers
            time.sleep(0.2)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def query(sql: str) -> str:
    ask = 'PGPASSWORD="$POSTGRES_PASSWORD" psql -h 127.0.0.1 -U posthouse -qtAc "$0"'
    return compose("exec", "-T", "postgres", "sh", "-c", ask, sql, check=False)


def start(*services: str) -> None:
    """Starts them and waits until they are healthy, again where that fails: on a busy machine they are late."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            compose("up", "--no-build", "--detach", "--wait", *services)
            return
        except subprocess.CalledProcessError:
            if time.monotonic() > until:
                raise


def owner() -> str:
    """Which server has the endpoint."""
    url = query("SELECT s.url FROM fleets f JOIN servers s ON s.name = f.server")
    return "server-b" if "server-b" in url else "server-a"


def clear() -> None:
    """Ends the workers of this installation, and everything else."""
    installation = query("SELECT name FROM installation")
    compose("stop", "server-a", "server-b", check=False)
    if installation:
        label = f"label=posthouse.installation={installation}"
        left = run("docker", "ps", "--all", "--quiet", "--filter", label).split()
        run("docker", "rm", "--force", "--volumes", *left, check=False)
        volumes = run("docker", "volume", "ls", "--quiet", "--filter", label).split()
        run("docker", "volume", "rm", *volumes, check=False)
    compose("down", "--volumes", "--timeout", "5", check=False)


def main() -> int:
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "posthouse.toml")
        config.write_text(PROVIDER)
        config.chmod(0o644)
        Path(folder).chmod(0o755)
        os.environ |= {
            "POSTGRES_PASSWORD": os.urandom(16).hex(),
            "POSTHOUSE_PUBLIC_URL": f"http://{HOST}:8080",
            "POSTHOUSE_LISTEN": HOST,
            "POSTHOUSE_NET": NET,
            "POSTHOUSE_CONFIG": str(config),
            "DOCKER_SOCKET": socket,
            "DOCKER_GID": str(Path(socket).stat().st_gid),
        }
        try:
            return attempt()
        except BaseException:
            print(compose("logs", "--tail", "50", check=False))
            raise
        finally:
            clear()


def attempt() -> int:
    if "--no-build" not in sys.argv:
        for target in ("server", "gateway", "agent"):
            name = "posthouse" if target == "server" else f"posthouse-{target}"
            run("docker", "build", "--target", target, "--tag", name, str(HERE.parents[1]))
    start()
    key = compose("exec", "-T", "server-a", "cat", "/data/admin-key")
    os.environ["POSTHOUSE_API_KEY"] = key
    posthouse("server-a", "init", "demo-llm")
    image = ["--image", "posthouse-agent", "--env", "-p 3000:3000 -e TOKENS_PER_S=100 -e SLOTS=4 -e LOAD_S=0"]
    posthouse("server-a", "template", "create", "demo-llm/template.json", *image)
    scaling = ["--min-load", "100", "--cold-workers", "0", "--max-workers", "1"]
    posthouse("server-a", "endpoint", "create", MODEL, *scaling)
    posthouse("server-a", "workergroup", "create", "--endpoint", MODEL, "--template", "demo-llm")
    callers = Callers(key)
    try:
        callers.more()
        for step in ("owner", "heir", "other", "postgres", "gateway-a", "gateway-b"):
            before, has = callers.answers["answered"], owner()
            what = {"owner": has, "heir": has, "other": OTHER[has]}.get(step, step)
            compose("stop" if "gateway" in what else "kill", what)  # a killed gateway takes what it has with it
            callers.more()
            start(what)
            callers.more()
            said = what if what == step else f"{what}, the {step},"
            print(f"{said} was away and is back; {callers.answers['answered'] - before} answered meanwhile", flush=True)
    finally:
        callers.end()
    print(f"{dict(callers.answers)}; the longest took {callers.longest_s:.1f} s")
    return 0 if set(+callers.answers) == {"answered"} else 1


if __name__ == "__main__":
    sys.exit(main())
