"""The most that workers are believed to do: no more than others of their kind, nor than they showed in a crowd."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from posthouse.domain.worker import Worker, WorkerId
from posthouse.fleet.ledger import AtWorker
from posthouse.policy.capacity import kind_of

MAX_PERF_FACTOR: Final = 2.0
"""How many times what its kind does, or what it did in a crowd, a worker is believed to do."""
CROWD: Final = 3
"""So many requests at a time are a crowd. It is too much for a worker where they take so many times as long as the
fastest tenth did."""
QUEUES: Final = 3.0
"""A crowd lasts for so many times `max_queue_time`. As a worker is given no more work than it says it does in one, an
honest one has done at least two thirds of what it can by then."""
MAX_CROWD_S: Final = 900.0
KEPT: Final = 100
"""Of how many requests the time is kept."""


@dataclass(slots=True)
class _Crowd:
    """Of the requests at a worker, those that have ended since there was a crowd."""

    since: float
    work: float = 0.0
    took_s: float = 0.0


class Throughput:
    """What is believed of the workers of an endpoint. Units: work per second."""

    def __init__(self) -> None:
        self._of_kind: dict[str, float] = {}
        self._shown: dict[WorkerId, float] = {}
        self._crowds: dict[WorkerId, _Crowd] = {}
        self._fastest_s: dict[WorkerId, float] = {}

    def most(self, worker: Worker) -> tuple[float, str]:
        """The most that it is believed to do, and twice what that is."""
        of_kind = self._of_kind.get(kind_of(worker.group_id, worker), math.inf), "its kind does"
        return min(of_kind, (self._shown.get(worker.id, math.inf), "it did when it had more than it could do"))

    def compare(self, workers: Iterable[Worker]) -> None:
        """Learns from what these say of themselves what their kinds do."""
        by_kind: dict[str, list[float]] = {}
        for worker in workers:
            if worker.perf > 0 and not worker.outdated_at:
                by_kind.setdefault(kind_of(worker.group_id, worker), []).append(worker.perf)
        self._of_kind = {kind: MAX_PERF_FACTOR * median_low(known) for kind, known in by_kind.items()}

    def done(self, there: AtWorker, work: float, took_s: float) -> None:
        """A request of some work was done, so long after it was sent there."""
        if there.units_s is None:
            there.units_s = deque(maxlen=KEPT)
        there.units_s.append(took_s / work)
        if self._crowds and (crowd := self._crowds.get(there.worker_id)) is not None:
            crowd.work, crowd.took_s = crowd.work + work, crowd.took_s + took_s

    def judge(self, at: Mapping[WorkerId, AtWorker], alone_unit_s: float, max_queue_s: float, now: float) -> None:
        """Lets time pass. `at`: the requests of each worker; `alone_unit_s`: how long a unit of work takes alone, 0 if
        nobody knows. Who has had a crowd for long that was too much for it is believed to do twice what it did. It is
        believed more again as it does more.
        """
        crowds = {worker_id for worker_id, there in at.items() if len(there) >= CROWD}
        self._crowds = {i: self._crowds.get(i) or _Crowd(now) for i in crowds}
        for worker_id, crowd in self._crowds.items():
            lasted_s = now - crowd.since
            if not crowd.work or lasted_s < min(QUEUES * max_queue_s, MAX_CROWD_S):
                continue
            units_s = sorted(at[worker_id].units_s or ())
            fastest_s = min(self._fastest_s.get(worker_id, math.inf), units_s[len(units_s) // 10])
            if alone_unit_s > 0:  # machines differ in speed, but not by more than this
                fastest_s = min(fastest_s, CROWD * alone_unit_s)
            self._fastest_s[worker_id] = fastest_s
            most = MAX_PERF_FACTOR * crowd.work / lasted_s
            if crowd.took_s >= CROWD * crowd.work * fastest_s:
                self._shown[worker_id] = most
            elif worker_id in self._shown:
                self._shown[worker_id] = max(self._shown[worker_id], most)
            self._crowds[worker_id] = _Crowd(now)

    def forget(self, worker_id: WorkerId) -> None:
        """The worker starts over, or is gone."""
        for memory in (self._crowds, self._fastest_s, self._shown):
            memory.pop(worker_id, None)
