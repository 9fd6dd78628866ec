"""The events that a controller handles, and the effects it returns. Plain values, to keep, compare and replay."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from posthouse.domain.decision import Cap, Decision
from posthouse.domain.endpoint import Endpoint, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Goal
from posthouse.domain.lifecycle import Event as Cause
from posthouse.domain.offer import GroupOffer
from posthouse.domain.reports import Ended, Report
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId


class Level(IntEnum):
    """How much a line matters. A level includes those before it here."""

    INFO0 = 0  # what a user must know: failures, refusals, limits that are reached
    INFO1 = 1  # what becomes of each worker, and decisions that change something
    TRACE = 2  # every decision that is kept, and reports that say something new
    DEBUG = 3  # answers to commands, and requests that failed or were given up

    def __str__(self) -> str:
        return self.name.lower()


class Assignment(Struct, frozen=True, array_like=True, gc=False):
    """A request that has a worker."""

    worker: Worker
    request_idx: int
    reqnum: int


class Waiting(NamedTuple):
    """A request that has none yet. `request_idx` 0: it is not remembered, and must be asked for again from scratch."""

    request_idx: int
    held: bool = False
    """It is held open: a `Deliver` will say what becomes of it."""
    denied: str = ""
    """Why it is given no worker any more."""


Outcome: TypeAlias = Assignment | Waiting


class Wish(NamedTuple):
    """Which workers of an endpoint a request must have, or is best at."""

    key: int = 0
    """Requests with the same begin alike: what a worker keeps of one is of use to the next. From 0, none, to below
    2**64."""
    only: frozenset[WorkerId] | None = None
    """No other worker may have it."""


# -- events ------------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A client asks for a worker. As a direct method, for speed: `Controller.assign`."""

    request_idx: int
    cost: float
    polls: bool = True
    hold_s: float = 0.0
    wish: Wish | None = None


class Left(NamedTuple):
    """A client left before it got a worker."""

    request_idx: int


class Failed(NamedTuple):
    """A caller saw its request fail at a worker."""

    request_idx: int
    worker_id: WorkerId
    why: str


class Reported(NamedTuple):
    worker_id: WorkerId
    report: Report


class RequestsEnded(NamedTuple):
    """A worker reported that requests have ended."""

    worker_id: WorkerId
    ends: tuple[Ended, ...]


class Listed(NamedTuple):
    """A provider's complete list of what it has of this endpoint, asked for at `asked_at`."""

    provider: str
    instances: tuple[Instance, ...]
    asked_at: float


class Offered(NamedTuple):
    """What could be rented from now on."""

    offers: tuple[GroupOffer, ...]


class Answered(NamedTuple):
    """A command was answered, or its answer will not be waited for any longer."""

    worker_id: WorkerId
    command: Command
    failure: str = ""
    """A clear refusal; empty for success or an unknown outcome."""
    blame: bool = True
    """The failure counts against the workergroup and the machine."""
    instance: Instance | None = None


class Ticked(NamedTuple):
    """Time has come to a moment that `WakeAt` asked for."""

    ids: Iterable[WorkerId] | None = ()
    """Ids that no worker ever had, for those that are to be rented. None: none are at hand, so decide later."""
    cap: Cap | None = None
    """The most that the endpoint may come to cost now, where more than its `max_usd_h` bounds that."""


class Written(NamedTuple):
    """The latest `Commit` was carried out, or failed."""

    ok: bool


class Configured(NamedTuple):
    """The endpoint's parameters, or what its workergroups rent from, are now these."""

    endpoint: Endpoint
    providers: frozenset[str] = frozenset()
    """They must have been listed before anything is decided."""
    builds: tuple[tuple[WorkergroupId, str], ...] = ()
    """Every workergroup with the version of its template. Another one than before begins an update."""


class Dismissed(NamedTuple):
    """These workers are to go; or to rest, with HOT to serve on, or with UPDATED to restart in their turn."""

    worker_ids: tuple[WorkerId, ...]
    goal: Goal = Goal.GONE


class UpdateAsked(NamedTuple):
    """Every worker of a workergroup is to run what its template says now, also one that does already or that was rolled
    back; or no more if that has not begun."""

    group_id: WorkergroupId
    wanted: bool = True


class Released(NamedTuple):
    """Nobody can be held open any longer."""


class Closed(NamedTuple):
    """Every worker is to go, and nothing is decided any more."""


Event: TypeAlias = (
    Asked
    | Left
    | Failed
    | Reported
    | RequestsEnded
    | Listed
    | Offered
    | Answered
    | Ticked
    | Written
    | Configured
    | Dismissed
    | UpdateAsked
    | Released
    | Closed
)

# -- effects -----------------------------------------------------------------------------------------------------------


class Deliver(NamedTuple):
    """Tell the caller of a held request what became of it."""

    request_idx: int
    outcome: Assignment | Waiting


class Run(NamedTuple):
    """Carry out a command, and answer with `Answered`. What led to it is in the store."""

    worker: Worker
    command: Command


class Commit(NamedTuple):
    """Write this to the store, and answer with `Written`."""

    rows: tuple[Worker, ...]
    decision: Decision | None
    """One for the journal."""
    rollouts: tuple[Rollout, ...] = ()
    """All of the endpoint if one of them changed, else none."""


class Moved(NamedTuple):
    before: Worker
    after: Worker
    why: Cause


class Say(NamedTuple):
    """Something that people may want to read."""

    level: Level
    text: str
    worker_id: WorkerId | None = None
    """None: it concerns the whole endpoint."""
    group_id: WorkergroupId | None = None


class WakeAt(NamedTuple):
    """Send `Ticked` at this time, in place of any time that was asked for before."""

    at: float


Effect: TypeAlias = Deliver | Run | Commit | Moved | Say | WakeAt


class Outbox(list[Effect]):
    """Effects that nobody has taken yet."""

    def say(self, level: Level, text: str, worker: Worker | None = None) -> None:
        ids = (None, None) if worker is None else (worker.id, worker.group_id)
        self.append(Say(level, text, *ids))

    def take(self) -> list[Effect]:
        """All of them; it is empty then."""
        taken = self[:]
        self.clear()
        return taken


class Traffic:
    """Called for each request, with what would be too much to keep as effects. This one records nothing."""

    def asked(self, work: float, now: float) -> None:
        """A new request."""

    def waited(self, wait_s: float, work: float) -> None:
        """A request was given its first worker, later than it came."""

    def gave_up(self, work: float) -> None:
        """A request went away before it was given a worker."""

    def served(self, work: float, took_s: float) -> None:
        """A request was answered by a worker that had no other when it came."""

    def left(self, worker_id: WorkerId, work: float, took_s: float, now: float) -> None:
        """A request is at a worker no longer, `took_s` after it came there."""


@dataclass(slots=True)
class Counters:
    """Counts since the start, for metrics and tests."""

    routed: int = 0
    waited: int = 0
    ended: int = 0
    failed: int = 0
    expired: int = 0
    late_observations: int = 0
    refused_ends: int = 0
    refused_addresses: int = 0
    keyed: int = 0
    """Requests with a key that were given a worker."""
    kept: int = 0
    """Those of them that were given the one that is best for their key."""
