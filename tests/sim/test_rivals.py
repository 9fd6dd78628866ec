"""Each rival does what its source says, and can live in the world."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.errors import BadRequest
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.load import Demand, Learned
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.plan import Decision, Memory, Snapshot
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.sim.policies import POLICIES, parse, policy, sweep
from posthouse.sim.rivals.knative import STABLE_S, ZERO_GRACE_S, Knative
from posthouse.sim.rivals.kubernetes import COOLDOWN_S, DOWN_STABLE_S, Hpa, Keda
from posthouse.sim.rivals.ray import DOWN_DELAY_S, LOOK_BACK_S, UP_DELAY_S, RayServe
from posthouse.sim.rivals.runpod import IDLE_S, RunPodByCount, RunPodByDelay
from posthouse.sim.rivals.static import Static
from posthouse.sim.rivals.vast import HOLD_S, Vast
from posthouse.sim.scenario import Scenario, load
from posthouse.sim.trial import run
from posthouse.sim.world import Policy

SCALING = Scaling(min_load=0.0, cold_mult=1.0, cold_workers=0, max_workers=100)
OFFER = GroupOffer(WorkergroupId(1), Offer("o", "sim", "m", Price(1.0, 1.0, 0.1), "GPU", 1, 1000))
AT = 1_700_000_000.0


def snapshot(t: float, requests: int, ready: int, busy: int = 0, **demand: float) -> Snapshot:
    """`ready` workers of 100 work per second, `busy` of them with requests; so many requests in flight, none waits."""
    workers = tuple(
        Worker(
            *(WorkerId(i), EndpointId(1), WorkergroupId(1), f"w{i}", "sim", "o", "m", "GPU", 1, OFFER.offer.price, AT),
            state=State.IDLE,
            url=f"http://w{i}",
            perf=100.0,
        )
        for i in range(ready)
    )
    return Snapshot(
        now=AT + t,
        endpoint=Endpoint(EndpointId(1), "test", SCALING),
        workers=workers,
        demand=Demand(outstanding=100.0 * requests, outstanding_count=requests, **demand),  # type: ignore[arg-type]
        offers=(OFFER,),
        learned=Learned(perf={"1/1xGPU": 100.0}),
        busy=frozenset(w.id for w in workers[:busy]),
    )


def wanted(policy: Policy, times: Iterable[float], requests: int, ready: int, **more: Any) -> list[int]:
    """How many workers it wants ready, second by second."""
    return [int(policy(snapshot(t, requests, ready, **more), Memory()).hot_need) for t in times]


def test_knative_wants_the_mean_of_a_minute_over_seven_tenths_of_the_slots() -> None:
    policy = Knative(slots=10)
    assert wanted(policy, range(70), 35, ready=5)[-1] == 5
    assert wanted(policy, range(70, 140), 36, ready=5)[-1] == 6


def test_knative_panics_at_twice_what_is_ready_and_does_not_go_down_for_a_minute() -> None:
    policy = Knative(slots=10)
    assert wanted(policy, range(100), 7, ready=1)[-1] == 1
    burst = wanted(policy, range(100, 110), 70, ready=1)
    assert burst == sorted(burst)
    assert burst[6] >= 9  # long before the mean of a minute shows it
    calm = wanted(policy, range(110, 300), 7, ready=10)
    assert min(calm[: int(STABLE_S) - 10]) >= 9
    assert calm[-1] == 5  # half of what is ready, at most, in one step


def test_knative_goes_to_zero_after_the_window_and_the_grace() -> None:
    policy = Knative(slots=10)
    wanted(policy, range(100), 3, ready=1)
    silence = wanted(policy, range(100, 300), 0, ready=1)
    first = silence.index(0)
    assert STABLE_S + ZERO_GRACE_S - 3 <= first <= STABLE_S + ZERO_GRACE_S + 3


def test_hpa_holds_within_its_tolerance_and_comes_down_after_five_minutes() -> None:
    policy = Hpa(slots=10)
    assert wanted(policy, range(0, 60, 15), 30, ready=4)[-1] == 4  # 28 would be the target
    assert wanted(policy, [60], 36, ready=4) == [6]
    down = wanted(policy, range(75, 500, 15), 7, ready=6)
    assert down[0] == 6
    assert down[-1] == 1
    assert down.index(1) * 15 == pytest.approx(DOWN_STABLE_S, abs=20)


def test_hpa_doubles_or_adds_four_in_one_step() -> None:
    assert wanted(Hpa(slots=10), [0], 700, ready=1) == [5]
    assert wanted(Hpa(slots=10), [0], 700, ready=10) == [20]
    assert wanted(Hpa(slots=10), [0], 0, ready=1) == [1]


def test_keda_counts_what_waits_and_leaves_busy_workers_out() -> None:
    policy = Keda(slots=10, least=0)
    assert wanted(policy, [0], 0, ready=0) == [0]
    assert wanted(policy, [15], 1, ready=0) == [1]
    assert wanted(policy, [30], 10 + 12, ready=1) == [3]
    assert wanted(policy, range(45, int(COOLDOWN_S), 15), 10, ready=1)[-1] == 1
    assert wanted(policy, [30 + COOLDOWN_S], 10, ready=1) == [0]  # its one worker is busy


def test_ray_waits_half_a_minute_to_go_up_and_ten_to_go_down() -> None:
    policy = RayServe(slots=10)
    assert wanted(policy, range(10), 2, ready=1)[-1] == 1
    up = wanted(policy, range(10, 100), 10, ready=1)
    assert up.index(max(up)) == pytest.approx(UP_DELAY_S, abs=4)
    assert max(up) >= 4
    wanted(policy, range(100, 200), 10, ready=5)
    down = wanted(policy, range(200, 1000), 2, ready=5)
    assert down.index(1) == pytest.approx(DOWN_DELAY_S, abs=LOOK_BACK_S)


def test_runpod_by_count_has_a_worker_for_four_requests_and_lets_it_go_after_five_idle_seconds() -> None:
    policy = RunPodByCount(slots=10)
    assert wanted(policy, [0], 9, ready=0) == [3]
    idle = wanted(policy, range(1, 12), 0, ready=2)
    assert idle == [2] * int(IDLE_S) + [0] * (11 - int(IDLE_S))


def test_runpod_by_delay_adds_one_when_a_request_waits_longer_than_four_seconds() -> None:
    policy = RunPodByDelay()
    assert wanted(policy, [0], 1, ready=0) == [1]
    assert wanted(policy, [1], 9, ready=2, oldest_wait_s=4.0) == [2]
    assert wanted(policy, [2], 9, ready=2, oldest_wait_s=4.1) == [3]


def test_the_documented_rule_of_vast_is_load_over_target_util_held_for_a_while() -> None:
    policy = Vast(perf=100.0)
    assert wanted(policy, [0], 0, ready=0, rate=450.0) == [5]
    later = wanted(policy, range(1, 400), 0, ready=5, rate=90.0)
    assert later.index(1) == pytest.approx(HOLD_S, abs=1)
    assert wanted(policy, [500], 100, ready=5, rate=90.0) == [6]  # 20 s of work for each is above target_queue_time


def test_static_has_what_the_mean_or_a_share_of_minutes_needs() -> None:
    traffic = [(60.0 * minute, 6000.0 * (minute + 1)) for minute in range(10)]  # 100 to 1000 work per second
    needs = {share: Static(traffic, 100.0, share).wanted for share in (0.0, 0.5, 0.9, 1.0)}
    assert needs == {0.0: 6, 0.5: 5, 0.9: 9, 1.0: 10}


def test_who_is_surplus_rests_idle_ones_last_and_those_with_requests_last_of_all() -> None:
    def two(s: Snapshot, memory: Memory) -> Decision:
        return Static([(0.0, 12_000.0)], 100.0, 1.0)(s, memory)

    decision = two(snapshot(0.0, 9, ready=4, busy=3), Memory())
    assert decision.goals == {3: Goal.COLD, 2: Goal.COLD}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_serves_everything_and_breaks_no_rule(name: str) -> None:
    tree = {
        "traffic": {"shape": "burst", "load": 300, "low": 60, "period_s": 600, "length_s": 120, "span_s": 1500},
        "workers": {"perf": 100, "slots": 4, "create_s": 30, "load_s": 20, "start_s": 8},
        "scaling": {"min_load": 0, "cold_workers": 2, "cold_mult": 1.5, "max_workers": 12},
        "policy": name,
    }
    summary = run(load(None, tree)).summary
    assert summary.requests > 100
    assert summary.unserved == 0
    assert summary.usd > 0


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "posthouse"])
def test_a_sweep_has_8_to_15_points_each_of_them_allowed(name: str) -> None:
    points = sweep(name)
    assert 8 <= len(set(points)) == len(points) <= 15
    for point in points:
        assert parse(point)[0] == name
        assert callable(policy(msgspec.structs.replace(Scenario(), policy=point)))


def test_a_policy_without_knobs_is_its_own_sweep() -> None:
    assert sweep("posthouse") == ("posthouse",)


def test_knobs_reach_the_policy_and_what_is_not_said_has_its_default() -> None:
    assert parse("knative") == parse(" knative() ") == ("knative", {})
    assert parse("knative(utilisation = 0.5, stable_s=120)") == ("knative", {"utilisation": 0.5, "stable_s": 120})
    made = policy(msgspec.structs.replace(Scenario(), policy="knative(utilisation=0.5)"))
    assert isinstance(made, Knative)
    assert (made.target, made.stable_s) == (4.0, STABLE_S)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("psychic(x=1)", "there is no policy 'psychic'; there are posthouse, static"),
        ("knative(", "must be written NAME or NAME(KNOB=NUMBER,KNOB=NUMBER)"),
        ("", "must be written NAME"),
        ("knative(speed=1)", "policy knative: there is no knob `speed`; there are utilisation, stable_s, down_delay_s"),
        ("posthouse(speed=1)", "policy posthouse: there is no knob `speed`; it has none"),
        ("knative(utilisation=0)", "policy knative: `utilisation` is '0'; it must be a number from 0.01 to 1"),
        ("knative(utilisation)", "policy knative: `utilisation` has no value; it must be a number from 0.01 to 1"),
        ("knative(utilisation=nan)", "`utilisation` is 'nan'"),
        ("knative(utilisation=.5,utilisation=.6)", "policy knative: `utilisation` is there twice"),
        ("ray(utilisation=2)", "policy ray: `utilisation` is '2'; it must be a number from 0.01 to 1, or 0"),
        ("ray(least=1.5)", "policy ray: `least` is '1.5'; it must be a whole number from 0 to 1000"),
    ],
)
def test_what_is_wrong_with_a_written_policy_is_named(written: str, words: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)):
        parse(written)
