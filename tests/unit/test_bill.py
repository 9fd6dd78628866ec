"""What an endpoint's traffic cost, the least that it could have, and what lies between."""

from array import array
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.domain.endpoint import Scaling
from posthouse.recording.log import SEGMENT_S, Slice
from posthouse.recording.segment import Segment
from posthouse.sim.bill import DAY_S, PARTS, bill

NOON = 20_000 * DAY_S + DAY_S / 2
PERF, USD_H = 10.0, 3.6
"""Of a worker: 0.001 dollars a second."""
SCALING = {"target_util": 0.9, "cold_workers": 2, "target_queue_time": 10.0}


def segment(
    requests: list[tuple[float, float]],
    ready_s: float = SEGMENT_S,
    loading_s: float = 0.0,
    stopped_s: float = 0.0,
    since: float = NOON,
    **figures: Any,
) -> Segment:
    """`requests`: seconds since the beginning, and work."""
    by = {"ready": ready_s * USD_H / 3600, "loading": loading_s * USD_H / 3600, "stopped": stopped_s * 0.36 / 3600}
    told = {
        "state_s": {"idle": ready_s, "loading": loading_s, "stopped": stopped_s},
        "usd": sum(by.values()),
        "usd_by": by,
        "ready_work": ready_s * PERF,
        "unserved_work": 0.0,
        "served": [[20.0, 2.0]],
    }
    at, work = (array("d", column) for column in zip(*requests, strict=True)) if requests else (array("d"), array("d"))
    at = array("d", (since + t for t in at))
    none = array("d")
    return Slice(since, since + SEGMENT_S, len(requests), at, work, none, none, told | figures).pack()


def test_a_worker_that_is_busy_all_the_while_costs_the_least() -> None:
    found = bill([segment([(0.0, PERF * SEGMENT_S)])], 10.0, SCALING).total
    assert found.usd == pytest.approx(0.3)
    assert found.least_usd == pytest.approx(found.usd)
    assert sum(found.parts.values()) == pytest.approx(0.0, abs=1e-9)


def test_starts_and_storage_are_what_they_cost_and_idle_time_is_headroom() -> None:
    half = [(0.0, PERF * SEGMENT_S / 2)]
    found = bill([segment(half, loading_s=100.0, stopped_s=1000.0)], 10.0, SCALING).total
    assert found.usd == pytest.approx(0.3 + 0.1 + 0.1)
    assert found.least_usd == pytest.approx(0.15)
    assert found.parts == pytest.approx(
        {"headroom": 0.15, "starts": 0.1, "storage": 0.1, "whole_workers": 0.0, "waits_not_used": 0.0}
    )


def test_two_that_come_at_once_need_a_second_worker_or_a_wait() -> None:
    pairs = [(float(t), 20.0) for t in range(0, 300, 10) for _ in range(2)]  # 2 s each
    found = bill([segment(pairs, ready_s=2 * SEGMENT_S)], 10.0, SCALING).total
    assert found.least_usd == pytest.approx(2 * 30 * 2 * 0.001)
    # At once: two workers for 2 of every 10 s. Put off by halves of 10 s: one for 5 of every 10 s is dearer than that.
    assert found.parts["whole_workers"] + found.parts["waits_not_used"] == pytest.approx(0.0)
    assert found.parts["headroom"] == pytest.approx(0.6 - 0.12)
    short = [(t + shift, 1.0) for t in range(0, 300, 10) for shift in (0.0, 0.05)]
    found = bill([segment(short, served=[[1.0, 0.2]])], 1.0, SCALING).total  # two slots, half the speed
    assert found.parts["whole_workers"] > 0


def test_where_requests_have_waited_no_part_is_below_nothing() -> None:
    crowd = [(0.0, 100.0)] * 100  # an hour's work at once for one worker of five minutes
    found = bill([segment(crowd, unserved_work=7000.0)], 10.0, SCALING).total
    assert found.least_usd == pytest.approx(found.usd)
    assert min(found.parts.values()) >= 0


def test_days_are_apart_in_utc_and_the_total_is_their_sum() -> None:
    found = bill([segment([(0.0, 10.0)], since=NOON + day * DAY_S) for day in range(3)], 10.0, SCALING)
    assert [day.begin for day in found.days] == [NOON - DAY_S / 2 + day * DAY_S for day in range(3)]
    assert found.total.usd == pytest.approx(sum(day.usd for day in found.days))
    assert found.total.requests == 3


def test_of_older_segments_the_split_is_assumed_and_said() -> None:
    old = segment([(0.0, 10.0)], loading_s=100.0)
    del old.figures["usd_by"]
    found = bill([old], 10.0, SCALING)
    assert found.total.parts["starts"] == pytest.approx(0.1)
    assert any("not recorded" in note for note in found.notes)
    assert "`engine.traffic_log_mb`" in bill([], 10.0, SCALING).notes[0]


requests = st.lists(st.tuples(st.floats(0, SEGMENT_S), st.floats(0, 1e4)), max_size=20).map(sorted)
spans = st.floats(0, 1e4)


@given(st.lists(st.tuples(requests, spans, spans, spans, spans), min_size=1, max_size=4), st.floats(0, 100))
@settings(deadline=None, max_examples=60)
def test_the_parts_add_up_and_the_least_is_never_above_what_was_paid(
    pieces: list[tuple[list[tuple[float, float]], float, float, float, float]], wait_s: float
) -> None:
    segments = [
        segment(asked, ready, loading, stopped, NOON + n * DAY_S / 3, unserved_work=lost)
        for n, (asked, ready, loading, stopped, lost) in enumerate(pieces)
    ]
    found = bill(segments, wait_s, SCALING)
    for day in (found.total, *found.days):
        assert set(day.parts) == set(PARTS)
        assert day.least_usd + sum(day.parts.values()) == pytest.approx(day.usd, rel=1e-9, abs=1e-9)
        assert 0 <= day.least_usd <= day.usd * (1 + 1e-9) + 1e-12
        assert min(day.parts.values()) >= -1e-9


def test_what_would_take_a_part_away_is_a_change_that_an_endpoint_takes() -> None:
    for values in ({}, {"slo_mode": "auto", "target_util": 1.0, "cold_workers": 0, "inactivity_timeout": 7200}):
        scaling = Scaling().changed(values)
        changes = bill([segment([(0.0, 1.0)])], 10.0, asdict(scaling)).changes
        assert set(changes) == {"starts", "waits_not_used"} | (set() if values else {"headroom", "storage"})
        for change in changes.values():
            assert scaling.changed(change) != scaling
