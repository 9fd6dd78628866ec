"""The small sums against their plainest forms."""

import math
from itertools import pairwise
from statistics import pvariance

from hypothesis import given
from hypothesis import strategies as st

from posthouse.domain.worker import WorkerId
from posthouse.fleet.ledger import Ledger, Request
from posthouse.fleet.load import Window
from posthouse.policy.forecast import sliding_max

SPAN_S, BLOCK_S = 60, 10


@given(
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 1e6)), max_size=60),
    st.integers(2, SPAN_S),
    st.floats(0, 200),
)
def test_a_rate_is_the_sum_of_what_came_in_those_seconds(
    steps: list[tuple[float, float]], over_s: int, later_s: float
) -> None:
    now = 1000.25
    window = Window(SPAN_S, now)
    arrivals = []
    for gap_s, amount in steps:
        now += gap_s
        window.add(amount, now)
        arrivals.append((now, amount))
    now += later_s
    first_second = int(now) - over_s + 1
    naive = sum(amount for at, amount in arrivals if int(at) >= first_second) / (now - first_second)
    assert math.isclose(window.rate(over_s, now), naive, rel_tol=1e-9, abs_tol=1e-9)
    blocks: dict[int, float] = {}
    for second in range(int(now) - SPAN_S + 1, int(now) + 1):
        came = sum(amount for at, amount in arrivals if int(at) == second)
        blocks[second % SPAN_S // BLOCK_S] = blocks.get(second % SPAN_S // BLOCK_S, 0.0) + came
    for latest in range(1, SPAN_S // BLOCK_S):
        del blocks[(int(now) // BLOCK_S - latest + 1) % (SPAN_S // BLOCK_S)]
        variance = pvariance(list(blocks.values()))
        assert math.isclose(window.variance(BLOCK_S, latest, now), variance, rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 100)), min_size=1, max_size=80), st.floats(1, 60))
def test_a_sliding_maximum_is_the_highest_value_of_the_hold(steps: list[tuple[float, float]], hold_s: float) -> None:
    history: tuple[tuple[float, float], ...] = ()
    seen, now = [], 0.0
    for gap_s, value in steps:
        now += gap_s
        seen.append((now, value))
        history = sliding_max(history, now, value, hold_s)
        # Times within a hundredth of the hold are one, so a value may be forgotten that much early, never late.
        least = max(v for at, v in seen if at > now - 0.989 * hold_s)
        most = max(v for at, v in seen if at > now - hold_s)
        assert least <= history[0][1] <= most
        assert all(a[1] > b[1] for a, b in pairwise(history))
        assert len(history) <= 102


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["wait", "assign", "remove"]), st.integers(1, 8), st.integers(1, 3), st.floats(0, 1e6)),
    max_size=80,
)


@given(OPERATIONS)
def test_the_ledger_always_adds_up(operations: list[tuple[str, int, int, float]]) -> None:
    ledger = Ledger()
    requests: dict[int, Request] = {}
    for kind, idx, worker, cost in operations:
        request = ledger.open.get(idx) or Request(idx, cost, 0.0, 0.0)
        requests[idx] = request
        if kind == "wait":
            ledger.wait(request)
        elif kind == "assign":
            ledger.assign(request, ledger.worker(WorkerId(worker)), 0.0)
        else:
            ledger.remove(request)
        there = {w: sum(r.cost for r in at.values()) for w, at in ledger.at.items()}
        assert there.keys() == {w for w, at in ledger.workers.items() if at}
        assert all(
            math.isclose(at.work, there.get(w, 0.0), rel_tol=1e-9, abs_tol=1e-6) for w, at in ledger.workers.items()
        )
        assert len(ledger) == len(ledger.waiting) + sum(map(len, ledger.at.values()))
        assert all(r.worker_id is None for r in ledger.waiting.values())
        assert all(r.worker_id == w for w, at in ledger.at.items() for r in at.values())
    for request in requests.values():
        ledger.remove(request)
    assert (len(ledger), ledger.outstanding(), ledger.at, ledger.waiting) == (0, 0.0, {}, {})
