"""What endpoints cost over time, by what it was for, by provider and GPU, and by the keys that asked.

Every sample adds what each worker cost since the one before to the present hour; the parts add up to what the fleet has
spent. An hour that is over becomes part of its day. Both are kept beside the history, within a bound.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.figures import look
from posthouse.recording.history import COST_SPANS, Histories, HistoryChunk

if TYPE_CHECKING:
    from posthouse.engine.managed import ManagedEndpoint

Name = TypeVar("Name", bound=Hashable)
Part: TypeAlias = tuple[str, str, str]
"""Provider, GPU, and what it was for."""

FOR: Final = ("working", "idle", "starting", "storage", "failed")
HOURS, DAYS = SPANS = COST_SPANS
MAX_NAMES: Final = 100
"""Parts, and keys, of a bucket; what those beyond the largest cost is `OTHER`'s: a bucket has at most some 15 kB."""
OTHER: Final = "(others)"
SAVED_S: Final = 60.0
"""How often the present hour is written down: what a crash loses."""


@dataclass(slots=True)
class Bucket:
    """What an endpoint cost in an hour or a day, in US dollars."""

    number: int
    spent: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    asked: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Work that each key asked for; of a day, what it cost. Empty name: nobody asked."""

    @property
    def day(self) -> int:
        """The number of the day that this hour is part of."""
        return int(self.number * SPANS[HOURS][0] // SPANS[DAYS][0])

    def by_key(self) -> dict[str, float]:
        """What it cost, by the keys that asked, in proportion to the work that they asked for."""
        usd, work = sum(self.spent.values()), sum(self.asked.values())
        return {key: usd * asked / work for key, asked in self.asked.items()} if work > 0 else {"": usd}

    def add(self, other: "Bucket") -> None:
        """Adds an hour to this day."""
        for part, usd in other.spent.items():
            self.spent[part] += usd
        for key, usd in other.by_key().items():
            self.asked[key] += usd

    def pack(self, endpoint_id: EndpointId, scale: int) -> HistoryChunk:
        """The same as it is stored."""
        spent = [[*part, usd] for part, usd in _largest(self.spent, (OTHER, "", "")).items()]
        packed = json.dumps([spent, _largest(self.asked, OTHER)]).encode()
        return HistoryChunk(endpoint_id, scale, self.number, self.number % SPANS[scale][1], 0, packed)

    @classmethod
    def of(cls, stored: HistoryChunk) -> "Bucket":
        """What was packed."""
        spent, asked = json.loads(stored.packed)
        bucket = cls(stored.number)
        for provider, gpu, what_for, usd in spent:
            bucket.spent[provider, gpu, what_for] += usd
        bucket.asked.update(asked)
        return bucket


class Costs:
    """What one endpoint cost. Until it is known what the store has, nothing is counted."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = defaultdict(float)
        """Work that each key has asked for since the last sample; routing counts it."""
        self._open: dict[int, Bucket] = {}
        self._seen: dict[WorkerId, tuple[float, Part]] = {}
        """What each worker had cost at the last sample, and for what."""
        self._total = -1.0
        self._unsaved: dict[tuple[int, int], Bucket] = {}
        self._saving: dict[tuple[int, int], Bucket] = {}
        """What `unsaved` gave, until it is `saved`."""
        self._saved_at = 0.0
        self._days: tuple[int, int, dict[str, float]] = (0, 0, {})
        """What days that are over cost by key: the first, the one after the last, and the sums."""

    def load(self, stored: Iterable[HistoryChunk]) -> None:
        """Goes on from what the store has, of which this is the latest of each scale."""
        self._open = {chunk.scale: Bucket.of(chunk) for chunk in stored if chunk.scale in SPANS}

    def begin(self, managed: "ManagedEndpoint", now: float) -> None:
        """Counts from now on."""
        self._seen = {i: (w.spent_at(now), _part(managed, w)) for i, w in managed.fleet.workers.items()}
        self._total = managed.fleet.spent_usd(now)

    def take(self, managed: "ManagedEndpoint", now: float) -> None:
        """Adds what it cost since the last sample."""
        hour = self._hour(now)
        before, workers, total = self._seen, managed.fleet.workers, self._total
        self.begin(managed, now)
        if total >= 0:
            rest = self._total - total
            for worker_id, (usd, part) in self._seen.items():
                more = usd - before.get(worker_id, (0.0, part))[0]
                hour.spent[part] += more
                rest -= more
            if (gone := before.keys() - workers.keys()) and rest > 0:
                hour.spent[before[min(gone)][1]] += rest
        for key, work in self.asked.items():
            hour.asked[key] += work
        if self.asked or self._total > total:
            self._unsaved[HOURS, hour.number] = hour
        self.asked.clear()

    def _hour(self, now: float) -> Bucket:
        """The present hour. The one before becomes part of its day."""
        number = int(now // SPANS[HOURS][0])
        hour = self._open.get(HOURS)
        if hour is None or hour.number < number:
            if hour is not None:
                self._fold(hour)
            hour = self._open[HOURS] = self._unsaved[HOURS, number] = Bucket(number)
        return hour

    def _fold(self, hour: Bucket) -> None:
        """Makes an hour that is over part of its day."""
        day = self._open.get(DAYS)
        if day is None or day.number < hour.day:
            day = self._open[DAYS] = Bucket(hour.day)
        day.add(hour)
        self._unsaved |= {(DAYS, hour.day): day, (HOURS, hour.number): hour}

    def unsaved(self, endpoint_id: EndpointId, now: float, at_once: bool = False) -> list[HistoryChunk]:
        """What is to be written now: once a minute, and whenever an hour is over.

        An hour and the day that it became part of are always written together.
        """
        pending = self._saving | self._unsaved
        if not pending or not (at_once or len(pending) > 1 or now - self._saved_at >= SAVED_S):
            return []
        self._saved_at, self._saving, self._unsaved = now, pending, {}
        return [bucket.pack(endpoint_id, scale) for (scale, _), bucket in pending.items()]

    def saved(self) -> None:
        """What `unsaved` gave last is in the store."""
        self._saving = {}

    def pending(self, scale: int) -> dict[int, Bucket]:
        """The buckets of a scale, by number, of which the store may have an older state, or none."""
        return {number: bucket for (of, number), bucket in (self._saving | self._unsaved).items() if of == scale}

    @property
    def hour(self) -> Bucket | None:
        """The present hour, which is part of no day yet."""
        return self._open.get(HOURS)

    async def by_key(self, store: Histories, endpoint_id: EndpointId, first: int, today: int) -> dict[str, float]:
        """What it cost by the keys that asked, from the first of these days to the other. Raises: Unavailable."""
        if self._days[:2] != (first, today):  # what is over is read once a day
            before: dict[str, float] = defaultdict(float)
            found = await costs_of(store, {endpoint_id: self}, [endpoint_id], DAYS, first)
            for number, bucket in found[endpoint_id].items():
                if number < today:
                    add_up(before, bucket.by_key())
            self._days = first, today, before
        sums = defaultdict(float, self._days[2])
        for scale, bucket in self._open.items():
            if (bucket.number if scale == DAYS else bucket.day) == today:
                add_up(sums, bucket.by_key())
        return sums


async def costs_of(
    store: Histories, here: Mapping[EndpointId, Costs], endpoint_ids: Collection[EndpointId], scale: int, first: int
) -> Mapping[EndpointId, Mapping[int, Bucket]]:
    """The buckets of each endpoint, of a scale, from this number on, by number. Raises: Unavailable.

    `here`: what this server knows better than the store, where another's may be `SAVED_S` old.
    """
    own = here.keys() & set(endpoint_ids)
    pending = {endpoint_id: here[endpoint_id].pending(scale) for endpoint_id in own}  # before it may be written
    hours = await store.latest_history(endpoint_ids, HOURS) if scale == DAYS else ()
    open_hours = {chunk.endpoint_id: Bucket.of(chunk) for chunk in hours}
    found: dict[EndpointId, dict[int, Bucket]] = {endpoint_id: {} for endpoint_id in endpoint_ids}
    for chunk in await store.history(endpoint_ids, scale, first):
        found[chunk.endpoint_id][chunk.number] = Bucket.of(chunk)
    for endpoint_id in own:
        found[endpoint_id].update(pending[endpoint_id])
        if (hour := here[endpoint_id].hour) is not None:
            open_hours[endpoint_id] = hour
    if scale == DAYS:
        for endpoint_id, hour in open_hours.items():
            if hour.day >= first:
                today = Bucket(hour.day)
                if (before := found[endpoint_id].get(hour.day)) is not None:
                    today.spent.update(before.spent)
                    today.asked.update(before.asked)
                today.add(hour)
                found[endpoint_id][hour.day] = today
    return found


def _part(managed: "ManagedEndpoint", worker: Worker) -> Part:
    """What a worker is paid for now. Resting it is storage: a disk that is kept."""
    there = {"cold": "storage", "failed": "failed", "loading": "starting"}.get(look(worker))
    busy = "working" if managed.fleet.requests.load_at(worker.id)[1] else "idle"
    gpu = f"{worker.num_gpus}× {worker.gpu_name}" if worker.num_gpus else worker.gpu_name
    return worker.provider, gpu, there or busy


def add_up(sums: dict[str, float], more: Mapping[str, float]) -> None:
    """Adds the values of the one to those of the other, by name."""
    for name, usd in more.items():
        sums[name] += usd


def _largest(values: Mapping[Name, float], other: Name) -> dict[Name, float]:
    """The largest values, and the sum of the others by another name."""
    if len(values) <= MAX_NAMES:
        return dict(values)
    ordered = sorted(values.items(), key=lambda item: -item[1])
    kept = dict(ordered[:MAX_NAMES])
    kept[other] = kept.get(other, 0.0) + sum(value for _, value in ordered[MAX_NAMES:])
    return kept
