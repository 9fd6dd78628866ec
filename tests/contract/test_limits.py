"""Keys with limits, over real HTTP: never more than they may have, and told so in the protocol's way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.client.errors import BadRequest, NotFound
from posthouse.engine import limits
from tests.kit.live import live_server
from tests.kit.puppets import puppets


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for another of its key to end, waits a moment."""
    monkeypatch.setattr(limits, "MAX_WAIT_S", 0.05)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


async def route(http: aiohttp.ClientSession, server: Running, key: str, **body: Any) -> Any:
    asked = {"endpoint": "llm", "cost": 1, "request_idx": 0, "api_key": key, **body}
    async with http.post(f"{server.url}/route/", json=asked) as reply:
        return await reply.json()


async def others_see_it_and_it_can_be_changed(
    http: aiohttp.ClientSession, server: Running, owner: AsyncClient, key_id: str, key: str
) -> None:
    assert (await owner.status()).standing[0].limited["at once"] == 1
    async with http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.admin_key}"}) as page:
        assert 'posthouse_limited_requests_total{endpoint="llm",limit="at once"} 1\n' in await page.text()
    changed = await owner.update_key(key_id, at_once=0, name="bob's")
    assert (changed.name, changed.at_once) == ("bob's", None)
    assert "url" in await route(http, server, key)
    with pytest.raises(NotFound):
        await owner.update_key("00000000", at_once=1)
    with pytest.raises(BadRequest, match="at_once"):
        await owner.update_key(key_id, at_once=-1)


async def test_limits_hold_for_calls_at_once_and_are_settled_by_what_workers_count(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    flags = {"rates.calls_per_key": 0, "rates.routes_per_key": 0, "server.route_hold_s": 0}
    async with live_server(tmp_path / "data", **flags) as server, AsyncClient(server.url, server.admin_key) as owner:
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        assert (await puppet.report(max_perf=1e6))[0] == 200

        # Of many that ask in one moment as many have a worker as may.
        made = await owner.create_key("alice", "route", work_per_minute=1000)
        replies = await asyncio.gather(*(route(http, server, made.key, cost=10) for _ in range(300)))
        given = [reply for reply in replies if "url" in reply]
        assert 100 <= len(given) <= 100 + 5, "a minute's worth, and what came in meanwhile"
        put_off = next(reply for reply in replies if "url" not in reply)
        assert put_off["status"].startswith("too many requests: this key may have 1000 work per minute; room for this")
        assert "request_idx" not in put_off
        assert put_off.keys() == {"endpoint", "status", "retry_after_s"}
        assert 0 < put_off["retry_after_s"] <= 0.6
        told = await route(http, server, made.key, cost=10, estimate=True)
        assert told["limits"]["x-ratelimit-limit-tokens"] == "1000"
        assert int(told["limits"]["x-ratelimit-remaining-tokens"]) <= 10

        # Who asks again for what it has is not asked again for its share.
        again = await route(http, server, made.key, cost=10, request_idx=given[0]["request_idx"])
        assert again["request_idx"] == given[0]["request_idx"]

        # What is told of an end is settled: of ten announced, two were done.
        ends = [{"request_idx": r["request_idx"], "success": True, "status": "Success", "work": 2} for r in given[1:61]]
        body = {"worker_id": puppet.id, "mtoken": puppet.token, "requests": ends}
        assert (await puppet.post("/delete_requests/", body))[0] == 200
        replies = await asyncio.gather(*(route(http, server, made.key, cost=10) for _ in range(100)))
        again_given = sum("url" in reply for reply in replies)
        assert 48 <= again_given <= 55

        # Another key has nothing of that, and pays for itself where it names a request of the first.
        other = await owner.create_key("bob", "route", at_once=1)
        reply = await route(http, server, other.key, request_idx=given[0]["request_idx"])
        assert reply["request_idx"] != given[0]["request_idx"]
        put_off = await route(http, server, other.key)
        assert put_off["status"] == "too many requests: this key may have 1 requests at once"
        assert put_off["retry_after_s"] == 1

        # What will never have room is an error, for a client would ask forever.
        async with http.post(
            f"{server.url}/route/", json={"endpoint": "llm", "cost": 1001, "api_key": made.key}
        ) as answer:
            assert (answer.status, (await answer.json())["error"][:7]) == (400, "cost: i")

        # It is shown, and kept over a restart.
        row = next(row for row in await owner.keys() if row.id == made.id)
        assert (row.name, row.work_per_minute, row.requests_per_minute) == ("alice", 1000, None)
        assert row.used_requests == len(given) + again_given + ("url" in told)
        assert row.refused_requests == 401 - row.used_requests
        assert (await owner.explain("llm")).limited == {"work": row.refused_requests, "at once": 1}
        await others_see_it_and_it_can_be_changed(http, server, owner, other.id, other.key)
    admin_key = server.admin_key
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, admin_key) as owner:
        kept = next(row for row in await owner.keys() if row.id == made.id)
        assert (kept.work_per_minute, kept.used_requests) == (1000, row.used_requests)
        assert kept.refused_requests == row.refused_requests
