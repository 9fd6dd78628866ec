"""What becomes of one worker's row: from the intent to rent it, by a report, by being ready."""

from dataclasses import replace

from posthouse.domain.address import believed
from posthouse.domain.decision import Rental
from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import COMING, STATE_TIMEOUT_S, Goal, State
from posthouse.domain.reports import Report
from posthouse.domain.worker import Worker, WorkerId


def wanted(rental: Rental, worker_id: WorkerId, endpoint_id: EndpointId, label: str, now: float) -> Worker:
    """A worker that is to be rented. `label`: what every label begins with."""
    offer = rental.offer.offer
    return Worker(
        id=worker_id,
        endpoint_id=endpoint_id,
        group_id=rental.group_id,
        label=f"{label}{worker_id}",
        provider=offer.provider,
        offer_id=offer.id,
        machine=offer.machine,
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        price=offer.price,
        capabilities=offer.capabilities,
        created_at=now,
        goal=rental.goal,
        since=now,
        progressed_at=now,
    )


def after_report(worker: Worker, report: Report) -> tuple[Worker, bool, bool]:
    """The worker as its report tells it, whether it is ready, and whether it told an address that is not its own."""
    refused = False
    if (worker.version, worker.scheme) != (report.version, report.scheme):
        worker = replace(worker, version=report.version, scheme=report.scheme)
    url = believed(report.url, worker.url, worker.addresses)
    if url and url != worker.url:
        worker = replace(worker, url=url)
    elif not url and report.url:
        refused = True
        worker = replace(worker, message=f"reported an address that is not its own: {report.url[:200]}")
    # A report that does not speak of it goes on as it was; one of a worker that comes back is not ready yet.
    perf = report.max_perf if report.max_perf is not None else worker.perf if worker.state is State.IDLE else 0.0
    ready = perf > 0 and not report.error and bool(url)
    if ready and perf != worker.perf:
        worker = replace(worker, perf=perf)
    if report.error or (report.waits_for and worker.state in COMING):
        worker = replace(worker, message=(report.error or report.waits_for)[:500])
    return worker, ready, refused


def can_be_updated(worker: Worker) -> bool:
    """True if an update of its workergroup is one of this worker."""
    return worker.goal is not Goal.GONE and worker.state not in (State.WANTED, State.ERROR, State.DESTROYING)


def restored(worker: Worker, now: float) -> Worker:
    """A worker of an earlier life of the server, as it is to be looked at now."""
    if worker.state is State.WANTED:
        # Its creation may have been asked for and never answered: look by label before anything else.
        worker = replace(worker, state=State.CREATING)
    if worker.state in STATE_TIMEOUT_S:  # nobody looked meanwhile, so its deadline begins again
        worker = replace(worker, since=now, progressed_at=now)
    return worker


class Progress:
    """What was last seen of each worker's progress, by who tells of it."""

    def __init__(self) -> None:
        self._seen: dict[WorkerId, dict[str, str]] = {}
        self._disk_gb: dict[WorkerId, float] = {}
        self.loading_s: dict[WorkerId, float] = {}  # how long a worker may load, where its template says that

    def changed(self, worker_id: WorkerId, source: str, text: str) -> bool:
        """True if a source tells of something that it did not tell last."""
        seen = self._seen.setdefault(worker_id, {})
        before, seen[source] = seen.get(source), text
        return before != text

    def reported(self, worker_id: WorkerId, report: Report) -> str:
        """What a worker tells of its progress, or what its disk holds; some generations tell the growth alone."""
        self.loading_s[worker_id] = report.loading_timeout_s
        before_gb = self._disk_gb.get(worker_id, 0.0)
        disk_gb = self._disk_gb[worker_id] = report.disk_gb or max(0.0, before_gb + report.disk_added_gb)
        return f"{disk_gb:.3f}" if report.progress is None else str(report.progress)

    def forget(self, worker_id: WorkerId) -> None:
        """The worker is gone."""
        self._seen.pop(worker_id, None)
        self._disk_gb.pop(worker_id, None)
        self.loading_s.pop(worker_id, None)
