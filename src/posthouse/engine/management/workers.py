"""Workers: found, and sent away."""

from dataclasses import dataclass

from posthouse.domain.endpoint import AccountId
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import NotFound


@dataclass(slots=True)
class Workers:
    """The use cases of workers."""

    hub: Hub

    def get(self, worker_id: int, sees: AccountId | None = None) -> tuple[ManagedEndpoint, Worker]:
        """The worker, and its endpoint. Raises: NotFound, also for one of another account than `sees`."""
        home = self.hub.home_of(worker_id)
        if home is None or sees not in (None, home.fleet.endpoint.account_id):
            raise NotFound(f"worker {worker_id} does not exist")
        return home, home.fleet.workers[WorkerId(worker_id)]

    def gone(self, worker_id: int, sees: AccountId | None = None) -> Worker:
        """The worker that was destroyed lately. Raises: NotFound, also for one of another account than `sees`."""
        for home in self.hub.endpoints.values():
            if sees in (None, home.fleet.endpoint.account_id):
                for _, worker in home.gone_lately(self.hub.clock.now()):
                    if worker.id == worker_id:
                        return worker
        raise NotFound(f"worker {worker_id} does not exist")

    def dismiss(self, worker_id: int, sees: AccountId | None = None) -> None:
        """Sends the worker away once it has finished what it has. Raises: NotFound."""
        home, worker = self.get(worker_id, sees)
        home.dismiss([worker], self.hub.clock.now())
