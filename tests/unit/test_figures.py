"""An endpoint in figures, its verdict, its history, and decisions in words."""

from dataclasses import replace
from typing import Any

import pytest

from posthouse.domain.decision import Decision, Memory, Obstacle, Reason
from posthouse.domain.endpoint import EndpointState, WorkergroupId
from posthouse.domain.lifecycle import Goal, State
from posthouse.engine import words
from posthouse.engine.figures import LOOKS, figures, look
from posthouse.engine.router import _waits
from posthouse.engine.samples import STEP_S, Ring
from posthouse.engine.verdict import condition, verdict
from posthouse.fleet.events import Configured, Waiting
from posthouse.wire.route import RouteAsk, WaitReply
from posthouse.wire.rows.live import Verdict
from tests.kit.fleets import NOW, ONE, TWO, Fleet, fleet_of, worker


def judged(fleet: Fleet, need: float = 0.0, *obstacles: tuple[str, str]) -> tuple[str, Verdict | None]:
    because = tuple(Obstacle(what, 0, rule) for what, rule in obstacles)
    fleet.managed.fleet.decision = Decision(NOW, need, 0, 0, {}, (), Memory(), because)
    shown = figures(fleet.managed, NOW)
    found = verdict(fleet.managed, shown, NOW)
    return condition(fleet.managed, shown, found), found


def test_every_state_has_a_look() -> None:
    assert {look(worker(ONE, state)) for state in State} | {look(worker(ONE, goal=Goal.COLD))} == set(LOOKS)


def test_capacity_is_told_by_how_soon_it_serves() -> None:
    fleet = fleet_of(worker(ONE, perf=100.0), worker(TWO, State.STOPPED, goal=Goal.COLD, perf=60.0))
    shown = figures(fleet.managed, NOW)
    assert (shown.hot, shown.coming, shown.cold) == (100.0, 0.0, 60.0)
    assert shown.looks == {"hot": 1, "cold": 1}


def test_an_endpoint_that_has_what_it_needs_has_no_verdict() -> None:
    assert judged(fleet_of(worker(ONE, perf=100.0)), need=90.0) == ("enough", None)
    assert judged(fleet_of()) == ("at_rest", None)


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("max_usd_h 12 would be exceeded", "cap.endpoint.max_usd_h"),
        ("the installation's max_usd_day 5 would be exceeded", "cap.installation.max_usd_day"),
        ("max_workers 2 is reached", "limit.max_workers"),
        ("every offer is taken", "no_offer"),
        ("no workergroup has an offer", "no_offer"),
    ],
)
def test_what_stands_in_the_way_is_the_verdict(rule: str, word: str) -> None:
    state, found = judged(fleet_of(worker(ONE, perf=100.0)), 200.0, ("no more hot workers", rule))
    assert found is not None
    assert (state, found.word, found.mends) == ("short", word, False)
    assert "It needs 200 work/s and has 100." in found.text


def test_what_it_runs_fails_is_told_with_its_last_words() -> None:
    fleet = fleet_of(replace(worker(ONE, State.ERROR), message="CUDA error"))
    fleet.roster.estimator.blame(fleet.workers[ONE], NOW)
    rule = "workergroup 7 failed 1 times and waits before the next try"
    state, found = judged(fleet, 10.0, ("no more hot workers", rule))
    assert found is not None
    assert (state, found.word, found.said) == ("short", "crash_loop", "CUDA error")


def test_what_a_workergroup_ran_that_is_deleted_is_no_verdict() -> None:
    fleet = fleet_of(worker(ONE, State.STARTING))
    for machine in ("a", "b", "c"):
        fleet.roster.estimator.blame(fleet.workers[ONE], NOW, machine)
    found = judged(fleet, 10.0)[1]
    assert found is not None
    assert found.word == "crash_loop"
    fleet.told(Configured(fleet.endpoint, builds=((WorkergroupId(8), "another"),)), NOW)
    found = judged(fleet, 10.0)[1]
    assert found is not None
    assert found.word == "starting"


def test_one_that_comes_mends_it() -> None:
    state, found = judged(fleet_of(worker(ONE, State.STARTING)), 10.0)
    assert found is not None
    assert (state, found.word, found.mends) == ("starting", "starting", True)


def test_nobody_is_told_that_what_is_suspended_is_short_unless_somebody_waits() -> None:
    fleet = fleet_of()
    fleet.configure(replace(fleet.managed.fleet.endpoint, state=EndpointState.SUSPENDED))
    assert judged(fleet, 10.0) == ("suspended", None)
    fleet.assign(0, 5.0, NOW)
    state, found = judged(fleet)
    assert found is not None
    assert (state, found.word) == ("suspended", "suspended")
    waits = _waits(fleet.managed, RouteAsk("llm"), Waiting(1), NOW)
    assert isinstance(waits, WaitReply)
    assert waits.status == "no workers; suspended"  # the same word to whoever waits


# -- history -----------------------------------------------------------------------------------------------------------


def test_a_ring_keeps_the_latest_in_their_order() -> None:
    ring = Ring(3, 1)
    for n in range(5):
        ring.add(NOW + n, [n])
    assert ring.after(0.0) == ([NOW + 2, NOW + 3, NOW + 4], [[2.0, 3.0, 4.0]])
    assert ring.after(NOW + 3) == ([NOW + 4], [[4.0]])


def test_waits_are_of_all_requests_also_of_those_that_did_not_wait() -> None:
    fleet = fleet_of(worker(ONE))
    log, samples = fleet.managed.traffic_log, fleet.managed.samples
    for n in range(100):
        log.asked(1.0, NOW + n / 100)
    for wait_s in (9.0, 8.0, 7.0, 6.0, 5.0, 4.0):
        log.waited(wait_s, 1.0)
    samples.take(fleet.managed, NOW + STEP_S)
    assert samples.p95_wait_s == 4.0
    for n in range(100):
        log.asked(1.0, NOW + STEP_S + n / 100)
    samples.take(fleet.managed, NOW + 2 * STEP_S)
    assert samples.p95_wait_s == 0.0


# -- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "0"), (0.5, "0.5"), (412, "412"), (999.6, "1k"), (14_230, "14.2k"), (2.5e6, "2.5M")]
)
def test_work_has_three_digits(amount: float, shown: str) -> None:
    assert words.work(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.05, "50 ms"), (0.8, "0.8 s"), (41.2, "41 s"), (372, "6 min 12 s"), (11_520, "3 h 12 min"), (2e5, "2 d")],
)
def test_spans_have_two_units_at_most(seconds: float, shown: str) -> None:
    assert words.span(seconds) == shown


def plain(goals: dict[str, str], rentals: int = 0, *because: Reason) -> dict[str, Any]:
    rows = [{"what": r.what, "value": r.value, "rule": r.rule, "obstacle": isinstance(r, Obstacle)} for r in because]
    rented = [{"workergroup": 1, "offer": "o", "goal": "hot"}] * rentals
    return {"goals": goals, "rentals": rented, "because": rows, "hot_need": 14_800.0, "ready_supply": 14_400.0}


def test_a_decision_is_told_in_words() -> None:
    assert words.title(plain({})) == "No change"
    assert words.title(plain({"7": "hot"})) == "Wake worker 7"
    assert (
        words.title(plain({"7": "hot", "8": "hot", "9": "cold"}, 2))
        == "Wake 2 workers, let rest worker 9, rent 2 workers"
    )
    load = Reason("load", 13_300.0, "mean of 5 min")
    stopped = Obstacle("no more hot workers", 0, "max_workers 2 is reached")
    assert words.text(plain({}, 0, load, stopped)) == (
        "13.3k of load needs 14.8k; 14.4k is ready. No more hot workers: max_workers 2 is reached."
    )


@pytest.mark.parametrize(("said", "word"), [("quota exceeded: 4 of 4", "quota"), ("account is locked", "refused")])
def test_what_its_provider_refuses_does_not_fail_by_what_it_runs(said: str, word: str) -> None:
    fleet = fleet_of(replace(worker(ONE, State.ERROR), message=f"rent: {said}"))
    fleet.roster.estimator.blame(fleet.workers[ONE], NOW)
    rule = "workergroup 7 failed 1 times and waits before the next try"
    state, found = judged(fleet, 10.0, ("no more hot workers", rule))
    assert found is not None
    assert (state, found.word, found.said) == ("short", word, f"rent: {said}")
