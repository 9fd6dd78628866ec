"""The traffic log: what it keeps of what an endpoint was asked, exactly, and never too much of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.lifecycle import Command, Goal, State
from posthouse.domain.reports import Ended
from posthouse.fleet.requests import MAX_WAITING, WAITING_KEPT_S
from posthouse.recording.log import DROPPED, FULL, MAX_KEPT, REST_S, SEGMENT_S, TrafficLog, packed, unpacked
from tests.kit.fleets import NOW, ONE, SILENT_S, Fleet, assigned, fleet_of, instance, new_fleet, ready_report, worker


def asked(fleet: Fleet, now: float) -> list[tuple[float, float]]:
    """(seconds since the traffic log began, work) of every request on it."""
    segment = fleet.copy_traffic(now).pack()
    gaps_ms, work = unpacked(segment.asked)
    return [(round(t / 1000, 3), w) for t, w in zip(np.cumsum(gaps_ms).tolist(), work.tolist(), strict=True)]


def waited(fleet: Fleet, now: float) -> list[tuple[float, float]]:
    wait_ms, work = unpacked(fleet.copy_traffic(now).pack().waited)
    return list(zip((wait_ms / 1000).tolist(), work.tolist(), strict=True))


# -- what is on it -----------------------------------------------------------------------------------------------------


def test_every_request_is_on_it_once_with_its_time_and_its_work_however_often_it_is_asked_again() -> None:
    fleet = fleet_of()
    first = fleet.assign(0, 100.0, NOW + 1.25).request_idx
    for again_s in (2.0, 3.0):
        fleet.assign(first, 100.0, NOW + again_s)
    fleet.assign(0, 33.5, NOW + 4.001)
    fleet.assign(987_654_321, 50.0, NOW + 5.0)  # from a life before: it was counted there
    assert asked(fleet, NOW + 9) == [(1.25, 100.0), (4.001, 33.5)]
    assert fleet.copy_traffic(NOW + 9).requests == 2


def test_only_the_wait_for_the_first_worker_is_on_it() -> None:
    fleet = fleet_of(worker(ONE, state=State.STARTING))
    waits = fleet.assign(0, 100.0, NOW).request_idx
    fleet.report(ONE, ready_report(), NOW + 7.5)
    assigned(fleet.assign(waits, 100.0, NOW + 7.5))
    fleet.assign(waits, 100.0, NOW + 20)  # it failed there, and waits for another
    assigned(fleet.assign(0, 10.0, NOW + 21))
    fleet.advance(NOW + 30, SILENT_S)
    assert waited(fleet, NOW + 30) == [(7.5, 100.0)]
    assert fleet.copy_traffic(NOW + 30).requests == 2
    assert fleet.copy_traffic(NOW + 30).figures["unserved"] == 0


def test_what_goes_away_before_it_has_a_worker_counts_as_not_served() -> None:
    fleet = fleet_of()
    fleet.assign(0, 100.0, NOW)
    left = fleet.assign(0, 20.0, NOW).request_idx
    fleet.forget(left)
    fleet.advance(NOW + WAITING_KEPT_S + 1, SILENT_S)
    figures = fleet.copy_traffic(NOW + 30).figures
    assert (figures["unserved"], figures["unserved_work"]) == (2, 120.0)


def test_what_cannot_even_wait_is_on_it_too() -> None:
    fleet = fleet_of()
    for _ in range(MAX_WAITING + 3):
        fleet.assign(0, 1.0, NOW)
    piece = fleet.copy_traffic(NOW)
    assert (piece.requests, piece.figures["unserved"]) == (MAX_WAITING + 3, 3)


def test_worker_seconds_dollars_and_commands_are_those_of_the_time_since_it_was_cut() -> None:
    fleet = fleet_of(worker())
    assert fleet.drain_traffic(NOW + 3600).figures["state_s"] == {"idle": 3600.0}
    fleet.set_goal(ONE, Goal.COLD)
    fleet.command_sent(ONE, Command.STOP, NOW + 3700)
    figures = fleet.drain_traffic(NOW + 3710).figures
    assert figures["state_s"] == {"idle": 100.0, "stopping": 10.0}
    assert figures["usd"] == pytest.approx(1.2 * 110 / 3600)
    assert figures["ready_work"] == 100.0 * 100.0
    assert figures["given"] == {"stop": 1}
    assert figures["workers"] == 1
    assert fleet.drain_traffic(NOW + 3710).figures["given"] == {}


def test_it_tells_how_long_creations_and_unhurried_requests_took() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW + 1)
    fleet.observe_instance(ONE, instance(), NOW + 60)
    fleet.command_answered(ONE, NOW + 60)
    fleet.report(ONE, ready_report(), NOW + 90)
    first, second = (assigned(fleet.assign(0, 50.0, NOW + 100)) for _ in range(2))
    for idx in (first.request_idx, second.request_idx):
        fleet.end(ONE, Ended(idx, success=True), NOW + 102)
    figures = fleet.drain_traffic(NOW + 110).figures
    assert figures["create_s"] == [90.0]
    assert figures["start_s"] == []
    assert figures["served"] == [[50.0, 2.0]]  # the second was not alone


# -- its bounds --------------------------------------------------------------------------------------------------------


def test_where_nobody_cuts_it_the_oldest_requests_are_dropped_and_counted() -> None:
    traffic_log = TrafficLog(NOW)
    for number in range(MAX_KEPT + 1):
        traffic_log.asked(float(number), NOW + number / 1000)
        traffic_log.waited(1.0, 1.0)
    piece = traffic_log.drain(NOW + 1000, ())
    assert piece.requests == MAX_KEPT + 1
    assert len(piece.at) == len(piece.work) == len(piece.waited_s) == MAX_KEPT + 1 - DROPPED
    assert piece.work[0] == DROPPED
    gaps_ms, _ = unpacked(piece.pack().asked)
    assert np.cumsum(gaps_ms)[-1] == MAX_KEPT


def test_it_is_due_after_a_while_when_it_is_full_and_once_a_day_when_nothing_is_on_it() -> None:
    traffic_log = TrafficLog(NOW)
    assert not traffic_log.due(NOW + SEGMENT_S, ())
    assert traffic_log.due(NOW + REST_S, ())
    assert traffic_log.due(NOW + SEGMENT_S, (worker(),))
    traffic_log.asked(1.0, NOW)
    assert not traffic_log.due(NOW + SEGMENT_S - 1, ())
    assert traffic_log.due(NOW + SEGMENT_S, ())
    for _ in range(FULL):
        traffic_log.asked(1.0, NOW)
    assert traffic_log.due(NOW, ())
    traffic_log.drain(NOW + 1, ())
    assert traffic_log.blank
    assert not traffic_log.due(NOW + 1, ())


# -- how it is stored --------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.floats(min_value=0, max_value=2.0**100, width=32)),
        max_size=50,
    )
)
def test_what_is_packed_is_unpacked(pairs: list[tuple[int, float]]) -> None:
    milliseconds, work = (np.array([pair[i] for pair in pairs], dtype=np.float64) for i in (0, 1))
    found = unpacked(packed(milliseconds, work))
    assert found[0].tolist() == milliseconds.tolist()
    assert found[1].tolist() == work.tolist()


def test_amounts_beyond_all_measure_are_stored_as_the_largest() -> None:
    milliseconds, work = unpacked(packed(np.array([-1.0, 1e20]), np.array([1e300, 0.0])))
    assert milliseconds.tolist() == [0, 2**32 - 1]
    assert np.isfinite(work).all()


@pytest.mark.parametrize("data", [b"", b"nonsense", packed(np.zeros(3), np.zeros(3))[:-3]])
def test_what_is_no_reel_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a segment"):
        unpacked(data)


def test_times_of_many_requests_do_not_drift() -> None:
    traffic_log = TrafficLog(NOW)
    times = [NOW + number * 0.0123456 for number in range(10_000)]
    for at in times:
        traffic_log.asked(1.0, at)
    gaps_ms, _ = unpacked(traffic_log.drain(NOW + 1000, ()).pack().asked)
    assert np.abs(np.cumsum(gaps_ms) / 1000 + NOW - np.array(times)).max() < 0.00051
