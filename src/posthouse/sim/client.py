"""Clients: how often they ask, how long they wait, what they do after a failure."""

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from posthouse.domain.worker import WorkerId

FIRST_POLL_S, MIN_POLL_S, MAX_POLL_S = 1.0, 0.1, 5.0
"""Between two polls of the protocol's own client: 1 s, then random up to 5 s. Source: vastai 1.9.1."""
RECONNECT_S = 0.01
"""After a refused or broken connection it asks again at once; this long is the way to the worker and back."""


class ClientKind(StrEnum):
    POLLING = "polling"  # the protocol's own client: asks again with the same index until it has a worker
    CLASSIC = "classic"  # scripts of the first years: an answer without a worker is a failure; a retry is a new request


@dataclass(frozen=True, slots=True)
class ClientBehaviour:
    """What all clients of a world have in common."""

    kind: ClientKind = ClientKind.POLLING
    timeout_s: float = 0.0
    """From the first ask to giving up, the service included; 0: they never do. Polling clients only."""
    polls_s: tuple[float, float] | None = None
    """Between two polls, at random; None: as the protocol's own client does."""
    retries: int = 0
    """How often a classic client asks again."""
    retry_s: float = 1.0
    """How long it waits before that."""


@dataclass(slots=True, eq=False)
class Client:
    """One request and the client that waits for its answer."""

    cost: float
    asked_at: float
    broken: bool = False
    """It reaches no worker."""
    idx: int = 0
    polls: int = 0
    tries: int = 0
    assigned_at: float = 0.0
    began_at: float = 0.0
    """When a slot of a worker began on it, the last time."""
    answered_at: float = 0.0
    gone: bool = False
    """It gave up."""
    workers: list[WorkerId] = field(default_factory=list)
    """The workers it was sent to, in order."""

    def poll_s(self, behaviour: ClientBehaviour, random: Random) -> float:
        """How long until it asks again, after an answer without a worker."""
        n, self.polls = self.polls, self.polls + 1
        if behaviour.polls_s is not None:
            return random.uniform(*behaviour.polls_s)
        longest_s = min(2 ** min(n, 10) + random.random(), MAX_POLL_S)
        return FIRST_POLL_S if n == 0 else random.uniform(MIN_POLL_S, longest_s)
