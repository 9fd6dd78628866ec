"""Rolling updates over HTTP, asked for by the unmodified `vastai`, with process workers that are really updated."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from posthouse.app.running import Running
from posthouse.cli import app
from posthouse.client import AsyncClient
from posthouse.domain.worker import Worker, WorkerId
from tests.kit.commandline import Commandline
from tests.kit.live import TIMEOUT_S, add_endpoint, pointed, until
from tests.kit.web import served, worker

peer = pytest.mark.peer

MODEL = """\
import asyncio, os
from aiohttp import web

async def answer(request):
    body = await request.json()
    version = os.environ["VERSION"]
    if not body.get("stream"):
        return web.json_response({"version": version})
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    while not os.path.exists(body["until"]):
        await stream.write(b'data: {"version": "%s"}\\n\\n' % version.encode())
        await asyncio.sleep(0.05)
    await stream.write(b'data: {"version": "%s", "last": true}\\n\\n' % version.encode())
    return stream

async def health(request):
    return web.Response()

app = web.Application()
app.add_routes([web.post("/{path:.*}", answer), web.get("/{path:.*}", health)])
web.run_app(app, host="127.0.0.1", port=int(os.environ["MODEL_PORT"]), print=None)
"""
ONSTART = f"""\
export VERSION=1
echo $VERSION >> runs
cat > model.py <<'END'
{MODEL}END
"$PYTHON" model.py &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --parallel 4 \\
  --perf 100
"""


async def ask(endpoint: Any, **payload: Any) -> Any:
    options = {"stream": True} if payload else {}
    answer = await asyncio.wait_for(endpoint.request("/generate", payload, cost=1, **options), TIMEOUT_S)
    return answer["response"]


def workers_of(server: Running) -> list[Worker]:
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    return list(fleet.workers.values())


def updated(server: Running) -> bool:
    """One serves and one rests, and none waits for an update."""
    workers = workers_of(server)
    return sorted(w.state for w in workers) == ["idle", "stopped"] and not any(w.outdated_at for w in workers)


def runs(tmp_path: Path) -> list[list[str]]:
    """The versions that each worker has run, in order."""
    return sorted(path.read_text().split() for path in (tmp_path / "data" / "workers").glob("*/home/runs"))


@peer("POST /update_workers", "K2", does="`update workers`, `update workers --cancel`")
@peer("POST /update_workers", "C1", does="`update_workers`")
async def test_its_peers_start_an_update_and_cancel_it(tmp_path: Path) -> None:
    async with served(tmp_path) as web:
        endpoint_id = await web.make_endpoint()
        template = await web.make_template()
        made = await web.call(
            "POST", "/api/v0/workergroups/", {"endpoint_id": endpoint_id, "template_id": template["id"]}
        )
        group_id = made.body["id"]
        fleet = web.staff(worker(1, endpoint_id, group_id=group_id), worker(2, endpoint_id, group_id=group_id))
        cli = Commandline(web.url, web.keys["operate"], tmp_path / "home")
        started = await cli("update", "workers", str(group_id))
        assert started == f"Update started for workergroup {group_id} (2 workers)\n"
        assert all(w.outdated_at > 0 for w in fleet.workers.values())
        cancelled = await cli("update", "workers", str(group_id), "--cancel")
        assert cancelled == f"Update cancelled for workergroup {group_id}\n"
        assert all(w.outdated_at == 0 for w in fleet.workers.values())
        for flag in ([], ["--cancel"]):
            assert await cli("update", "workers", "99", *flag) == "Error: workergroup 99 does not exist\n"
        told = await web.call("POST", "/update_workers/", {"workergroup_id": group_id}, key="read")
        assert told.status == 403
        for wrong in ({}, {"workergroup_id": "x"}, {"workergroup_id": group_id, "cancel_update": "yes"}):
            assert (await web.call("POST", "/update_workers", wrong)).status == 400


async def test_our_own_command_and_client_do_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as web:
        endpoint_id, template = await web.make_endpoint(), await web.make_template()
        group = {"endpoint_id": endpoint_id, "template_id": template["id"]}
        assert (await web.call("POST", "/api/v0/workergroups/", group)).status == 200
        fleet = web.staff(worker(1, endpoint_id))
        address = ["--url", web.url, "--api-key", web.keys["operate"]]

        async def told(*words: str) -> Any:
            command = ["workergroup", "update-workers", *words, *address]
            return await asyncio.to_thread(lambda: CliRunner().invoke(app, command))

        assert (await told("1")).output == "workergroup 1: 1 workers to update\n"
        assert fleet.workers[WorkerId(1)].outdated_at
        assert (await told("1", "--cancel")).output == "workergroup 1: update cancelled\n"
        assert not fleet.workers[WorkerId(1)].outdated_at
        wrong = await told("99")
        assert wrong.exit_code == 1
        assert "workergroup 99 does not exist" in str(wrong.exception)
        async with AsyncClient(web.url, web.keys["operate"]) as client:
            assert await client.update_workers(1) == 1
            assert await client.update_workers(1, cancel=True) == 0


@peer("POST /update_workers", "C1", does="`update_workers`")
@peer("POST /update_workers", "K2", does="`update workers`: every worker begins anew")
@peer("PUT /api/v1/template", "K2", does="`update template`: its workers are updated")
@pytest.mark.long
async def test_an_edited_template_reaches_its_workers_and_no_stream_is_cut(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    await add_endpoint(owner, "llm", onstart=ONSTART, min_load=80, cold_mult=1, cold_workers=2)
    await until(lambda: updated(server), "one worker serves and one rests")
    [group], [template] = await owner.workergroups(), await owner.templates()
    cli = Commandline(server.url, server.admin_key, tmp_path / "home")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        over = tmp_path / "over"
        stream = await ask(endpoint, stream=True, until=str(over))
        assert (await anext(stream))["version"] == "1"
        [busy] = [w for w in workers_of(server) if w.state == "idle"]

        # fmt: off
        told = await cli("update", "template", template.hash_id, "--name", "llm", "--env", "-p 3000:3000",
                         "--onstart-cmd", ONSTART.replace("VERSION=1", "VERSION=2"))
        # fmt: on
        assert told.startswith("updated template")
        answers: list[str] = []
        while "2" not in answers:
            answers.append((await ask(endpoint))["version"])
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        await until(lambda: fleet.workers[busy.id].status() == "update_ready", "the busy worker waits for its stream")
        rows = {row.id: row.status for row in await endpoint.get_workers()}
        assert rows[busy.id] == "update_ready"
        assert all([(await ask(endpoint))["version"] == "2" for _ in range(5)])
        assert answers == sorted(answers)
        over.touch()
        rest = [event async for event in stream]
        assert {event["version"] for event in rest} == {"1"}
        assert rest[-1]["last"]
        await until(lambda: updated(server), "both are updated")
        assert runs(tmp_path)[0][-1] == runs(tmp_path)[1][-1] == "2"
        assert {w.id for w in workers_of(server)} == set(rows)

        before = [len(versions) for versions in runs(tmp_path)]
        assert (await client.update_workers(group.id))["workers_to_update"] == 2
        assert await cli("update", "workers", str(group.id)) == "Update started for workergroup 1 (2 workers)\n"
        await until(lambda: updated(server), "both have started over")
        assert all(len(versions) > was for versions, was in zip(runs(tmp_path), before, strict=True))
        assert (await ask(endpoint))["version"] == "2"
