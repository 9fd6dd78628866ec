"""A gateway before a server and workers with a stand-in for an engine, each a process of its own."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posthouse.client import Client
from tests.kit import openai_engine
from tests.kit.site import TIMEOUT_S, Site, programs

if TYPE_CHECKING:
    from openai import OpenAI

ONSTART = f"""
exec "$PYTHON" -m posthouse agent --log-format json --perf 1000 --parallel 64 \\
  -- "$PYTHON" {openai_engine.__file__} "$MODEL_PORT" "$SEEN"
"""
SCALING: dict[str, Any] = {"cold_workers": 0, "cold_mult": 1, "max_workers": 2}


@dataclass
class World:
    site: Site
    folder: Path
    url: str
    manage: Client
    key: str

    def client(self, key: str = "", **options: Any) -> "OpenAI":
        """The official client, as anybody would make it."""
        from openai import OpenAI

        return OpenAI(base_url=self.url, api_key=key or self.key, **{"max_retries": 0, "timeout": TIMEOUT_S, **options})

    def seen(self, user: str, what: str = "begun") -> list[dict[str, Any]]:
        """What the engines saw of this user's requests."""
        path = self.folder / "seen"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["user"] == user and row["what"] == what]


def until(reached: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def add_endpoint(manage: Client, name: str, template_name: str = "engine", **scaling: Any) -> None:
    template = next(row for row in manage.templates() if row.name == template_name)
    endpoint_id = manage.create_endpoint(name, **{**SCALING, **scaling})
    manage.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)


@contextlib.contextmanager
def gateway(site: Site, *flags: str) -> Iterator[str]:
    """A gateway; its base address for clients."""
    argv = ["gateway", "--json", "--listen", "127.0.0.1:0", *flags]
    log = site.directory / "gateway.log"
    with log.open("a") as stderr:
        process = programs().start("posthouse", argv, site.directory, site.environ, stderr)
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield json.loads(line)["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()


@contextlib.contextmanager
def gateway_world(
    directory: Path,
    folder: Path,
    *flags: str,
    environ: Mapping[str, str] | None = None,
    worker_environ: Mapping[str, str] | None = None,
) -> Iterator[World]:
    """A gateway before the endpoint `chat`, of which two workers are ready.

    `folder`: what its engines share; `environ`: further variables of server and gateway, `worker_environ`: of workers.
    """
    site = Site(directory)
    site.environ |= {
        "POSTHOUSE_ENGINE__TICK_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__POLL_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__CATALOG_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__SLOTS": "8",
        "POSTHOUSE_SERVER__ROUTE_HOLD_S": "0.5",
        **(environ or {}),
    }
    try:
        facts = site.start()
        key = (directory / "posthouse-data" / "admin-key").read_text().strip()
        with Client(facts["url"], key) as manage, gateway(site, *flags) as url:
            env = "".join(f" -e {name}={value}" for name, value in (worker_environ or {}).items())
            manage.create_template("engine", env=f"-p 3000:3000 -e SEEN={folder}{env}", onstart=ONSTART)
            add_endpoint(manage, "chat", min_load=1500)
            until(lambda: [w.state for w in manage.workers("chat")].count("idle") == 2, "two workers are ready")
            yield World(site, folder, url, manage, key)
    finally:
        site.clear()
