import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from posthouse.domain.worker import WorkerId
from posthouse.fleet.ledger import AtWorker, Request
from posthouse.fleet.routing_table import MAX_UNIT_S, RoutingTable
from posthouse.policy.route import end_s, pick

AMOUNTS = st.sampled_from([0.0, 1.0, 2.0, 30.0, 100.0]) | st.floats(0, 1e12)


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0, 1e12), AMOUNTS), max_size=8),
    AMOUNTS,
    st.floats(0.1, 1e4),
    st.integers(0, 2**60),
)
@example([(5e-324, 0.0), (1.0, 2.0)], 1e12, 0.1, 0)  # an expected end that is beyond every float
@example([(2.0, 0.0), (1.0, 0.0), (2.0, 0.0)], 2.0, 0.1, 1)  # equals, with an end but no wait above the limit
def test_it_picks_what_the_policy_picks_from_the_same_workers(
    rows: list[tuple[float, float]], cost: float, max_queue_s: float, tie_break: int
) -> None:
    table, work = RoutingTable(), [w for _, w in rows]
    takers = [AtWorker(WorkerId(i + 1), 0, perf=perf) for i, (perf, _) in enumerate(rows)]
    table.rebuild(takers)
    table.pick(3.0, max_queue_s, tie_break)  # what it keeps of an earlier request does not matter
    for there, ahead in zip(takers, work, strict=True):
        there[1], there.work = Request(1, ahead, 0.0, 0.0), ahead
        table.note(there)
    with np.errstate(divide="ignore", over="ignore"):
        unit_s = 1.0 / np.array([perf for perf, _ in rows])
        unit_s = np.where(unit_s > MAX_UNIT_S, np.inf, unit_s)
        short = end_s(np.array(work), unit_s, cost).astype(np.float32)
    row = pick(np.array(work), unit_s, cost, max_queue_s, tie_break, ends_s=short)
    assert table.pick(cost, max_queue_s, tie_break) is (None if row is None else takers[row])
    # The rule in words: of those that could begin soon enough, the one that would end first.
    free = [i for i, (perf, ahead) in enumerate(rows) if perf >= 1 / MAX_UNIT_S and ahead * (1 / perf) <= max_queue_s]
    ends = {i: (rows[i][1] + cost) * (1 / rows[i][0]) for i in free}
    if row is None:
        assert not free
    else:
        assert row in free
        assert ends[row] <= min(ends.values()) * (1 + 1e-6) + 1e-30
