"""The control loop: sends each controller `Ticked` when it asked for that, and does what it asks for then.

One endpoint's failure never stops another's tick, nor routing.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from posthouse import tracing
from posthouse.domain.endpoint import EndpointId
from posthouse.engine import journal, words
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.worker_ids import WorkerIds
from posthouse.errors import Refused, StaleVersion
from posthouse.fleet.controller import MIN_GAP_S
from posthouse.fleet.events import Closed, Commit, Offered, Run, Ticked, Written
from posthouse.waiting import is_set_within

log = structlog.get_logger()

LAST_WRITES_S = 3.0
"""How long the end of the server waits for what is being written down."""
LATE_S = 10.0
"""A round that takes longer is a trouble. One of thousands of workers takes less than a second."""
NOT_OURS = "the data directory was moved, removed or replaced: nothing is decided until it is back, or a restart"


@dataclass(slots=True)
class Loop:
    hub: Hub
    executor: Executor
    may_act: Callable[[], bool] = lambda: True
    """Whether this server still owns what it acts on."""
    counts: Counter[str] = field(default_factory=Counter)
    last_tick_s: float = 0.0
    """How long the latest round took."""
    failing: set[EndpointId] = field(default_factory=set)
    """Endpoints whose latest tick failed."""
    _began_s: dict[EndpointId, float] = field(default_factory=dict)
    """When each tick that is not over began."""
    _writing: dict[EndpointId, asyncio.Task[None]] = field(default_factory=dict)
    _unwritten: set[EndpointId] = field(default_factory=set)
    """Endpoints whose latest write failed: a tick that writes nothing does not fix that."""
    _reserving: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.hub.deeds = self
        for managed in self.hub.endpoints.values():
            managed.deeds = self

    async def run(self) -> None:
        """Ticks each endpoint when its controller asked for it, until cancelled."""
        while True:
            self.hub.bell.clear()
            began = time.perf_counter()
            for endpoint_id, managed in list(self.hub.endpoints.items()):
                if managed.wake_at <= self.hub.clock.now() and not managed.closing:
                    self._tick(endpoint_id)
                    await asyncio.sleep(0)
            self.last_tick_s = time.perf_counter() - began
            self.failing &= self.hub.endpoints.keys()
            self.counts["rounds"] += 1
            await asyncio.sleep(MIN_GAP_S)
            wake_at = min((m.wake_at for m in self.hub.endpoints.values() if not m.closing), default=math.inf)
            wait_s = wake_at - self.hub.clock.now() if self.hub.endpoints else self.hub.tick_s
            await is_set_within(self.hub.bell, min(max(0.0, wait_s), self.hub.tick_s))

    def troubles(self) -> list[str]:
        """What fails in the loop, as texts for users."""
        late_s = time.perf_counter() - min(self._began_s.values()) if self._began_s else 0.0
        stuck = [f"a round of decisions has taken {late_s:.0f} s so far"] if late_s > LATE_S else []
        failing = [f"decisions fail, and endpoints stay as they are: {len(self.failing)}"] if self.failing else []
        return stuck + failing + ([] if self.may_act() else [NOT_OURS])

    def take_down(self) -> None:
        """Has every worker destroyed; nothing is decided from now on."""
        for managed in self.hub.endpoints.values():
            managed.handle(Closed(), self.hub.clock.now())

    async def tick_safely(self, endpoint_id: EndpointId) -> None:
        """One tick of one endpoint to its end; a failure is counted and logged, and the next tick tries again."""
        if (managed := self.hub.endpoints.get(endpoint_id)) is not None:
            await self.hub.worker_ids.reserve(managed.fleet.endpoint.scaling.max_workers - len(managed.fleet.workers))
        self._tick(endpoint_id)
        if (writing := self._writing.get(endpoint_id)) is not None:
            await asyncio.wait([writing])

    async def settle(self, managed: ManagedEndpoint) -> None:
        """Waits until what is being written down of an endpoint is written."""
        if (writing := self._writing.get(managed.fleet.endpoint.id)) is not None:
            await asyncio.wait([writing])

    async def close(self) -> None:
        """Waits a moment for what is being written down, and gives up what hangs."""
        tasks = {*self._writing.values(), *([self._reserving] if self._reserving else [])}
        if tasks:
            _, hanging = await asyncio.wait(tasks, timeout=LAST_WRITES_S)
            for task in hanging:
                task.cancel()

    def _tick(self, endpoint_id: EndpointId) -> None:
        managed = self.hub.endpoints.get(endpoint_id)
        if managed is None or managed.closing:
            return
        self._began_s.setdefault(endpoint_id, time.perf_counter())
        try:
            self.tick(managed)
            if endpoint_id not in self._writing and endpoint_id not in self._unwritten:
                self._over(managed)
        except Exception as error:  # noqa: BLE001 - the seam of a tick: whatever breaks, routing and the others go on
            self._failed(managed, error)
            now = self.hub.clock.now()
            managed.handle(Ticked(None), now)  # held requests get their answers all the same
            managed.wake_at = now + self.hub.tick_s

    def tick(self, managed: ManagedEndpoint) -> None:
        """Sends one endpoint's controller `Ticked`. Raises: Refused if this server may not act, and what it raises."""
        if not self.may_act():
            raise Refused(NOT_OURS)
        ids: WorkerIds | None = self.hub.worker_ids
        need = managed.fleet.endpoint.scaling.max_workers - len(managed.fleet.workers)
        if not self.hub.worker_ids.has(need):
            if self._reserving is None:
                self._reserving = asyncio.create_task(self._reserve(managed, need))
            ids = None
        now, offers = self.hub.clock.now(), self.hub.offers_for(managed.fleet.endpoint.id)
        if offers is not managed.offers:
            managed.offers = offers
            managed.handle(Offered(offers), now)
        treasury = self.hub.treasury
        managed.handle(Ticked(ids, treasury.cap(managed, now)), now)
        treasury.settle(managed, now)

    async def _reserve(self, managed: ManagedEndpoint, need: int) -> None:
        try:
            await self.hub.worker_ids.reserve(need)
        except Exception as error:  # noqa: BLE001 - as in _tick
            self._failed(managed, error)
            managed.wake_at = self.hub.clock.now() + self.hub.tick_s
        self._reserving = None
        self.hub.bell.set()

    def _over(self, managed: ManagedEndpoint) -> None:
        endpoint_id = managed.fleet.endpoint.id
        self._began_s.pop(endpoint_id, None)
        self.failing.discard(endpoint_id)
        self._unwritten &= self.hub.endpoints.keys()
        if managed.leaving and managed.fleet.is_over():
            self.hub.endpoints.pop(endpoint_id, None)
            managed.let_go(self.hub.clock.now())
            for tell in self.hub.on_over:
                tell(managed)

    def _failed(self, managed: ManagedEndpoint, error: Exception) -> None:
        endpoint = managed.fleet.endpoint
        self._began_s.pop(endpoint.id, None)
        self.counts["failed_ticks"] += 1
        self.failing.add(endpoint.id)
        log.error("a tick failed", endpoint=endpoint.name, error=repr(error)[:500])

    # -- what controllers ask for --------------------------------------------------------------------------------------

    def wake(self, managed: ManagedEndpoint) -> None:
        """Has the loop look for the next `Ticked` at once."""
        self.hub.bell.set()

    def run_command(self, managed: ManagedEndpoint, command: Run, now: float) -> None:
        """Begins to carry a command out."""
        self.executor.submit(managed, command)

    def commit(self, managed: ManagedEndpoint, commit: Commit, now: float) -> None:
        """Begins to write down what a controller knows and decided."""
        endpoint_id = managed.fleet.endpoint.id
        task = asyncio.create_task(self._traced_write(managed, commit) if tracing.on else self._write(managed, commit))
        self._writing[endpoint_id] = task

    async def _traced_write(self, managed: ManagedEndpoint, commit: Commit) -> None:
        """Commands that follow are begun in it, and so are of its trace."""
        does = "" if commit.decision is None else words.title(journal.plain(commit.decision))
        with tracing.within("tick", parent="", endpoint=managed.fleet.endpoint.name, does=does):
            await self._write(managed, commit)

    async def _write(self, managed: ManagedEndpoint, commit: Commit) -> None:
        endpoint_id = managed.fleet.endpoint.id
        entry = None if commit.decision is None else journal.entry(endpoint_id, commit.decision)
        failure: Exception | None = None
        try:
            with tracing.within("commit"):
                managed.version = await self.hub.store.commit(
                    endpoint_id, managed.version, managed.epoch, commit.rows, entry, commit.rollouts
                )
            self.hub.known_labels.note(commit.rows)
        except Exception as error:  # noqa: BLE001 - as in _tick
            failure = error
        self._writing.pop(endpoint_id, None)
        if failure is None:
            self._unwritten.discard(endpoint_id)
        else:
            self._unwritten.add(endpoint_id)
        try:
            managed.handle(Written(failure is None), self.hub.clock.now())
        except Exception as error:  # noqa: BLE001 - as in _tick
            failure = failure or error
        if failure is None:
            self._over(managed)
        else:
            self._failed(managed, failure)
        if isinstance(failure, StaleVersion) and self.hub.endpoints.get(endpoint_id) is managed:
            await self._recheck_owner(endpoint_id)

    async def _recheck_owner(self, endpoint_id: EndpointId) -> None:
        """Another server has written an endpoint that is here: asks the lease whose it is."""
        try:
            await self.hub.take_over(endpoint_id, again=True)
        except Exception as error:  # noqa: BLE001 - as in _tick; its next write finds the same
            log.error("an endpoint that another server has written could not be read again", error=repr(error)[:500])
