"""Workers: found, shown, and dismissed."""

from dataclasses import dataclass
from typing import Final

from posthouse.audit import Act
from posthouse.domain.endpoint import AccountId
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine import words
from posthouse.engine.figures import look
from posthouse.engine.history import Line
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import Elsewhere, NotFound, Refused
from posthouse.fleet.ledger import NOBODY
from posthouse.policy.capacity import kind_of
from posthouse.wire import rows

MAX_REQUESTS: Final = 50
"""Most requests of a worker that are shown."""
MAX_STORY: Final = 200
"""Most history lines of a worker that are shown."""
DECISIONS: Final = 200
"""Decisions about its endpoint that are looked through for it."""


@dataclass(slots=True)
class Workers:
    """The use cases of workers."""

    hub: Hub

    def get(self, worker_id: int, sees: AccountId | None = None) -> tuple[ManagedEndpoint, Worker]:
        """The worker, and its endpoint. Raises: NotFound, also for one of another account than `sees`; Elsewhere where
        another server may have it."""
        home = self.hub.home_of(worker_id)
        if home is None and self.hub.lease.is_shared() and not self._is_gone(worker_id):
            raise Elsewhere(f"another server may have worker {worker_id}", worker_id=worker_id)
        if home is None or sees not in (None, home.fleet.endpoint.account_id):
            raise NotFound(f"worker {worker_id} does not exist")
        return home, home.fleet.workers[WorkerId(worker_id)]

    def gone(self, worker_id: int, sees: AccountId | None = None) -> tuple[ManagedEndpoint, Worker, float]:
        """The worker that was destroyed recently, its endpoint, and when. Raises: NotFound as above."""
        for home in self.hub.endpoints.values():
            if sees in (None, home.fleet.endpoint.account_id):
                for at, worker in home.recently_gone(self.hub.clock.now()):
                    if worker.id == worker_id:
                        return home, worker, at
        raise NotFound(f"worker {worker_id} does not exist")

    def _is_gone(self, worker_id: int) -> bool:
        """Whether it was destroyed recently, by this server."""
        now = self.hub.clock.now()
        return any(w.id == worker_id for home in self.hub.endpoints.values() for _, w in home.recently_gone(now))

    async def dismiss(self, worker_id: int, sees: AccountId | None = None) -> None:
        """Sends the worker away once it has finished what it has. Raises: NotFound."""
        home, worker = await self._noted("destroy", worker_id, sees)
        home.dismiss([worker], self.hub.clock.now())

    async def _noted(self, what: str, worker_id: int, sees: AccountId | None) -> tuple[ManagedEndpoint, Worker]:
        """Notes what somebody wants of the worker, before it is done; the worker as it is then. Raises: NotFound."""
        home, worker = self.get(worker_id, sees)
        endpoint, was = home.fleet.endpoint, {"state": str(worker.state), "goal": str(worker.goal)}
        about = (endpoint.account_id, endpoint.id, endpoint.name)
        await self.hub.store.note(Act(f"worker.{what}", str(worker_id), *about, before=was))
        return self.get(worker_id, sees)

    async def drain(self, worker_id: int, who: str, sees: AccountId | None = None) -> None:
        """Has the worker finish what it has and rest, until the load calls for it. Raises: NotFound, Refused."""
        home, worker = self.get(worker_id, sees)
        if worker.goal is not Goal.HOT or worker.state is not State.IDLE:
            raise Refused(f"worker {worker_id} takes no requests: it is {worker.state}, and wanted {worker.goal}")
        home, worker = await self._noted("drain", worker_id, sees)
        home.wish(worker.id, Goal.COLD, who, self.hub.clock.now())

    async def undrain(self, worker_id: int, who: str, sees: AccountId | None = None) -> None:
        """Takes back a drain that has not ended. Raises: NotFound, Refused."""
        _, worker = self.get(worker_id, sees)
        if worker.goal is not Goal.COLD or worker.state is not State.IDLE:
            raise Refused(f"worker {worker_id} does not drain now: it is {worker.state}, and wanted {worker.goal}")
        home, worker = await self._noted("undrain", worker_id, sees)
        home.wish(worker.id, Goal.HOT, who, self.hub.clock.now())

    async def restart(self, worker_id: int, who: str, sees: AccountId | None = None) -> None:
        """Restarts the worker with what its template says, in its turn: when the others can do its work.

        Raises: NotFound, Refused.
        """
        home, worker = self.get(worker_id, sees)
        if worker.goal is Goal.GONE:
            raise Refused(f"worker {worker_id} is being destroyed")
        home, worker = await self._noted("restart", worker_id, sees)
        home.wish(worker.id, Goal.UPDATED, who, self.hub.clock.now())

    async def page(self, home: ManagedEndpoint, worker: Worker) -> rows.WorkerPage:
        """All that there is to know of a worker."""
        now, fleet = self.hub.clock.now(), home.fleet
        estimates = fleet.roster.estimator.estimates(now)
        kind = kind_of(worker.group_id, worker)
        there = fleet.ledger.at.get(worker.id, NOBODY)
        oldest = sorted(there.values(), key=lambda request: request.assigned_at)[:MAX_REQUESTS]
        requests = [
            rows.OpenRequest(id=r.idx, work=r.cost, for_s=max(0.0, now - r.assigned_at), seen=r.seen) for r in oldest
        ]
        return rows.WorkerPage(
            look=look(worker),
            label=worker.label,
            addresses=sorted(worker.addresses),
            created_at=worker.created_at,
            since=worker.since,
            loaded_at=worker.loaded_at,
            ready_usd_h=worker.price.ready_usd_h,
            stopped_usd_h=worker.price.stopped_usd_h,
            can_rest=worker.capabilities.stop,
            can_restart=worker.capabilities.update,
            usual_perf=estimates.perf.get(kind, 0.0),
            usual_start_s=estimates.create_s_of.get(kind, 0.0),
            requests=requests,
            open_requests=len(there),
            performance=home.samples.of_worker(worker.id),
            story=await self._story(home, worker),
        )

    async def _story(self, home: ManagedEndpoint, worker: Worker) -> list[rows.Happened]:
        """What happened to the worker and what was decided about it, the latest first."""
        found = [_happened(line) for line in home.history.lines() if line.worker_id == worker.id]
        for entry in await self.hub.store.journal(home.fleet.endpoint.id, DECISIONS):
            if (goal := entry.body["goals"].get(str(worker.id))) is not None:
                title = f"Wanted {goal}"
                text = words.text(entry.body)
                found.append(rows.Happened(at=entry.at, level="info1", title=title, text=text))
        return sorted(found, key=lambda one: one.at, reverse=True)[:MAX_STORY]


def _happened(line: Line) -> rows.Happened:
    title = line.state.replace("_", " ").capitalize()
    text = line.text.partition(": ")[2] if line.state else line.text
    return rows.Happened(at=line.at, level=str(line.level), title=title, text=text, state=line.state)
