"""The serverless calls over real HTTP, with puppet workers: real instances whose reports the test sends itself."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

from posthouse import bootstrap
from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.reports import Report
from posthouse.domain.worker import WorkerId
from posthouse.engine import ingest, router
from posthouse.engine.managed import REFUSED
from posthouse.fleet import requests as fleet_module
from posthouse.fleet.requests import UNSEEN_KEPT_S
from posthouse.server.fastpath import ROUTES
from posthouse.signing.rsa import verifier
from posthouse.wire.signed import Scheme, signed_text
from tests.kit.live import live_server, states, until
from tests.kit.puppets import puppets, route, two_ready


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(tmp_path / "data", **{"server.route_hold_s": 0.3}) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    ("generation", "scheme"),
    [("W0", Scheme.A4), ("W1", Scheme.A4), ("W2", Scheme.A5), ("W3", Scheme.A5S), ("W4", Scheme.U)],
)
async def test_each_generation_of_workers_gets_the_signature_it_verifies(
    generation: str, scheme: Scheme, server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    assert (await puppet.report(generation))[0] == 200
    status, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
    assert status == 200
    assert reply["url"] == puppet.url
    async with http.get(f"{server.url}/pubkey/") as pem:
        verified = verifier(await pem.text())
    fields = {name: reply.get(name, 0) for name in ("cost", "endpoint", "reqnum", "request_idx", "url")}
    assert verified(signed_text(scheme, **fields), reply["signature"])
    classic = {"cost", "endpoint", "reqnum", "signature", "url"}
    assert set(reply) == (classic if scheme is Scheme.A4 else classic | {"request_idx"})


async def test_a_report_is_believed_only_with_the_workers_own_token(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    first, second = await puppets(server, owner, http, tmp_path / "data", count=2)
    for token in ("", "wrong", second.token):
        body = first.form("W4", mtoken=token)
        assert (await first.post("/worker_status/", body))[0] == 401
        assert (await first.post("/api/v0/worker_status/", body, token or "none"))[0] == 401
    assert (await first.post("/worker_status/", first.form("W4"), second.token))[0] == 401
    assert (await first.post("/delete_requests/", {"worker_id": first.id, "mtoken": "x", "request_idxs": [1]}))[
        0
    ] == 401
    assert (await first.post("/worker_status/", first.form("W4", id=10**9)))[0] == 401
    assert "idle" not in states(server, "llm")
    assert (await first.post("/api/v0/worker_status/", first.form("W4")))[0] == 200
    assert states(server, "llm").count("idle") == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://169.254.169.254", "http://127.0.0.1@evil:80", "file:///etc"]
)
async def test_an_address_is_believed_only_where_the_provider_placed_the_worker(
    url: str, server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    assert (await puppet.report(url=url))[0] == 200
    status, reply = await route(http, server, {"endpoint": "llm", "cost": 1})
    assert (status, "url" in reply) == (200, False)
    await puppet.report()
    assert (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]["url"] == puppet.url


async def test_a_refused_report_is_in_the_workers_log_and_in_its_message(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")

    async def told() -> tuple[str, int]:
        (row,) = await owner.workers("llm")
        managed = server.hub.home_of(puppet.id)
        assert managed is not None
        return row.message, sum("report was refused" in line.text for line in managed.history.lines())

    report = puppet.form("W1")
    assert (await puppet.post("/worker_status/", report))[0] == 401
    message, lines = await told()
    assert (message, lines) == (REFUSED[False], 1)
    assert (await puppet.post("/worker_status/", report, "wrong"))[0] == 401
    assert await told() == (REFUSED[True], 1)  # anybody can send such: one line is enough
    joined = urljoin(bootstrap.with_token(puppet.base, puppet.token), "/worker_status/")  # as workers of 2024 do
    async with http.post(joined, json=report) as reply:
        assert reply.status == 200
    assert await told() == ("", 1)
    assert states(server, "llm") == ["idle"]


async def test_a_worker_that_rejects_everything_is_tried_with_the_other_scheme_of_its_version(
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    monkeypatch.setattr(ingest, "TRIED_S", 1e6)

    async def scheme(**changes: Any) -> str:
        form = puppet.form("W2", version="0.1.0", **changes)
        assert (await puppet.post("/worker_status/", form, puppet.token))[0] == 200
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        return fleet.workers[WorkerId(puppet.id)].scheme

    busy = {"working_request_idxs": [7], "num_requests_working": 1}
    assert await scheme() == "A5S"
    assert await scheme(rej_load=100.0, **busy) == "A5S"  # it has too much to do
    assert await scheme(rej_load=100.0) == "A5"
    assert await scheme() == "A5"
    assert await scheme(rej_load=100.0) == "A5"  # of requests that were signed before
    monkeypatch.setattr(ingest, "TRIED_S", 0.0)
    assert await scheme(rej_load=100.0) == "A5S"
    assert await scheme(rej_load=100.0) == "A5"
    assert await scheme(cur_perf=50.0) == "A5"
    assert await scheme(rej_load=100.0) == "A5"  # from now on that says nothing: anybody can show it a wrong signature


async def test_without_a_ready_worker_the_reply_has_endpoint_and_status(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await puppets(server, owner, http, tmp_path / "data")
    status, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
    assert (status, reply) == (200, {"endpoint": "llm", "status": "model_loading: 1; starting"})
    _, polled = await route(http, server, {"endpoint": "llm", "cost": 256, "request_idx": 0})
    assert set(polled) == {"endpoint", "status", "request_idx"}
    server.hub.fleet_named("llm").roster.estimator.create_s.append(1e4)  # type: ignore[union-attr]
    _, told = await route(http, server, {"endpoint": "llm", "cost": 256, "request_idx": 0, "estimate": True})
    assert 9e3 < told.pop("ready_in_s") < 1.1e4
    assert set(told) == {"endpoint", "status", "request_idx"}


async def test_a_request_that_is_asked_for_again_is_one_request(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    _, waiting = await route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": 0})
    idx = waiting["request_idx"]
    for _ in range(3):
        await route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": idx})
    assert [r.announced for r in fleet.ledger.waiting.values()] == [50]
    held = asyncio.create_task(route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": idx}))
    await until(lambda: fleet.counters.waited >= 5, "the request is held")
    await puppet.report()
    _, reply = await held
    assert (reply["request_idx"], reply["url"]) == (idx, puppet.url)
    assert not fleet.ledger.waiting
    assert fleet.ledger.outstanding() == 50


async def test_a_new_request_does_not_overtake_one_that_is_held(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    async with (
        live_server(tmp_path / "data", **{"server.route_hold_s": 3.9}) as server,
        AsyncClient(server.url, server.admin_key) as owner,
    ):
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        held = asyncio.create_task(route(http, server, {"endpoint": "llm", "cost": 5000, "request_idx": 0}))
        await until(lambda: bool(fleet.ledger.waiting), "the first one is held")
        # Room comes up behind the back of those who serve the held; the first request alone fills it.
        ready = Report(100.0, "", puppet.url, "1.1.0", "U", frozenset())
        fleet.roster.reported(WorkerId(puppet.id), ready, server.hub.clock.now())
        late = asyncio.create_task(route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": 0}))
        _, first = await held
        assert first["url"] == puppet.url
        await until(lambda: len(fleet.ledger.waiting) == 1, "the late one is held in its turn")
        late.cancel()


async def test_a_request_whose_worker_failed_goes_elsewhere_with_a_new_number(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await two_ready(server, owner, http, tmp_path / "data")
    _, first = await route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": 0})
    idx = first["request_idx"]
    _, second = await route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": idx})
    assert second["url"] != first["url"]
    # Both have failed it now: it is told to wait, so that its client sleeps instead of asking 127 times a second.
    _, third = await route(http, server, {"endpoint": "llm", "cost": 50, "request_idx": idx})
    assert "url" not in third
    _, other = await route(http, server, {"endpoint": "llm", "cost": 50})
    assert other["reqnum"] != first["reqnum"] or other["url"] != first["url"]


async def test_a_request_for_an_adapter_goes_to_who_says_that_it_holds_it(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    one, two = await two_ready(server, owner, http, tmp_path / "data")
    await one.report(adapters=["sql"])
    await two.report(adapters=["base:legal", "x" * 100])
    for name, puppet, word in (("sql", one, "sql"), ("legal", two, "base:legal")):
        for _ in range(3):
            _, reply = await route(http, server, {"endpoint": "llm", "cost": 1, "prefer": {"adapter": name}})
            assert (reply["url"], reply["model"]) == (puppet.url, word)
    asked = {"endpoint": "llm", "prefer": {"adapter": "law"}}
    status, reply = await route(http, server, asked)
    assert (status, "adapter: no worker of 'llm' holds 'law'; they hold: 'legal', 'sql'" in reply["error"]) == (
        400,
        True,
    )
    assert [row.adapters for row in await owner.reachable()] == [["legal", "sql", "x" * 100]]
    await one.report()
    assert (await route(http, server, {"endpoint": "llm", "prefer": {"adapter": "sql"}}))[0] == 400, "it was unloaded"
    await two.report(adapters=["y"] * 101)  # more than may be: none is known, and the rest of the report is
    _, reply = await route(http, server, asked)
    assert "they hold: none" in reply["error"]
    await one.report(max_perf=0.0)
    await two.report(max_perf=0.0)
    _, reply = await route(http, server, {**asked, "request_idx": 0})
    assert reply["request_idx"], "nobody knows what the next one will hold"


@pytest.mark.parametrize("form", ["W2", "W3", "W4"])
async def test_every_form_of_ending_requests_ends_them(
    form: str, server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    await puppet.report()
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    _, reply = await route(http, server, {"endpoint": "llm", "cost": 50})
    idx = reply["request_idx"]
    row = {"request_idx": idx, "success": True, "status": "Success", "entered_queue_at": 0.0}
    body: dict[str, Any] = {
        "W2": {"worker_id": puppet.id, "request_idxs": [idx, 7]},
        "W3": {"worker_id": puppet.id, "mtoken": puppet.token, "request_idxs": [idx], "success": True},
        "W4": {"worker_id": puppet.id, "mtoken": puppet.token, "requests": [row, row]},
    }[form]
    assert (await puppet.post("/delete_requests/", body, puppet.token))[0] == 200
    assert (fleet.ledger.outstanding(), fleet.counters.ended) == (0, 1)


async def test_a_worker_cannot_end_requests_of_another(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    both = await two_ready(server, owner, http, tmp_path / "data")
    _, reply = await route(http, server, {"endpoint": "llm", "cost": 50})
    other = next(p for p in both if p.url != reply["url"])
    body = {"worker_id": other.id, "mtoken": other.token, "request_idxs": [reply["request_idx"]]}
    assert (await other.post("/delete_requests/", body))[0] == 200
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    assert (fleet.ledger.outstanding(), fleet.counters.refused_ends) == (50, 1)


async def test_a_key_is_taken_wherever_a_client_puts_it(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession
) -> None:
    await owner.create_endpoint("llm", min_load=0, cold_workers=0)
    row = await owner.endpoint("llm")
    url, ask = f"{server.url}/route/", {"endpoint": "llm", "cost": 1}
    for key in (server.admin_key, row.api_key):
        for request in (
            http.post(url, json=ask, headers={"Authorization": f"Bearer {key}"}),
            http.post(url, json=ask, headers={"Authorization": key}),
            http.post(url, json=ask, params={"api_key": key}),
            http.post(url, json={**ask, "api_key": key}),
            http.post(url.removesuffix("/"), json={**ask, "api_token": key}),
        ):
            async with request as reply:
                assert reply.status == 200


async def test_an_endpoints_key_routes_to_that_endpoint_only(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession
) -> None:
    for name in ("one", "two"):
        await owner.create_endpoint(name, min_load=0, cold_workers=0)
    key = (await owner.endpoint("one")).api_key
    assert (await route(http, server, {"endpoint": "one", "api_key": key}))[0] == 200
    assert (await route(http, server, {"endpoint": "two", "api_key": key}))[0] == 401


HOSTILE: list[tuple[str, bytes]] = [
    ("/route/", b""),
    ("/route/", b"[]"),
    ("/route/", b"null"),
    ("/route/", b"{"),
    ("/route/", b"\xff\xfe{}"),
    ("/route/", b'{"endpoint": NaN}'),
    ("/route/", b"[" * 100_000),
    ("/route/", b'{"a":' * 100_000),
    ("/route/", b'{"endpoint":"x","cost":1e999,"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","cost":-1,"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","cost":"NaN","api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","cost":true,"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","cost":{},"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":["llm"],"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"","api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","request_idx":-3,"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","prefer":{"key":[]},"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","request_idx":1e40,"api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"llm","request_idx":"a","api_key":"KEY"}'),
    ("/route/", b'{"endpoint":"' + b"x" * 2_000_000 + b'","api_key":"KEY"}'),
    ("/worker_status/", b"{}"),
    ("/worker_status/", b'{"id":1,"max_perf":1e999}'),
    ("/worker_status/", b'{"id":1,"max_perf":-5}'),
    ("/worker_status/", b'{"id":1,"max_perf":"inf"}'),
    ("/worker_status/", b'{"id":{},"max_perf":1}'),
    ("/worker_status/", b'{"id":1,"working_request_idxs":{"a":1}}'),
    ("/worker_status/", b'{"id":1,"url":7}'),
    ("/delete_requests/", b'{"worker_id":1,"requests":[7]}'),
    ("/delete_requests/", b'{"worker_id":1,"request_idxs":"all"}'),
    ("/delete_requests/", b'{"worker_id":1.5}'),
]


async def test_every_wrong_input_is_refused_in_words(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession
) -> None:
    await owner.create_endpoint("llm", min_load=0, cold_workers=0)
    for path, body in HOSTILE:
        sent = body.replace(b"KEY", server.admin_key.encode())
        async with http.post(f"{server.url}{path}", data=io.BytesIO(sent)) as reply:
            text = await reply.text()
            assert reply.status in (400, 401), (body[:60], reply.status, text)
            words = json.loads(text)["error"]
            assert "could not answer" not in words, (body[:60], words)
            assert "Traceback" not in text


async def test_a_broken_store_or_loop_does_not_stop_routing(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    await puppet.report()

    async def broken(*_: object) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(server.hub.store, "commit", broken)
    failures = server.loop.counts["failed_ticks"]
    await puppet.report("W4", max_perf=123.0)
    await until(lambda: server.loop.counts["failed_ticks"] > failures, "a tick failed")
    for _ in range(3):
        assert "url" in (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]
    assert states(server, "llm") == ["idle"]


def fails(*_: object) -> Any:
    raise RuntimeError("broken")


async def hangs(*_: object) -> Any:
    await asyncio.sleep(1000)


WEATHER: dict[str, Callable[[Running, pytest.MonkeyPatch], None]] = {
    "every tick fails": lambda server, patch: patch.setattr(type(server.loop), "tick", fails),
    "the provider hangs": lambda server, patch: patch.setattr(
        type(server.hub.providers["process"]), "instances", hangs
    ),
    "the provider fails": lambda server, patch: patch.setattr(
        type(server.hub.providers["process"]), "instances", fails
    ),
    "the store hangs": lambda server, patch: patch.setattr(server.hub.store, "commit", hangs),
    "nobody may be held": lambda server, patch: patch.setattr(router, "MAX_HELD", 0),
    "nobody is remembered": lambda server, patch: patch.setattr(fleet_module, "MAX_WAITING", 0),
}


@pytest.mark.parametrize("weather", WEATHER)
async def test_in_any_weather_there_is_an_address_or_word_to_wait(
    weather: str,
    server: Running,
    owner: AsyncClient,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    WEATHER[weather](server, monkeypatch)
    rounds = server.loop.counts["rounds"]
    many = [route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0}) for _ in range(20)]
    assert {(status, "url" in reply) for status, reply in await asyncio.gather(*many)} == {(200, False)}
    assert (await puppet.report())[0] == 200
    assert "url" in (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]
    if weather != "the store hangs":  # then the round waits for it, and requests do not
        await until(lambda: server.loop.counts["rounds"] > rounds, "rounds go on")


async def test_a_signature_that_cannot_be_made_is_one_failed_call_and_no_lasting_load(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    for generation in ("W3", "W4"):  # signed in a thread, and at once
        await puppet.report(generation)
        with monkeypatch.context() as patch:
            patch.setattr(type(server.router.signer), "sign", fails)
            status, reply = await route(http, server, {"endpoint": "llm", "cost": 1})
        assert (status, reply) == (400, {"error": "the server could not answer this call"})
        assert "url" in (await route(http, server, {"endpoint": "llm", "cost": 1}))[1]
    fleet.requests.expire(server.hub.clock.now() + UNSEEN_KEPT_S)
    assert fleet.ledger.outstanding() == 0


async def test_a_request_is_held_while_its_worker_goes_away_and_told_to_wait(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (puppet,) = await puppets(server, owner, http, tmp_path / "data")
    await puppet.report()
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    first = (await route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": 0}))[1]["request_idx"]
    again = asyncio.create_task(route(http, server, {"endpoint": "llm", "cost": 1, "request_idx": first}))
    await until(lambda: bool(fleet.ledger.waiting), "it is held, for it failed there")
    await puppet.report(error_msg="CUDA out of memory")
    status, reply = await again
    assert (status, reply["request_idx"], "url" in reply) == (200, first, False)


async def test_health_metrics_and_keys_answer_as_they_should(
    server: Running, owner: AsyncClient, http: aiohttp.ClientSession
) -> None:
    await owner.create_endpoint("llm", min_load=0, cold_workers=0)
    await until(lambda: server.loop.counts["rounds"] > 1, "a round has been made")
    for path, code in (("/healthz", 200), ("/readyz", 200), ("/pubkey", 200), ("/metrics", 401)):
        async with http.get(f"{server.url}{path}") as reply:
            assert reply.status == code, path
    async with http.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {server.admin_key}"}) as reply:
        page = await reply.text()
    assert 'posthouse_spent_usd_total{endpoint="llm"} 0.0' in page
    async with http.get(f"{server.url}/static/jvastai_root.cer") as reply:
        assert "BEGIN CERTIFICATE" in await reply.text()


async def test_every_hot_route_enforces_its_policy(server: Running, http: aiohttp.ClientSession) -> None:
    await until(lambda: server.loop.counts["rounds"] > 0, "the server is ready")
    body = {"endpoint": "llm", "id": 1, "worker_id": 1}
    for (method, path), row in ROUTES.items():
        for prefix in ("", "/api/v0", "/w/wrong-token"):
            for key in (None, "wrong"):
                headers = {} if key is None else {"Authorization": f"Bearer {key}"}
                url = f"{server.url}{prefix}{path}/?instance_id=1"
                async with http.request(method, url, json=body, headers=headers) as reply:
                    assert reply.status == (200 if row.access.name == "public" else 401), path
