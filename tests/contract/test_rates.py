"""Callers who call too often, over real HTTP: they are put off in a way that their programs understand."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.server import fastpath
from tests.kit.live import live_server
from tests.kit.puppets import puppets, route

LOW = {"rates.routes_per_key": 0.3, "rates.calls_per_key": 0.8, "rates.wrong_keys_per_address": 0.3}
"""Ten seconds of these are 3 routes, 8 calls and 3 wrong keys at once."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are put off come soon."""
    monkeypatch.setattr(fastpath, "PUT_OFF_S", 0.01)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_key_that_asks_too_often_is_told_to_wait_and_adds_no_load(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    flags = {**LOW, "rates.calls_per_key": 0, "server.route_hold_s": 0}
    async with live_server(tmp_path / "data", **flags) as server, AsyncClient(server.url, server.admin_key) as owner:
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        assert (await puppet.report())[0] == 200
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        asks = [await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0}) for _ in range(5)]
        assert [("url" in reply, status) for status, reply in asks] == [(True, 200)] * 3 + [(False, 200)] * 2
        assert asks[4][1] == {"endpoint": "llm", "status": "too many calls"}
        assert (await route(http, server, {"endpoint": "llm", "request_idx": 77}))[1]["request_idx"] == 77
        assert (fleet.counters.routed, fleet.counters.waited, fleet.ledger.outstanding(), len(fleet.ledger)) == (
            3,
            0,
            3,
            3,
        )
        own_key = (await owner.endpoint("llm")).api_key
        assert "url" in (await route(http, server, {"endpoint": "llm", "cost": 1, "api_key": own_key}))[1]


async def test_management_calls_beyond_the_rate_are_told_when_to_come_again(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with live_server(tmp_path / "data", **LOW) as server:
        headers = {"Authorization": f"Bearer {server.admin_key}"}
        answers = []
        for _ in range(9):
            async with http.get(f"{server.url}/api/v0/endptjobs/", headers=headers) as reply:
                answers.append((reply.status, await reply.json(), reply.headers.get("Retry-After")))
        assert [status for status, _, _ in answers] == [200] * 8 + [429]
        _, body, again = answers[-1]
        assert (body["success"], body["error"], again in ("1", "2")) == (False, "rate_limit_exceeded", True)
        assert "with this key" in body["msg"]


async def test_guessing_keys_is_slow_and_harms_nobody_else(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with (
        live_server(tmp_path / "data", **{**LOW, "rates.calls_per_key": 0}) as server,
        AsyncClient(server.url, server.admin_key) as owner,
    ):
        await owner.create_endpoint("llm", min_load=0, cold_workers=0)
        fresh = (await owner.create_key("updated", "route")).key
        assert (await route(http, server, {"endpoint": "llm"}))[0] == 200  # known from now on
        refused: list[Any] = []
        for guess in range(5):
            refused.append(await route(http, server, {"endpoint": "llm", "api_key": f"guess {guess}"}))
        assert [status for status, _ in refused] == [401] * 3 + [200] * 2
        assert refused[-1][1] == {"endpoint": "llm", "status": "too many wrong keys"}
        assert await owner.endpoints()
        # One that nobody has seen yet is looked at, however many wrong ones came before it.
        status, reply = await route(http, server, {"endpoint": "llm", "api_key": fresh})
        assert (status, "too many wrong keys" in reply["status"]) == (200, False)
        for path, shape in (("/api/v0/endptjobs/", "msg"), ("/metrics", "error")):
            async with http.get(f"{server.url}{path}", headers={"Authorization": "guess"}) as answer:
                assert answer.status == 429
                assert int(answer.headers["Retry-After"]) >= 1
                assert "too many wrong keys" in (await answer.json())[shape]
        async with http.get(f"{server.url}/metrics", headers={"Authorization": server.admin_key}) as answer:
            assert 'posthouse_engine_total{what="throttled_keys"} 4\n' in await answer.text()


async def test_a_worker_that_tells_too_much_is_heard_now_and_then_and_the_others_always(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with (
        live_server(tmp_path / "data", **{"rates.reports_per_worker": 0.3}) as server,
        AsyncClient(server.url, server.admin_key) as owner,
    ):
        loud, quiet = await puppets(server, owner, http, tmp_path / "data", count=2)
        for token in ("", "wrong"):  # whoever is not that worker takes nothing from it
            for _ in range(4):
                assert (await loud.post("/worker_status/", loud.form("W4", mtoken=token)))[0] == 401
        assert [(await loud.report())[0] for _ in range(5)] == [200, 200, 200, 429, 429]
        ended = {"worker_id": loud.id, "mtoken": loud.token, "request_idxs": [1]}
        status, reply = await loud.post("/delete_requests/", ended)
        assert (status, "rates.reports_per_worker" in reply["error"]) == (429, True)
        assert (await quiet.report())[0] == 200


async def test_the_ends_of_requests_take_nothing_from_what_a_worker_may_tell(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with (
        live_server(tmp_path / "data", **{"rates.reports_per_worker": 0.3, "server.route_hold_s": 0}) as server,
        AsyncClient(server.url, server.admin_key) as owner,
    ):
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        assert (await puppet.report())[0] == 200
        ended: dict[str, Any] = {"worker_id": puppet.id, "mtoken": puppet.token}
        for _ in range(20):
            _, routed = await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0})
            ended["request_idxs"] = [routed["request_idx"]]
            assert (await puppet.post("/delete_requests/", ended))[0] == 200
        assert 429 in [(await puppet.post("/delete_requests/", ended))[0] for _ in range(20)]  # it has ended already


async def test_a_wrong_key_counts_once_however_its_call_is_answered(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async def told(server: Running) -> list[int]:
        return [(await route(http, server, {"endpoint": "llm", "api_key": "guess"}))[0] for _ in range(4)]

    async with live_server(tmp_path / "data", **LOW) as server:
        assert await told(server) == [401, 401, 401, 200]
