"""Sessions: our agent call by call, and the whole road with the client and the Worker of the unmodified `vastai`."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient, BadRequest, Client, NotFound
from posthouse.signing.rsa import RsaKey
from posthouse.wire.deletes import decode
from tests.kit import live
from tests.kit.agent_process import agent_process
from tests.kit.agent_world import TIMEOUT_S, World, granted, listening, until
from tests.kit.live import add_endpoint, pointed, ready, states
from tests.kit.marks import long
from tests.kit.peer import complete, onstart
from tests.kit.peer_worker import PeerWorker

SESSION = "/session/create"


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("posthouse.agent.report._GAP_S", 0.02)
    monkeypatch.setattr("posthouse.agent.session._EXPIRY_POLL_S", 0.02)
    world = World(key, tmp_path)
    world.control.gives_grants = True
    async with (
        listening(world.model.app(), world.model.port),
        listening(world.control.app(), world.control.port),
        aiohttp.ClientSession() as world.client,
    ):
        yield world


async def post(world: World, path: str, body: Any) -> tuple[int, Any]:
    async with world.client.post(world.url + path, json=body) as answer:
        return answer.status, await answer.json()


async def opened(world: World, **terms: Any) -> tuple[dict[str, Any], str]:
    """The auth data and the id of a new session."""
    body = world.wrapped(terms)
    status, reply = await post(world, SESSION, body)
    assert status == 201, reply
    return body["auth_data"], reply["session_id"]


async def inside(world: World, auth_data: Any, session_id: str, path: str = "/generate", payload: Any = None) -> Any:
    body = {"auth_data": auth_data, "session_id": session_id, "payload": payload or {}}
    return await post(world, path, body)


def about(auth_data: Any, session_id: str) -> dict[str, Any]:
    """The body of a call about a session."""
    return {"session_id": session_id, "session_auth": auth_data}


async def reported(world: World, **fields: Any) -> dict[str, Any]:
    """A report with these fields, once it is the last."""

    def last() -> dict[str, Any] | None:
        report = world.control.statuses[-1]
        return report if {name: report[name] for name in fields} == fields else None

    return dict(await until(last))


# Our agent.


async def test_a_session_holds_its_cost_until_it_is_closed_and_is_told_of_as_one_request(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world)
        idx = auth_data["request_idx"]
        assert len(session_id) == 13
        assert session_id.isalnum()
        held = {"working_request_idxs": [idx], "cur_load": 16.0, "num_requests_working": 1, "num_requests_recieved": 1}
        await reported(world, **held)
        for _ in range(3):
            assert await inside(world, auth_data, session_id) == (200, {"generated_text": "so it was"})
        call = asyncio.create_task(inside(world, auth_data, session_id, "/hold", {"max_tokens": 500}))
        await until(lambda: world.model.working)
        await until(lambda: sum(report["new_load"] for report in world.control.statuses) == 16.0 * 4 + 500)
        await reported(world, **held)
        world.model.go_on.release()
        assert (await call)[0] == 200
        assert world.control.ended == []
        status, reply = await post(world, "/session/end", about(auth_data, session_id))
        assert (status, reply) == (200, {"ended": True, "removed_session": session_id})
        await reported(world, working_request_idxs=[], cur_load=0.0, num_requests_working=0, num_requests_recieved=1)
        (end,) = await until(lambda: world.control.ended)
        assert (end["request_idx"], end["status"], end["success"]) == (idx, "Success", True)
        assert end["entered_queue_at"] == end["work_started_at"] < end["work_completed_at"]
        assert await inside(world, auth_data, session_id) == (410, {"error": "invalid session"})
        assert len(world.model.seen) == 4


async def test_a_request_in_a_session_waits_for_the_work_before_it_but_not_for_sessions(world: World) -> None:
    async with world.agent(perf=10.0, max_queue_time_s=5.0):
        sessions = [await opened(world) for _ in range(6)]  # a cost of 16 each, which nobody works on
        first = asyncio.create_task(inside(world, *sessions[0], "/hold", {"max_tokens": 60}))
        await until(lambda: world.model.working)
        status, reply = await inside(world, *sessions[1], "/hold", {"max_tokens": 60})
        assert (status, reply) == (429, {"error": "the expected wait is 6.0 s, longer than 5 s"})
        world.model.go_on.release()
        assert (await first)[0] == 200
        assert world.control.ended == []


async def test_the_model_server_hears_of_the_close_before_the_server_does(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world, on_close_route="/hold", on_close_payload={"room": "blue"})
        end = asyncio.create_task(post(world, "/session/end", about(auth_data, session_id)))
        await until(lambda: world.model.working)
        assert json.loads(world.model.bodies[0]) == {"room": "blue", "session_id": session_id}
        await reported(world, working_request_idxs=[auth_data["request_idx"]])
        assert (await post(world, "/session/end", about(auth_data, session_id)))[0] == 400
        world.model.go_on.release()
        assert (await end)[0] == 200
        await until(lambda: world.control.ended)
        for payload, seen in ((None, {}), ([1], {"payload": [1]}), ({"session_id": "mine"}, {"session_id": "mine"})):
            auth_data, session_id = await opened(world, on_close_route="/generate", on_close_payload=payload)
            assert (await post(world, "/session/end", about(auth_data, session_id)))[0] == 200
            assert json.loads(world.model.bodies[-1]) == {"session_id": session_id, **seen}


async def test_a_client_that_leaves_while_it_closes_its_session_keeps_the_model_server_from_nothing(
    world: World,
) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world, on_close_route="/hold")
        closing = asyncio.create_task(post(world, "/session/end", about(auth_data, session_id)))
        await until(lambda: world.model.working)
        closing.cancel()
        await asyncio.wait([closing])
        world.model.go_on.release()
        (end,) = await until(lambda: world.control.ended)
        assert end["status"] == "Success"
        assert world.model.cancelled == 0


@pytest.mark.parametrize("path", ["/status/500", "/broken", "/redirect"])
async def test_a_model_server_that_fails_at_the_close_keeps_no_session_open(world: World, path: str) -> None:
    world.model.redirects_to = f"{world.control.url}/delete_requests/"
    async with world.agent():
        auth_data, session_id = await opened(world, on_close_route=path)
        assert (await post(world, "/session/end", about(auth_data, session_id)))[0] == 200
        (end,) = await until(lambda: world.control.ended)  # and nothing of what the redirect would have posted there
        assert end["request_idx"] == auth_data["request_idx"]


async def test_a_session_lasts_as_long_as_requests_come_and_then_ends(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world, lifetime=0.5, on_close_route="/generate")
        _, before = await post(world, "/session/get", about(auth_data, session_id))
        assert (await inside(world, auth_data, session_id))[0] == 200
        _, after = await post(world, "/session/get", about(auth_data, session_id))
        assert after["expiration"] - before["expiration"] == pytest.approx(0.5, abs=0.01)
        assert {name: after[name] for name in ("session_id", "lifetime", "on_close_route", "on_close_payload")} == {
            "session_id": session_id,
            "lifetime": 0.5,
            "on_close_route": "/generate",
            "on_close_payload": None,
        }
        # What it answers opens the session again for one who lost the answer of /route/.
        assert (await inside(world, after["auth_data"], session_id))[0] == 200
        await until(lambda: world.control.ended)
        assert json.loads(world.model.bodies[-1]) == {"session_id": session_id}
        assert await post(world, "/session/health", about(auth_data, session_id)) == (200, {"ok": False})


async def test_a_session_does_not_end_while_a_request_in_it_is_answered(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world, lifetime=3.0)
        call = asyncio.create_task(inside(world, auth_data, session_id, "/hold"))
        await until(lambda: world.model.working)
        await asyncio.sleep(3.5)
        assert world.control.ended == []
        world.model.go_on.release()
        assert (await call)[0] == 200
        await until(lambda: world.control.ended)


async def test_a_life_grows_to_the_bound_and_no_further(world: World) -> None:
    async with world.agent(max_session_s=100.0):
        auth_data, session_id = await opened(world, lifetime=90.0)
        for _ in range(3):
            assert (await inside(world, auth_data, session_id))[0] == 200
        _, known = await post(world, "/session/get", about(auth_data, session_id))
        assert known["expiration"] - time.time() <= 100.0


async def test_closing_a_session_ends_what_runs_in_it(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world)
        call = asyncio.create_task(inside(world, auth_data, session_id, "/hold"))
        await until(lambda: world.model.working)
        assert (await post(world, "/session/end", about(auth_data, session_id)))[0] == 200
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await call
        await until(lambda: world.model.cancelled == 1)
        (end,) = await until(lambda: world.control.ended)
        assert end["status"] == "Success"


async def test_more_sessions_than_allowed_are_refused(world: World) -> None:
    async with world.agent(max_sessions=2):
        sessions = [await opened(world) for _ in range(2)]
        status, reply = await post(world, SESSION, world.wrapped({}))
        assert (status, reply) == (429, {"error": "2 sessions are open here already, which is the limit"})
        (end,) = await until(lambda: world.control.ended)
        assert (end["status"], end["request_idx"]) == ("Rejected", 103)
        assert (await post(world, "/session/end", about(*sessions[0])))[0] == 200
        await opened(world)


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({"lifetime": 0}, "payload.lifetime: must be above 0 and at most 3600 s, not 0"),
        ({"lifetime": -1}, "payload.lifetime"),
        ({"lifetime": 3601}, "payload.lifetime"),
        ({"lifetime": 1e300}, "payload.lifetime"),
        ({"lifetime": "60"}, "lifetime"),
        ({"lifetime": True}, "lifetime"),
        ({"on_close_route": 7}, "on_close_route"),
        ({"on_close_route": ""}, "on_close_route"),
        ({"on_close_payload": "x" * 70_000}, "payload.on_close_payload: must be at most 65536 bytes"),
        ([], "payload: must be a JSON object"),
        (None, "payload: must be a JSON object"),
    ],
    ids=lambda value: f"{value}"[:40],
)
async def test_a_session_that_cannot_be_is_refused_in_words(world: World, terms: Any, named: str) -> None:
    async with world.agent():
        status, reply = await post(world, SESSION, world.wrapped(terms))
        assert (status, named in reply["error"]) == (422, True), reply
        assert world.control.statuses[-1]["num_requests_working"] == 0


async def test_a_session_needs_an_index_that_the_server_knows_it_by(world: World) -> None:
    async with world.agent(unsecured=True):
        body = world.wrapped({})
        del body["auth_data"]["request_idx"]
        body["auth_data"]["signature"] = "no grant, which would have it"
        status, reply = await post(world, SESSION, body)
        assert (status, "request_idx: is missing" in reply["error"]) == (422, True)


async def test_only_who_opened_a_session_may_use_it(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world)
        others = world.auth_data()
        for wrong in (others, auth_data | {"reqnum": 0}, auth_data | {"signature": others["signature"]}):
            for call in ("get", "health", "end"):
                status, reply = await post(world, f"/session/{call}", about(wrong, session_id))
                assert (status, list(reply)) == (401, ["error"])
            assert (await inside(world, wrong, session_id))[0] == 401
        assert (await post(world, "/session/end", {"session_id": session_id}))[0] == 401
        for call, status in (("get", 400), ("health", 200), ("end", 400)):
            assert (await post(world, f"/session/{call}", about(auth_data, "another")))[0] == status
            bodies: tuple[Any, ...] = ({}, [], {"session_id": 3}, {"session_id": session_id, "session_auth": "x"})
            for body in bodies:
                assert (await post(world, f"/session/{call}", body))[0] == 422
        assert world.model.seen == []
        assert await post(world, "/session/health", about(auth_data, session_id)) == (200, {"ok": True})


async def test_a_session_uses_its_grant_up(world: World) -> None:
    async with world.agent():
        auth_data, _ = await opened(world)
        for path in (SESSION, "/generate"):
            status, reply = await post(world, path, {"auth_data": auth_data, "payload": {}})
            assert (status, "was used before" in reply["error"]) == (401, True)
        used = world.wrapped({})
        assert (await post(world, "/generate", used))[0] == 200
        assert (await post(world, SESSION, used))[0] == 401


async def test_a_request_in_a_session_may_be_as_much_work_as_its_grant_allows(world: World) -> None:
    async with world.agent():
        auth_data, session_id = await opened(world)
        most = granted(auth_data).max_cost
        assert (await inside(world, auth_data, session_id, payload={"max_tokens": most + 1}))[0] == 422
        assert (await inside(world, auth_data, session_id, payload={"max_tokens": 100}))[0] == 200


async def test_a_stopping_worker_opens_no_session_and_lets_those_that_are_open_come_to_their_end(world: World) -> None:
    async with agent_process(world, drain_s=20) as process:
        auth_data, session_id = await opened(world)
        process.send_signal(signal.SIGTERM)

        async def stopping() -> bool:
            async with world.client.get(f"{world.url}/health") as answer:
                return bool((await answer.json())["stopping"])

        while not await stopping():
            await asyncio.sleep(0.05)
        assert (await post(world, SESSION, world.wrapped({})))[0] == 503
        assert (await inside(world, auth_data, session_id))[0] == 200
        assert (await post(world, "/session/end", about(auth_data, session_id)))[0] == 200
        await process.communicate()
    assert process.returncode == 0
    assert {end["request_idx"]: end["status"] for end in world.control.ended}[auth_data["request_idx"]] == "Success"


async def test_a_session_that_outlasts_the_drain_is_closed_and_told_as_an_error(world: World) -> None:
    async with agent_process(world, drain_s=0.1) as process:
        _, session_id = await opened(world, on_close_route="/generate")
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    assert (process.returncode, b"Traceback" in log) == (0, False)
    assert [json.loads(body) for body in world.model.bodies] == [{"session_id": session_id}]
    assert [end["status"] for end in world.control.ended] == ["Error"]


# What the server learns from.


async def test_an_end_says_whether_it_was_a_session_at_our_agent_and_at_the_peers_worker(
    world: World, peer_worker: PeerWorker
) -> None:
    def of_peer() -> dict[int, bool]:
        bodies = [body for path, body in list(peer_worker.elsewhere.posts) if path == "/delete_requests/"]
        return {end.request_idx: end.session for body in bodies for end in decode(body)[2]}

    def of_agent() -> dict[int, bool]:
        bodies = [json.dumps(body).encode() for body in world.control.deletes]
        return {end.request_idx: end.session for body in bodies for end in decode(body)[2]}

    async with world.agent(), asyncio.timeout(TIMEOUT_S):
        for url, worker_id, ends in ((peer_worker.url, 8, of_peer), (world.url, 7, of_agent)):
            session, request = (
                world.wrapped({"inputs": "x"}, url=url, worker_id=worker_id, agent=worker_id == 7) for _ in range(2)
            )
            async with world.client.post(f"{url}/session/create", json=session) as answer:
                session_id = (await answer.json())["session_id"]
            for path, body in (
                ("/generate", session | {"session_id": session_id}),
                ("/generate", request),
                ("/session/end", about(session["auth_data"], session_id)),
            ):
                async with world.client.post(url + path, json=body) as answer:
                    assert answer.status == 200
            expected = {session["auth_data"]["request_idx"]: True, request["auth_data"]["request_idx"]: False}
            while ends() != expected:
                await asyncio.sleep(0.05)


# The whole road.


NAMES = ["our agent", "the peer's Worker"]


@pytest.mark.parametrize("script", [live.AGENT, long(onstart())], ids=NAMES)
@pytest.mark.peer(
    "worker: POST /session/create", "C1", "W4", does="`Endpoint.session`: its worker stays while it is open"
)
@pytest.mark.peer("worker: POST /ROUTE", "C1", "W4", does="`Session.request`")
@pytest.mark.peer("worker: POST /session/get", "C1", "W4", does="`Session.is_open`")
@pytest.mark.peer("worker: POST /session/end", "C1", "W4", does="`Session.close`")
async def test_a_worker_is_kept_for_a_session_of_the_peers_client_and_goes_when_it_is_closed(
    server: Running, owner: AsyncClient, script: str
) -> None:
    endpoint_id = await add_endpoint(owner, "llm", onstart=script, cold_workers=1)
    await ready(server, "llm")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        session = await asyncio.wait_for(endpoint.session(cost=50, lifetime=600), live.TIMEOUT_S)
        routed = fleet.counters.routed
        assert fleet.ledger.outstanding() == 50
        await owner.update_endpoint(endpoint_id, endpoint_state="stopped")
        await live.until(lambda: [str(w.goal) for w in fleet.workers.values()] == ["cold"], "the worker is not wanted")
        for _ in range(3):
            answer = await asyncio.wait_for(complete(session), live.TIMEOUT_S)
            assert answer["response"]["choices"][0]["text"].strip()
            await asyncio.sleep(0.5)  # more than two ticks of the control loop, each of which could stop the worker
        assert await session.is_open()
        assert (states(server, "llm"), fleet.ledger.outstanding(), fleet.counters.routed) == (["idle"], 50, routed)
        await session.close()
        await live.until(lambda: states(server, "llm") == ["stopped"], "the worker has stopped")
        # The peer's Worker may leave it out of a report first. If it is stopped right then, it never reports the end.
        await live.until(lambda: len(fleet.ledger) == 0, "the session has left the ledger")
        with pytest.raises(ValueError, match="closed session"):
            session.request("/v1/completions", {})
    assert fleet.requests.load.service_s == 0  # how long it was open says nothing of how long a request takes


@pytest.mark.parametrize("script", [long(live.AGENT), onstart()], ids=NAMES)
@pytest.mark.peer("worker: POST /ROUTE", "C1", "W4", does="`Session.request` when its time is over: refused")
async def test_a_session_of_the_peers_client_ends_by_itself(server: Running, owner: AsyncClient, script: str) -> None:
    await add_endpoint(owner, "llm", onstart=script)
    await ready(server, "llm")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        session = await asyncio.wait_for(endpoint.session(lifetime=1.0), live.TIMEOUT_S)
        assert len(fleet.ledger) == 1
        await live.until(lambda: len(fleet.ledger) == 0, "the session has ended")
        with pytest.raises(ValueError, match="closed session"):
            await asyncio.wait_for(complete(session), live.TIMEOUT_S)
        with pytest.raises(Exception, match="session does not exist"):
            await session.is_open()


@pytest.mark.peer("worker: POST /session/create", "C1", does="`Endpoint.session` that our agent refuses: told why")
async def test_the_peers_client_is_told_why_its_session_is_refused(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "llm")
    await ready(server, "llm")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        with pytest.raises(Exception, match=r"payload\.on_close_route: must be a path on the model server"):
            await asyncio.wait_for(endpoint.session(on_close_route="http://127.0.0.1:1/"), live.TIMEOUT_S)


async def test_our_own_clients_hold_sessions(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "llm")
    await ready(server, "llm")
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    payload = {"prompt": "Hello", "max_tokens": 2}

    def blocking() -> None:
        with Client(server.url, server.admin_key) as client, client.session("llm", cost=7) as session:
            assert session.request("/v1/completions", payload).json()["choices"][0]["text"].strip()
            assert session.is_open()
            assert fleet.ledger.outstanding() == 7

    await asyncio.to_thread(blocking)
    await live.until(lambda: len(fleet.ledger) == 0, "the session has ended")
    async with await owner.session("llm", lifetime_s=600) as session:
        assert [event async for event in session.stream("/v1/completions", payload | {"stream": True})]
        with pytest.raises(NotFound):
            await session.request("/nowhere", {})
        assert await session.is_open()
    assert not await session.is_open()
    await session.close()
    with pytest.raises(NotFound, match="invalid session"):
        await session.request("/v1/completions", payload)
    assert fleet.counters.routed == 2
    with pytest.raises(BadRequest, match=r"payload\.lifetime: must be above 0"):
        await owner.session("llm", lifetime_s=0)


@pytest.mark.peer("worker: POST /ROUTE", "C1", does="`Session.request` when its worker died: `ConnectionError`")
async def test_the_peers_client_is_told_that_the_worker_of_its_session_is_gone(
    server: Running, owner: AsyncClient, tmp_path: Path
) -> None:
    await add_endpoint(owner, "llm")
    await ready(server, "llm")
    async with pointed(server) as client:
        endpoint = await client.get_endpoint("llm")
        session = await asyncio.wait_for(endpoint.session(), live.TIMEOUT_S)
        live.end_workers(tmp_path / "data")
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(complete(session), live.TIMEOUT_S)
        assert not session.open
