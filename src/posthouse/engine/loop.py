"""The control loop: look, decide, write down, act. One endpoint's failure never stops another's tick, nor routing."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import structlog

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import Goal
from posthouse.domain.plan import Action
from posthouse.domain.worker import WorkerId
from posthouse.engine import journal
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub, ManagedEndpoint
from posthouse.engine.observer import Observer
from posthouse.fleet.fleet import Fleet
from posthouse.policy.decide import decide

log = structlog.get_logger()

SAVE_S = 60.0
"""How often what workers have spent is written down while nothing else changes."""
LATE_S = 10.0
"""A round that takes longer is a trouble. One of thousands of workers takes less than a second."""
MIN_GAP_S = 0.05
"""Shortest time between two ticks, however often the bell rings."""


@dataclass(slots=True)
class Loop:
    hub: Hub
    observer: Observer
    executor: Executor
    tick_s: float
    silent_s: float
    taking_down: bool = False
    """Every worker is to go; nothing is decided any more."""
    counts: Counter[str] = field(default_factory=Counter)
    last_tick_s: float = 0.0
    """How long the latest round took."""
    failing: set[EndpointId] = field(default_factory=set)
    """Endpoints whose latest tick failed."""
    _round_began_s: float = 0.0

    async def run(self) -> None:
        """Ticks for ever: every `tick_s`, and when the bell rings."""
        while True:
            self.hub.bell.clear()
            began = self._round_began_s = time.perf_counter()
            for endpoint_id in list(self.hub.endpoints):
                await self.tick_safely(endpoint_id)
            self.last_tick_s, self._round_began_s = time.perf_counter() - began, 0.0
            self.failing &= self.hub.endpoints.keys()
            self.counts["rounds"] += 1
            await asyncio.sleep(MIN_GAP_S)
            try:
                async with asyncio.timeout(max(MIN_GAP_S, self.tick_s - self.last_tick_s)):
                    await self.hub.bell.wait()
            except TimeoutError:
                continue

    def troubles(self) -> list[str]:
        """What fails in the loop, in words that anybody may read."""
        late_s = time.perf_counter() - self._round_began_s if self._round_began_s else 0.0
        stuck = [f"a round of decisions has taken {late_s:.0f} s so far"] if late_s > LATE_S else []
        failing = [f"decisions fail, and endpoints stay as they are: {len(self.failing)}"] if self.failing else []
        return stuck + failing

    async def tick_safely(self, endpoint_id: EndpointId) -> None:
        """One tick of one endpoint; a failure is counted and logged, and the next tick tries again."""
        managed = self.hub.endpoints.get(endpoint_id)
        if managed is None:
            return
        try:
            await self.tick(managed)
            self.failing.discard(endpoint_id)
        except Exception as error:  # noqa: BLE001 - the seam of a tick: whatever breaks, routing and the others go on
            self.counts["failed_ticks"] += 1
            self.failing.add(endpoint_id)
            log.error("a tick failed", endpoint=managed.fleet.endpoint.name, error=repr(error)[:500])

    async def tick(self, managed: ManagedEndpoint) -> None:
        """One tick of one endpoint."""
        fleet, now = managed.fleet, self.hub.clock.now()
        fleet.advance(now, self.silent_s)
        actions: tuple[Action, ...] = ()
        if managed.leaving or self.taking_down:
            for worker_id in list(fleet.workers):
                fleet.set_goal(worker_id, Goal.GONE)
            actions = fleet.due(now)
        elif self._seen(managed):
            await self.hub.worker_ids.reserve(fleet.endpoint.scaling.max_workers - len(fleet.workers))
            now = self.hub.clock.now()
            decision = decide(fleet.snapshot(now, self.hub.offers_for(fleet.endpoint.id)), managed.memory)
            managed.decision, managed.memory = decision, decision.memory
            actions = fleet.tick(decision, now, self.hub.worker_ids, self.hub.label_prefix)
            journal.note(managed, decision)
        await self._write_down(managed, now)
        # Everything in `actions` is written down now: intent before effect. The world went on meanwhile, so some of it
        # may not be due any more; and what has become due since, no decision has seen.
        now = self.hub.clock.now()
        still_due = set(fleet.due(now))
        for action in actions:
            if action in still_due and self._listed(action.worker_id, fleet):
                fleet.command_sent(action, now)
                self.executor.submit(fleet, action)
        managed.deliver()
        if managed.leaving and not fleet.workers:
            await self._write_down(managed, now)
            self.hub.endpoints.pop(fleet.endpoint.id, None)

    async def _write_down(self, managed: ManagedEndpoint, now: float) -> None:
        save_all = managed.is_turn(SAVE_S, managed.saved_at, now)
        rows = managed.fleet.take_changes(everything=save_all)
        entry = managed.unwritten[0] if managed.unwritten else None
        if not rows and entry is None:
            return
        try:
            managed.version = await self.hub.store.commit(
                managed.fleet.endpoint.id, managed.version, self.hub.epoch, rows, entry
            )
        except BaseException:
            managed.fleet.give_back(rows)
            raise
        if save_all:
            managed.saved_at = now
        if entry is not None:
            managed.unwritten.popleft()

    def _seen(self, managed: ManagedEndpoint) -> bool:
        """True once every provider that this endpoint uses has been listed: before that, what exists is not known."""
        groups = self.hub.groups_of(managed.fleet.endpoint.id)
        needed = {g.provider or self.hub.default_provider for g in groups}
        needed |= {w.provider for w in managed.fleet.workers.values()}
        return all(name in self.observer.seen for name in needed if name in self.hub.providers)

    def _listed(self, worker_id: WorkerId, fleet: Fleet) -> bool:
        """True if the worker's provider has been listed since the start, or is gone for good."""
        name = fleet.workers[worker_id].provider
        return name in self.observer.seen or name not in self.hub.providers
