"""A box: an instance with the worker that runs on it, and the requests in its slots."""

from collections import deque
from dataclasses import dataclass, field

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.sim.client import Client
from posthouse.sim.market import Host

HEARTBEAT_S, REPORT_S = 1.0, 10.0
"""Periods of a worker's own loop, and of its report if nothing changes. Source: vastai 1.9.1."""


@dataclass(slots=True, eq=False)
class SimInstance:
    worker_id: WorkerId
    label: str
    host: Host
    perf: float
    """Work per second that it says it can do."""
    version: int = 0
    """Of the template that it runs."""
    seen: Observation = Observation.PROVISIONING
    ready: bool = False
    life: int = 0
    """Raised whenever it ends or starts over: what was begun in an earlier life does not happen."""
    working: dict[int, Client] = field(default_factory=dict)
    """Requests that it has, in slots and in its queue."""
    queue: deque[Client] = field(default_factory=deque)
    served: int = 0
    """How many are in slots."""
    ended: list[Ended] = field(default_factory=list)
    """Ends that it has not reported yet."""
    began_at: float = 0.0
    """When its loop began; it beats whole seconds after that."""
    heartbeat_at: float = 0.0
    reported_at: float = 0.0
    changed: bool = True
    deaf: bool = False
    """It refuses connections, and reports on."""
    progress: int = 0

    @property
    def address(self) -> str:
        return f"10.0.0.1:{self.worker_id}"

    def listed(self) -> Instance:
        """What its provider says of it."""
        price = self.host.price if self.host.hardware.price_changes else None
        places = frozenset({self.address})
        return Instance(self.label, self.label, self.seen, places, progress=str(self.progress), price=price)

    def report(self) -> Report:
        """What its worker says of itself."""
        perf = self.perf if self.ready else 0.0
        return Report(perf, "", f"http://{self.address}", "1.1.0", "U", frozenset(self.working))

    def next_beat_at(self, now: float) -> float:
        """When it next tells what has changed."""
        if self.host.hardware.agent:
            return max(now, self.reported_at + HEARTBEAT_S)
        return self.began_at + HEARTBEAT_S * (int((now - self.began_at) / HEARTBEAT_S + 1e-6) + 1)
