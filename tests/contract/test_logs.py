"""Logs of endpoints and workergroups, and rows of workers, for the unmodified command line and client and by HTTP."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from posthouse.client import AsyncClient
from posthouse.domain.endpoint import WorkergroupId
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.fleet.events import Assignment, Level
from posthouse.ports import JournalEntry
from tests.kit.commandline import Commandline
from tests.kit.fleets import Fleet
from tests.kit.live import add_endpoint, live_server, pointed, ready, states, until, worker_processes
from tests.kit.web import Web, served, worker

LEVELS = [str(level) for level in Level]


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


@pytest.fixture
def cli(web: Web, tmp_path: Path) -> Commandline:
    return Commandline(web.url, web.keys["read"], tmp_path / "home")


async def endpoint_with_history(web: Web) -> Fleet:
    """The endpoint `llama`, with a line on every level: of worker 1 in workergroup 1, and of worker 2 in another."""
    endpoint_id = await web.make_endpoint("llama")
    template = await web.make_template()
    await web.call("POST", "/api/v0/workergroups/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    other = {"endpoint_id": endpoint_id, "template_id": template["id"], "gpu_ram": 8}
    assert (await web.call("POST", "/api/v0/workergroups/", other)).body["id"] == 2
    places = {i: frozenset({f"127.0.0.1:{i}"}) for i in (1, 2)}
    fleet = web.staff(*(worker(i, group_id=WorkergroupId(i), addresses=place) for i, place in places.items()))
    now = web.hub.clock.now()
    routed = fleet.assign(0, 10.0, now)
    assert isinstance(routed, Assignment)
    fleet.end(routed.worker.id, Ended(routed.request_idx, False, "Rejected"), now)  # debug
    fleet.report(WorkerId(1), Report(200.0, "", "http://127.0.0.1:1", "1.1.0", "U", frozenset()), now)  # trace
    fleet.report(WorkerId(2), Report(100.0, "out of\x1b[2J memory", "", "1.1.0", "U", frozenset()), now)  # info0
    decision = {
        "goals": {"1": "cold"},
        "rentals": [{"workergroup": 2, "offer": "o", "goal": "hot"}],
        "because": [{"what": "load", "value": 12.3456, "rule": "higher mean"}],
    }
    await web.hub.store.commit(endpoint_id, 0, 1, (), JournalEntry(endpoint_id, now - 60, decision))  # info1
    quiet = decision | {"goals": {}, "rentals": []}
    await web.hub.store.commit(endpoint_id, 1, 1, (), JournalEntry(endpoint_id, now - 30, quiet))  # trace
    return fleet


async def logs(web: Web, ask: Mapping[str, object], path: str = "/get_endpoint_logs/") -> dict[str, Any]:
    answer = await web.call("POST", path, ask, key="read")
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.body
    return body


@pytest.mark.peer("POST /get_endpoint_logs/", "K2", does="`get endpt-logs`, four levels")
async def test_the_command_line_prints_each_level_and_the_last_lines(web: Web, cli: Commandline) -> None:
    await endpoint_with_history(web)
    printed = {level: await cli("get", "endpt-logs", "1", "--level", str(level.value)) for level in Level}
    default = await cli("get", "endpt-logs", "1")
    assert default == printed[Level.INFO1]
    # Each level has the lines of the ones before it.
    for less, more in pairwise(printed.values()):
        assert set(less.splitlines()) < set(more.splitlines())
    assert "worker 2 went from idle to error: it reports an error: out of [2J memory" in printed[Level.INFO0]
    assert (
        "decided: worker 1 becomes cold, rent one hot worker from workergroup 2; because: load 12.35 (higher mean)"
        in (printed[Level.INFO1])
    )
    assert "decided: no change" in printed[Level.TRACE]
    assert "worker 1 reports from http://127.0.0.1:1, version 1.1.0, 200 work/s" in printed[Level.TRACE]
    assert "ended after 0.0 s: Rejected" in printed[Level.DEBUG]

    last = await cli("get", "endpt-logs", "1", "--level", "3", "--tail", "2")
    assert last.splitlines() == printed[Level.DEBUG].splitlines()[-2:]
    raw = json.loads(await cli("--raw", "get", "endpt-logs", "1", "--tail", "1"))
    assert {*raw} == {*LEVELS, "logs"}


@pytest.mark.peer("POST /get_autogroup_logs/", "K2", does="`get wrkgrp-logs`")
async def test_the_command_line_prints_the_logs_of_one_workergroup(web: Web, cli: Commandline) -> None:
    await endpoint_with_history(web)
    first, second = [await cli("get", "wrkgrp-logs", number, "--level", "3") for number in ("1", "2")]
    assert "worker 1 reports" in first
    assert "worker 2 went from idle to error" not in first
    assert "worker 2 went from idle to error" in second
    assert "decided: worker 1 becomes cold" in first
    assert "decided: worker 1 becomes cold" in second


@pytest.mark.peer("POST /get_endpoint_logs/", "K2", does="`get endpt-logs` of what is not there")
async def test_the_command_line_says_why_there_are_no_logs(web: Web, cli: Commandline, tmp_path: Path) -> None:
    assert "Failed with error 404: endpoint 7 does not exist" in await cli("get", "endpt-logs", "7")
    assert "Failed with error 404: workergroup 7 does not exist" in await cli("get", "wrkgrp-logs", "7")
    stranger = Commandline(web.url, "wrong", tmp_path / "stranger")
    assert "Failed with error 401: the key is wrong or revoked" in await stranger("get", "endpt-logs", "7")


@pytest.mark.peer("POST /get_endpoint_logs/", "C0", recorded=True, does="by name, with the key in the body")
@pytest.mark.peer("POST /get_endpoint_logs/", "K1", recorded=True, does="`get endpt-logs`, if `run.vast.ai` is here")
@pytest.mark.peer("POST /get_autogroup_logs/", "C0", recorded=True, does="by id")
@pytest.mark.peer("POST /get_workergroup_logs/", "C0", recorded=True, does="by id")
async def test_plain_clients_ask_by_name_with_the_key_anywhere(web: Web) -> None:
    await endpoint_with_history(web)
    key, ask = web.keys["read"], {"endpoint": "llama"}
    by_id = await logs(web, {"id": 1})
    assert by_id == await logs(web, ask)
    assert by_id["logs"] == by_id["info1"]
    for answer in (
        await web.call("POST", "/get_endpoint_logs", ask | {"api_key": key}, key=None),
        await web.call("POST", f"/get_endpoint_logs/?api_key={key}", ask, key=None),
        await web.call("POST", "/get_endpoint_logs/", {"id": 1, "api_key": key}, key=None),  # K1
    ):
        assert (answer.status, answer.body) == (200, by_id)
    groups = [await logs(web, {"id": 1}, path) for path in ("/get_autogroup_logs/", "/get_workergroup_logs/")]
    assert groups[0] == groups[1]


async def test_every_tail_means_something(web: Web) -> None:
    await endpoint_with_history(web)
    whole = (await logs(web, {"id": 1}))["debug"].splitlines()
    assert len(whole) == 7
    for tail, lines in ((None, 7), (-1, 7), (3, 3), ("2", 2), (65_536, 7), (0, 0)):
        told = await logs(web, {"id": 1, "tail": tail})
        assert told["debug"].splitlines() == whole[7 - lines :], tail
    refused = await web.call("POST", "/get_endpoint_logs/", {"id": 1, "tail": "many"})
    assert (refused.status, refused.body["msg"].startswith("tail: must be a")) == (400, True)


async def test_a_line_says_when_how_grave_and_who(web: Web) -> None:
    await endpoint_with_history(web)
    [line] = (await logs(web, {"id": 1}))["info0"].splitlines()
    at, level, *words = line.split()
    assert abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()) < 3600
    assert (level, words[:2]) == ("info0", ["worker", "2"])


async def test_an_endpoints_own_key_reads_no_logs(web: Web) -> None:
    key = web.endpoint_key(await web.make_endpoint("llama"))
    assert (await web.call("POST", "/get_endpoint_logs/", {"id": 1}, key=key)).status == 403


async def test_what_is_asked_wrong_is_named(web: Web) -> None:
    for ask, status, text in (
        ({}, 400, "id or endpoint: one of them is required"),
        ({"endpoint": 7}, 400, "endpoint: must be text, not 7"),
        ({"endpoint": "x"}, 404, "there is no endpoint 'x'"),
        ({"id": "x"}, 400, "id: must be a whole number from 1 to "),
    ):
        answer = await web.call("POST", "/get_endpoint_logs/", ask)
        assert (answer.status, text in answer.body["msg"]) == (status, True), answer


# -- rows of workers -------------------------------------------------------------------------------------------------


@pytest.mark.peer("POST /get_endpoint_workers/", "K2", does="`get endpt-workers`")
@pytest.mark.peer("POST /get_endpoint_workers/", "C0", recorded=True, does="with the key as `api_key`, `api_token`")
@pytest.mark.peer("POST /get_autogroup_workers/", "C0", recorded=True, does="by id")
@pytest.mark.peer("POST /get_workergroup_workers/", "C0", recorded=True, does="by id")
async def test_workers_are_listed_with_what_they_reported(web: Web, cli: Commandline) -> None:
    fleet = await endpoint_with_history(web)
    report = Report(200.0, "", "http://127.0.0.1:1", "1.1.0", "U", frozenset(), taken=30.0, done=0.5, disk_gb=12.5)
    fleet.report(WorkerId(1), report, web.hub.clock.now())
    assert (await cli("get", "endpt-workers", "1")).splitlines() == [
        "id=1 status=idle gpu_name=RTX 4090 measured_perf=200.0",
        "id=2 status=error gpu_name=RTX 4090 measured_perf=100.0",
    ]
    key, ask = web.keys["read"], {"id": 1}
    rows = (await web.call("POST", "/get_endpoint_workers/", ask)).body
    for where in ({"api_key": key}, {"api_token": key}):
        told = await web.call("POST", "/get_endpoint_workers/", ask | where, key=None)
        assert [row["id"] for row in told.body] == [row["id"] for row in rows]
    for path in ("/get_workergroup_workers/", "/get_autogroup_workers/"):
        assert [row["id"] for row in (await web.call("POST", path, {"id": 2})).body] == [2]
    assert all(value is not None for row in rows for value in row.values())
    row, failed = rows
    assert (row["new_load"], row["cur_perf"], row["disk_usage"]) == (30.0, 0.5, 12.5)
    assert (row["measured_perf"], row["perf"], row["reliability"]) == (200.0, 200.0, 1.0)
    assert (row["loaded_at"], row["started_at"]) == (2.0, 1.0)
    assert 0 < failed["reliability"] < 1
    assert failed["perf"] == failed["measured_perf"] * failed["reliability"]


# -- a running server ------------------------------------------------------------------------------------------------


@pytest.mark.peer("POST /get_endpoint_workers/", "C1", does="`get_workers` of a worker that serves")
@pytest.mark.peer("POST /get_endpoint_logs/", "K2", does="`get endpt-logs` of a worker's whole life")
async def test_a_workers_whole_life_is_told(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        endpoint_id = await add_endpoint(owner, "llama", max_workers=1)
        await ready(server, "llama")
        async with pointed(server) as client:
            endpoint = await client.get_endpoint("llama")
            await owner.generate("llama", "hello", max_new_tokens=50)
            managed = server.hub.named("llama")
            assert managed is not None
            [worker_id] = managed.fleet.workers
            await until(lambda: managed.worker_stats(worker_id).done_rate > 0, "a report of work done")
            [row] = await client.get_endpoint_workers(endpoint)
            assert (row.id, row.status, row.reqs_working) == (worker_id, "idle", 0)
            figures = (row.cur_perf, row.perf, row.disk_usage, row.loaded_at, row.cur_load_rolling_avg)
            assert min(figures) > 0
            assert row.new_load >= 0, "of the latest report, in which nothing need have come"
            assert row.reliability == 1.0

        for process in worker_processes(tmp_path / "data"):
            with suppress(psutil.NoSuchProcess):  # the end of one may end another
                process.kill()
        await until(lambda: states(server, "llama") == ["unavail"], "the worker is missed")
        await owner.delete_worker(worker_id)
        await until(lambda: worker_id not in managed.fleet.workers, "the worker's end")
        cli = Commandline(server.url, server.admin_key, tmp_path / "home")
        info0, info1, debug = [await cli("get", "endpt-logs", str(endpoint_id), "--level", n) for n in "013"]
        ways = [line.partition(f" worker {worker_id} went ")[2] for line in info1.splitlines()]
        moves = [way.partition(":")[0] for way in ways if way]
        assert moves[0] == "from wanted to creating"
        assert "from model_loading to idle" in moves
        assert moves[-1].endswith("to destroyed")
        assert f"worker {worker_id} went from idle to unavail: its provider lists it as ended" in info0
        assert "decided: rent one hot worker from workergroup 1; because: load" in info1
        assert f"worker {worker_id} rent: done" in debug
        ours = (await owner.endpoint_logs(endpoint_id)).info0
        assert ours.splitlines() == info0.splitlines()
