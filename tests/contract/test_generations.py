"""Requests of every generation of workers and clients, as they were sent: each is accepted, and means the same inside.

The fixtures say of each request whether the peer itself sent it (`recorded`), and what it `means` once normalised.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.engine.ingest import Ingest
from posthouse.engine.managed import ManagedEndpoint
from posthouse.fleet.controller import Controller
from posthouse.fleet.roster import Roster
from posthouse.signing.rsa import verifier
from posthouse.wire import route as wire
from tests.kit.live import live_server, states, until
from tests.kit.puppets import Puppet, puppets

WIRE = Path(__file__).parents[1] / "fixtures" / "wire"
CLASSIC = {"cost", "endpoint", "reqnum", "signature", "url"}
VERIFIED = {
    "W0": ("cost", "endpoint", "reqnum", "url"),
    "W1": ("cost", "endpoint", "reqnum", "url"),
    "W2": ("cost", "endpoint", "reqnum", "url", "request_idx"),
    "W3": ("cost", "endpoint", "reqnum", "request_idx", "url"),
    "W4": ("url",),
}
"""The fields that each generation verifies, in the order in which it writes them."""
WITH_ENDS = ["W2", "W3", "W4"]
"""The oldest two do not report the ends of requests."""


def requests(generation: str, call: str) -> list[dict[str, Any]]:
    """The recorded requests of a generation for one call."""
    fixture = json.loads((WIRE / f"{generation}.json").read_text())
    return [r for r in fixture["requests"] if r["call"] == call]


def sent(generation: str, form: str) -> dict[str, Any]:
    """The body of one recorded report."""
    found = [r["body"] for r in requests(generation, "/worker_status/") if r["form"].split(",")[0] == form]
    first: dict[str, Any] = found[0]
    return first


def own(body: dict[str, Any], puppet: Puppet, idxs: Mapping[int, int] | None = None) -> dict[str, Any]:
    """The body, with the number, the token and the address of a worker here instead of the recorded one's.

    `idxs`: the indexes of requests here, by those recorded.
    """

    def here(value: Any) -> Any:
        return (idxs or {}).get(value, value)

    mine: dict[str, Any] = {"worker_id": puppet.id, "mtoken": puppet.token}
    if "id" in body:
        mine["id"] = type(body["id"])(puppet.id)
    if body.get("url"):
        mine["url"] = puppet.url
    if "request_idxs" in body:
        mine["request_idxs"] = [here(idx) for idx in body["request_idxs"]]
    if "requests" in body:
        mine["requests"] = [row | {"request_idx": here(row["request_idx"])} for row in body["requests"]]
    return body | {name: value for name, value in mine.items() if name in body}


def stated(means: dict[str, Any], url: str) -> Report:
    """The report that a fixture states."""
    working = means.get("working")
    return Report(
        **means
        | {"working": None if working is None else frozenset(working)}
        | ({"url": url} if means.get("url") else {})
    )


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(tmp_path / "data", **{"server.route_hold_s": 0.3}) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def puppet(server: Running, http: aiohttp.ClientSession, tmp_path: Path) -> AsyncIterator[Puppet]:
    """The only worker of the endpoint "llm"; it has not reported yet."""
    async with AsyncClient(server.url, server.admin_key) as owner:
        (puppet,) = await puppets(server, owner, http, tmp_path / "data")
        yield puppet


def fleet(server: Running) -> Controller:
    found = server.hub.fleet_named("llm")
    assert found is not None
    return found


async def route(puppet: Puppet, server: Running, body: dict[str, Any]) -> dict[str, Any]:
    status, reply = await puppet.post("/route/", body | {"api_key": server.admin_key})
    assert status == 200
    found: dict[str, Any] = reply
    return found


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(g, marks=pytest.mark.peer("POST /worker_status/", g, does="every form of it", recorded=True))
        for g in VERIFIED
    ],
)
async def test_every_form_of_report_is_accepted_and_means_what_its_generation_meant(
    generation: str, server: Running, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Report] = []

    def reported(roster: Roster, worker_id: WorkerId, report: Report, now: float) -> bool:
        taken.append(report)
        return False

    monkeypatch.setattr(Roster, "reported", reported)
    forms = requests(generation, "/worker_status/")
    for form in forms:
        status, _ = await puppet.post("/worker_status/", own(form["body"], puppet), puppet.token)
        assert status == 200, form["form"]
        assert taken.pop() == stated(form["means"], puppet.url), form["form"]
    # Those with a token of their own need none in their address, and the alias is the same call.
    for form in forms:
        status, _ = await puppet.post("/api/v0/worker_status/", own(form["body"], puppet))
        assert status == (200 if "mtoken" in form["body"] else 401), form["form"]


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(g, marks=pytest.mark.peer("POST /delete_requests/", g, does="every form of it", recorded=True))
        for g in WITH_ENDS
    ],
)
async def test_every_form_of_ending_is_accepted_and_means_what_its_generation_meant(
    generation: str, server: Running, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Ended] = []
    really = Ingest.ended

    def ended(self: Ingest, home: ManagedEndpoint, worker_id: int, ended: tuple[Ended, ...]) -> None:
        taken.extend(ended)
        really(self, home, worker_id, ended)

    monkeypatch.setattr(Ingest, "ended", ended)
    for form in requests(generation, "/delete_requests/"):
        taken.clear()
        status, _ = await puppet.post("/delete_requests/", own(form["body"], puppet), puppet.token)
        assert status == 200, form["form"]
        assert set(taken) == {Ended(**one) for one in form["means"]}, form["form"]


@pytest.mark.parametrize(
    "generation",
    [
        pytest.param(
            g,
            marks=[
                pytest.mark.peer("POST /route/", "C0", "C1", g, does="a signed address", recorded=True),
                pytest.mark.peer("GET /pubkey/", g, does="the key that verifies it", recorded=True),
            ],
        )
        for g in VERIFIED
    ],
)
async def test_a_worker_of_each_generation_gets_what_it_can_verify_until_it_fails(
    generation: str, server: Running, http: aiohttp.ClientSession, puppet: Puppet
) -> None:
    assert (await puppet.post("/worker_status/", own(sent(generation, "loading"), puppet), puppet.token))[0] == 200
    assert states(server, "llm") == ["model_loading"]
    assert (await puppet.post("/worker_status/", own(sent(generation, "ready"), puppet), puppet.token))[0] == 200
    assert states(server, "llm") == ["idle"]
    async with http.get(f"{server.url}/pubkey/") as pem:
        verified = verifier(await pem.text())
    numbers = []
    for client in ("C0", "C1"):
        for form in requests(client, "/route/"):
            reply = await route(puppet, server, form["body"])
            text = json.dumps({name: reply.get(name) for name in VERIFIED[generation]}, indent=4)
            assert verified(text.encode(), reply["signature"]), form["form"]
            assert (reply["url"], reply["cost"]) == (puppet.url, form["means"]["cost"])
            # Whatever else a client sends on reaches the model behind the oldest workers.
            classic = generation == "W0" or (generation == "W1" and client == "C0")
            idx = set() if classic else {"request_idx"}
            assert reply.keys() == CLASSIC | idx, form["form"]
            numbers.append(reply["reqnum"])
    assert [n - numbers[0] for n in numbers] == list(range(len(numbers)))  # dense, for a window of 100 there
    assert (await puppet.post("/worker_status/", own(sent(generation, "error"), puppet), puppet.token))[0] == 200
    await until(lambda: "idle" not in states(server, "llm"), "the worker is not used any more")


@pytest.mark.parametrize("generation", WITH_ENDS)
async def test_requests_end_in_the_form_of_their_generation_once_and_with_the_first_outcome(
    generation: str, server: Running, puppet: Puppet
) -> None:
    await puppet.post("/worker_status/", own(sent(generation, "ready"), puppet), puppet.token)
    forms = requests(generation, "/delete_requests/")
    recorded = sorted({one["request_idx"] for form in forms for one in form["means"]})
    given = {idx: (await route(puppet, server, {"endpoint": "llm", "cost": 1}))["request_idx"] for idx in recorded}
    first: dict[int, bool] = {}
    for form in forms:
        for one in form["means"]:
            first.setdefault(one["request_idx"], one["success"])
        body = own(form["body"], puppet, given)
        assert (await puppet.post("/delete_requests/", body, puppet.token))[0] == 200
    stats = fleet(server).counters
    assert len(fleet(server).ledger) == 0
    assert (stats.ended, stats.failed) == (len(first), list(first.values()).count(False))


@pytest.mark.parametrize("generation", ["W2", "W3", "W4"])
async def test_what_a_worker_works_on_is_not_forgotten_and_what_it_left_out_has_ended(
    generation: str, server: Running, puppet: Puppet
) -> None:
    await puppet.post("/worker_status/", own(sent(generation, "ready"), puppet), puppet.token)
    given = [(await route(puppet, server, {"endpoint": "llm", "cost": 10}))["request_idx"] for _ in range(2)]
    working = own(sent(generation, "working"), puppet)
    for idxs, left in ((given, 20.0), (given[:1], 10.0), ([], 0.0)):
        await puppet.post("/worker_status/", working | {"working_request_idxs": idxs}, puppet.token)
        assert fleet(server).ledger.outstanding() == left


async def test_the_two_oldest_generations_are_believed_to_be_done_when_they_should_be(
    server: Running, puppet: Puppet
) -> None:
    await puppet.post("/worker_status/", own(sent("W1", "ready"), puppet), puppet.token)
    await route(puppet, server, {"endpoint": "llm", "cost": 500})
    now = server.hub.clock.now()  # 500 of work at 250 a second: 2 s
    fleet(server).requests.expire(now + 10.0)
    assert fleet(server).ledger.outstanding() == 500
    fleet(server).requests.expire(now + 15.0)
    assert fleet(server).ledger.outstanding() == 0
    assert fleet(server).workers[WorkerId(puppet.id)].scheme == "A4"


@pytest.mark.parametrize(("generation", "form"), [("W0", "data"), ("W1", "working")])
async def test_the_two_oldest_generations_have_ended_what_their_counts_leave_no_room_for(
    generation: str, form: str, server: Running, puppet: Puppet
) -> None:
    counts = own(sent(generation, form), puppet)
    for received, working, left in ((0, 0, 0.0), (2, 2, 20.0), (2, 1, 10.0), (2, 0, 0.0)):
        counts |= {"num_requests_recieved": received, "num_requests_working": working}
        await puppet.post("/worker_status/", counts, puppet.token)
        assert fleet(server).ledger.outstanding() == left
        for _ in range(2 if received == 0 else 0):
            await route(puppet, server, {"endpoint": "llm", "cost": 10})


@pytest.mark.parametrize("client", ["C0", "C1"])
def test_every_form_of_asking_for_a_worker_means_the_same(client: str) -> None:
    for form in requests(client, "/route/"):
        ask = wire.checked(wire.decode(json.dumps(form["body"]).encode()))
        cost = wire.DEFAULT_COST if ask.cost == wire.NOT_STATED else ask.cost
        means = {"cost": cost, "request_idx": ask.request_idx or 0, "polls": ask.polls}
        assert (ask.endpoint, means) == ("llm", form["means"]), form["form"]


async def test_a_client_that_polls_keeps_its_index_and_one_that_does_not_is_given_none(
    server: Running, puppet: Puppet
) -> None:
    (c0, *_), (c1, *_) = requests("C0", "/route/"), requests("C1", "/route/")
    waiting = await route(puppet, server, c0["body"])
    assert waiting == {"endpoint": "llm", "status": "model_loading: 1; starting"}
    waiting = await route(puppet, server, c1["body"])
    idx = waiting["request_idx"]
    assert waiting.keys() == {"endpoint", "status", "request_idx"}
    polls = [asyncio.create_task(route(puppet, server, c1["body"] | {"request_idx": idx})) for _ in range(2)]
    assert [(await poll)["request_idx"] for poll in polls] == [idx, idx]
    assert fleet(server).ledger.open.get(idx) is not None
