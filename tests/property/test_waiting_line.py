"""Who waits longest is served first: what holds for any order of arrivals, polls, sleeps and ends."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Router
from posthouse.errors import BadRequest
from posthouse.fleet.events import Assignment, Reported, RequestsEnded
from posthouse.ports import Store
from posthouse.wire.route import RouteAsk, RouteReply, WaitReply
from tests.kit.fleets import NOW, Fleet, ready_report, worker


def full_fleet(workers: int) -> Fleet:
    fleet = Fleet(
        Endpoint(EndpointId(1), "e", Scaling(max_queue_time=1.0)),
        NOW,
        [worker(WorkerId(i + 1)) for i in range(workers)],
    )
    for _ in range(workers):
        assert isinstance(fleet.assign(0, 500, NOW), Assignment)
    return fleet


class Clock:
    """Time that stands still."""

    def now(self) -> float:
        return NOW


Reply = RouteReply | WaitReply | Exception


def router_of(fleet: Fleet, hold_s: float = 3.0) -> tuple[Router, ManagedEndpoint]:
    managed = fleet.managed
    hub = Hub(cast(Store, None), cast(Any, Clock()), {}, "", "test", stabilization_s=0.0)
    hub.endpoints[fleet.endpoint.id] = managed
    signer: Any = SimpleNamespace(sign=str)
    return Router(hub, signer, lambda worker_id: bytes(32), hold_s, lambda text, then: then("")), managed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_while_it_is_held_a_request_is_not_overtaken(arrivals: list[bool]) -> None:
    """True: a new request comes. False: a worker finishes what it has."""
    asyncio.run(story(arrivals))


async def story(arrivals: list[bool]) -> None:
    fleet = full_fleet(2)
    router, managed = router_of(fleet)
    served: list[int] = []

    def deliver(reply: Reply) -> None:
        assert isinstance(reply, RouteReply)
        served.append(reply.request_idx)

    for number, comes in enumerate(arrivals):
        if comes:
            router.route(managed, RouteAsk("e", 500.0, 0), deliver, "", NOW)
        elif there := [(worker_id, idx) for worker_id, at in fleet.ledger.at.items() for idx in at]:
            end = Ended(there[0][1], success=True)
            if number % 3:
                managed.handle(RequestsEnded(there[0][0], (end,)), NOW)
            else:  # there is room, and nobody has been told
                assert fleet.end(there[0][0], end, NOW)
    assert served == sorted(served)  # indexes grow with every new request


async def test_a_worker_that_frees_up_as_a_held_client_leaves_is_not_kept_for_it() -> None:
    fleet = full_fleet(1)
    router, managed = router_of(fleet)
    replies: list[Reply] = []
    leave = router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW)
    assert leave is not None
    for worker_id, at in list(fleet.ledger.at.items()):
        managed.handle(RequestsEnded(worker_id, tuple(Ended(idx, success=True) for idx in at)), NOW)
    assert len(replies) == 1
    assert fleet.ledger.outstanding() > 0
    leave()
    assert fleet.ledger.outstanding() == 0


async def test_a_held_client_that_leaves_takes_its_request_with_it() -> None:
    fleet = full_fleet(1)
    router, managed = router_of(fleet)
    replies: list[Reply] = []
    leave = router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW)
    assert leave is not None
    leave()
    for worker_id, at in list(fleet.ledger.at.items()):
        managed.handle(RequestsEnded(worker_id, tuple(Ended(idx, success=True) for idx in at)), NOW)
    assert (replies, len(fleet.ledger), len(fleet.line), managed.held) == ([], 0, 0, {})


async def test_of_two_calls_for_one_request_the_later_one_is_held_and_the_earlier_one_answered() -> None:
    fleet = full_fleet(1)
    router, managed = router_of(fleet)
    first: list[Reply] = []
    second: list[Reply] = []
    leave_first = router.route(managed, RouteAsk("e", 500.0, 0), first.append, "", NOW)
    (idx,) = fleet.ledger.waiting
    router.route(managed, RouteAsk("e", 500.0, idx), second.append, "", NOW)
    assert [type(reply) for reply in first] == [WaitReply]
    assert leave_first is not None
    leave_first()  # its connection ends: that is no word of the other
    for worker_id, at in list(fleet.ledger.at.items()):
        managed.handle(RequestsEnded(worker_id, tuple(Ended(i, success=True) for i in at)), NOW)
    assert [type(reply) for reply in second] == [RouteReply]
    assert len(first) == 1


async def test_a_call_is_held_as_long_as_it_asks() -> None:
    fleet = full_fleet(1)
    router, managed = router_of(fleet, hold_s=0.0)
    managed.handle(Reported(WorkerId(1), ready_report(working=fleet.ledger.at[WorkerId(1)])), NOW)
    replies: list[Reply] = []
    assert router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW) is None
    assert len(replies) == 1
    assert router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW, hold_s=25.0) is not None
    fleet.advance(NOW + 24.0, silent_s=1e9)  # longer than a request is remembered that nobody asks for
    assert fleet.let_go(NOW + 24.0) == NOW + 25.0
    assert len(fleet.line) == 1
    fleet.let_go(NOW + 25.0)
    assert [type(reply) for reply in replies] == [WaitReply, WaitReply]
    assert (len(fleet.line), managed.held) == (0, {})


async def test_everybody_who_is_held_can_be_told_to_wait() -> None:
    fleet = full_fleet(1)
    router, managed = router_of(fleet)
    replies: list[Reply] = []
    for _ in range(3):
        router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW)
    router.release()
    assert [type(reply) for reply in replies] == [WaitReply] * 3
    assert (len(fleet.line), managed.held) == (0, {})
    assert router.route(managed, RouteAsk("e", 500.0, 0), replies.append, "", NOW, hold_s=9.0) is None


async def test_a_request_that_two_workers_died_of_is_told_so_as_its_own_fault() -> None:
    fleet = full_fleet(3)
    router, managed = router_of(fleet)
    replies: list[Reply] = []
    idx = 0
    for worker_id in list(fleet.workers)[:2]:
        for at in list(fleet.ledger.at.get(worker_id, {})):
            managed.handle(RequestsEnded(worker_id, (Ended(at, success=True),)), NOW)
        router.route(managed, RouteAsk("e", 1.0, idx), replies.append, "", NOW)
        reply = replies[-1]
        assert isinstance(reply, RouteReply)
        idx = reply.request_idx
        managed.handle(Reported(worker_id, Report(error="CUDA out of memory", url=reply.url)), NOW)
    router.route(managed, RouteAsk("e", 1.0, idx), replies.append, "", NOW)
    assert isinstance(replies[-1], BadRequest)
    assert "CUDA out of memory" in str(replies[-1])
