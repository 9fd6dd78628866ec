import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from posthouse.domain.worker import WorkerId
from posthouse.fleet.bench import Bench
from posthouse.policy.route import pick

AMOUNTS = st.sampled_from([0.0, 1.0, 2.0, 30.0, 100.0]) | st.floats(0, 1e12)


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0, 1e12), AMOUNTS), max_size=8),
    AMOUNTS,
    st.floats(0.1, 1e4),
    st.integers(0, 2**60),
)
@example([(5e-324, 0.0), (1.0, 2.0)], 1e12, 0.1, 0)  # an expected end that is beyond every float
@example([(2.0, 0.0), (1.0, 0.0), (2.0, 0.0)], 2.0, 0.1, 1)  # equals, with an end but no wait above the limit
def test_the_short_way_picks_what_the_policy_picks(
    rows: list[tuple[float, float]], cost: float, max_queue_s: float, die: int
) -> None:
    bench = Bench()
    ids = [WorkerId(i + 1) for i in range(len(rows))]
    work = [w for _, w in rows]
    bench.seat({i: perf for i, (perf, _) in zip(ids, rows, strict=True)}, dict(zip(ids, work, strict=True)))
    with np.errstate(divide="ignore", over="ignore"):
        unit_s = 1.0 / np.array([perf for perf, _ in rows])
    row = pick(np.array(work), unit_s, cost, max_queue_s, die)
    assert bench.soonest(cost, max_queue_s, die) == (None if row is None else ids[row])
