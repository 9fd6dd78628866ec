"""What workers tell: checked against their token, and handed to their fleet."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from posthouse.domain.errors import Unauthorized
from posthouse.domain.load import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.engine.hub import Hub
from posthouse.engine.router import Router
from posthouse.fleet.fleet import Fleet


@dataclass(slots=True)
class Ingest:
    hub: Hub
    router: Router
    check_worker: Callable[[int, str], bool]
    """Whether a token is that worker's own; constant in time."""
    refused: int = 0

    def report(self, worker_id: int, token: str, report: Report) -> None:
        """Takes in a report. Raises: Unauthorized for an unknown worker or a token that is not its own."""
        fleet = self._fleet(worker_id, token)
        worker = fleet.workers[WorkerId(worker_id)]
        group = self.hub.workergroups.get(worker.group_id)
        if group is not None and group.signature_scheme:
            report = replace(report, scheme=group.signature_scheme)
        fleet.report(worker.id, report, self.hub.clock.now())
        now_state = fleet.workers.get(worker.id)
        if now_state is None or now_state.state is not worker.state:
            self.hub.bell.set()
        self.router.serve_held(fleet)

    def ended(self, worker_id: int, token: str, ended: tuple[Ended, ...]) -> None:
        """Takes in the ends of requests; those that the worker does not have are counted and ignored."""
        fleet = self._fleet(worker_id, token)
        now = self.hub.clock.now()
        for one in ended:
            fleet.end(WorkerId(worker_id), one, now)
        self.router.serve_held(fleet)

    def _fleet(self, worker_id: int, token: str) -> Fleet:
        fleet = self.hub.fleet_of(worker_id) if self.check_worker(worker_id, token) else None
        if fleet is None:
            self.refused += 1
            raise Unauthorized("mtoken: not the token of this worker")
        return fleet
