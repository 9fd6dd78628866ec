"""What every call to a provider goes through, on a loop whose time stands still until somebody sleeps."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from posthouse.errors import OfferTaken, Unavailable
from posthouse.providers.wrappers import FAILURES, FIRST_PAUSE_S, MAX_PAUSE_S, Breaker, Metered, Throttled
from tests.kit.shop import SMALL, Shop


class Time:
    """The loop's time, moved by what waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: bool = True) -> None:
        self.at, self.passes = 100.0, passes
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.at, raising=False)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, wait_s: float) -> None:
        self.at += wait_s if self.passes else 0.0


class Down(Shop):
    """A provider that does not answer."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(SMALL)
        self.error, self.destroyed = error, 0

    async def catalog(self):  # type: ignore[no-untyped-def]
        self.asked += 1
        raise self.error

    async def destroy(self, instance_id: str) -> None:
        self.destroyed += 1


async def fails(call: Callable[[], Awaitable[object]], kind: type[BaseException]) -> None:
    with pytest.raises(kind):
        await call()


async def test_calls_are_counted_by_outcome_and_timed() -> None:
    good, taken, down = (Metered(p) for p in (Shop(SMALL), Down(OfferTaken("gone")), Down(OSError("no route"))))
    assert list(await good.catalog()) == [SMALL]
    await fails(taken.catalog, OfferTaken)
    await fails(down.catalog, OSError)
    for meter, outcome in ((good, "ok"), (taken, "refused"), (down, "unclear")):
        assert {key: times.count for key, times in meter.took.items()} == {("catalog", outcome): 1}
    assert good.took["catalog", "ok"].sum > 0


async def test_calls_keep_to_their_pace_after_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    time, shop = Time(monkeypatch), Shop(SMALL)
    throttled = Throttled(shop, 2.0)
    times = []
    for _ in range(12):
        await throttled.catalog()
        times.append(time.at - 100.0)
    assert times[:4] == [0.0] * 4
    assert times[4:] == [0.5 * n for n in range(1, 9)]


async def test_several_servers_keep_to_one_pace_together(monkeypatch: pytest.MonkeyPatch) -> None:
    time, servers = Time(monkeypatch), [2]
    throttled = Throttled(Shop(SMALL), 2.0, lambda: servers[0])
    times = []
    for number in range(8):
        servers[0] = 2 if number < 5 else 1
        await throttled.catalog()
        times.append(time.at - 100.0)
    assert times == [0.0, 0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 4.5]


async def test_callers_wait_in_turn_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    Time(monkeypatch, passes=False)
    throttled = Throttled(Shop(SMALL), 0.1)
    answers = await asyncio.gather(*(throttled.catalog() for _ in range(10)), return_exceptions=True)
    refused = [a for a in answers if isinstance(a, Unavailable)]
    assert 0 < len(refused) < 9
    assert all("too many calls" in str(a) for a in refused)


async def test_without_a_limit_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(monkeypatch)
    throttled = Throttled(Shop(SMALL), 0.0)
    for _ in range(1000):
        await throttled.catalog()
    assert time.at == 100.0


async def test_a_provider_that_does_not_answer_is_left_alone_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    time, down = Time(monkeypatch), Down(OSError("no route"))
    breaker = Breaker(down)
    for _ in range(FAILURES):
        await fails(breaker.catalog, OSError)
    await fails(breaker.catalog, Unavailable)
    assert down.asked == FAILURES
    await breaker.destroy("x")  # another kind of call goes on
    assert down.destroyed == 1
    time.at += FIRST_PAUSE_S
    await fails(breaker.catalog, OSError)
    await fails(breaker.catalog, Unavailable)
    assert down.asked == FAILURES + 1
    time.at += MAX_PAUSE_S
    down.error = OfferTaken("an answer")
    await fails(breaker.catalog, OfferTaken)
    await fails(breaker.catalog, OfferTaken)
    assert down.asked == FAILURES + 3


async def test_while_one_tries_the_others_are_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    time, down = Time(monkeypatch), Down(OSError("no route"))
    breaker = Breaker(down)
    for _ in range(FAILURES):
        await fails(breaker.catalog, OSError)
    time.at += FIRST_PAUSE_S
    first, second = await asyncio.gather(breaker.catalog(), breaker.catalog(), return_exceptions=True)
    assert (type(first), type(second)) == (OSError, Unavailable)


async def test_a_clear_refusal_is_an_answer() -> None:
    breaker = Breaker(Down(OfferTaken("gone")))
    for _ in range(3 * FAILURES):
        await fails(breaker.catalog, OfferTaken)


async def test_what_is_waited_for_in_vain_counts_as_no_answer() -> None:
    breaker = Breaker(Down(asyncio.CancelledError()))
    for _ in range(FAILURES):
        await fails(breaker.catalog, asyncio.CancelledError)
    await fails(breaker.catalog, Unavailable)
