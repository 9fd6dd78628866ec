"""Each rival does what its source says, and can live in the world."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import msgspec
import pytest

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.domain.demand import Demand
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.estimates import Estimates
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import GroupOffer, Offer, Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import BadRequest
from posthouse.fleet.controller import Policy
from posthouse.sim.policies import POLICIES, parse, policy, sweep
from posthouse.sim.record import Summary
from posthouse.sim.rivals.aibrix import Aibrix
from posthouse.sim.rivals.aws import Aws, Forecast
from posthouse.sim.rivals.dynamo import Dynamo, Kalman
from posthouse.sim.rivals.histogram import Histogram, Rank
from posthouse.sim.rivals.knative import STABLE_S, ZERO_GRACE_S, Knative
from posthouse.sim.rivals.kubernetes import COOLDOWN_S, DOWN_STABLE_S, Hpa, Keda
from posthouse.sim.rivals.modal import Modal
from posthouse.sim.rivals.ray import DOWN_DELAY_S, LOOK_BACK_S, UP_DELAY_S, RayServe
from posthouse.sim.rivals.runpod import IDLE_S, RunPodByCount, RunPodByDelay
from posthouse.sim.rivals.skyserve import SkyServe
from posthouse.sim.rivals.static import Static
from posthouse.sim.rivals.vast import HOLD_S, Vast
from posthouse.sim.rivals.window import Mean, Most, Periods
from posthouse.sim.run import run
from posthouse.sim.scenario import Scenario, load
from tests.kit.marks import long

SCALING = Scaling(min_load=0.0, cold_mult=1.0, cold_workers=0, max_workers=100)
OFFER = GroupOffer(WorkergroupId(1), Offer("o", "sim", "m", Price(1.0, 1.0, 0.1), "GPU", 1, 1000))
AT = 1_700_000_000.0


def snapshot(t: float, requests: int, ready: int, busy: int = 0, coming: int = 0, **demand: float) -> Snapshot:
    """`ready` workers of 100 work per second, `busy` of them with requests; so many requests in flight, none waits.

    `coming`: workers that are starting.
    """
    workers = tuple(
        Worker(
            *(WorkerId(i), EndpointId(1), WorkergroupId(1), f"w{i}", "sim", "o", "m", "GPU", 1, OFFER.offer.price, AT),
            state=State.IDLE if i < ready else State.STARTING,
            url=f"http://w{i}",
            perf=100.0,
        )
        for i in range(ready + coming)
    )
    return Snapshot(
        now=AT + t,
        endpoint=Endpoint(EndpointId(1), "test", SCALING),
        workers=workers,
        demand=Demand(outstanding=100.0 * requests, outstanding_count=requests, **demand),  # type: ignore[arg-type]
        offers=(OFFER,),
        estimates=Estimates(perf={"1/1xGPU@sim": 100.0}),
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
    assert wanted(policy, range(1, 12), 4, ready=3) == [3] * (int(IDLE_S) - 1) + [1] * (12 - int(IDLE_S))


def test_runpod_by_delay_adds_one_when_a_request_waits_longer_than_four_seconds() -> None:
    policy = RunPodByDelay(slots=10)
    assert wanted(policy, [0], 1, ready=0) == [1]
    assert wanted(policy, [1], 19, ready=2, oldest_wait_s=4.0) == [2]
    assert wanted(policy, [2], 19, ready=2, oldest_wait_s=4.1) == [3]
    assert wanted(policy, [3], 30, ready=2, coming=1, oldest_wait_s=5.0) == [3]  # one is on its way


def test_runpod_by_delay_lets_a_worker_go_while_others_have_requests() -> None:
    policy = RunPodByDelay(slots=10)
    wanted(policy, [0], 29, ready=3)
    assert wanted(policy, range(1, 12), 9, ready=3) == [3] * (int(IDLE_S) - 1) + [1] * (12 - int(IDLE_S))


def test_skyserve_goes_up_after_fifteen_equal_decisions_and_down_after_sixty() -> None:
    policy = SkyServe(perf=100.0)
    times = range(0, 2000, 20)
    up = wanted(policy, times, 0, ready=1, rate=140.0)
    assert up.index(2) == 14
    down = wanted(policy, range(2000, 4000, 20), 0, ready=2, rate=70.0)
    assert down.index(1) == 59


def test_skyserve_counts_anew_when_a_decision_differs() -> None:
    policy = SkyServe(perf=100.0)
    wanted(policy, range(0, 280, 20), 0, ready=1, rate=140.0)
    wanted(policy, [280], 0, ready=1, rate=70.0)
    assert wanted(policy, range(300, 580, 20), 0, ready=1, rate=140.0) == [1] * 14
    assert wanted(policy, [580], 0, ready=1, rate=140.0) == [2]


def test_skyserve_decides_only_every_twenty_seconds_and_from_zero_every_five_at_once() -> None:
    policy = SkyServe(perf=100.0, least=0)
    assert wanted(policy, [0, 4], 0, ready=0) == [0, 0]
    assert wanted(policy, [4.5, 5], 0, ready=0, rate=210.0) == [0, 3]
    hasty = SkyServe(perf=100.0, up_delay_s=0, over=1)
    assert wanted(hasty, [0], 0, ready=1, rate=70.0) == [2]
    assert wanted(hasty, [19, 20], 0, ready=1, rate=140.0) == [2, 3]


def test_modal_keeps_its_buffer_while_there_are_requests_and_a_window_longer() -> None:
    policy = Modal(slots=10, buffer=2)
    assert wanted(policy, [0], 11, ready=0) == [4]
    after = wanted(policy, range(1, 200), 0, ready=4)
    assert after.index(0) + 1 == 60
    assert wanted(policy, [200], 1, ready=0) == [3]


def test_aibrix_holds_within_a_tenth_and_at_most_doubles_or_halves() -> None:
    def fresh() -> Aibrix:
        return Aibrix(slots=10, cooldown_s=0)

    assert wanted(fresh(), [0], 30, ready=4) == [4]
    assert wanted(fresh(), [0], 26, ready=4) == [4]
    assert wanted(fresh(), [0], 31, ready=4) == [5]
    assert wanted(fresh(), [0], 300, ready=4) == [8]
    assert wanted(fresh(), [0], 0, ready=8) == [4]


def test_aibrix_goes_down_only_after_its_cooldown_and_never_to_zero() -> None:
    policy = Aibrix(slots=10)
    wanted(policy, [0], 28, ready=4)
    down = wanted(policy, range(10, 1000, 10), 0, ready=4)
    assert (down.index(2) + 1) * 10 == pytest.approx(300, abs=20)
    assert wanted(policy, range(1000, 2000, 10), 0, ready=1)[-1] == 1


def test_aibrix_counts_pending_workers_so_that_it_does_not_cascade() -> None:
    policy = Aibrix(slots=10)
    assert wanted(policy, [0], 28, ready=2) == [4]
    assert set(wanted(policy, range(10, 60, 10), 28, ready=2, coming=2)) == {4}


def test_without_a_ready_worker_aibrix_has_no_metric_and_holds() -> None:
    assert wanted(Aibrix(slots=10), range(0, 60, 10), 100, ready=0, coming=1) == [1] * 6


def test_a_rank_is_warmed_before_the_fifth_percentile_and_kept_until_the_ninety_ninth() -> None:
    rank = Rank(tail=0.99, fixed_s=600.0)
    assert rank.window == (0.0, 600.0)
    for minutes in range(60, 80):  # idle for 60 to 79 minutes
        rank.learn(minutes * 60.0 + 30)
    assert list(rank.window) == pytest.approx([60 * 60 * 0.9, 80 * 60 * 1.1])
    assert rank.stays(0.0, needed=True)
    assert [rank.stays(minutes * 60.0, needed=False) for minutes in (0, 53, 55, 87, 89)] == [
        *(False, False, True, True, False)
    ]


def test_a_flat_histogram_and_one_that_is_mostly_exceeded_fall_back_to_the_fixed_time() -> None:
    flat = Rank(tail=0.99, fixed_s=600.0)
    for minutes in range(240):
        flat.learn(minutes * 60.0)
    assert flat.window == (0.0, 600.0)
    late = Rank(tail=0.99, fixed_s=600.0)
    for hours in (1, 5, 6):
        late.learn(hours * 3600.0)
    assert late.window == (0.0, 600.0)


def test_the_histogram_policy_learns_each_rank_by_itself() -> None:
    policy = Histogram(slots=10)
    assert wanted(policy, [0], 15, ready=0) == [2]
    for start in range(0, 6000, 60):  # the second worker is needed every minute for ten seconds, the first always
        wanted(policy, [start], 15, ready=2)
        wanted(policy, [start + 10], 5, ready=2)
    idle = wanted(policy, range(6000, 6400, 10), 5, ready=2)
    assert idle.index(1) * 10 == pytest.approx(66 - 50, abs=10)  # kept for 60 s and a tenth
    silent = wanted(policy, range(6400, 7100, 10), 0, ready=1)
    assert silent[55] == 1
    assert silent[-1] == 0  # the first never was idle before: ten minutes


def test_aws_tracks_its_target_up_at_once_and_down_after_the_cooldown() -> None:
    policy = Aws(slots=10, perf=100.0)
    assert wanted(policy, [0], 28, ready=1) == [4]
    assert wanted(policy, range(60, 300, 60), 7, ready=4) == [4] * 4
    assert wanted(policy, [300], 7, ready=4) == [1]
    assert wanted(policy, [360], 0, ready=1) == [1]


def test_the_forecast_of_aws_needs_a_day_and_is_met_early() -> None:
    policy = Aws(slots=10, perf=100.0)
    hour = 3600 - int(AT) % 3600  # from here on, hours are whole

    for quarter in range(2 * 96):
        peak = 32 <= quarter % 96 < 36  # one hour of 700, else 70
        wanted(policy, [hour + 900 * (quarter + 1)], 0, ready=1, rate=700.0 if peak else 70.0)
        assert bool(policy.forecast.ahead) == (quarter >= 95)
    peak_at = hour + 2 * 86_400 + 8 * 3600
    before = wanted(policy, range(hour + 2 * 86_400, peak_at - 300, 60), 0, ready=1, rate=70.0)
    assert set(before) == {1}
    assert wanted(policy, [peak_at - 300, peak_at, peak_at + 3000], 0, ready=1, rate=70.0) == [10, 10, 10]
    assert wanted(policy, range(peak_at + 3600, peak_at + 4300, 60), 0, ready=1, rate=70.0)[-1] == 1


def test_the_forecast_of_aws_only_adds() -> None:
    policy = Aws(slots=10, perf=100.0)
    for quarter in range(96 * 3):
        wanted(policy, [900 * quarter], 0, ready=1)
    assert policy.forecast.ahead
    assert set(policy.forecast.ahead.values()) == {0.0}
    assert wanted(policy, [900 * 96 * 3], 28, ready=1) == [4]


def test_the_forecast_of_aws_prefers_the_same_hour_a_week_ago() -> None:
    forecast = Forecast()
    for hour in range(14 * 24):
        forecast.add(hour * 3600.0, 100.0 if hour // 24 % 7 == 0 else 10.0)
    assert forecast.at(14 * 24 * 3600.0) == pytest.approx(100.0)
    assert forecast.at(15 * 24 * 3600.0) == pytest.approx(10.0)
    assert len(forecast.hours) <= 14 * 24


def test_dynamo_has_its_forecast_as_the_floor_and_changes_it_by_eight_at_most() -> None:
    policy = Dynamo(slots=10, perf=100.0, kalman=0)
    ends = 180 - int(AT) % 180  # of the first period
    assert wanted(policy, range(0, ends, 5), 0, ready=1, rate=1250.0)[-1] == 1
    assert wanted(policy, range(ends, ends + 180, 5), 0, ready=1, rate=1250.0)[-1] == 9
    assert wanted(policy, range(ends + 180, ends + 360, 5), 0, ready=9, rate=1250.0)[-1] == 13


def test_dynamo_adds_one_when_every_engine_is_over_and_takes_one_when_the_rest_stay_at_four_fifths() -> None:
    def step(requests: int, ready: int, **more: float) -> int:
        return wanted(Dynamo(slots=10, perf=100.0), [0], requests, ready, **more)[0]

    assert step(31, ready=3) == 4
    assert step(30, ready=3, service_s=10.0) == 3
    assert step(16, ready=3, service_s=10.0) == 3
    assert step(15, ready=3, service_s=10.0) == 2
    assert step(0, ready=1) == 1
    assert step(9, ready=3, service_s=10.0, waiting=200.0) == 4  # 0.67 s for those that wait


def test_dynamo_only_watches_while_a_worker_starts() -> None:
    policy = Dynamo(slots=10, perf=100.0)
    assert wanted(policy, [0], 21, ready=2) == [3]
    assert wanted(policy, range(5, 60, 5), 60, ready=2, coming=1) == [3] * 11
    assert wanted(policy, [60], 60, ready=3) == [4]


def test_the_kalman_filter_follows_a_trend_and_skips_zeros_at_the_beginning() -> None:
    kalman = Kalman()
    assert [kalman.next(0.0) for _ in range(5)] == [0.0] * 5
    assert [kalman.next(10.0 * n) for n in range(1, 5)] == [10.0, 20.0, 30.0, 40.0]  # too few points: the last value
    for n in range(5, 60):
        forecast = kalman.next(10.0 * n)
    assert forecast == pytest.approx(600.0, rel=0.01)
    for _ in range(60):
        forecast = kalman.next(0.0)
    assert forecast == pytest.approx(0.0, abs=1.0)


def test_the_documented_rule_of_vast_is_load_over_target_util_held_for_a_while() -> None:
    policy = Vast(perf=100.0)
    assert wanted(policy, [0], 0, ready=0, rate=450.0) == [5]
    later = wanted(policy, range(1, 400), 0, ready=5, rate=90.0)
    assert later.index(1) == pytest.approx(HOLD_S, abs=1)
    assert wanted(policy, [500], 100, ready=5, rate=90.0, queued=1e4) == [
        6
    ]  # 20 s of work for each is above target_queue_time


def test_the_documented_rule_of_vast_goes_to_zero_only_after_inactivity_timeout() -> None:
    def alone(timeout_s: float, last_request_s: float) -> int:
        s = snapshot(0.0, 0, ready=1, last_request_at=AT - last_request_s)
        scaling = replace(SCALING, inactivity_timeout=timeout_s)
        return int(Vast(perf=100.0)(replace(s, endpoint=replace(s.endpoint, scaling=scaling)), Memory()).hot_need)

    assert [alone(60.0, 59.0), alone(60.0, 61.0), alone(0.0, 1.0), alone(-1.0, 1e6)] == [1, 0, 0, 1]


def test_means_and_maxima_are_those_of_the_seconds_in_the_window() -> None:
    random, seen = Random(1), list[tuple[float, int]]()
    mean, most, now = Mean(20.0), Most(20.0), 0.0
    for _ in range(2000):
        now += random.choice((0.05, 0.4, 1.0, 7.0))
        seen.append((now, random.randrange(100)))
        recent = [(at, value) for at, value in seen if at > now - 20]
        latest = {int(at): value for at, value in recent}  # of each second
        assert mean.add(*seen[-1]) == pytest.approx(sum(latest.values()) / len(latest))
        assert most.add(*seen[-1]) == max(value for _, value in recent)


def test_a_period_has_the_mean_of_the_rate_over_its_time() -> None:
    periods = Periods(100.0)
    assert periods.add(1000.0, 5.0) == []
    assert periods.add(1050.0, 1.0) == []
    assert periods.add(1100.0, 3.0) == [(10, 2.0)]
    assert periods.add(1350.0, 4.0) == [(11, 4.0), (12, 4.0)]


def test_static_has_what_the_mean_or_a_share_of_minutes_needs() -> None:
    traffic = [(60.0 * minute, 6000.0 * (minute + 1)) for minute in range(10)]  # 100 to 1000 work per second
    needs = {share: Static(traffic, 100.0, share).wanted for share in (0.0, 0.5, 0.9, 1.0)}
    assert needs == {0.0: 6, 0.5: 5, 0.9: 9, 1.0: 10}


def test_who_is_surplus_rests_idle_ones_last_and_those_with_requests_last_of_all() -> None:
    def two(s: Snapshot, memory: Memory) -> Decision:
        return Static([(0.0, 12_000.0)], 100.0, 1.0)(s, memory)

    decision = two(snapshot(0.0, 9, ready=4, busy=3), Memory())
    assert decision.goals == {3: Goal.COLD, 2: Goal.COLD}


@cache
def brief(written: str) -> Summary:
    """Ten minutes with two bursts, audited after every event, and never more than four workers."""
    tree = {
        "traffic": {"shape": "burst", "load": 150, "low": 30, "period_s": 300, "length_s": 60, "span_s": 600},
        "workers": {"perf": 50, "slots": 4, "create_s": 30, "load_s": 20, "start_s": 8},
        "scaling": {"min_load": 0, "cold_workers": 2, "cold_mult": 1.5, "max_workers": 4},
        "policy": written,
    }
    return run(load(None, tree)).summary


ENDS = [point for name in POLICIES for point in sorted({sweep(name)[0], sweep(name)[-1]} - {name})]


@pytest.mark.parametrize("written", [*POLICIES, *map(long, ENDS)])
def test_every_policy_also_at_both_ends_of_its_sweep_serves_everything_and_breaks_no_rule(written: str) -> None:
    summary = brief(written)
    assert summary.requests > 100
    assert summary.unserved == 0
    assert summary.usd > 0


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_does_the_same_again(name: str) -> None:
    assert brief(name) == brief.__wrapped__(name)


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
