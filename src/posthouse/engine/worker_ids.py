"""Worker ids, unique over all servers: taken from the store in blocks, before they are needed. And known labels."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from posthouse.domain.worker import Worker, WorkerId

MAX_KNOWN_LABELS = 100_000
"""Most labels that are remembered; beyond it the oldest go."""

ID_DIGITS = 15
"""Of the longest worker id that is believed: below 2^53, which every reader of JSON keeps."""


@dataclass(slots=True)
class WorkerIds:
    """An iterator over ids that no worker ever had. It never waits: `reserve` does."""

    take: Callable[[int, int], Awaitable[WorkerId]]
    """The store's `take_worker_ids`."""
    _next: int = 1
    _end: int = 1
    """The first id beyond the present block."""
    _highest_seen: int = 0
    """Of labels that exist at providers."""

    async def reserve(self, count: int) -> None:
        """Ensures that `count` consecutive ids are available."""
        missing = count - (self._end - self._next)
        if missing <= 0:
            return
        first = await self.take(missing, self._highest_seen)
        if first != self._end:  # another server took some in between: a new block
            self._next = first
            self._end = first + missing
            await self.reserve(count)
        else:
            self._end += missing

    def has(self, count: int) -> bool:
        """True if `count` consecutive ids are available."""
        return count <= self._end - self._next

    def note(self, worker_id: str) -> None:
        """Notes an id that an instance carries, as text: only greater ones are given from now on.

        A store from a backup may not know it, nor those that were given before it.
        """
        if not (worker_id.isascii() and worker_id.isdecimal() and len(worker_id) <= ID_DIGITS):
            return
        self._highest_seen = max(self._highest_seen, int(worker_id))
        self._next = max(self._next, min(int(worker_id) + 1, self._end))

    def __iter__(self) -> "WorkerIds":
        return self

    def __next__(self) -> WorkerId:
        if self._next >= self._end:
            raise RuntimeError("no worker id was reserved")
        self._next += 1
        return WorkerId(self._next - 1)


class KnownLabels:
    """The labels of workers that are here or were, as far as the store still knew them at the start.

    An instance with one of these was made by us, and if no worker has it any more, its end was decided here, too.
    """

    def __init__(self) -> None:
        self._labels: dict[str, None] = {}

    def __contains__(self, label: str) -> bool:
        return label in self._labels

    def note(self, workers: Iterable[Worker]) -> None:
        """Adds the labels of workers that the store has."""
        self._labels |= dict.fromkeys(worker.label for worker in workers)
        while len(self._labels) > MAX_KNOWN_LABELS:
            del self._labels[next(iter(self._labels))]
