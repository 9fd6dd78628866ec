"""Who waits longest is served first: what holds for any order of arrivals, polls, sleeps and ends."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.load import Ended
from posthouse.domain.worker import WorkerId
from posthouse.engine.router import Router
from posthouse.fleet.fleet import OVERTAKEN_S, Assignment, Fleet, Waiting
from posthouse.wire.route import RouteAsk, WaitReply
from tests.unit.test_fleet import NOW, worker

PAUSE_S = 5.0
"""The longest that a client sleeps between two polls."""
steps = st.lists(
    st.tuples(st.sampled_from(["new", "end", *["wait"] * 6]), st.integers(0, 1000), st.floats(0.1, 9)),
    min_size=60,
    max_size=150,
)


def full_fleet(workers: int) -> Fleet:
    fleet = Fleet(
        Endpoint(EndpointId(1), "e", Scaling(max_queue_time=1.0)),
        NOW,
        [worker(WorkerId(i + 1)) for i in range(workers)],
    )
    for _ in range(workers):
        assert isinstance(fleet.assign(0, 500, NOW), Assignment)
    return fleet


@settings(max_examples=150)
@given(st.integers(1, 3), steps)
def test_nobody_is_overtaken_by_one_that_came_long_after_it(
    workers: int, happenings: list[tuple[str, int, float]]
) -> None:
    fleet, now = full_fleet(workers), NOW
    came_at: dict[int, float] = {}
    asked_at: dict[int, float] = {}

    def ask(idx: int, cost: float) -> None:
        outcome = fleet.assign(idx, cost, now)
        idx = outcome.request_idx
        came_at.setdefault(idx, now)
        asked_at[idx] = now
        if isinstance(outcome, Assignment):
            older = [i for i in fleet.ledger.waiting if came_at[idx] - came_at[i] >= OVERTAKEN_S]
            assert not older or fleet.has_room(1, now)

    for what, pick, amount in happenings:
        if what == "wait":
            now += amount
            for idx in list(fleet.ledger.waiting):
                if now - asked_at[idx] >= PAUSE_S:
                    ask(idx, 100.0)
        elif what == "new":
            ask(0, 100 * amount)
        elif there := [(worker_id, idx) for worker_id, at in fleet.ledger.at.items() for idx in at]:
            worker_id, idx = there[pick % len(there)]
            assert fleet.end(worker_id, Ended(idx, success=True), now)


class Clock:
    """Time that stands still."""

    def now(self) -> float:
        return NOW


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_while_it_is_held_a_request_is_not_overtaken(arrivals: list[bool]) -> None:
    """True: a new request comes. False: a worker finishes what it has."""
    asyncio.run(story(arrivals))


async def story(arrivals: list[bool]) -> None:
    fleet = full_fleet(2)
    hub = SimpleNamespace(clock=Clock(), bell=asyncio.Event())
    router = Router(cast(Any, hub), cast(Any, SimpleNamespace(sign=str)), cast(Any, None), 3.0, cast(Any, None))
    served: list[int] = []
    really = fleet.assign

    def assign(idx: int, cost: float, now: float, polls: bool = True) -> Assignment | Waiting:
        outcome = really(idx, cost, now, polls)
        if isinstance(outcome, Assignment):
            served.append(outcome.request_idx)
        return outcome

    fleet.assign = assign  # type: ignore[method-assign]

    async def never() -> None:
        await asyncio.Event().wait()

    async def ask() -> None:
        ask = RouteAsk("e", 500.0, 0)
        outcome = router.route_now(fleet, ask, NOW)
        if isinstance(outcome, Waiting):
            await router.route_later(fleet, ask, outcome, never)

    asking = []
    for number, comes in enumerate(arrivals):
        if comes:
            asking.append(asyncio.create_task(ask()))
            await asyncio.sleep(0)
        elif there := [(worker_id, idx) for worker_id, at in fleet.ledger.at.items() for idx in at]:
            assert fleet.end(there[0][0], Ended(there[0][1], success=True), NOW)
            if number % 3:  # else there is room, and nobody has been told
                router.serve_held(fleet)
    assert served == sorted(served)  # indexes grow with every new request
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_a_worker_that_frees_up_as_a_held_client_leaves_is_not_kept_for_it() -> None:
    fleet = full_fleet(1)
    hub = SimpleNamespace(clock=Clock(), bell=asyncio.Event())
    router = Router(cast(Any, hub), cast(Any, SimpleNamespace(sign=str)), cast(Any, None), 3.0, cast(Any, None))
    gone = asyncio.Event()

    async def left() -> None:
        await gone.wait()

    ask = RouteAsk("e", 500.0, 0)
    outcome = router.route_now(fleet, ask, NOW)
    assert isinstance(outcome, Waiting)
    held = asyncio.create_task(router.route_later(fleet, ask, outcome, left))
    await asyncio.sleep(0)
    there = [(worker_id, idx) for worker_id, at in fleet.ledger.at.items() for idx in at]
    gone.set()
    for worker_id, idx in there:
        fleet.end(worker_id, Ended(idx, success=True), NOW)
    router.serve_held(fleet)
    assert fleet.ledger.outstanding() > 0
    assert await held is None
    assert fleet.ledger.outstanding() == 0


async def test_an_endpoint_leaves_nothing_behind_for_the_requests_that_were_held_for_it() -> None:
    hub = SimpleNamespace(clock=Clock(), bell=asyncio.Event())
    router = Router(cast(Any, hub), cast(Any, SimpleNamespace(sign=str)), cast(Any, None), 0.01, cast(Any, None))

    async def never() -> None:
        await asyncio.Event().wait()

    ask = RouteAsk("e", 500.0, 0)
    for number in range(1, 4):
        fleet = Fleet(Endpoint(EndpointId(number), "e"), NOW)
        outcomes = [router.route_now(fleet, ask, NOW) for _ in range(2)]
        asking = [router.route_later(fleet, ask, cast(Waiting, outcome), never) for outcome in outcomes]
        assert all(isinstance(reply, WaitReply) for reply in await asyncio.gather(*asking))
    assert router._held == {}
