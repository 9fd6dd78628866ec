"""One of several servers: what it has not, it passes on by one hop, or tells to wait; nobody else can pose as one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.endpoint import EndpointId
from posthouse.engine.costs import HOURS
from posthouse.errors import Refused
from posthouse.http1.connection import Connection
from posthouse.server.peers import CALLER, TOKEN, Peers, SharedFastPath
from tests.kit.live import live_server, until
from tests.kit.postgres import database_url
from tests.kit.puppets import Puppet, route, two_ready

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Two:
    """Server `a` has the endpoint `llm` with two workers; `b` has nothing."""

    a: Running
    b: Running
    http: aiohttp.ClientSession
    workers: list[Puppet]
    """As they report to `b`."""

    async def route(self, server: Running, headers: dict[str, str] | None = None, **ask: Any) -> Any:
        body = {"endpoint": "llm", "api_key": self.a.admin_key, "cost": 1, **ask}
        async with self.http.post(f"{server.url}/route/", json=body, headers=headers) as reply:
            assert reply.status == 200
            return await reply.json()


def peers(server: Running) -> Peers:
    fast = server.server.fast
    assert isinstance(fast, SharedFastPath)
    return fast.peers


def routed(server: Running) -> int:
    """Calls of `/route/` that a server has answered."""
    return server.server.fast.answers["/route", 200]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Two]:
    tmp_path = tmp_path_factory.mktemp("two")
    url, workers = database_url(), tmp_path / "a" / "workers"
    flags = {"database.url": url, "providers.process.directory": str(workers), "server.lease_s": 30}
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(live_server(tmp_path / "a", **flags))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        owner = await stack.enter_async_context(AsyncClient(a.url, a.admin_key))
        found = await two_ready(a, owner, http, tmp_path / "a")
        b = await stack.enter_async_context(live_server(tmp_path / "b", **flags))
        for puppet in found:
            puppet.base = b.url
        await until(lambda: len(peers(a).owners.peers) == 1, "a knows of b")
        assert (list(a.hub.endpoints), list(b.hub.endpoints)) == ([1], [])
        yield Two(a, b, http, found)


async def test_what_a_server_does_not_have_is_answered_by_the_one_that_has_it(two: Two) -> None:
    puppet, other = two.workers
    found = await two.route(two.b, request_idx=0)
    assert found["url"] in (puppet.url, other.url)
    idx = found["request_idx"]
    chosen = puppet if found["url"] == puppet.url else other
    assert idx in next(iter(two.a.hub.endpoints.values())).fleet.ledger.open
    assert await chosen.report(working_request_idxs=[idx], num_requests_working=1) == (200, {"success": True})
    ended = {"worker_id": chosen.id, "mtoken": chosen.token, "request_idxs": [idx], "success": True}
    assert await chosen.post("/delete_requests/", ended) == (200, {"success": True})
    assert idx not in next(iter(two.a.hub.endpoints.values())).fleet.ledger.open
    status, _ = await chosen.post("/worker_status/", chosen.form("W4", mtoken="wrong"))
    assert status == 401
    async with AsyncClient(two.b.url, two.a.admin_key) as client:
        assert [w.id for w in await client.workers()] == sorted(p.id for p in two.workers)
        assert (await client.explain("llm")).endpoint == "llm"
        key = await client.create_key("new", "read")
        async with AsyncClient(two.a.url, key.key) as at_once:
            assert [w.id for w in await at_once.workers()] == sorted(p.id for p in two.workers)


async def test_what_was_paid_is_told_alike_by_each_server(two: Two) -> None:
    key_id = two.a.admin_key.split("_")[1]
    [llm] = two.a.hub.endpoints.values()
    for server, costs in ((two.a, llm.costs), (two.b, two.b.hub.external)):
        hour = costs._hour(server.hub.clock.now())
        hour.spent["a provider", "", "idle"] += 1.5
        hour.asked[key_id] += 1.0
        costs._unsaved[HOURS, hour.number] = hour
        of_it = EndpointId(1) if costs is llm.costs else two.b.hub.external.endpoint_id
        await server.hub.store.put_history(costs.unsaved(of_it, server.hub.clock.now(), at_once=True))
    for server in (two.a, two.b):
        bearer = {"Authorization": f"Bearer {two.a.admin_key}"}
        async with two.http.get(f"{server.url}/v1/costs?by=key", headers=bearer) as reply:
            found = await reply.json()
        assert [line["name"][-12:-1] for line in found["lines"]] == [f"ph_{key_id}"]
        assert (found["lines"][0]["usd"], found["usd"], found["idle_usd"]) == pytest.approx((3.0, 3.0, 3.0), abs=0.1)
        async with AsyncClient(server.url, two.a.admin_key) as client:
            of_key = next(row for row in await client.keys() if row.id == key_id)
            assert of_key.usd_month == pytest.approx(3.0, abs=0.1)


async def test_a_call_is_passed_on_once_and_only_for_who_shows_the_servers_own_token(two: Two) -> None:
    before = routed(two.a)
    real = {TOKEN.decode(): peers(two.b)._token.decode(), CALLER.decode(): "203.0.113.7"}
    assert "url" not in await two.route(two.b, real)  # it came from another server: there it ends
    assert routed(two.a) == before
    assert "url" in await two.route(two.b, real | {TOKEN.decode(): "wrong"})  # anybody's call
    assert routed(two.a) == before + 1
    assert peers(two.a).passed([(TOKEN, b"wrong"), (CALLER, b"203.0.113.7")]) is None
    assert peers(two.a).passed([(TOKEN, peers(two.b)._token), (CALLER, b"203.0.113.7")]) == "203.0.113.7"


async def test_an_owner_that_cannot_be_reached_has_everybody_wait(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"authorization": f"Bearer {two.a.admin_key}"}
    lease = peers(two.b).owners.lease
    for url in (NOWHERE, ""):
        monkeypatch.setattr(peers(two.b), "owners", SimpleNamespace(owner_url=lambda _, url=url: url, lease=lease))
        told = await two.route(two.b, request_idx=77)
        assert (told["request_idx"], "another server" in told["status"], "url" in told) == (77, True, False)
        status, _ = await two.workers[0].report()
        assert status == 503
        async with two.http.get(f"{two.b.url}/v1/endpoints/llm/explain", headers=headers) as reply:
            assert (reply.status, "retry-after" in reply.headers) == (503, True)


async def test_a_server_that_was_stopped_says_wait_before_it_has_looked(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "url" in await two.route(two.a)
    stopped = SimpleNamespace(lease=SimpleNamespace(may_be_lost=lambda: True))
    monkeypatch.setattr(peers(two.a), "owners", stopped)
    assert "finding out" in (await two.route(two.a))["status"]
    status, _ = await two.workers[0].report()
    assert status == 503


async def test_a_worker_that_nobody_has_is_known_where_orphans_are_ended(two: Two) -> None:
    heard: dict[str, list[int]] = {"a": [], "b": []}
    peers(two.a).on_unknown, peers(two.b).on_unknown = heard["a"].append, heard["b"].append
    stray = Puppet(two.http, two.b.url, 12345, two.a.server.fast.keyring.worker_token(12345), "http://127.0.0.1:1")
    status, _ = await stray.report()
    assert status == 401
    first = "a" if two.a.hub.lease.server < two.b.hub.lease.server else "b"
    assert heard == {"a": [], "b": []} | {first: [12345]}


async def test_who_asks_for_a_certificate_without_a_token_has_proven_nothing(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    proven: list[Connection] = []
    monkeypatch.setattr(Connection, "prove", proven.append)
    for server in (two.a, two.b):
        monkeypatch.setattr(peers(server), "on_unknown", heard.append)
        url = f"{server.url}/api/v0/sign_cert/?instance_id=999999999"
        async with aiohttp.ClientSession() as stranger, stranger.post(url, data=b"a request") as reply:
            assert reply.status == 401
    assert (heard, proven) == ([], [])


async def test_a_data_directory_of_another_installation_is_refused(two: Two, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(32))
    url = two.b.hub.store._backend._dsn  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="is not that of the installation in the database"):
        async with live_server(tmp_path, **{"database.url": url}):
            pass
    assert (two.a.lock.path / "secret").read_bytes() == (two.b.lock.path / "secret").read_bytes()
    assert await route(two.http, two.b, {"endpoint": "nobody's", "api_key": two.a.admin_key}) == (
        400,
        {"error": 'endpoint: there is no endpoint named "nobody\'s"'},
    )


async def test_a_session_of_the_console_is_one_at_every_server(two: Two) -> None:
    async with two.http.post(f"{two.a.url}/v1/session", json={"key": two.a.admin_key}) as reply:
        csrf, cookie = (await reply.json())["csrf"], reply.headers["Set-Cookie"].partition(";")[0]
    headers = {"Cookie": cookie, "X-CSRF-Token": csrf}
    two.http.cookie_jar.clear()
    for server in (two.b, two.a):
        async with two.http.get(f"{server.url}/v1/session", headers=headers) as reply:
            assert (reply.status, (await reply.json())["csrf"]) == (200, csrf)
    async with two.http.delete(f"{two.b.url}/v1/session", headers=headers) as reply:
        assert reply.status == 200
    for server in (two.a, two.b):
        async with two.http.get(f"{server.url}/v1/session", headers=headers) as reply:
            assert reply.status == 401


async def test_workers_of_an_endpoint_that_was_deleted_are_heard_until_they_go(two: Two) -> None:
    found = await two.route(two.b, request_idx=0)
    chosen = next(puppet for puppet in two.workers if puppet.url == found["url"])
    working: dict[str, Any] = {"working_request_idxs": [found["request_idx"]], "num_requests_working": 1}
    assert await chosen.report(**working) == (200, {"success": True})
    async with AsyncClient(two.b.url, two.a.admin_key) as client:
        await client.delete_endpoint(1)
        await until(lambda: len(two.b.hub.directory) == 0, "b knows")
        assert await chosen.report(**working) == (200, {"success": True})
        assert chosen.id in [w.id for w in await client.workers()]
