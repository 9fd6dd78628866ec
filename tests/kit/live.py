"""A real server with process workers, for tests."""

import asyncio
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from vastai import Serverless

from posthouse.app.running import Running
from posthouse.app.wiring import running
from posthouse.client import AsyncClient
from posthouse.config import load_settings
from posthouse.providers.process.procfs import census, send
from tests.kit.peers_at_home import AUTHORITY_DIR, NAMES

TIMEOUT_S = 300.0
AT_HOME = {
    "server.port": 443,
    "server.tls": "self",
    "server.tls_names": ",".join(NAMES),
    "public_url": f"https://{NAMES[1]}",
}
WORKER_ENV = "-p 3000:3000" + (" -e USE_SSL=true" if AUTHORITY_DIR else "")
SIGNED = """\
(
flock 9
if [ ! -s /etc/instance.crt ]; then
openssl req -newkey rsa:2048 -subj /C=US/ST=CA/CN=pyworker.vast.ai/ -addext subjectAltName=IP:0.0.0.0 -nodes -sha256 \\
  -keyout /etc/instance.key -out /etc/instance.csr
curl --header 'Content-Type: application/octet-stream' --data-binary @//etc/instance.csr -X \\
  POST "https://console.vast.ai/api/v0/sign_cert/?instance_id=$CONTAINER_ID" > /etc/instance.crt
fi
) 9> /etc/instance.lock
"""
"""What the peer's script does before its worker: a key, a request for no address, and a call that shows no key and
checks nothing. Workers of one machine are one after another, for the place of the files is fixed."""
AGENT = """\
exec "$PYTHON" -m posthouse agent --parallel 4 \\
  --benchmark-payload '{"inputs":"x","parameters":{"max_new_tokens":20}}' --benchmark-runs 1 \\
  -- "$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 200 --slots 4 --load-s 0.2
"""
SCALING: dict[str, Any] = {"min_load": 1, "cold_workers": 0, "cold_mult": 1, "max_workers": 2}


@asynccontextmanager
async def live_server(data_dir: Path, **flags: Any) -> AsyncIterator[Running]:
    """A server on a free port; at the end every worker process it left is ended."""
    if AUTHORITY_DIR:
        shutil.copytree(AUTHORITY_DIR, data_dir, dirs_exist_ok=True)
        flags = AT_HOME | flags
    settings, _ = load_settings(
        {
            "server.port": 0,
            "server.log_level": "error",
            "data_dir": str(data_dir),
            "engine.tick_s": 0.2,
            "providers.process.poll_s": 0.2,
            "providers.process.catalog_s": 0.2,
            "engine.stabilization_s": 0,
            "engine.canary_s": 0,
            "engine.orphan_after_s": 1,
            "providers.process.slots": 8,
            "providers.process.grace_s": 3,
            "providers.process.ready_usd_h": 0.4,
            **flags,
        },
        None,
        {},
    )
    try:
        async with running(settings) as server:
            yield server
    finally:
        end_workers(data_dir)
        if AUTHORITY_DIR:  # the next test's worker must not find what `SIGNED` has made
            for path in Path("/etc").glob("instance.*"):
                path.unlink()


def worker_processes(directory: Path) -> list[psutil.Process]:
    """Living processes that work in the directory of the workers, or of one."""
    inside = str(directory.resolve())
    found = []
    for process in psutil.process_iter(["cwd", "status"]):
        if (process.info["cwd"] or "").startswith(inside) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def end_workers(data_dir: Path) -> None:
    """Ends the processes of all instances. None is left when it returns: a keeper writes files until it ends."""
    while left := census(str((data_dir / "workers").resolve())):
        for process in chain.from_iterable(left.values()):
            send(process, signal.SIGKILL)
        time.sleep(0.02)


async def add_endpoint(
    client: AsyncClient, name: str, onstart: str = AGENT, env: str = WORKER_ENV, **scaling: Any
) -> int:
    """The id of a new endpoint with one workergroup."""
    template = await client.create_template(name=name, env=env, onstart=onstart)
    endpoint_id = await client.create_endpoint(name, **{**SCALING, **scaling})
    await client.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)
    return endpoint_id


def pointed(server: Running, key: str = "") -> Any:
    """The unmodified client, pointed at a server by its own constructor and attribute; at home it needs neither."""
    if AUTHORITY_DIR:
        return Serverless(key or server.admin_key)

    class Pointed(Serverless):  # type: ignore[misc]
        SSL_CERT_URL = f"{server.url}/static/jvastai_root.cer"

    return Pointed(api_key=key or server.admin_key, autoscaler_url=server.url, webserver_url=server.url)


async def until(reached: Callable[[], bool], what: str) -> None:
    """Waits for a condition, at most `TIMEOUT_S`."""
    began = time.monotonic()
    while not reached():
        if time.monotonic() - began > TIMEOUT_S:
            raise AssertionError(f"not within {TIMEOUT_S} s: {what}")
        await asyncio.sleep(0.05)


def states(server: Running, name: str) -> list[str]:
    """The states of an endpoint's workers."""
    fleet = server.hub.fleet_named(name)
    return [] if fleet is None else [str(w.state) for w in fleet.workers.values()]


async def ready(server: Running, name: str, count: int = 1) -> None:
    await until(lambda: states(server, name).count("idle") >= count, f"{count} ready workers of {name}")
