"""What endpoints and workers were lately, for charts: in memory, with a bound, from the server's start on."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.worker import WorkerId
from posthouse.engine.figures import LOOKS, figures
from posthouse.wire.rows.live import History, Performance

if TYPE_CHECKING:
    from posthouse.engine.managed import ManagedEndpoint

STEP_S: Final = 5.0
FINE: Final = 720
"""Rows of `STEP_S`: an hour."""
JOINED: Final = 12
"""Fine rows that become a coarse one: a minute."""
COARSE: Final = 1440
"""A day."""
OF_A_WORKER: Final = 360
"""Rows kept of a worker: half an hour, 9 kB."""
FRESH: Final = 0.25
"""Weight of what a worker did last in the mean that is kept: it fades over some 20 s."""
WAITS_S: Final = 300.0
"""Over how long the 95th percentile of waits is taken."""
WAITS_OF_A_STEP: Final = 200
"""Waits that are kept of each step, evenly spread among those that there were."""
COLUMNS: Final = ("load", "need", "hot", "coming", "cold", "waiting", "p95_wait_s", "usd_h")
PEAKS: Final = (COLUMNS.index("waiting"), COLUMNS.index("p95_wait_s"))
"""Of these a coarse row has the highest; of the others the mean."""

Values = NDArray[np.float32]


class Ring:
    """The latest rows of figures, each with its time."""

    def __init__(self, rows: int, columns: int) -> None:
        self._at: NDArray[np.float64] = np.zeros(rows)
        self._values: Values = np.zeros((rows, columns), np.float32)
        self._added = 0

    def add(self, at: float, values: Sequence[float] | Values) -> None:
        place = self._added % len(self._at)
        self._at[place], self._values[place] = at, values
        self._added += 1

    def after(self, at: float, most: int = 10_000) -> tuple[list[float], list[list[float]]]:
        """The times after `at`, at most so many, the last among them; and a list for each column."""
        count, size = min(self._added, len(self._at)), len(self._at)
        order = np.arange(self._added - count, self._added) % size
        order = order[self._at[order] > at]
        order = order[::-1][:: math.ceil(len(order) / most) or 1][::-1]
        return np.round(self._at[order], 2).tolist(), _short(self._values[order]).T.tolist()

    def last(self, count: int) -> Values:
        """The latest rows, as far as there are any."""
        order = np.arange(max(0, self._added - count), self._added) % len(self._at)
        found: Values = self._values[order]
        return found


class Samples:
    """What one endpoint was, and its workers."""

    def __init__(self) -> None:
        columns = len(COLUMNS) + len(LOOKS)
        self.fine, self.coarse = Ring(FINE, columns), Ring(COARSE, columns)
        self.workers: dict[WorkerId, Ring] = {}
        self._waits: deque[tuple[int, list[float], float]] = deque(maxlen=int(WAITS_S / STEP_S))
        """Of each step: how many requests came, some of their waits, and for how many each of these stands."""
        self._seen = (0.0, 0, 0)
        self._taken = 0
        self.p95_wait_s = 0.0
        """The 95th percentile of the waits of the last five minutes, as of the latest sample; 0 where nobody came."""

    def _p95_wait_s(self) -> float:
        waits = sorted(((w, stands) for _, found, stands in self._waits for w in found), reverse=True)
        beyond = 0.05 * max(sum(asked for asked, _, _ in self._waits), sum(stands for _, stands in waits))
        for wait_s, stands in waits:
            beyond -= stands
            if beyond < 0:
                return wait_s
        return 0.0

    def take(self, managed: "ManagedEndpoint", now: float) -> None:
        """Takes a sample."""
        self._take_waits(managed)
        self.p95_wait_s = self._p95_wait_s()
        shown = figures(managed, now)
        row = [getattr(shown, name) for name in COLUMNS] + [shown.looks.get(name, 0) for name in LOOKS]
        self.fine.add(now, row)
        self._taken += 1
        if self._taken % JOINED == 0:
            rows = self.fine.last(JOINED)
            joined = rows.mean(axis=0)
            joined[list(PEAKS)] = rows[:, PEAKS].max(axis=0)
            self.coarse.add(now, joined)
        there = managed.fleet.workers
        for gone in self.workers.keys() - there.keys():
            del self.workers[gone]
        for worker_id, worker in there.items():
            ring = self.workers.setdefault(worker_id, Ring(OF_A_WORKER, 3))
            stats = managed.worker_stats(worker_id)
            before = ring.last(1)
            done = stats.done_rate if not len(before) else before[0, 1] + FRESH * (stats.done_rate - before[0, 1])
            ring.add(now, (worker.perf, done, managed.fleet.requests.load_at(worker_id)[0]))

    def _take_waits(self, managed: "ManagedEndpoint") -> None:
        """What came since the last step. Of a step in which the traffic log was cut, only what came after that."""
        since, asked, waits = managed.traffic_log.counted()
        before, asked_before, waited_before = self._seen
        if since != before:
            asked_before = waited_before = 0
        self._seen = since, asked, len(waits)
        new = waits[waited_before:]
        stride = math.ceil(len(new) / WAITS_OF_A_STEP) or 1
        self._waits.append((asked - asked_before, list(new[::stride]), stride))

    def history(self, last_s: float, now: float, most: int = COARSE) -> History:
        """The last hour as it was taken, or if more is asked for, the last day by the minute; `most` rows of it."""
        fine = last_s <= FINE * STEP_S
        at, columns = (self.fine if fine else self.coarse).after(now - last_s, most)
        named: dict[str, Any] = dict(zip(COLUMNS, columns, strict=False))
        looks = dict(zip(LOOKS, columns[len(COLUMNS) :], strict=True))
        return History(step_s=STEP_S if fine else STEP_S * JOINED, at=at, looks=looks, **named)

    def of_worker(self, worker_id: WorkerId) -> Performance:
        """What the worker did; nothing of one that is gone."""
        ring = self.workers.get(worker_id)
        if ring is None:
            return Performance(at=[], counted=[], done=[], load=[])
        at, (counted, done, load) = ring.after(0.0)
        return Performance(at=at, counted=counted, done=done, load=load)


def _short(values: Values) -> NDArray[np.float64]:
    """The values with five digits: in JSON a third as long."""
    exact = values.astype(np.float64)
    size = np.where(exact == 0, 1.0, np.abs(exact))
    scale: NDArray[np.float64] = 10.0 ** (4 - np.floor(np.log10(size)))
    rounded: NDArray[np.float64] = np.round(exact * scale) / scale
    return rounded


@dataclass(slots=True)
class Sampler:
    """Takes the samples of every endpoint."""

    endpoints: "Callable[[], Iterable[ManagedEndpoint]]"
    now: Callable[[], float]
    step_s: float = field(default=STEP_S)

    async def run(self) -> None:
        """One round, after a while."""
        await asyncio.sleep(self.step_s)
        for managed in list(self.endpoints()):
            managed.samples.take(managed, self.now())
            await asyncio.sleep(0)
