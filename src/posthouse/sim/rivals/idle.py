"""Workers that are kept for a while after their last request, for policies with an idle timeout for each."""

from posthouse.domain.plan import Snapshot
from posthouse.domain.worker import WorkerId
from posthouse.policy.capacity import ready


class Idle:
    """Remembers since when each worker has been without a request."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._since: dict[WorkerId, float] = {}

    def kept(self, s: Snapshot) -> int:
        """How many ready workers have a request, or had one less than the timeout ago."""
        crew = ready(s.workers)
        self._since = {w.id: self._since.get(w.id, s.now) for w in crew if w.id not in s.busy}
        return len(crew) - sum(s.now - since >= self.timeout_s for since in self._since.values())
