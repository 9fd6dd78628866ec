"""Which cold workers start serving."""

from posthouse.domain.decision import Obstacle
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import Worker
from posthouse.policy.bounds import running_usd_h
from posthouse.policy.draft import Draft
from posthouse.policy.needs import Needs
from posthouse.policy.offers import cover_usd_h

_STEPS = {State.IDLE: 0, State.STARTING: 1, State.STOPPED: 2, State.STOPPING: 3}
_LOADING = 4
"""On its first way to ready, which takes longest."""


def wake(draft: Draft, needs: Needs) -> None:
    """Makes cold workers hot until those that are hot or coming can do enough for the hot need.

    First those that need no start, then those on their way, then stopped ones, and last those that load for the first
    time; among equals the one that covers what is missing at the least cost. Where requests wait, least seconds to
    start x cost: a little sooner is not worth a machine that costs many times as much.
    """
    hot = draft.hot()
    have, many = draft.supply(hot), len(hot)
    candidates: list[Worker] = []
    if have < needs.hot.low or many < needs.least:
        # Who rests, and who takes no requests while its update is at hand: that makes it hot as well.
        cold = [
            w for w in draft.kept() if w.goal is Goal.COLD or (w.goal is Goal.UPDATED and w.state is not State.IDLE)
        ]
        candidates = [w for w in cold if w.id not in draft.s.resting]

    def rank(worker: Worker) -> tuple[int, float, float, int]:
        cost = cover_usd_h(running_usd_h(worker.price), draft.perf(worker), needs.hot.low - have)
        wait_s = worker.load_s if needs.urgent else 1.0
        return _STEPS.get(worker.state, _LOADING), cost * wait_s, worker.load_s, worker.id

    while candidates and (have < needs.hot.low or many < needs.least):
        worker = min(candidates, key=rank)
        candidates.remove(worker)
        if draft.affords_running(worker):
            draft.set(worker, Goal.HOT)
            have, many = have + draft.perf(worker), many + 1
        else:
            draft.because.append(Obstacle("not started", int(worker.id), "max_usd_h would be passed"))
