"""`GET /metrics` of a server: what was done is what it says, and Prometheus' own tools like how."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.server.families import SERVER
from tests.kit.live import live_server, until
from tests.kit.prometheus import needs_prometheus, promtool
from tests.kit.puppets import puppets

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def page(http: aiohttp.ClientSession, server: Running) -> str:
    async with http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.admin_key}"}) as answer:
        assert answer.content_type == "text/plain"
        return await answer.text()


def samples(text: str) -> Samples:
    rows = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(row.name, tuple(sorted(row.labels.items()))): row.value for row in rows}
    assert len(found) == len(rows), "no sample is there twice"
    return found


async def ask(http: aiohttp.ClientSession, server: Running, **body: Any) -> Any:
    asked = {"endpoint": "llm", "cost": 1, "request_idx": 0, "api_key": server.admin_key, **body}
    async with http.post(f"{server.url}/route/", json=asked) as reply:
        return await reply.json()


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


async def test_what_was_done_is_what_is_told(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    flags = {"server.route_hold_s": 0, "money.max_usd_day": 100}
    async with live_server(tmp_path / "data", **flags) as server, AsyncClient(server.url, server.admin_key) as owner:
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        waits = await ask(http, server)
        assert "url" not in waits
        found = samples(await page(http, server))
        assert value(found, "posthouse_stuck", endpoint="llm", because="starting") == 1
        assert value(found, "posthouse_queue_wait_seconds_count", endpoint="llm") == 0

        await puppet.report(max_perf=1e6)
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        await asyncio.sleep(0.2)  # what it waits is more than nothing
        assert "url" in await ask(http, server, request_idx=waits["request_idx"])
        for _ in range(4):
            assert "url" in await ask(http, server)
        await ask(http, server, endpoint="none")
        await until(lambda: bool(server.hub.treasury.left(server.hub.clock.now())), "the day has begun")
        text = await page(http, server)
        found = samples(text)
        for outcome, count in (("worker", 5), ("waits", 1), ("refused", 1), ("put off", 0)):
            assert value(found, "posthouse_route_seconds_count", outcome=outcome) == count, outcome
        assert value(found, "posthouse_queue_wait_seconds_count", endpoint="llm") == 5
        assert value(found, "posthouse_queue_wait_seconds_bucket", endpoint="llm", le="0.1") == 4
        assert value(found, "posthouse_first_worker_seconds_count", endpoint="llm") == 1
        assert value(found, "posthouse_start_seconds_count", endpoint="llm", kind="new") == 1
        assert value(found, "posthouse_start_phase_seconds_count", endpoint="llm", phase="model_loading") == 1
        assert value(found, "posthouse_decisions_total", endpoint="llm", what="rent", reason="load") >= 1
        assert (
            value(found, "posthouse_provider_call_seconds_count", provider="process", call="create", outcome="ok") == 1
        )
        assert value(found, "posthouse_cap_left_usd", endpoint="", cap="max_usd_day") > 99
        assert 0 <= value(found, "posthouse_cap_used_ratio", endpoint="", cap="max_usd_day") < 0.01
        assert value(found, "posthouse_endpoints", where="here") == 1
        assert value(found, "posthouse_lease_held") == 1
        assert value(found, "posthouse_orphan_instances", provider="process") == 0
        assert value(found, "process_resident_memory_bytes") > 1e6
        assert ("posthouse_stuck", (("because", "starting"), ("endpoint", "llm"))) not in found
        await until(lambda: _lags(server) > 0, "the event loop was late or not")
        kinds = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE")}
        assert kinds == {family.name: family.kind for family in SERVER.all}


def _lags(server: Running) -> int:
    metrics = server.server.fast.metrics().decode()
    return int(value(samples(metrics), "posthouse_loop_lag_seconds_count"))


async def test_endpoints_of_the_same_name_are_told_apart(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        [first] = server.hub.endpoints
        await puppet.report(max_perf=1e6)
        assert "url" in await ask(http, server)  # it drains as long as this is open
        await owner.delete_endpoint(first)
        await owner.create_endpoint("llm", min_load=0, cold_workers=0)
        found = samples(await page(http, server))
        names = {labels[0][1] for name, labels in found if name == "posthouse_spent_usd_total"}
        assert names >= {"llm"}
        assert names <= {"llm", f"llm#{first}"}


async def test_a_key_of_another_account_reads_nothing_of_it(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server:
        admin = {"Authorization": f"Bearer {server.admin_key}"}
        async with http.post(f"{server.url}/v1/accounts", json={"name": "acme"}, headers=admin) as answer:
            assert answer.status == 201
        body = {"name": "r", "scope": "read", "account": "acme"}
        async with http.post(f"{server.url}/v1/keys", json=body, headers=admin) as answer:
            key = (await answer.json())["key"]
        async with http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {key}"}) as answer:
            assert answer.status == 401


@needs_prometheus
async def test_promtool_has_nothing_to_say(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        await owner.create_endpoint("llm", min_load=0, cold_workers=0)
        assert promtool("check", "metrics", said=(await page(http, server)).encode()) == ""
