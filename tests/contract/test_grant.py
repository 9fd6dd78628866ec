"""What a grant adds: the unmodified `vastai` 1.9.1 Worker and our agent, side by side, given the same requests."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.agent import server as agent_server
from posthouse.client import AsyncClient
from posthouse.signing.rsa import RsaKey
from posthouse.wire.grant import BEGIN_S, TIME_HEADER, genuine, grant_key, issued, read
from tests.kit.agent_world import World, granted, listening, token_of, until
from tests.kit.live import add_endpoint, live_server, pointed, ready
from tests.kit.peer import complete
from tests.kit.peer_worker import PeerWorker
from tests.kit.puppets import puppets, route


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path) -> AsyncIterator[World]:
    world = World(key, tmp_path)
    world.control.gives_grants = True
    async with (
        listening(world.model.app(), world.model.port),
        listening(world.control.app(), world.control.port),
        aiohttp.ClientSession() as world.client,
    ):
        yield world


async def post(world: World, url: str, body: Any) -> tuple[int, str]:
    data = io.BytesIO(json.dumps(body).encode())  # sent piece by piece, as a large one must be
    async with world.client.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
        return answer.status, await answer.text()


async def both(world: World, peer_worker: PeerWorker, **changes: Any) -> list[tuple[int, str]]:
    """What the peer's Worker and our agent answer to a request of theirs whose auth data was changed on the way."""
    at = changes.pop("at", None)
    answers = []
    for url, worker_id in ((peer_worker.url, 8), (world.url, 7)):
        body = world.wrapped({"inputs": "x"}, at=at, url=url, worker_id=worker_id, agent=worker_id == 7)
        body["auth_data"] |= changes
        answers.append(await post(world, f"{url}/generate", body))
    return answers


# What the peer's Worker lets pass, and our agent refuses.


async def test_what_is_good_passes_both(world: World, peer_worker: PeerWorker) -> None:
    async with world.agent():
        assert [status for status, _ in await both(world, peer_worker)] == [200, 200]


async def test_a_signature_for_the_address_of_another_worker(world: World, peer_worker: PeerWorker) -> None:
    elsewhere = "http://127.0.0.1:1"
    signed, sealed = (world.wrapped({}, url=elsewhere, worker_id=9, agent=agent) for agent in (False, True))
    async with world.agent():
        assert (await post(world, f"{peer_worker.url}/generate", signed))[0] == 200
        for body, why in ((signed, "signature: is no grant"), (sealed, "signature: is a grant for another worker")):
            status, reply = await post(world, f"{world.url}/generate", body)
            assert (status, why in reply) == (401, True)
        # An address is given to another worker in time; what was meant for the one before is not for it.
        status, reply = await post(world, f"{world.url}/generate", world.wrapped({"inputs": "x"}, worker_id=9))
        assert (status, "signature: is a grant for another worker" in reply) == (401, True)
        # And a worker keeps no grants from an address where it was before.
        status, reply = await post(world, f"{world.url}/generate", world.wrapped({"inputs": "x"}, url=elsewhere))
        assert (status, "url: is not this worker's" in reply) == (401, True)
        assert world.model.seen == []


async def test_a_replay(world: World, peer_worker: PeerWorker) -> None:
    async with world.agent():
        for url, worker_id, statuses in ((peer_worker.url, 8, [200, 200]), (world.url, 7, [200, 401])):
            body = world.wrapped({"inputs": "x"}, url=url, worker_id=worker_id, agent=worker_id == 7)
            answers = [await post(world, f"{url}/generate", body) for _ in range(2)]
            assert [status for status, _ in answers] == statuses
        assert "was used before" in answers[1][1]
        assert len(world.model.seen) == 1


async def test_one_grant_serves_both_calls_of_the_published_example_and_no_third(world: World) -> None:
    async with world.agent():
        body = world.wrapped({"inputs": "x"})
        calls = ("generate", "generate_stream", "generate", "generate_stream", "v1/completions")
        statuses = [(await post(world, f"{world.url}/{call}", body))[0] for call in calls]
    assert [status == 401 for status in statuses] == [False, False, True, True, True]


async def test_many_replays_at_once(world: World) -> None:
    async with world.agent():
        body = world.wrapped({"inputs": "x"})
        answers = await asyncio.gather(*(post(world, f"{world.url}/generate", body) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] + 19 * [401]


async def test_a_grant_that_has_expired(world: World, peer_worker: PeerWorker) -> None:
    async with world.agent():
        theirs, ours = await both(world, peer_worker, at=time.time() - BEGIN_S - 1)
        assert theirs[0] == 200
        assert (ours[0], "has expired" in ours[1]) == (408, True)
        assert world.model.seen == []


@pytest.mark.parametrize(
    "changes",
    [{"cost": 1}, {"cost": "nan"}, {"endpoint": "another"}, {"reqnum": 10**9}, {"request_idx": 999}],
    ids=lambda changes: f"{changes}",
)
async def test_altered_fields(world: World, peer_worker: PeerWorker, changes: dict[str, Any]) -> None:
    async with world.agent():
        theirs, ours = await both(world, peer_worker, **changes)
        assert theirs[0] == 200
        assert (ours[0], "its grant does not verify" in ours[1]) == (401, True)
        assert world.model.seen == []
        assert world.control.ended == []


async def test_an_unsigned_session(world: World, peer_worker: PeerWorker) -> None:
    async def created(url: str, **changes: Any) -> tuple[int, str]:
        auth_data = world.auth_data(url=url, agent=url == world.url) | changes
        return await post(world, f"{url}/session/create", {"auth_data": auth_data, "payload": {"lifetime": 1.0}})

    async with world.agent():
        assert (await created(peer_worker.url, signature="AAAA"))[0] == 201
        status, reply = await created(world.url, signature="AAAA")
        assert (status, "signature" in reply) == (401, True)
        status, reply = await created(world.url, signature=world.auth_data(agent=False)["signature"])
        assert (status, "signature: is no grant" in reply) == (401, True)
        assert (await created(world.url))[0] == 201


async def test_a_request_in_a_session_by_one_who_did_not_open_it(world: World, peer_worker: PeerWorker) -> None:
    async with world.agent():
        for url, worker_id, expected in ((peer_worker.url, 8, 200), (world.url, 7, 401)):
            theirs, mine = (world.auth_data(url=url, worker_id=worker_id, agent=worker_id == 7) for _ in range(2))
            _, reply = await post(world, f"{url}/session/create", {"auth_data": theirs, "payload": {"lifetime": 60.0}})
            body = {"auth_data": mine, "session_id": json.loads(reply)["session_id"], "payload": {"inputs": "x"}}
            assert (await post(world, f"{url}/generate", body))[0] == expected
        assert world.model.seen == []


async def test_a_session_that_calls_an_address_off_the_worker_when_it_ends(
    world: World, peer_worker: PeerWorker
) -> None:
    elsewhere = peer_worker.elsewhere_url
    host = elsewhere.removeprefix("http://")

    async def closed(url: str, worker_id: int, on_close_route: str) -> tuple[int, str]:
        """What a new session's creation is answered with; if there is one, it is ended at once."""
        auth_data = world.auth_data(url=url, worker_id=worker_id, agent=worker_id == 7)
        payload = {"lifetime": 60.0, "on_close_route": on_close_route, "on_close_payload": {}}
        status, reply = await post(world, f"{url}/session/create", {"auth_data": auth_data, "payload": payload})
        if status == 201:
            known = {"session_id": json.loads(reply)["session_id"], "session_auth": auth_data}
            assert (await post(world, f"{url}/session/end", known))[0] == 200
        return status, reply

    def called() -> set[str]:
        return {path for path, _ in list(peer_worker.elsewhere.posts)}

    async with world.agent():
        assert (await closed(peer_worker.url, 8, f"{elsewhere}/by-the-peer"))[0] == 201
        await until(lambda: "/by-the-peer" in called())
        tricks = [
            f"{elsewhere}/by-our-agent",
            f"//{host}/by-our-agent",
            f"///{host}/by-our-agent",
            f"/\\{host}/by-our-agent",
            f"\\\\{host}/by-our-agent",
            f"@{host}/by-our-agent",
            f".{host}/by-our-agent",
            f":80@{host}/by-our-agent",
            f"/%2f{host}/by-our-agent",
            f"%2f%2f{host}/by-our-agent",
            f"/generate@{host}/by-our-agent",
            f"/a/..//{host}/by-our-agent",
            "/../by-our-agent",
            f"/generate?next={elsewhere}/by-our-agent",
            f"/generate#@{host}/by-our-agent",
            f" {elsewhere}/by-our-agent",
            f"/\t/{host}/by-our-agent",
            "/generate\r\nHost: elsewhere",
            "/gen\u2044erate",
            "generate",
            "/",
            "",
            "/" + "x" * 600,
        ]
        for trick in tricks:
            status, reply = await closed(world.url, 7, trick)
            assert (status, "payload.on_close_route" in reply) == (422, True), trick
        assert "/by-our-agent" not in called()
        assert world.model.seen == []
        assert (await closed(world.url, 7, "/generate"))[0] == 201
        assert [request.path for request in world.model.seen] == ["/generate"]


async def test_a_body_without_a_limit(world: World, peer_worker: PeerWorker) -> None:
    big = {"inputs": "x" * 33 * 2**20}
    async with world.agent():
        for url, worker_id, expected in ((peer_worker.url, 8, 200), (world.url, 7, 413)):
            body = world.wrapped(big, url=url, worker_id=worker_id, agent=worker_id == 7)
            assert (await post(world, f"{url}/generate", body))[0] == expected
        assert world.model.seen == []


async def test_more_work_than_was_granted(world: World) -> None:
    async with world.agent():
        most = granted(world.auth_data()).max_cost
        status, reply = await post(world, f"{world.url}/generate", world.wrapped({"max_tokens": most + 1}))
        assert (status, "more work than its grant allows" in reply) == (422, True)
        await until(lambda: world.control.ended)
        assert [end["status"] for end in world.control.ended] == ["Rejected"]
        assert world.model.seen == []


# What a grant must not get in the way of.


async def test_a_request_without_a_grant_is_told_what_is_missing_and_a_setting_lets_it_pass(world: World) -> None:
    body = world.wrapped({"inputs": "x"}, agent=False)
    async with world.agent():
        status, reply = await post(world, f"{world.url}/generate", body)
        assert (status, "signature: is no grant" in reply) == (401, True)
    world.control.statuses.clear()
    async with world.agent(require_grant=False):
        assert (await post(world, f"{world.url}/generate", body))[0] == 200
        # A grant is checked all the same.
        with_grant = world.wrapped({"inputs": "x"})
        assert [(await post(world, f"{world.url}/generate", with_grant))[0] for _ in range(2)] == [200, 401]


async def test_an_agent_that_must_have_grants_does_not_begin_while_the_server_gives_none(world: World) -> None:
    world.control.gives_grants = False
    async with world.agent(wait=False, require_grant=True):
        await until(lambda: world.control.looks)
        assert (await post(world, f"{world.url}/generate", world.wrapped({})))[0] == 401
        world.control.gives_grants = True
        await until(world.control.ready)
        assert (await post(world, f"{world.url}/generate", world.wrapped({})))[0] == 200


@pytest.mark.parametrize("beside", [False, True], ids=["as the signature", "beside it"])
@pytest.mark.parametrize("shape", ["flat", "wrapped", "header"])
async def test_the_model_does_not_see_the_grant(world: World, shape: str, beside: bool) -> None:
    async with world.agent():
        auth_data, payload = world.auth_data(), {"inputs": "x"}
        if beside:
            auth_data |= {"grant": auth_data["signature"], "signature": world.auth_data(agent=False)["signature"]}
        header = {"X-Posthouse-Auth": base64.b64encode(json.dumps(auth_data).encode()).decode()}
        body, headers = {
            "flat": (auth_data | payload, {}),
            "wrapped": ({"auth_data": auth_data, "payload": payload}, {}),
            "header": (payload, header),
        }[shape]
        async with world.client.post(f"{world.url}/generate", json=body, headers=headers) as answer:
            assert answer.status == 200
        assert [json.loads(seen) for seen in world.model.bodies] == [payload]
        assert not {"x-posthouse-auth"} & {name.lower() for name in world.model.seen[0].headers}


async def test_the_clock_of_the_server_counts(world: World) -> None:
    world.control.clock_ahead_s = -7200.0
    async with world.agent():
        body = world.wrapped({}, at=time.time() - 7200.0)
        assert (await post(world, f"{world.url}/generate", body))[0] == 200
        expired = world.wrapped({}, at=time.time() - 7200.0 - BEGIN_S - 1)
        assert (await post(world, f"{world.url}/generate", expired))[0] == 408


async def test_the_server_s_own_clock_counts_and_not_that_of_its_machine_which_was_set(world: World) -> None:
    world.control.date_ahead_s = 7200.0
    async with world.agent():
        assert (await post(world, f"{world.url}/generate", world.wrapped({})))[0] == 200


async def test_after_the_server_stood_still_its_grants_are_good_once_it_was_asked_for_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_server, "_GAP_S", 0.0)
    world.control.clock_ahead_s = -7200.0
    async with world.agent():
        world.control.clock_ahead_s = 0.0
        unknown = world.wrapped({}, at=time.time() - 7200.0 - BEGIN_S - 1)
        assert (await post(world, f"{world.url}/generate", unknown))[0] == 408  # which is why the time was asked for
        world.control.clock_ahead_s = -3600.0
        body = world.wrapped({}, at=time.time() - 3600.0)
        assert (await post(world, f"{world.url}/generate", body))[0] == 200


async def test_a_grant_used_before_an_agent_began_anew_stays_used(world: World) -> None:
    async with world.agent():
        body = world.wrapped({"inputs": "x"})
        assert (await post(world, f"{world.url}/generate", body))[0] == 200
    world.control.statuses.clear()
    world.control.clock_ahead_s = 2.0  # so that the second agent begins in a later second
    async with world.agent():
        status, reply = await post(world, f"{world.url}/generate", body)
        assert (status, "before this worker began" in reply) == (408, True)
        assert len(world.model.seen) == 1


async def test_used_grants_are_forgotten_once_expired_and_their_number_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.agent.grant._MAX_USED", 3)
    async with world.agent():
        now = time.time()
        bodies = [world.wrapped({}) for _ in range(4)]
        statuses = [(await post(world, f"{world.url}/generate", body))[0] for body in bodies]
        assert statuses == [200, 200, 200, 408]
        monkeypatch.setattr("posthouse.agent.server.Server.now", lambda _: now + BEGIN_S + 12)
        body = world.wrapped({}, at=now + BEGIN_S + 12)
        assert (await post(world, f"{world.url}/generate", body))[0] == 200
        assert (await post(world, f"{world.url}/generate", bodies[0]))[0] == 408


# What does not pass for a grant.


async def test_a_grant_of_one_worker_s_key_is_good_for_no_other(world: World) -> None:
    """Whoever runs worker 9 knows its token, and so can make any grant for it."""
    async with world.agent():
        auth_data = world.auth_data()
        fields = {name: auth_data[name] for name in ("url", "endpoint", "reqnum", "request_idx", "cost")}
        forged = issued(grant_key(token_of(9)), worker_id=7, perf=1.0, now=time.time(), **fields)
        body = {"auth_data": auth_data | {"signature": forged}, "payload": {}}
        status, reply = await post(world, f"{world.url}/generate", body)
        assert (status, "its grant does not verify" in reply) == (401, True)
        assert world.model.seen == []
        assert (await post(world, f"{world.url}/generate", {"auth_data": auth_data, "payload": {}}))[0] == 200


async def test_another_spelling_of_a_used_grant_is_no_new_one(world: World) -> None:
    async with world.agent():
        auth_data = world.auth_data()
        signature = auth_data["signature"]
        spellings = (f"{signature}=", f"{signature}\n", f" {signature}", signature[:-1] + "=", signature.lower())
        for spelling in (signature, *spellings):
            body = {"auth_data": auth_data | {"signature": spelling}, "payload": {}}
            status, _ = await post(world, f"{world.url}/generate", body)
            assert status == (200 if spelling == signature else 401), spelling


async def test_an_agent_without_a_token_asks_for_signatures_as_everybody_could_make_its_grants(world: World) -> None:
    """Its server knows it by the token in the path of its address."""
    async with world.agent(mtoken=""):
        assert {status["version"] for status in world.control.statuses} == {"1.1.0"}
        assert (await post(world, f"{world.url}/generate", world.wrapped({"inputs": "x"}, agent=False)))[0] == 200
        assert (await post(world, f"{world.url}/generate", world.wrapped({"inputs": "x"})))[0] == 401


# The whole road, with a real server.


async def test_only_workers_with_our_agent_are_given_grants(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with (
        live_server(data_dir) as server,
        AsyncClient(server.url, server.admin_key) as owner,
        aiohttp.ClientSession() as http,
    ):
        (puppet,) = await puppets(server, owner, http, data_dir)
        await puppet.report()
        _, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
        assert set(reply) == {"endpoint", "cost", "reqnum", "signature", "url", "request_idx"}
        assert read(reply["signature"]) is None
        await puppet.report(version="1.1.0+posthouse")
        _, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
        assert set(reply) == {"endpoint", "cost", "reqnum", "signature", "url", "request_idx"}
        grant = granted(reply)
        assert (grant.worker_id, grant.max_cost) == (puppet.id, 100.0 * 3600)
        around = {name: reply[name] for name in ("url", "endpoint", "reqnum", "request_idx", "cost")}
        assert genuine(grant_key(puppet.token), grant, **around)
        async with http.get(f"{server.url}/pubkey/") as answer:
            assert float(answer.headers[TIME_HEADER]) <= server.hub.clock.now() + 0.001  # it is told in milliseconds


async def test_the_peers_client_the_published_example_and_clients_that_pick_fields_pass_grants_on(
    tmp_path: Path,
) -> None:
    async with (
        live_server(tmp_path / "data") as server,
        AsyncClient(server.url, server.admin_key) as owner,
        aiohttp.ClientSession() as http,
    ):
        await add_endpoint(owner, "llm")
        await ready(server, "llm")
        async with pointed(server) as client:
            endpoint = await client.get_endpoint("llm")
            answers = await asyncio.gather(*(complete(endpoint) for _ in range(4)))
        assert all(answer["response"]["choices"][0]["text"].strip() for answer in answers)
        _, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
        example = reply | {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 4}}
        bodies, five = [example], ("signature", "cost", "endpoint", "reqnum", "url")
        for known in (five, (*five, "request_idx")):
            _, reply = await route(http, server, {"endpoint": "llm", "cost": 256})
            picked = {name: reply[name] for name in known}
            bodies.append({"auth_data": picked, "payload": {"inputs": "x", "parameters": {"max_new_tokens": 4}}})
        for body in bodies:
            for expected in (200, 401):
                async with http.post(f"{reply['url']}/generate", json=body) as answer:
                    assert answer.status == expected
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        await until(lambda: fleet.counters.ended == 4 + len(bodies))
