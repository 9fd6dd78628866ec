"""What a server tells of an endpoint's traffic."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.client.errors import NotFound, Unauthorized
from posthouse.sim.recorded import recording
from tests.kit.live import add_endpoint, live_server, ready

NO_WORKERS: dict[str, Any] = {"min_load": 0, "max_workers": 0}


async def ask(server: Running, client: AsyncClient, costs: list[float]) -> None:
    for cost in costs:
        await client.route("llm", cost)


async def test_what_was_asked_is_told_and_survives_a_restart(tmp_path: Path) -> None:
    flags = {"server.route_hold_s": 0}
    async with live_server(tmp_path / "data", **flags) as server, AsyncClient(server.url, server.admin_key) as owner:
        key = server.admin_key
        await add_endpoint(owner, "llm", **NO_WORKERS)
        await ask(server, owner, [10.0, 20.5])
        assert recording(asdict(await owner.traffic("llm"))).work.tolist() == [10.0, 20.5]
    async with live_server(tmp_path / "data", **flags) as server, AsyncClient(server.url, key) as owner:
        await ask(server, owner, [30.0])
        reply = await owner.traffic("llm")
        found = recording(asdict(reply))
        assert found.work.tolist() == [10.0, 20.5, 30.0]
        assert (np.diff(found.at_s) >= 0).all()
        assert len(reply.segments) == 2
        assert reply.scaling.max_workers == 0
        (now,) = (await owner.traffic("llm", last_s=1e-3)).segments
        assert now.requests == 1


async def test_it_is_for_those_who_may_read(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        endpoint_id = await add_endpoint(owner, "llm", **NO_WORKERS)
        keys = {scope: (await owner.create_key(scope, scope)).key for scope in ("route", "read")}
        keys["endpoint"] = (await owner.endpoint("llm")).api_key
        async with AsyncClient(server.url, keys["read"]) as reader:
            assert (await reader.traffic(endpoint_id)).endpoint == "llm"
            with pytest.raises(NotFound, match="no endpoint 'nobody'"):
                await reader.traffic("nobody")
        for scope in ("route", "endpoint"):
            async with AsyncClient(server.url, keys[scope]) as other:
                with pytest.raises(Unauthorized):
                    await other.traffic("llm")


@pytest.mark.parametrize("last_s", ["0", "-1", "nan", "soon"])
async def test_a_span_that_is_none_is_refused(tmp_path: Path, last_s: str) -> None:
    async with live_server(tmp_path / "data") as server, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {server.admin_key}"}
        url = f"{server.url}/v1/endpoints/llm/traffic?last_s={last_s}"
        async with session.get(url, headers=headers) as answer:
            assert answer.status == 400
            assert "last_s" in (await answer.json())["msg"]


async def test_the_bill_is_of_what_was_recorded_and_outlives_a_restart(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        key = server.admin_key
        await add_endpoint(owner, "llm")
        await ready(server, "llm")
        before = await owner.bill("llm", days=2, wait_s=5.0)
        assert before.total.usd > 0
        assert before.wait_s == 5.0
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, key) as owner:
        found = (await owner.bill("llm", days=2)).total
        assert found.usd >= before.total.usd
        parts = found.headroom + found.starts + found.storage + found.whole_workers + found.waits_not_used
        assert found.least_usd + parts == pytest.approx(found.usd, rel=1e-9)
        assert (await owner.bill("llm", days=0)).wait_s == (await owner.endpoint("llm")).target_queue_time
