"""What a key may have: never more, and all of that."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.lifecycle import Observation
from posthouse.domain.reports import Ended
from posthouse.engine.limits import MAX_DEBT_MINUTES, MAX_WAIT_S, Bucket, Meter, OverLimit, Reserved, duration
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import BadRequest
from posthouse.fleet.events import RequestsEnded
from posthouse.keys import KeyLimits, KeyUse
from tests.campaign.virtual import in_virtual_time
from tests.kit.fleets import ONE, TWO, fleet_of, instance, ready_report, worker

NOW = 1_800_000_000.0


def asked(meter: Meter, work: float = 1.0, now: float = NOW) -> Reserved | OverLimit | None:
    """What one request is told at once; None if it waits."""
    told: list[Reserved | OverLimit] = []
    meter.admit(work, now, told.append)
    return told[0] if told else None


def let_in(meter: Meter, work: float = 1.0, now: float = NOW) -> Reserved:
    found = asked(meter, work, now)
    assert isinstance(found, Reserved)
    return found


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 1200)), max_size=60),
)
def test_a_bucket_gives_no_more_than_it_may_within_any_time_and_refuses_nothing_that_it_has(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket(per_minute), NOW, list[tuple[float, int]]()
    for after_s, amount in steps:
        now += after_s
        if amount > per_minute:
            continue
        wait_s = bucket.wait_s(amount, now)
        if wait_s == 0:
            bucket.take(amount, now)
            taken.append((now, amount))
        else:
            assert bucket.left(now) < amount
            assert bucket.wait_s(amount, now + wait_s + 1e-3) == 0, "it says when there is room"
    for first, (begin, _) in enumerate(taken):
        had = 0
        for at, amount in taken[first:]:
            had += amount
            assert had <= per_minute * (1 + (at - begin) / 60) + 0.01


def test_of_a_thousand_that_ask_in_one_moment_as_many_are_let_in_as_may_be() -> None:
    for bound in (KeyLimits(requests_per_minute=400), KeyLimits(work_per_minute=4000), KeyLimits(at_once=400)):
        meter, refused = Meter(bound), 0
        for _ in range(1000):
            if meter.open == 400:  # nobody ends, so nobody waits
                found = meter._reserve(10.0, NOW)
                assert isinstance(found, OverLimit)
                assert found.retry_after_s > 0
                refused += 1
            else:
                let_in(meter, 10.0)
        assert (meter.open, refused) == (400, 600)


def test_what_was_announced_is_settled_with_what_was_counted() -> None:
    meter = Meter(KeyLimits(work_per_minute=1000))
    let_in(meter, 1000.0)(300.0, NOW)
    assert meter.left(NOW)["x-ratelimit-remaining-tokens"] == "700"
    assert meter.unsaved == KeyUse(1, 300.0)
    let_in(meter, 0.0)(1700.0, NOW)  # it announced nothing, and owes a minute now
    assert meter.left(NOW)["x-ratelimit-remaining-tokens"] == "0"
    over = asked(meter, 1.0)
    assert isinstance(over, OverLimit)
    assert over.retry_after_s == pytest.approx(60.06)
    let_in(meter, 1.0, NOW + 60.1)


def test_a_request_that_came_to_nothing_costs_nothing_and_ends_once() -> None:
    meter = Meter(KeyLimits(requests_per_minute=1, work_per_minute=10, at_once=1))
    for _ in range(3):
        reserved = let_in(meter, 10.0)
        reserved(None, NOW)
        reserved(10.0, NOW)
    assert meter.open == 0
    assert meter.unsaved == KeyUse(0, 0.0)


def test_what_is_owed_has_an_end() -> None:
    meter = Meter(KeyLimits(work_per_minute=10))
    let_in(meter, 10.0)(1e12, NOW)
    let_in(meter, 10.0, NOW + (MAX_DEBT_MINUTES + 1) * 60)


def test_a_request_that_never_has_room_is_refused_for_good() -> None:
    with pytest.raises(BadRequest, match=r"cost: is 11, and this key may have 10 work per minute"):
        asked(Meter(KeyLimits(work_per_minute=10)), 11.0)


@in_virtual_time
async def test_a_request_without_room_waits_for_one_that_ends_and_no_more_wait_than_may_end() -> None:
    meter = Meter(KeyLimits(at_once=2))
    first, second = let_in(meter), let_in(meter)
    told: list[Reserved | OverLimit] = []
    for _ in range(2):
        meter.admit(1.0, NOW, told.append)
    assert isinstance(asked(meter), OverLimit), "two may end, and two wait for that"
    assert not told
    first(1.0, NOW)
    await asyncio.sleep(0)
    assert [type(one) for one in told] == [Reserved]
    await asyncio.sleep(MAX_WAIT_S)
    assert [type(one) for one in told] == [Reserved, OverLimit]
    assert meter.open == 2
    second(1.0, NOW)
    assert meter.unsaved == KeyUse(3, 3.0, 2)


@in_virtual_time
async def test_a_client_that_leaves_while_it_waits_takes_nothing() -> None:
    meter = Meter(KeyLimits(at_once=1))
    first = let_in(meter)
    told: list[Reserved | OverLimit] = []
    leave: Callable[[], None] | None = meter.admit(1.0, NOW, told.append)
    assert leave is not None
    leave()
    first(1.0, NOW)
    await asyncio.sleep(MAX_WAIT_S)
    assert not told
    assert meter.open == 0


@in_virtual_time
async def test_many_that_come_one_after_another_are_never_refused() -> None:
    """As many callers as may be at once, whose ends are told late: each asks again before its own end is known."""
    meter, refused, most = Meter(KeyLimits(at_once=20)), 0, 0
    limits_loop, rng = asyncio.get_running_loop(), random.Random(1)

    async def caller() -> None:
        nonlocal refused, most
        for _ in range(50):
            answer: asyncio.Future[Reserved | OverLimit] = limits_loop.create_future()
            meter.admit(1.0, NOW, answer.set_result)
            found = await answer
            most = max(most, meter.open)
            if isinstance(found, OverLimit):
                refused += 1
            else:
                limits_loop.call_later(rng.random() * MAX_WAIT_S / 25, found, 1.0, NOW)
                await asyncio.sleep(0)

    await asyncio.gather(*(caller() for _ in range(20)))
    assert (refused, most <= 20) == (0, True)


def test_other_limits_leave_the_share_that_is_there() -> None:
    meter = Meter(KeyLimits(work_per_minute=100))
    let_in(meter, 50.0)
    meter.change(KeyLimits(work_per_minute=1000))
    assert meter.left(NOW)["x-ratelimit-remaining-tokens"] == "500"
    meter.change(KeyLimits(requests_per_minute=2))
    assert meter.left(NOW) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "0ms",
    }


@pytest.mark.parametrize(("seconds", "text"), [(0.0201, "21ms"), (1.0, "1s"), (6.55, "6.5s"), (360.0, "6m0s")])
def test_times_are_written_as_openai_s(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_ledger_tells_once_how_a_request_ended() -> None:
    fleet, told = fleet_of(worker()), list[tuple[str, float | None]]()
    managed = ManagedEndpoint(fleet)

    def begin(name: str, cost: float = 5.0) -> int:
        idx = managed.assign(0, cost, NOW).request_idx
        managed.call_at_end(idx, lambda done, now: told.append((name, done)))
        return idx

    counted, failed, announced = begin("counted"), begin("failed"), begin("announced")
    ends = (Ended(counted, True, work=3.0), Ended(failed, False), Ended(announced, True))
    managed.settle(TWO, ends, NOW + 1)
    assert not told, "they are not at that worker"
    managed.settle(ONE, ends, NOW + 1)
    managed.handle(RequestsEnded(ONE, ends), NOW + 1)
    assert told == [("counted", 3.0), ("failed", None), ("announced", 5.0)]
    del told[:]

    lost, _ = begin("lost"), begin("never came")
    fleet.report(ONE, ready_report(working=[lost]), NOW + 2)
    fleet.report(ONE, ready_report(), NOW + 4)
    fleet.advance(NOW + 100, 1000.0)
    assert told == [("lost", 5.0), ("never came", None)]
    del told[:]

    fleet.report(ONE, ready_report(working=[begin("its worker died")]), NOW + 101)
    fleet.observe_instance(ONE, instance(seen=Observation.HALTED), NOW + 102)
    assert told == [("its worker died", None)]
    begin("it waits")
    managed.let_go(NOW + 103)
    assert told[1:] == [("it waits", 5.0)]
    assert not fleet.ledger.on_end
