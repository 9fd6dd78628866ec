"""The agent against a real model server and a recording control plane, over real HTTP."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import logging
import signal
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.agent import Benchmark
from posthouse.agent.work import first_file
from posthouse.recipes.speech import write
from posthouse.signing.rsa import RsaKey
from tests.kit.agent_process import agent_process
from tests.kit.agent_world import MTOKEN, World, a_world, listening, until
from tests.kit.ports import free_port


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    # So that the tests need not wait for the next report. The agents in processes of their own keep their pace.
    monkeypatch.setattr("posthouse.agent.report._GAP_S", 0.02)
    monkeypatch.setattr("posthouse.agent.report._LOADING_PERIOD_S", 0.1)
    async with a_world(key, tmp_path) as world:
        yield world


async def post(world: World, path: str, body: Any, **more: Any) -> tuple[int, Any]:
    async with world.client.post(world.url + path, json=body, **more) as answer:
        return answer.status, await answer.json()


async def ended(world: World, count: int = 1) -> list[dict[str, Any]]:
    """Return the ended requests once the control plane knows of `count` of them."""
    await until(lambda: len(world.control.ended) >= count)
    assert len(world.control.ended) == count
    return world.control.ended


# Readiness and the benchmark.


async def test_a_worker_reports_as_the_peer_does_and_is_ready_once_the_model_is(world: World) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer imports modules that Python has deprecated
        from vastai.serverless.server.lib.data_types import WorkerStatusData
    world.model.healthy = False
    async with world.agent(wait=False):
        first = await until(lambda: world.control.statuses and world.control.statuses[0])
        assert set(first) == {field.name for field in dataclasses.fields(WorkerStatusData)}
        assert (first["id"], first["mtoken"], first["url"]) == (7, MTOKEN, world.url)
        assert (first["version"], first["max_perf"], first["error_msg"]) == ("1.1.0+posthouse", 0.0, "")
        status, _ = await post(world, "/generate", world.wrapped({}))
        assert status in {401, 503}  # by whether the key was there already
        world.model.healthy = True
        ready = await until(world.control.ready)
        assert ready["max_perf"] == 1000.0
        assert ready["loadtime"] > 0
        assert ready["disk_usage"] > 0
        async with world.client.get(world.url + "/health") as answer:
            assert await answer.json() == {
                "ready": True,
                "stopping": False,
                "error": "",
                "requests": 0,
                "perf": 1000.0,
            }


async def test_a_line_in_the_log_makes_a_worker_ready(world: World) -> None:
    log_file = world.directory / "model.log"
    async with world.agent(wait=False, health=None, ready_log="Model loaded", log_file=log_file):
        await until(lambda: world.control.statuses)
        log_file.write_text("Loading shards\n")
        await until(lambda: len(world.control.statuses) >= 2)
        assert not world.control.ready()
        with log_file.open("a") as file:
            file.write("INFO Model loaded in 3 s\n")
        await until(world.control.ready)


async def test_an_error_in_the_log_is_reported(world: World) -> None:
    log_file = world.directory / "model.log"
    async with world.agent(error_logs=("out of memory",), log_file=log_file):
        log_file.write_text("RuntimeError: CUDA out of memory. The prompt was: secret\n")
        last = await until(lambda: world.control.statuses[-1]["error_msg"] and world.control.statuses[-1])
        assert last["error_msg"] == "the model's log says: out of memory"


async def test_a_model_that_stops_answering_makes_the_worker_ill_until_it_answers_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.agent.upstream._WELL_POLL_S", 0.02)
    async with world.agent():
        world.model.healthy = False
        await until(lambda: world.control.statuses[-1]["error_msg"].endswith("status 503"))
        world.model.healthy = True
        await until(world.control.ready)


async def test_the_benchmark_measures_the_model_and_is_remembered(world: World) -> None:
    world.model.delay_s = 0.05
    benchmark = Benchmark(payload={"parameters": {"max_new_tokens": 10}}, concurrency=4, runs=2)
    async with world.agent(perf=None, benchmark=benchmark):
        ready = world.control.ready()
        assert ready is not None
        assert 0 < ready["max_perf"] <= 4 * 10 / 0.05
        assert len(world.model.seen) == 1 + 2 * 4
        assert json.loads(world.model.bodies[0]) == {"parameters": {"max_new_tokens": 10}}
    world.control.statuses.clear()
    async with world.agent(perf=None, benchmark=benchmark):
        assert world.control.ready() == world.control.statuses[-1]
        assert world.control.statuses[-1]["max_perf"] == ready["max_perf"]
        assert len(world.model.seen) == 1 + 2 * 4


async def test_a_benchmark_can_send_a_form_with_a_file_and_another_number_each_time(world: World) -> None:
    speech = world.directory.parent / "speech.wav"
    write(speech, 2.0)
    form = Benchmark(form={"model": "whisper", "file": f"@{speech}"}, concurrency=1, runs=1)
    async with world.agent(perf=None, benchmark=form, workload="audio"):
        pass
    assert world.model.seen[0].content_type == "multipart/form-data"
    body = world.model.bodies[0]
    assert b'name="model"\r\n\r\nwhisper\r\n' in body
    assert first_file(body, world.model.seen[0].headers["Content-Type"]) == speech.read_bytes()
    (world.directory / ".has_benchmark").unlink()
    world.model.bodies.clear()
    world.control.statuses.clear()
    async with world.agent(perf=None, benchmark=Benchmark(payload={"seed": "{random}"}, concurrency=1, runs=1)):
        pass
    assert len({json.loads(body)["seed"] for body in world.model.bodies}) == 2
    missing = Benchmark(form={"file": "@/no/such/file"})
    (world.directory / ".has_benchmark").unlink()
    world.control.statuses.clear()
    async with world.agent(wait=False, perf=None, benchmark=missing):
        last = await until(lambda: world.control.statuses and world.control.statuses[-1]["error_msg"])
        assert last == "benchmark failed: benchmark.form: /no/such/file cannot be read: No such file or directory"


async def test_a_redirect_is_no_sign_of_health(world: World) -> None:
    world.control.gives_grants = True
    async with world.agent(wait=False, health="/moved"):
        waits = await until(lambda: [s for s in world.control.statuses if "status 307" in s.get("waits_for", "")])
        assert waits[0]["max_perf"] == 0.0


async def test_a_failing_benchmark_is_an_error(world: World) -> None:
    async with world.agent(wait=False, perf=None, benchmark=Benchmark(route="/status/404")):
        last = await until(lambda: world.control.statuses and world.control.statuses[-1]["error_msg"])
        assert last == "benchmark failed: POST /status/404: status 404"
        assert world.control.statuses[-1]["max_perf"] == 0.0
        assert not list(world.directory.iterdir())


# What passes through.


@pytest.mark.parametrize("shape", ["flat", "wrapped"])
async def test_both_shapes_of_a_body_reach_the_model_as_its_own_fields(world: World, shape: str) -> None:
    model_part = b'{"inputs":"h\\u00e9, \xf0\x9f\x90\xb4","parameters":{"max_new_tokens":32,"t":1.0}}'
    async with world.agent():
        grant = json.dumps(world.auth_data()).encode()
        if shape == "flat":
            body = grant[:-1] + b", " + model_part[1:]
        else:
            body = b'{"auth_data":' + grant + b',"payload":' + model_part + b"}"
        async with world.client.post(
            world.url + "/generate?api_key=secret&seed=1",
            data=body,
            headers={"Authorization": "Bearer secret", "X-Trace": "t1", "Content-Type": "application/json"},
        ) as answer:
            assert answer.status == 200
            assert await answer.json() == {"generated_text": "so it was"}
            assert answer.headers["X-Model"] == "horse"
        assert world.model.bodies == [model_part]
        seen = world.model.seen[0]
        assert seen.path_qs == "/generate?seed=1"
        assert "Authorization" not in seen.headers
        assert seen.headers["X-Trace"] == "t1"
        assert seen.content_type == "application/json"
        (end,) = await ended(world)
        assert (end["request_idx"], end["status"], end["success"]) == (101, "Success", True)
        assert 0 < end["entered_queue_at"] <= end["work_started_at"] <= end["work_completed_at"]
        assert set(world.control.deletes[0]) == {"worker_id", "mtoken", "requests"}
        assert (world.control.deletes[0]["worker_id"], world.control.deletes[0]["mtoken"]) == (7, MTOKEN)
        await until(lambda: world.control.statuses[-1]["num_requests_recieved"] == 1)
        # The tokens asked for are the work, not the announced cost.
        assert sum(status["new_load"] for status in world.control.statuses) == 32.0
        await until(lambda: sum(status["cur_perf"] for status in world.control.statuses) == 32.0)


async def test_one_client_does_not_get_the_cookie_of_another(world: World) -> None:
    async with world.agent():
        for _ in range(2):
            async with (
                aiohttp.ClientSession() as client,
                client.post(world.url + "/generate", json=world.wrapped({})) as answer,
            ):
                assert "seen" in answer.cookies
        assert "Cookie" not in world.model.seen[1].headers


async def test_a_multipart_body_passes_untouched_with_its_grant_in_a_header(world: World) -> None:
    form = aiohttp.FormData()
    form.add_field("model", "ocr")
    form.add_field("file", bytes(range(256)) * 1000, filename="page.png", content_type="image/png")
    async with world.agent():
        grant = base64.b64encode(json.dumps(world.auth_data()).encode()).decode()
        async with world.client.post(world.url + "/generate", data=form, headers={"X-Posthouse-Auth": grant}) as answer:
            assert answer.status == 200
        assert world.model.seen[0].content_type == "multipart/form-data"
        assert bytes(range(256)) * 1000 in world.model.bodies[0]
        assert "X-Posthouse-Auth" not in world.model.seen[0].headers
        (end,) = await ended(world)
        assert end["status"] == "Success"
        await until(lambda: sum(status["new_load"] for status in world.control.statuses) == 16.0)


async def test_the_seconds_of_an_uploaded_sound_are_its_work(world: World) -> None:
    write(world.directory / "speech.wav", 7.0)
    form = aiohttp.FormData({"model": "whisper"})
    form.add_field("file", (world.directory / "speech.wav").read_bytes(), filename="speech.wav")
    grant = base64.b64encode(json.dumps(world.auth_data()).encode()).decode()
    async with world.agent(workload="audio", max_body_bytes=300_000):
        headers = {"X-Posthouse-Auth": grant}
        async with world.client.post(world.url + "/generate", data=form, headers=headers) as answer:
            assert answer.status == 200
        sent = world.model.seen[0]
        content = first_file(world.model.bodies[0], sent.headers["Content-Type"])
        assert content == (world.directory / "speech.wav").read_bytes()
        await until(lambda: sum(status["new_load"] for status in world.control.statuses) == 7.0)
        async with world.client.post(world.url + "/generate", data=bytes(300_001), headers=headers) as answer:
            assert answer.status == 413


async def test_an_answer_streams_through_as_it_is_made(world: World) -> None:
    async with world.agent(), world.client.post(world.url + "/stream", json=world.wrapped({})) as answer:
        assert answer.content_type == "text/event-stream"
        for number in range(3):
            # The model makes the next piece only after this one has arrived here.
            assert await answer.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
            if number == 0:
                working = await until(lambda: world.control.statuses[-1]["working_request_idxs"])
                assert working == [101]
                assert world.control.statuses[-1]["cur_load"] == 16.0
                assert world.control.statuses[-1]["num_requests_working"] == 1
            world.model.go_on.release()
        assert await answer.content.read() == b""
        await until(lambda: world.control.statuses[-1]["working_request_idxs"] == [])
        assert world.control.statuses[-1]["cur_load"] == 0.0


async def test_a_client_that_leaves_ends_the_work(world: World) -> None:
    async with world.agent():
        async with world.client.post(world.url + "/stream", json=world.wrapped({})) as answer:
            await answer.content.readuntil(b"\n\n")
        await until(lambda: world.model.cancelled == 1)
        with pytest.raises(TimeoutError):
            await post(world, "/hold", world.wrapped({}), timeout=aiohttp.ClientTimeout(total=0.2))
        await until(lambda: world.model.cancelled == 2)
        for end in await ended(world, 2):
            assert (end["status"], end["success"], end["work_completed_at"]) == ("Cancelled", True, 0.0)


async def test_requests_take_turns_for_the_slots_and_a_waiting_client_may_leave(world: World) -> None:
    async with world.agent(parallel=1):
        calls = []
        for number in range(4):
            calls.append(asyncio.create_task(post(world, "/hold", world.wrapped({"number": number}))))
            await until(lambda: world.control.statuses[-1]["num_requests_working"] == len(calls))
        calls[1].cancel()
        await until(lambda: world.control.ended)
        for _ in range(3):
            world.model.go_on.release()
        assert [await call for call in (calls[0], *calls[2:])] == [(200, {"number": n}) for n in (0, 2, 3)]
        assert [json.loads(body)["number"] for body in world.model.bodies] == [0, 2, 3]
        assert world.model.most_working == 1
        cancelled = (await ended(world, 4))[0]
        assert (cancelled["status"], cancelled["work_started_at"]) == ("Cancelled", 0.0)


# What is refused, and how it ends.


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"signature": "AAAA"}, 401, "signature"),
        ({"signature": "ümläut"}, 401, "signature"),
        ({"url": "http://127.0.0.1:1"}, 401, "url"),
        ({"signature": None}, 422, "signature"),
        ({"reqnum": "many"}, 422, "reqnum"),
        ({"cost": {}}, 422, "cost"),
        ({"request_idx": 10**30}, 422, "request_idx"),
        ({"request_idx": -1}, 422, "request_idx"),
        ({"endpoint": 7}, 422, "endpoint"),
        ({"url": "x" * 5000}, 422, "url"),
    ],
)
async def test_a_grant_that_is_not_good_is_refused(
    world: World, changes: dict[str, Any], status: int, named: str
) -> None:
    async with world.agent():
        for body in (world.auth_data() | changes, world.wrapped({}) | {"auth_data": world.auth_data() | changes}):
            answered, reply = await post(world, "/generate", body)
            assert answered == status
            assert list(reply) == ["error"]
            assert named in reply["error"]
        assert world.model.seen == []
        assert world.control.ended == []


async def test_a_grant_of_another_worker_is_refused_though_it_is_genuine(world: World) -> None:
    async with world.agent():
        status, _ = await post(world, "/generate", world.wrapped({}, url="http://127.0.0.1:1"))
        assert status == 401


@pytest.mark.parametrize("missing", ["signature", "cost", "endpoint", "reqnum", "url"])
async def test_a_missing_auth_key_is_named(world: World, missing: str) -> None:
    grant = world.auth_data()
    del grant[missing]
    async with world.agent():
        status, reply = await post(world, "/generate", grant | {"inputs": "x"})
        assert (status, f"`{missing}`" in reply["error"]) == (422, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"[]", b'{"auth_data": 3, "payload": {}}', b'{"auth_data": {}}', b"[" * 200_000, b'{"a":' * 90_000],
)
async def test_a_body_that_is_no_request_is_refused(world: World, body: bytes) -> None:
    async with world.agent():
        async with world.client.post(world.url + "/generate", data=body) as answer:
            assert answer.status == 422
            assert "must be a JSON object" in (await answer.json())["error"]
        async with world.client.post(world.url + "/generate", headers={"X-Posthouse-Auth": "?"}) as answer:
            assert answer.status == 422


async def test_the_request_index_may_be_left_out(world: World) -> None:
    async with world.agent():
        grant = world.auth_data()
        del grant["request_idx"], grant["__request_id"]
        assert (await post(world, "/generate", grant | {"inputs": "x"}))[0] == 200
        await until(lambda: sum(status["cur_perf"] for status in world.control.statuses) > 0)
        assert world.control.ended == []


async def test_an_unsecured_agent_serves_any_signature(world: World) -> None:
    async with world.agent(unsecured=True):
        assert (await post(world, "/generate", world.auth_data(signature="AAAA")))[0] == 200


async def test_a_request_that_would_wait_too_long_is_refused(world: World) -> None:
    async with world.agent(perf=10.0, max_queue_time_s=5.0):
        first = asyncio.create_task(post(world, "/hold", world.wrapped({"max_tokens": 60})))
        await until(lambda: world.model.working)
        status, reply = await post(world, "/hold", world.wrapped({"max_tokens": 7}))
        assert (status, reply) == (429, {"error": "the expected wait is 6.0 s, longer than 5 s"})
        (end,) = await ended(world)
        assert (end["request_idx"], end["status"], end["success"]) == (102, "Rejected", False)
        await until(lambda: sum(status["rej_load"] for status in world.control.statuses) == 7.0)
        assert sum(status["new_load"] for status in world.control.statuses) == 60.0
        world.model.go_on.release()
        assert (await first)[0] == 200


async def test_more_requests_than_allowed_are_refused(world: World) -> None:
    async with world.agent(max_requests=1):
        first = asyncio.create_task(post(world, "/hold", world.wrapped({})))
        await until(lambda: world.model.working)
        assert (await post(world, "/hold", world.wrapped({})))[0] == 429
        world.model.go_on.release()
        assert (await first)[0] == 200


async def test_a_body_that_is_too_large_is_refused_in_every_form(world: World) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000

    async with world.agent(max_body_bytes=1_000_000):
        header = {"X-Posthouse-Auth": base64.b64encode(json.dumps(world.auth_data()).encode()).decode()}
        status, reply = await post(world, "/generate", world.wrapped({"inputs": "x" * 1_000_000}))
        assert (status, list(reply)) == (413, ["error"])
        for data in (b"x" * 1_000_001, pieces()):
            async with world.client.post(world.url + "/generate", data=data, headers=header) as answer:
                assert answer.status == 413
                assert await answer.json() == {"error": "body: must be at most 1000000 bytes"}
        async with world.client.post(world.url + "/generate", data=b"x" * 1_000_000, headers=header) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(400, "Success"), (404, "Success"), (429, "Rejected"), (500, "Error"), (501, "Success"), (503, "Error")],
)
async def test_an_answer_keeps_its_status_and_tells_how_the_request_ended(
    world: World, status: int, outcome: str
) -> None:
    async with world.agent():
        assert await post(world, f"/status/{status}", world.wrapped({})) == (status, {"said": "no"})
        (end,) = await ended(world)
        assert end["status"] == outcome
        await until(lambda: world.control.statuses[-1]["num_requests_recieved"])
        assert sum(report["cur_perf"] for report in world.control.statuses) == 0.0


async def test_an_answer_that_breaks_off_breaks_off_for_the_client(world: World) -> None:
    async with world.agent():
        with pytest.raises(aiohttp.ClientPayloadError):
            async with world.client.post(world.url + "/broken", json=world.wrapped({})) as answer:
                await answer.read()
        assert (await ended(world))[0]["status"] == "Error"


async def test_a_model_server_that_cannot_be_reached_has_begun_nothing(world: World) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    async with world.agent(upstream=closed, health=f"{world.model.url}/health"):
        status, reply = await post(world, "/generate", world.wrapped({}))
        assert (status, reply) == (503, {"error": "the model server cannot be reached"})
        assert (await ended(world))[0]["status"] == "Error"


async def test_a_model_server_that_stays_silent_is_a_gateway_timeout(world: World) -> None:
    async with world.agent(silence_s=0.1):
        status, reply = await post(world, "/hold", world.wrapped({}))
        assert (status, reply) == (504, {"error": "the model server does not answer"})
        assert (await ended(world))[0]["status"] == "Error"


# The control plane comes and goes.


async def test_a_worker_waits_for_a_server_that_is_away(key: RsaKey, tmp_path: Path) -> None:
    world = World(key, tmp_path)
    async with (
        listening(world.model.app(), world.model.port),
        aiohttp.ClientSession() as world.client,
        world.agent(wait=False),
    ):

        async def refused() -> bool:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                status, reply = await post(world, "/generate", world.wrapped({}))
                return status == 401 and "public key" in reply["error"]
            return False

        while not await refused():
            await asyncio.sleep(0.05)
        async with listening(world.control.app(), world.control.port):
            await until(world.control.ready)
            assert (await post(world, "/generate", world.wrapped({})))[0] == 200


async def test_what_a_failing_server_did_not_take_is_told_again(world: World) -> None:
    async with world.agent():
        world.control.refuses = True
        for _ in range(3):
            assert (await post(world, "/generate", world.wrapped({})))[0] == 200
        world.control.refuses = False
        ends = await ended(world, 3)
        assert sorted(end["request_idx"] for end in ends) == [101, 102, 103]
        await until(lambda: sum(status["cur_perf"] for status in world.control.statuses) == 3 * 16.0)


async def test_the_first_address_that_takes_a_report_is_enough(world: World) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with world.agent(report_addrs=(away, world.control.url)):
        assert (await post(world, "/generate", world.wrapped({})))[0] == 200
        await ended(world)


async def test_no_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="posthouse")
    async with world.agent():
        grant = world.auth_data()
        assert (await post(world, "/generate?api_key=q-secret", grant | {"inputs": "b-secret"}))[0] == 200
        await post(world, "/generate", grant | {"signature": "AAAA", "inputs": "b-secret"})
        await ended(world)
    lines = [record.getMessage() for record in caplog.records]
    assert any("request 101: Success" in line for line in lines)
    for secret in (MTOKEN, grant["signature"], "q-secret", "b-secret"):
        assert not any(secret in line for line in lines)


# The stop.


async def test_a_stopping_worker_refuses_new_requests_and_finishes_those_that_run(world: World) -> None:
    async with agent_process(world, drain_s=20) as process:
        async with world.client.post(world.url + "/stream", json=world.wrapped({})) as answer:
            await answer.content.readuntil(b"\n\n")
            process.send_signal(signal.SIGTERM)

            async def refused() -> bool:
                status, reply = await post(world, "/generate", world.wrapped({}))
                return (status, reply) == (503, {"error": "this worker is stopping"})

            while not await refused():
                await asyncio.sleep(0.05)
            for _ in range(3):
                world.model.go_on.release()
            assert await answer.content.read() == b"data: 1\n\ndata: 2\n\n"
        _, log = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in log
    assert b"agent: stopped" in log
    by_index = {end["request_idx"]: end["status"] for end in world.control.ended}
    assert by_index.pop(101) == "Success"
    assert "Rejected" in by_index.values()
    assert world.control.statuses[-1]["working_request_idxs"] == []


async def test_a_request_that_outlasts_the_drain_is_cut_off_and_told_as_an_error(world: World) -> None:
    async with agent_process(world, drain_s=0.1) as process:
        call = asyncio.create_task(post(world, "/hold", world.wrapped({})))
        await until(lambda: world.model.working)
        process.send_signal(signal.SIGINT)
        with pytest.raises(aiohttp.ClientError):
            await call
        _, log = await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in log
    assert [end["status"] for end in world.control.ended] == ["Error"]
    assert world.model.cancelled == 1
