"""The unmodified `vastai` 1.9.1, pointed here only by its own constructors, attributes and flags."""

import asyncio
import json
from pathlib import Path

import pytest
from vastai.data.endpoint import EndpointConfig
from vastai.data.workergroup import WorkergroupConfig

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.worker import Worker
from posthouse.fleet.controller import Controller
from posthouse.http1.server import KEEP_ALIVE_S
from tests.kit.commandline import Commandline
from tests.kit.live import (
    AGENT,
    SCALING,
    TIMEOUT_S,
    WORKER_ENV,
    add_endpoint,
    pointed,
    ready,
    states,
    until,
    worker_processes,
)
from tests.kit.peer import complete, onstart

peer = pytest.mark.peer

FALTERING = """\
import asyncio, collections, os
from aiohttp import web

asked = collections.Counter()

async def answer(request):
    body = await request.json()
    asked[body.get("name")] += 1
    status = body["failing"] if "failing" in body and asked[body["name"]] == 1 else 200
    return web.json_response({"asked": asked[body.get("name")]}, status=status)

async def health(request):
    return web.Response()

async def main():
    app = web.Application()
    app.add_routes([web.post("/v1/completions", answer), web.get("/health", health)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["MODEL_PORT"])).start()
    await asyncio.sleep(1)  # until somebody reads the log
    print("model loaded", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def fleet_of(server: Running, name: str) -> Controller:
    fleet = server.hub.fleet_named(name)
    assert fleet is not None
    return fleet


def first_worker(fleet: Controller) -> Worker:
    return min(fleet.workers.values(), key=lambda worker: worker.id)


async def succeeded(fleet: Controller) -> Worker:
    """The first worker as it was when the next one was there."""
    await until(lambda: bool(fleet.workers), "there is a worker")
    first = first_worker(fleet)

    def next_is_there() -> bool:
        nonlocal first
        first = fleet.workers.get(first.id, first)
        return any(worker_id != first.id for worker_id in fleet.workers)

    await until(next_is_there, "another worker is there")
    return first


@peer("GET /static/jvastai_root.cer", "C1", does="before its first call")
@peer("GET /api/v0/endptjobs", "C1", does="`get_endpoint`")
@peer("POST /route", "C1", does="`Endpoint.request`: waits for a first worker")
@peer("worker: POST /ROUTE", "C1", does="`Endpoint.request`, at our agent")
async def test_its_client_waits_for_the_first_worker_and_is_answered_by_our_agent(
    server: Running, owner: AsyncClient
) -> None:
    await add_endpoint(owner, "llm", onstart=f"sleep 12\n{AGENT}", min_load=0)
    fleet = fleet_of(server, "llm")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        assert states(server, "llm") == []
        answer = asyncio.create_task(complete(endpoint))
        await until(lambda: fleet.counters.waited >= 3, "it has asked again")
        [(idx, waiting)] = fleet.ledger.waiting.items()  # one request, however often it is asked for
        assert waiting.announced == 5
        await answer
    assert (await answer)["response"]["choices"][0]["text"].strip()
    assert fleet.counters.routed == 1
    await until(lambda: len(fleet.ledger) == 0, "the request has ended in the ledger")
    assert (idx > 0, fleet.counters.ended) == (True, 1)


@peer("worker: POST /ROUTE", "C1", does="`Endpoint.request(stream=True)`, at our agent")
async def test_its_client_is_streamed_to_by_our_agent(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "llm")
    await ready(server, "llm")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        payload = {"model": "demo", "prompt": "Hello", "max_tokens": 20, "stream": True}
        answer = await asyncio.wait_for(endpoint.request("/v1/completions", payload, cost=20, stream=True), TIMEOUT_S)
        pieces = [event["choices"][0]["text"] async for event in answer["response"]]
    assert len(pieces) > 1


@peer("POST /route", "C1", does="`Endpoint.request`")
@peer("POST /get_endpoint_workers", "C1", does="`Endpoint.get_workers`")
@peer("worker: POST /ROUTE", "C1", "W4", does="`Endpoint.request`, at its own `Worker`")
@peer("GET /pubkey", "W4", does="at its start")
@peer("POST /worker_status", "W4", does="boots, measures itself, reports")
@peer("POST /delete_requests", "W4", does="reports what has ended")
async def test_its_worker_serves_its_client(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "peer", onstart=onstart())
    await ready(server, "peer")
    fleet = fleet_of(server, "peer")
    worker = first_worker(fleet)
    assert (worker.version, worker.scheme) == ("1.1.0", "U")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("peer")
        answers = await asyncio.gather(*(complete(endpoint) for _ in range(4)))
        payload = {"model": "demo", "prompt": "Hello", "max_tokens": 20, "stream": True}
        streamed = await asyncio.wait_for(endpoint.request("/v1/completions", payload, stream=True), TIMEOUT_S)
        pieces = [event["choices"][0]["text"] async for event in streamed["response"]]
        rows = await endpoint.get_workers()
    assert all(a["response"]["choices"][0]["text"].strip() for a in answers)
    assert len(pieces) > 1
    assert [row.status for row in rows] == ["idle"]
    await until(lambda: len(fleet.ledger) == 0, "its worker has reported the ends")


@peer("POST /route", "C1", does="`Endpoint.request`: again, under the same number, after a worker's 408, 429 or 500")
@peer("POST /delete_requests", "W4", does="reports as a success what the model answered with 408, 429 or 500")
async def test_a_failure_of_the_model_is_asked_again_and_not_held_against_its_worker(
    server: Running, owner: AsyncClient
) -> None:
    await add_endpoint(owner, "peer", onstart=onstart("faltering.py", faltering=FALTERING))
    await ready(server, "peer")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("peer")
        requests = [
            endpoint.request("/v1/completions", {"name": str(status), "failing": status}, cost=5)
            for status in (408, 429, 500)
        ]
        answers = await asyncio.wait_for(asyncio.gather(*requests), TIMEOUT_S)
    assert [answer["response"] for answer in answers] == 3 * [{"asked": 2}]
    fleet = fleet_of(server, "peer")
    await until(lambda: len(fleet.ledger) == 0, "its worker has reported the ends")
    assert states(server, "peer") == ["idle"]


@pytest.mark.long
@peer("POST /worker_status", "W4", does="the healthcheck of its model fails: replaced")
@peer("POST /worker_status", "W4", does="a line of `on_error` in the model's log: replaced")
@peer("POST /route", "C1", does="`Endpoint.request`: the model dies, another worker answers")
async def test_its_worker_whose_model_fails_is_replaced_and_the_next_one_answers(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    for name in ("dying", "complaining"):
        await add_endpoint(owner, name, onstart=onstart())
    await asyncio.gather(ready(server, "dying"), ready(server, "complaining"))
    dying, complaining = fleet_of(server, "dying"), fleet_of(server, "complaining")
    workers = tmp_path / "data" / "workers"
    processes = worker_processes(workers / first_worker(dying).label)
    [model] = [process for process in processes if "posthouse.demo.model" in process.cmdline()]
    model.kill()
    with (workers / first_worker(complaining).label / "home" / "model.log").open("a") as log:
        log.write("torch: CUDA out of memory. Tried to allocate 2 GiB\n")
    async with pointed(server) as client:
        request = asyncio.create_task(complete(await client.get_endpoint("dying")))
        died, complained = await asyncio.gather(succeeded(dying), succeeded(complaining))
        assert (await request)["response"]["choices"][0]["text"].strip()
    assert "Cannot connect to host" in died.message
    assert complained.message == "CUDA out of memory"


@pytest.mark.long
@peer("POST /worker_status", "W4", does="its own server cannot start (“beacon”): replaced")
async def test_its_worker_whose_server_cannot_start_is_replaced(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "peer", onstart="export USE_SSL=true\n" + onstart(certified=False))
    first = await succeeded(fleet_of(server, "peer"))
    assert first.message.startswith("Worker Server failed to launch: Failed to get SSL Certificate")


async def test_its_client_closes_an_idle_connection_before_the_server_does(server: Running) -> None:
    # Else a poll may meet a connection that is just being closed, and its client never tries a poll again.
    async with pointed(server) as client:
        session = await client._get_session()
        assert session.connector._keepalive_timeout < KEEP_ALIVE_S


@peer("POST /route", "C1", does="`Endpoint.request` with a wrong key: an error at once")
async def test_its_client_gets_an_error_at_once_for_a_wrong_key(server: Running, owner: AsyncClient) -> None:
    await owner.create_endpoint("llm", **SCALING)
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        endpoint.data.api_key = "wrong"
        with pytest.raises(Exception, match="401"):
            await complete(endpoint)


@peer("POST /api/v0/endptjobs", "C1", does="`create_endpoint`, and it is served")
@peer("GET /api/v0/endptjobs/{id}", "C1", does="`fetch_endpoint` of one that is served")
@peer("POST /api/v0/workergroups", "C1", does="`add_workergroup` in three forms, and one has a worker")
@peer("GET /api/v0/workergroups", "C1", does="`find_workergroup_for_endpoint` of one that is served")
@peer("POST /get_endpoint_workers", "C1", does="`Endpoint.get_workers`")
@peer("POST /update_workers", "C1", does="`update_workers` of three workergroups")
@peer("DELETE /api/v0/workergroups/{id}", "C1", does="`delete_workergroup` of one that is served")
@peer("DELETE /api/v0/endptjobs/{id}", "C1", does="`ManagedEndpoint.delete`: its worker goes, too")
async def test_its_client_makes_an_endpoint_is_served_and_leaves_nothing(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    template = await owner.create_template(name="llm", env=WORKER_ENV, onstart=AGENT)
    async with pointed(server) as client:
        managed = await client.create_endpoint(EndpointConfig(endpoint_name="llm", **SCALING | {"max_workers": 1}))
        groups = [
            await managed.add_workergroup(template.hash_id),
            await managed.add_workergroup(WorkergroupConfig(template_id=template.id, gpu_ram=8)),
            await managed.add_workergroup(template_hash=template.hash_id, search_params={"num_gpus": {"lte": 1}}),
        ]
        assert (await client.find_workergroup_for_endpoint(managed.id), len(set(groups))) == (groups[0], 3)
        assert (await client.fetch_endpoint(managed.id)).config.max_workers == 1
        endpoint = await client.get_endpoint("llm")
        assert (await complete(endpoint))["response"]["choices"][0]["text"].strip()
        [row] = await endpoint.get_workers()
        assert row.status == "idle"
        assert [(await client.update_workers(group))["workers_to_update"] for group in groups] == [1, 0, 0]
        await client.delete_workergroup(groups[2])
        await managed.delete()
        assert await client.get_endpoints() == []
    await until(lambda: not worker_processes(tmp_path / "data" / "workers"), "its worker is gone")


@pytest.mark.long
@peer("POST /api/v0/template", "K2", does="`create template` that workers run")
@peer("GET /api/v0/template", "K2", does="`search templates` by name")
@peer("PUT /api/v1/template", "K2", does="`update template` that workers run")
@peer("DELETE /api/v0/template", "K2", does="`delete template` by id")
@peer("POST /api/v0/endptjobs", "K2", does="`create endpoint` that serves")
@peer("GET /api/v0/endptjobs", "K2", does="`show endpoints` that serve")
@peer("PUT /api/v0/endptjobs/{id}", "K2", does="`update endpoint` to `stopped`: its worker stops")
@peer("DELETE /api/v0/endptjobs/{id}", "K2", does="`delete endpoint`: its worker goes, too")
@peer("POST /api/v0/autojobs", "K2", does="`create workergroup` that has a worker")
@peer("GET /api/v0/autojobs", "K2", does="`show workergroups` that have workers")
@peer("PUT /api/v0/autojobs/{id}", "K2", does="`update workergroup` that has a worker")
@peer("DELETE /api/v0/autojobs/{id}", "K2", does="`delete workergroup`: its worker goes, too")
@peer("POST /get_endpoint_workers", "K2", does="`get endpt-workers` of one that serves")
@peer("POST /get_endpoint_logs", "K2", does="`get endpt-logs` of one that serves, four levels")
@peer("POST /get_autogroup_logs", "K2", does="`get wrkgrp-logs` of one that has a worker")
@peer("POST /update_workers", "K2", does="`update workers`, and `--cancel`, of a worker that serves")
async def test_its_command_line_makes_an_endpoint_that_serves_and_leaves_nothing(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    cli = Commandline(server.url, server.admin_key, tmp_path / "home")
    # fmt: off
    template = await cli.told("create", "template", "--name", "llm", "--env", WORKER_ENV, "--onstart-cmd", AGENT, "-n")
    await cli("create", "endpoint", "--endpoint_name", "llm", "--min_load", "1", "--cold_workers", "0",
              "--cold_mult", "1", "--max_workers", "1")
    # fmt: on
    assert (await cli.told("create", "workergroup", "--endpoint_id", "1", "--template_hash", template["hash_id"]))["id"]
    await ready(server, "llm")
    assert (await owner.generate("llm", "Hello", max_new_tokens=5)).status == 200
    assert " status=idle gpu_name=CPU measured_perf=" in await cli("get", "endpt-workers", "1")
    levels = [await cli("get", "endpt-logs", "1", "--level", level) for level in "0123"]
    assert " went from model_loading to idle" in levels[1]
    assert [len(level) for level in levels] == sorted(len(level) for level in levels)
    assert " went from model_loading to idle" in await cli("get", "wrkgrp-logs", "1")

    assert await cli("update", "workers", "1") == "Update started for workergroup 1 (1 workers)\n"
    assert await cli("update", "workers", "1", "--cancel") == "Update cancelled for workergroup 1\n"
    assert await cli.told("update", "workergroup", "1", "--gpu_ram", "8") == {"success": True}
    [row] = json.loads(await cli("show", "workergroups"))
    assert (row["gpu_ram"], row["endpoint_name"]) == (8.0, "llm")
    changed = await cli("update", "template", template["hash_id"], "--name", "other", "--env", WORKER_ENV, "-n")
    assert changed.startswith("updated template: ")
    [found] = json.loads(await cli("search", "templates", "name=other"))
    assert (found["id"], found["hash_id"] != template["hash_id"]) == (template["id"], True)

    assert await cli.told("update", "endpoint", "1", "--endpoint_state", "stopped") == {"success": True}
    [row] = json.loads(await cli("show", "endpoints"))
    assert row["endpoint_state"] == "stopped"
    await until(lambda: states(server, "llm") == ["stopped"], "its worker has stopped")
    assert (await cli.told("delete", "workergroup", "1"))["deleted_workers"] == 1
    await until(lambda: states(server, "llm") == [], "its worker is gone")
    assert "was deleted" in await cli("delete", "template", "--template-id", str(template["id"]))
    assert (await cli.told("delete", "endpoint", "1"))["success"]
    assert json.loads(await cli("show", "endpoints")) == []
    await until(lambda: not worker_processes(tmp_path / "data" / "workers"), "nothing is left")


@pytest.mark.long
@peer("GET /api/v0/template", "K2", does="`run benchmarks`")
@peer("GET /api/v0/benchmarks", "K2", does="`run benchmarks`: measures anew each time")
@peer("POST /api/v0/bundles", "K2", does="`run benchmarks`")
@peer("POST /api/v0/endptjobs", "K2", does="`run benchmarks`")
@peer("POST /api/v0/autojobs", "K2", does="`run benchmarks`")
@peer("POST /get_endpoint_workers", "K2", does="`run benchmarks`")
@peer("GET /api/v0/instances/{id}", "K2", does="`run benchmarks`")
@peer("DELETE /api/v0/autojobs/{id}", "K2", does="`run benchmarks`")
@peer("DELETE /api/v0/endptjobs/{id}", "K2", does="`run benchmarks`")
async def test_its_benchmarks_measure_a_template_and_leave_nothing(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    filters = "num_gpus<=4 gpu_ram<1000"
    template = await owner.create_template(name="llm", env=WORKER_ENV, onstart=AGENT, extra_filters=filters)
    cli = Commandline(server.url, server.admin_key, tmp_path / "home")
    # A machine without a GPU has workers with none.
    specs = ["--gpus", "0x CPU, 8x RTX_4090"]
    printed = await cli("run", "benchmarks", "--template_hash", template.hash_id, *specs, "-y", "--raw")
    assert "filters: num_gpus<=4, gpu_ram<1000000.0" in printed
    assert "skipping: no offers for RTX 4090 (num_gpus=8)" in " ".join(printed.split())
    measured, skipped = json.loads(printed[printed.index("[\n {") :])
    assert (measured["gpu_name"], measured["status"], measured["rental_dph"]) == ("CPU", "ok", 0.4)
    assert measured["measured_perf"] > 0
    assert measured["perf_per_dollar"] == pytest.approx(measured["measured_perf"] / 0.4)
    assert (skipped["gpu_name"], skipped["status"]) == ("RTX 4090", "skipped")
    assert ([*server.hub.directory], server.hub.workergroups) == ([], {})
    await until(lambda: not worker_processes(tmp_path / "data" / "workers"), "its worker is gone")
