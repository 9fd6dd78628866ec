"""Workers of July 2024 to November 2025 and their clients, unmodified, from checkouts in the folder that PEERS names.

FOLDER/W1, FOLDER/W1-OTHER: checkouts with a worker of that generation. Nothing of them is kept here.
"""

import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from tests.kit.live import add_endpoint, live_server, ready, until
from tests.kit.old_peers import FOLDER, onstart, requests, tunnel
from tests.kit.peers_at_home import NAMES

peer = pytest.mark.peer
ASKED = 3
"""So many requests a client makes each time."""
CLIENT = "the client beside it, with all defaults"


def of(generation: str) -> Any:
    """The parameter of a generation, with what is shown of it."""
    marks = [
        peer("POST /worker_status/", generation, does="boots, measures itself, reports"),
        peer("GET /pubkey/", generation, does="at its start"),
        peer("POST /route/", "C0", generation, does=CLIENT),
        peer("worker: POST /ROUTE", "C0", generation, does=CLIENT),
    ]
    if generation in ("W2", "W3"):
        marks.append(peer("POST /delete_requests/", generation, does="reports what has ended"))
    return pytest.param(generation, marks=marks)


def git(path: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(path), *words], capture_output=True, text=True, check=True).stdout.strip()


def checkouts(generation: str, record: Callable[[str, object], None]) -> list[Path]:
    """Those of the generation, noted in the record."""
    if not (found := sorted(FOLDER.glob(f"{generation}*/"))):
        pytest.skip(f"PEERS names no folder with a checkout {generation}")
    for path in found:
        record("ran", git(path, "log", "-1", "--format=%h of %cs"))
        assert not git(path, "status", "--porcelain"), f"{path} is not as it was published"
    return found


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    tls = {"server.tls": "self", "server.tls_names": ",".join((*NAMES, "127.0.0.1"))}
    async with live_server(tmp_path / "data", **tls) as server:
        yield server


@pytest.fixture
async def env(server: Running, tmp_path: Path) -> AsyncIterator[Mapping[str, str]]:
    """What leads a client with all its defaults here, the service's names and certificate included."""
    async with tunnel(server.listener.getsockname()[1]) as proxy:
        trust = str(tmp_path / "data" / "authority.cer")
        yield {"HTTPS_PROXY": proxy, "NO_PROXY": "127.0.0.1", "REQUESTS_CA_BUNDLE": trust}


async def serves(server: Running, checkout: Path, env: Mapping[str, str], directory: Path) -> None:
    """Shows that a worker is ready, serves the client beside it, and goes."""
    async with AsyncClient(server.url, server.admin_key, ca=env["REQUESTS_CA_BUNDLE"]) as owner:
        endpoint_id = await add_endpoint(owner, checkout.name, onstart=onstart(checkout), max_workers=1)
        await ready(server, checkout.name)
        fleet = server.hub.fleet_named(checkout.name)
        assert fleet is not None
        [worker] = fleet.workers.values()
        asked = directory / "data" / "workers" / worker.label / "home" / "asked.jsonl"

        async def served() -> int:
            before = len(asked.read_text().splitlines())
            printed = await requests(checkout, ASKED, checkout.name, server.admin_key, directory, env)
            lines = asked.read_text().splitlines()[before:]
            assert not [line for line in lines if "request_id" in line], printed  # the model is sent what is its own
            return len(lines)

        first = worker.scheme
        if await served() < ASKED:  # where two signatures have one version, the first may be refused
            await until(lambda: fleet.workers[worker.id].scheme != first, "the other signature is tried")
            assert await served() == ASKED, checkout.name
        await until(lambda: len(fleet.ledger) == 0, "its requests have ended")
        await owner.delete_endpoint(endpoint_id)
        await until(lambda: not fleet.workers, "its worker is gone")


@pytest.mark.parametrize("generation", [of(generation) for generation in ("W0", "W1", "W2", "W3")])
async def test_an_old_worker_serves_the_client_beside_it(
    generation: str,
    server: Running,
    env: Mapping[str, str],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    for checkout in checkouts(generation, record_property):
        await serves(server, checkout, env, tmp_path)


@peer("POST /route/", "C0", does="the clients beside old workers, with all defaults")
@peer("worker: POST /ROUTE", "C0", does="the clients beside old workers, with all defaults, at our agent")
@peer("GET /api/v0/endptjobs/", "C0", does="the clients beside workers of 2025 look up an endpoint's key")
@peer("GET /static/jvastai_root.cer", "C0", does="the clients beside workers of 2025, before they call a worker")
async def test_the_clients_beside_old_workers_are_served_by_our_agent(
    server: Running, env: Mapping[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with AsyncClient(server.url, server.admin_key, ca=env["REQUESTS_CA_BUNDLE"]) as owner:
        await add_endpoint(owner, "llm")
        await ready(server, "llm")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    for number, checkout in enumerate(checkouts("W", record_property), start=1):
        printed = await requests(checkout, ASKED, "llm", server.admin_key, tmp_path, env)
        assert fleet.counters.routed == number * ASKED, printed
        await until(lambda: len(fleet.ledger) == 0, "its requests have ended")
        assert (fleet.counters.ended, fleet.counters.failed) == (number * ASKED, 0), printed
