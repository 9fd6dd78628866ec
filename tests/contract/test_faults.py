"""What fails beside the server, with the real store and provider: routing goes on, and nothing is lost or leaked."""

import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.cli.options import ADMIN_KEY_FILE
from posthouse.client import AsyncClient
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import State
from posthouse.engine.clock import SystemClock
from posthouse.fleet.controller import Controller
from posthouse.ports import InstanceSpec
from posthouse.providers.process import ProcessProvider
from posthouse.store.sql import SqlStore
from tests.kit.live import end_workers, live_server, states, until
from tests.kit.puppets import Puppet, puppets, route, two_ready

LOCK = """\
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def server(data_dir: Path) -> AsyncIterator[Running]:
    flags = {"server.route_hold_s": 0.3, "rates.reports_per_worker": 0}
    async with live_server(data_dir, **flags) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def fleet_of(server: Running) -> Controller:
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    return fleet


async def pragma(server: Running, *statements: str) -> None:
    """Changes how the server's own connection behaves."""
    store = server.hub.store
    assert isinstance(store, SqlStore)
    async with store._backend.engine.connect() as db:
        connection: Any = (await db.get_raw_connection()).driver_connection
        for statement in statements:
            await connection.execute(f"PRAGMA {statement}")


@asynccontextmanager
async def locked(server: Running, data_dir: Path) -> AsyncIterator[None]:
    await pragma(server, "busy_timeout = 200")
    pipe = asyncio.subprocess.PIPE
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOCK, str(data_dir / "posthouse.db"), stdin=pipe, stdout=pipe
    )
    assert other.stdin
    assert other.stdout
    assert await other.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        other.stdin.close()
        await other.wait()


@asynccontextmanager
async def full(server: Running, data_dir: Path) -> AsyncIterator[None]:
    await pragma(server, "max_page_count = 1")  # which means: no more than there are
    other = sqlite3.connect(data_dir / "posthouse.db", isolation_level=None)
    pages = other.execute("PRAGMA page_count").fetchone()[0]
    other.execute(f"PRAGMA max_page_count = {pages}")
    with suppress(sqlite3.OperationalError):
        while True:  # the last page with room for another decision
            other.execute("INSERT INTO journal (endpoint_id, at, body) VALUES (999, 0, '{}')")
    other.close()
    yield
    await pragma(server, "max_page_count = 1000000")


@asynccontextmanager
async def broken_disk(server: Running, data_dir: Path) -> AsyncIterator[None]:
    """No file may grow beyond what the database's log has now."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((data_dir / "posthouse.db-wal").stat().st_size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@asynccontextmanager
async def read_only(server: Running, data_dir: Path) -> AsyncIterator[None]:
    await pragma(server, "query_only = ON")
    yield
    await pragma(server, "query_only = OFF")


@asynccontextmanager
async def gone(server: Running, data_dir: Path) -> AsyncIterator[None]:
    path, away = data_dir / "posthouse.db", data_dir / "away.db"
    path.rename(away)
    yield
    away.rename(path)


@asynccontextmanager
async def slow(server: Running, data_dir: Path) -> AsyncIterator[None]:
    """Every statement takes a while, in the thread that talks to the database."""
    store = server.hub.store
    assert isinstance(store, SqlStore)
    async with store._backend.engine.connect() as db:
        connection: Any = (await db.get_raw_connection()).driver_connection
        await connection.set_trace_callback(lambda _: time.sleep(0.3))
    yield
    await connection.set_trace_callback(None)


Fault = Callable[[Running, Path], AbstractAsyncContextManager[None]]


async def ask(
    http: aiohttp.ClientSession, server: Running, method: str, path: str, body: Any = None
) -> tuple[int, Any, dict[str, str]]:
    headers = {"Authorization": f"Bearer {server.admin_key}"}
    async with http.request(method, f"{server.url}{path}", json=body, headers=headers) as reply:
        return reply.status, await reply.json(), dict(reply.headers)


async def troubles(http: aiohttp.ClientSession, server: Running) -> list[str]:
    """What /readyz tells of, which the metrics count."""
    status, said, _ = await ask(http, server, "GET", "/readyz")
    assert (status, said["ready"]) == (200, True)
    return list(said["troubles"])


async def hot_calls_answer(http: aiohttp.ClientSession, server: Running, puppet: Puppet, cost: float = 1) -> None:
    status, reply = await route(http, server, {"endpoint": "llm", "cost": cost, "request_idx": 0})
    assert (status, reply.get("url")) == (200, puppet.url)
    assert (await puppet.report(working_request_idxs=[reply["request_idx"]]))[0] == 200
    ended = {"request_idx": reply["request_idx"], "success": True, "status": "Success"}
    body = {"worker_id": puppet.id, "mtoken": puppet.token, "requests": [ended]}
    assert (await puppet.post("/delete_requests/", body))[0] == 200
    assert fleet_of(server).ledger.open.get(reply["request_idx"]) is None


async def one_ready(server: Running, owner: AsyncClient, http: aiohttp.ClientSession, data_dir: Path) -> Puppet:
    """A puppet that takes requests, where a second one may be rented."""
    (puppet,) = await puppets(server, owner, http, data_dir)
    assert (await puppet.report())[0] == 200
    await until(lambda: states(server, "llm") == ["idle"], "it takes requests")
    return puppet


def watched(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> list[str]:
    """The labels of instances that are asked for from now on; each must be in the database by then."""
    labels = []
    create = ProcessProvider.create

    async def after_a_look(self: ProcessProvider, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        labels.append(spec.label)
        with sqlite3.connect(data_dir / "posthouse.db") as db:
            assert db.execute("SELECT count(*) FROM workers WHERE label = ?", [spec.label]).fetchone() == (1,)
        return await create(self, offer_id, spec, max_usd_h)

    monkeypatch.setattr(ProcessProvider, "create", after_a_look)
    return labels


@pytest.mark.parametrize("fault", [locked, full, read_only, broken_disk, gone], ids=lambda fault: fault.__name__)
async def test_while_the_database_cannot_be_used_routing_goes_on_and_nothing_is_begun(
    fault: Fault,
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    puppet = await one_ready(server, owner, http, data_dir)
    await owner.update_endpoint(fleet_of(server).endpoint.id, max_workers=2)
    labels = watched(monkeypatch, data_dir)
    await server.hub.worker_ids.reserve(1)  # without an id at hand, nothing is decided while the store is away
    async with fault(server, data_dir):
        await route(http, server, {"endpoint": "llm", "cost": 100_000, "request_idx": 0})  # more than one worker can do
        await until(lambda: states(server, "llm") == ["idle", "wanted"], "a second worker is wanted")
        await until(lambda: bool(server.loop.failing), "that could not be written down")
        for _ in range(3):
            status, reply = await route(http, server, {"endpoint": "llm", "cost": 1})
            assert (status, "url" in reply or "status" in reply) == (200, True)
        assert (await puppet.report())[0] == 200
        body = {"worker_id": puppet.id, "mtoken": puppet.token, "request_idxs": []}
        assert (await puppet.post("/delete_requests/", body))[0] == 200
        assert "decisions fail" in str(await troubles(http, server))
        template = {"name": "late", "image": "x", "readme": "x" * 100_000}
        said = await ask(http, server, "POST", "/api/v0/template", template)
        assert (said[0], said[1]["success"], said[1]["error"]) == (503, False, "unavailable")
        assert int(said[2]["Retry-After"]) > 0
        assert "nothing was changed" in said[1]["msg"] or "put it back" in said[1]["msg"]
        assert (await ask(http, server, "GET", "/api/v0/endptjobs"))[0] == 200  # what is in memory can be seen
        failed = server.loop.counts["failed_ticks"]
        await until(lambda: server.loop.counts["failed_ticks"] > failed, "it goes on trying")
        assert labels == []
    await until(lambda: "wanted" not in states(server, "llm"), "the second worker is asked for")
    await until(lambda: not server.loop.failing, "ticks go on")
    assert await troubles(http, server) == []
    assert (await ask(http, server, "POST", "/api/v0/template", template))[0] == 200
    assert len(labels) == len(set(labels)) == 1
    await until(lambda: states(server, "llm") == ["idle", "model_loading"], "it runs")
    assert len(list((data_dir / "workers").glob("posthouse-*"))) == 2
    assert server.loop.executor.counts["orphans_destroyed"] == 0


async def test_a_slow_database_slows_nobody_who_is_routed(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    puppet = await one_ready(server, owner, http, data_dir)
    labels = watched(monkeypatch, data_dir)
    async with slow(server, data_dir):
        making = asyncio.create_task(ask(http, server, "POST", "/api/v0/template", {"name": "late", "image": "x"}))
        rounds = 0
        while not making.done():
            await hot_calls_answer(http, server, puppet)
            rounds += 1
        assert (await making)[0] == 200
        assert rounds > 1
        endpoint_id = fleet_of(server).endpoint.id
        assert (await ask(http, server, "PUT", f"/api/v0/endptjobs/{endpoint_id}", {"cold_workers": 2}))[0] == 200
        assert (await ask(http, server, "PUT", f"/api/v0/endptjobs/{endpoint_id}", {"max_workers": 2}))[0] == 200
        await until(lambda: len(labels) == 1, "a second worker is asked for, after it was written down")
        await hot_calls_answer(http, server, puppet)


async def test_a_failing_decision_is_told_and_forgotten_when_it_is_over(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    puppet = await one_ready(server, owner, http, data_dir)

    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        for managed in server.hub.endpoints.values():
            patch.setattr(managed.fleet, "policy", broken)
        patch.setattr(ProcessProvider, "instances", broken)
        server.observer.poke("process")
        await until(lambda: bool(server.loop.failing and server.observer.failing), "both fail")
        await hot_calls_answer(http, server, puppet)
        assert await troubles(http, server) == [
            "decisions fail, and endpoints stay as they are: 1",
            "provider process cannot be listed",
        ]
        headers = {"Authorization": f"Bearer {server.admin_key}"}
        async with http.get(f"{server.url}/metrics", headers=headers) as page:
            assert "posthouse_troubles 2\n" in await page.text()
    await until(lambda: not server.loop.failing and not server.observer.failing, "it is over")
    assert await troubles(http, server) == []


async def test_an_empty_list_ends_no_worker_that_goes_on_reporting(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = await two_ready(server, owner, http, data_dir)

    async def nothing(_: object) -> list[Instance]:
        return []

    with monkeypatch.context() as patch:
        patch.setattr(ProcessProvider, "instances", nothing)
        lists = server.observer.counts["process_incomplete"]
        await until(lambda: server.observer.counts["process_incomplete"] > lists + 3, "it lies again and again")
        assert states(server, "llm") == ["idle", "idle"]
        assert (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]["url"] in {p.url for p in both}
    looks = server.observer.counts["process_looks"]
    await until(lambda: server.observer.counts["process_looks"] > looks + 2, "it tells the truth again")
    assert sorted(server.hub.fleet_named("llm").workers) == sorted(p.id for p in both)  # type: ignore[union-attr]
    assert server.loop.executor.counts["orphans_destroyed"] == 0


async def test_an_instance_made_twice_is_destroyed_once_and_one_unknown_leaves_its_number_to_nobody(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    puppet = await one_ready(server, owner, http, data_dir)
    worker = next(iter(fleet_of(server).workers.values()))
    instances, destroyed = ProcessProvider.instances, []
    label = f"{server.hub.label_prefix}900"
    more = {"twin": worker.label, "stray": label, "other": "posthouse-elsewhere-901", "odd": f"{label}{'9' * 30}"}

    async def and_more(self: ProcessProvider) -> list[Instance]:
        found = list(await instances(self))
        extra = [replace(found[0], id=i, label=its, addresses=frozenset({"127.0.0.1:1"})) for i, its in more.items()]
        return [*extra[:1], *found, *extra[1:], *extra[:1]]

    async def destroy(_: object, instance_id: str) -> None:
        destroyed.append(instance_id)
        more.pop(instance_id)

    with monkeypatch.context() as patch:
        patch.setattr(ProcessProvider, "instances", and_more)
        patch.setattr(ProcessProvider, "destroy", destroy)
        await until(lambda: len(destroyed) >= 3, "what nobody owns is destroyed")
        assert sorted(destroyed) == ["odd", "stray", "twin"]
        assert states(server, "llm") == ["idle"]
        assert (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]["url"] == puppet.url
    await server.hub.worker_ids.reserve(1)
    assert next(server.hub.worker_ids) == 901


async def test_a_worker_that_fails_at_once_does_not_draw_the_requests_to_it(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, data_dir: Path
) -> None:
    broken, healthy = await two_ready(server, owner, http, data_dir)
    sent: list[int] = []
    for _ in range(30):  # the healthy one takes its time: all it was given is still there
        _, reply = await route(http, server, {"endpoint": "llm", "cost": 10, "request_idx": 0})
        if reply["url"] == broken.url:
            sent.append(reply["request_idx"])
            row = {"request_idx": reply["request_idx"], "success": False, "status": "Error"}
            body = {"worker_id": broken.id, "mtoken": broken.token, "requests": [row]}
            assert (await broken.post("/delete_requests/", body))[0] == 200
    assert 1 <= len(sent) <= 3
    rows = (await ask(http, server, "GET", "/v1/workers"))[1]
    held = {row["id"]: row["penalty_s"] for row in rows}
    assert held[broken.id] > 0
    assert held[healthy.id] == 0
    async with http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.admin_key}"}) as page:
        assert 'posthouse_outlier_workers{endpoint="llm"} 1\n' in await page.text()


async def test_after_a_restart_with_the_clock_set_back_numbers_rise_and_workers_stay(
    http: aiohttp.ClientSession, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with live_server(data_dir) as server, AsyncClient(server.url, server.admin_key) as owner:
        puppet = await one_ready(server, owner, http, data_dir)
        _, before = await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0})
        told = (await puppet.report("W3"))[0]
        _, old = await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0})
        key, at, processes = server.admin_key, server.hub.clock.now(), end_workers
        monkeypatch.setattr("tests.kit.live.end_workers", lambda _: None)  # workers outlive the server
    assert told == 200
    monkeypatch.setattr(SystemClock, "wall", lambda _: at - 7 * 3600.0)
    try:
        async with live_server(data_dir) as server:
            server.admin_key = key
            assert server.hub.clock.now() > at
            puppet.base = server.url
            assert (await puppet.report("W3"))[0] == 200
            await until(lambda: states(server, "llm") == ["idle"], "it is there, and takes requests")
            _, after = await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0})
            assert after["reqnum"] > old["reqnum"] > before["reqnum"]
            assert after["request_idx"] > old["request_idx"]
            worker = fleet_of(server).workers[puppet.id]  # type: ignore[index]
            assert (worker.state, worker.message) == (State.IDLE, "")
    finally:
        monkeypatch.undo()
        processes(data_dir)


async def test_a_crash_before_the_first_key_is_stored_leaves_no_installation_without_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        assert (data_dir / ADMIN_KEY_FILE).is_file()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqlStore, "add_key", crash)
        with pytest.raises(KeyboardInterrupt):
            await live_server(data_dir).__aenter__()
    async with live_server(data_dir) as server, AsyncClient(server.url, server.admin_key) as owner:
        assert await owner.endpoints() == []
        file = data_dir / ADMIN_KEY_FILE
        assert file.read_text() == f"{server.admin_key}\n"
        assert file.stat().st_mode & 0o777 == 0o600


async def test_where_most_of_what_is_listed_is_unknown_nothing_is_destroyed_and_an_operator_is_told(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await one_ready(server, owner, http, data_dir)
    instances, destroyed = ProcessProvider.instances, []

    async def and_more(self: ProcessProvider) -> list[Instance]:
        found = list(await instances(self))
        return [*found, *(replace(found[0], id=f"{n}", label=f"{server.hub.label_prefix}{n}") for n in (900, 901))]

    async def destroy(_: object, instance_id: str) -> None:
        destroyed.append(instance_id)

    with monkeypatch.context() as patch:
        patch.setattr(ProcessProvider, "instances", and_more)
        patch.setattr(ProcessProvider, "destroy", destroy)
        looks = server.observer.counts["process_looks"]
        await until(lambda: server.observer.counts["process_looks"] > looks + 8, "it is looked at")
        assert destroyed == []
        async with http.get(f"{server.url}/readyz") as answer:
            assert "provider process has 2 instances of this installation" in await answer.text()
    looks = server.observer.counts["process_looks"]
    await until(lambda: server.observer.counts["process_looks"] > looks + 1, "the list is as it was")
    async with http.get(f"{server.url}/readyz") as answer:
        assert "provider process" not in await answer.text()
