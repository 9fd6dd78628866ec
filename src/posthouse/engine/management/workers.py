"""Workers: found, and sent away."""

from collections.abc import Iterable
from dataclasses import dataclass

from posthouse.domain.account import AccountId
from posthouse.domain.errors import NotFound
from posthouse.domain.lifecycle import Goal
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.hub import Hub
from posthouse.fleet.fleet import Fleet


@dataclass(slots=True)
class Workers:
    """The use cases of workers."""

    hub: Hub

    def get(self, worker_id: int, sees: AccountId | None = None) -> tuple[Fleet, Worker]:
        """The worker, and the fleet that has it. Raises: NotFound, also for one of another account than `sees`."""
        fleet = self.hub.fleet_of(worker_id)
        if fleet is None or sees not in (None, fleet.endpoint.account_id):
            raise NotFound(f"worker {worker_id} does not exist")
        return fleet, fleet.workers[WorkerId(worker_id)]

    def dismiss(self, worker_id: int, sees: AccountId | None = None) -> None:
        """Sends the worker away once it has finished what it has. Raises: NotFound."""
        fleet, worker = self.get(worker_id, sees)
        dismiss(self.hub, fleet, [worker])


def dismiss(hub: Hub, fleet: Fleet, workers: Iterable[Worker]) -> int:
    """Sends the workers away; returns how many were not on their way out yet."""
    leaving = [w.id for w in workers if w.goal is not Goal.GONE]
    for worker_id in leaving:
        fleet.set_goal(worker_id, Goal.GONE)
    hub.bell.set()
    return len(leaving)
