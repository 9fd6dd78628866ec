"""What endpoints were, for charts, in the store and within a bound; and workers recently, in memory."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.worker import WorkerId
from posthouse.engine.externals import ExternalCosts
from posthouse.engine.figures import LOOKS, figures
from posthouse.errors import Unavailable
from posthouse.recording.history import Histories, HistoryChunk
from posthouse.wire.rows.live import History, Performance

if TYPE_CHECKING:
    from posthouse.engine.managed import ManagedEndpoint

STEP_S: Final = 5.0
MAX_ROWS: Final = 1440
"""Rows of a history at once."""
OF_A_WORKER: Final = 360
"""Rows kept of a worker: half an hour, 9 kB."""
FRESH: Final = 0.25
"""Weight of what a worker did last in the mean that is kept: it fades over some 20 s."""
WAITS_S: Final = 300.0
"""Over how long the 95th percentile of waits is taken."""
WAITS_OF_A_STEP: Final = 200
"""Waits that are kept of each step, evenly spread among those that there were."""
COLUMNS: Final = ("load", "need", "hot", "coming", "cold", "waiting", "p95_wait_s", "usd_h")
WIDTH: Final = len(COLUMNS) + len(LOOKS)
PEAKS: Final = (COLUMNS.index("waiting"), COLUMNS.index("p95_wait_s"))
"""Of these a row of a coarser scale has the highest; of the others the mean."""

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


@dataclass(frozen=True, slots=True)
class Scale:
    """How finely a stretch of the past is kept."""

    step_s: float
    of_a_chunk: int
    """Rows that are stored together. A chunk of one scale is as long as a step of the next, and becomes one."""
    chunks: int
    """How many are kept of an endpoint."""

    @property
    def chunk_s(self) -> float:
        return self.step_s * self.of_a_chunk

    def number(self, at: float) -> int:
        """The chunk in which a time is."""
        return int(at // self.chunk_s)


SCALES: Final = (Scale(STEP_S, 12, 64), Scale(60.0, 15, 100), Scale(900.0, 8, 170), Scale(7200.0, 12, 370))
"""An hour every 5 s, a day by the minute, a fortnight by the quarter of an hour, a year by two hours: of each endpoint
704 chunks at most, 0.5 MB."""
UNSAVED: Final = 200
"""Chunks of an endpoint that wait for a store that cannot be used: three hours."""


@dataclass(slots=True)
class Chunk:
    """Rows that follow one another, each with its time."""

    number: int
    at: list[float] = field(default_factory=list)
    rows: list[Values] = field(default_factory=list)

    def joined(self) -> Values:
        """One row for all."""
        rows = np.array(self.rows)
        joined: Values = rows.mean(axis=0)
        joined[list(PEAKS)] = rows[:, PEAKS].max(axis=0)
        return joined

    def pack(self, endpoint_id: EndpointId, scale: int) -> HistoryChunk:
        """The same as it is stored."""
        packed = np.array(self.at, "<f8").tobytes() + np.array(self.rows, "<f4").tobytes()
        return HistoryChunk(endpoint_id, scale, self.number, self.number % SCALES[scale].chunks, len(self.at), packed)

    @classmethod
    def of(cls, stored: HistoryChunk) -> "Chunk":
        """What was packed. Columns that were not known then are 0."""
        at = np.frombuffer(stored.packed, "<f8", stored.rows)
        found = np.frombuffer(stored.packed, "<f4", offset=8 * stored.rows).reshape(stored.rows, -1)[:, :WIDTH]
        rows = np.zeros((stored.rows, WIDTH), np.float32)
        rows[:, : found.shape[1]] = found
        return cls(stored.number, at.tolist(), list(rows))


class Samples:
    """What one endpoint was, and its workers. What is older than its latest chunks is in the store alone."""

    def __init__(self) -> None:
        self.workers: dict[WorkerId, Ring] = {}
        self.loaded = False
        """It is known what the store has, so that nothing is overwritten there."""
        self._open: list[Chunk | None] = [None] * len(SCALES)
        """The latest chunk of each scale."""
        self.unsaved: dict[tuple[int, int], Chunk] = {}
        """Those that the store has not, or not whole, by scale and number."""
        self._waits: deque[tuple[int, list[float], float]] = deque(maxlen=int(WAITS_S / STEP_S))
        """Of each step: how many requests came, some of their waits, and for how many each of these stands."""
        self._seen = (0.0, 0, 0)
        self.p95_wait_s = 0.0
        """The 95th percentile of the waits of the last five minutes, as of the latest sample; 0 where nobody came."""

    def load(self, latest: Iterable[HistoryChunk]) -> None:
        """Goes on from what the store has, of which this is the latest of each scale."""
        for stored in latest:
            if stored.scale < len(SCALES):
                self._open[stored.scale] = Chunk.of(stored)
        self.loaded = True

    def add(self, at: float, row: Values, scale: int = 0) -> None:
        """Appends a row; where that begins a chunk, the one before becomes a row of the next scale."""
        chunk, number = self._open[scale], SCALES[scale].number(at)
        if chunk is None or chunk.number != number:
            if chunk is not None and scale + 1 < len(SCALES):
                self.add(chunk.at[-1], chunk.joined(), scale + 1)
            chunk = self._open[scale] = Chunk(number)
        chunk.at.append(at)
        chunk.rows.append(row)
        self.unsaved[scale, number] = chunk
        if len(self.unsaved) > UNSAVED:
            del self.unsaved[next(iter(self.unsaved))]

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
        if self.loaded:
            shown = figures(managed, now)
            row = [getattr(shown, name) for name in COLUMNS] + [shown.looks.get(name, 0) for name in LOOKS]
            self.add(now, np.array(row, np.float32))
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

    async def history(
        self, store: Histories, endpoint_id: EndpointId, last_s: float, now: float, most: int = MAX_ROWS
    ) -> History:
        """The last hour as it was taken, or if more is asked for, the day, the fortnight or the year as they are kept;
        `most` rows of it. Raises: Unavailable."""
        scale = next((i for i, one in enumerate(SCALES) if last_s <= one.chunk_s * (one.chunks - 1)), len(SCALES) - 1)
        since = now - last_s
        pending = {number: chunk for (of, number), chunk in self.unsaved.items() if of == scale}  # before it is written
        stored = await store.history([endpoint_id], scale, SCALES[scale].number(since))
        chunks = {one.number: Chunk.of(one) for one in stored}
        chunks |= pending
        times = [t for _, chunk in sorted(chunks.items()) for t in chunk.at]
        rows = [row for _, chunk in sorted(chunks.items()) for row in chunk.rows]
        if scale and (finer := self._open[scale - 1]) is not None:  # the row that is not whole yet
            times.append(finer.at[-1])
            rows.append(finer.joined())
        at, values = np.array(times), np.array(rows, np.float32).reshape(-1, WIDTH)
        order = np.flatnonzero(at > since)
        order = order[::-1][:: math.ceil(len(order) / most) or 1][::-1]
        columns = _short(values[order]).T.tolist()
        named: dict[str, Any] = dict(zip(COLUMNS, columns, strict=False))
        looks = dict(zip(LOOKS, columns[len(COLUMNS) :], strict=True))
        return History(step_s=SCALES[scale].step_s, at=np.round(at[order], 2).tolist(), looks=looks, **named)

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
    """Takes the samples of every endpoint, and writes them down. Where the store cannot be used they wait."""

    endpoints: "Callable[[], Iterable[ManagedEndpoint]]"
    now: Callable[[], float]
    store: Histories
    external: ExternalCosts = field(default_factory=ExternalCosts)
    step_s: float = field(default=STEP_S)
    _over: "list[ManagedEndpoint]" = field(default_factory=list)
    """Deleted endpoints whose last samples are not written yet."""
    _saves: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> None:
        """One round, after a while."""
        await asyncio.sleep(self.step_s)
        await self.round()

    async def round(self) -> None:
        """Takes a sample of each, and writes all down at once."""
        with suppress(Unavailable):
            for managed in list(self.endpoints()):
                if not managed.samples.loaded:
                    latest = await self.store.latest_history([managed.fleet.endpoint.id])
                    managed.samples.load(latest)
                    managed.costs.load(latest)
            if not self.external.loaded:
                self.external.load(await self.store.latest_history([self.external.endpoint_id]))
        for managed in list(self.endpoints()):
            managed.samples.take(managed, self.now())
            if managed.samples.loaded:
                managed.costs.take(managed, self.now())
            await asyncio.sleep(0)
        if self.external.loaded:
            self.external.look(self.now())
        with suppress(Unavailable):
            over = len(self._over)
            await self.save()
            del self._over[:over]

    def opened(self, managed: "ManagedEndpoint") -> None:
        """Has what an endpoint costs counted from now on."""
        managed.costs.begin(managed, self.now())

    def over(self, managed: "ManagedEndpoint") -> None:
        """Takes the last sample of an endpoint that was deleted and has no worker left."""
        if managed.samples.loaded and len(self._over) < UNSAVED:
            managed.costs.take(managed, self.now())
            self._over.append(managed)

    async def keep(self, managed: "ManagedEndpoint") -> None:
        """Takes a sample of an endpoint, and writes it down at once. Raises: Unavailable."""
        if managed.samples.loaded:
            managed.samples.take(managed, self.now())
            managed.costs.take(managed, self.now())
            await self.save([managed], at_once=True)

    async def save(self, endpoints: "Iterable[ManagedEndpoint] | None" = None, at_once: bool = False) -> None:
        """Writes down what is new of these, or of all. `at_once`: also of costs, which else wait for a minute.

        Raises: Unavailable.
        """
        async with self._saves:
            of = [*self.endpoints(), *self._over] if endpoints is None else list(endpoints)
            unsaved = [(m, key, chunk, len(chunk.at)) for m in of for key, chunk in m.samples.unsaved.items()]
            chunks = [chunk.pack(m.fleet.endpoint.id, scale) for m, (scale, _), chunk, _ in unsaved]
            costs = [
                (of_one, found)
                for endpoint_id, of_one, now in (
                    *((m.fleet.endpoint.id, m.costs, at_once or m in self._over) for m in of),
                    *([(self.external.endpoint_id, self.external, at_once)] if endpoints is None else []),
                )
                if (found := of_one.unsaved(endpoint_id, self.now(), now))
            ]
            if unsaved or costs:
                await self.store.put_history(chunks + [chunk for _, found in costs for chunk in found])
            for managed, key, chunk, length in unsaved:
                if len(chunk.at) == length:  # nothing came while it was written
                    managed.samples.unsaved.pop(key, None)
            for of_one, _ in costs:
                of_one.saved()
