"""What `GET /v1/events` tells: one class for each kind of event."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from posthouse.wire.rows.base import Row
from posthouse.wire.rows.decisions import Decision
from posthouse.wire.rows.live import Figures, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class _Happening(Row):
    kind: ClassVar[str]
    """The event's name in the stream."""
    at: float
    """Epoch seconds."""
    endpoint_id: int
    endpoint: str
    """The endpoint's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanged(_Happening):
    """`endpoint`: how an endpoint stands. At most once a second, and only if something has changed."""

    kind: ClassVar[str] = "endpoint"
    state: str
    workers: dict[str, int]
    """How many, by state."""
    outstanding: float
    """Work that workers have been given and have not finished."""
    waiting: int
    """Requests without a worker."""
    usd_h: float
    """US dollars per hour now."""
    spent_usd: float
    condition: str
    """As in `GET /v1/status`."""
    verdict: Verdict | None
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided(_Happening):
    """`decision`: what was decided, and why. One that changes nothing comes at most once a minute."""

    kind: ClassVar[str] = "decision"
    decision: Decision
    title: str
    """What it does, in a few words."""
    text: str
    """Why, in at most three sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMoved(_Happening):
    """`worker`: a worker changed its state."""

    kind: ClassVar[str] = "worker"
    worker_id: int
    before: str
    """The state it left."""
    state: str
    goal: str
    workergroup_id: int
    provider: str
    gpu_name: str
    url: str
    usd_h: float
    """US dollars per hour in its present state."""
    message: str
    """What it or its provider last said went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(_Happening):
    """`log`: a line of the endpoint's log."""

    kind: ClassVar[str] = "log"
    level: str
    """`info0`, `info1`, `trace` or `debug`: the first matters most."""
    text: str
    worker_id: int | None
    """None: it concerns the whole endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Row):
    """`lost`: events that you have not seen are kept no more. Read the lists again."""

    kind: ClassVar[str] = "lost"
    oldest: int
    """The id of the oldest event that is kept, or of the next one."""


Happening: TypeAlias = EndpointChanged | Decided | WorkerMoved | Logged
