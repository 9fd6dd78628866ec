"""The state of a worker: whether it is ready, what it works on, what it has not reported yet."""

import asyncio
import math
import time
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from posthouse.wire.grant import AGENT

VERSION: Final = "1.1.0"  # the peer's worker whose reports and whose signature scheme (U) the agent follows
MAX_UNREPORTED: Final = 10_000  # ended requests kept while the server is away; beyond it they are forgotten

_SPAN_S: Final = ((60.0, 10.0), (600.0, 30.0), (math.inf, 60.0))
"""The steps in which a wait is reported, by its length: the server stores each new text."""

Outcome = Literal["Success", "Error", "Cancelled", "Rejected"]


@dataclass(slots=True, eq=False)
class Request:
    """One request from its acceptance to its end. Units: work; epoch seconds, 0 for never."""

    request_idx: int
    work: float
    entered_queue_at: float = field(default_factory=time.time)
    work_started_at: float = 0.0
    is_session: bool = False
    """It is a session: it holds its work for as long as it is open, and nothing runs for it."""
    is_light: bool = False
    """It asks for no work, such as how an answer stands: it waits for no other."""
    in_session: bool = False
    """It came in a session, and the server knows only of that."""


@dataclass(slots=True)
class Amounts:
    """Work since the last report that was delivered."""

    received: float = 0.0
    done: float = 0.0
    cancelled: float = 0.0
    rejected: float = 0.0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            self.received + other.received,
            self.done + other.done,
            self.cancelled + other.cancelled,
            self.rejected + other.rejected,
        )


class Worker:
    """The state of this worker.

    `changed` asks for a report within a second; `urgent` asks that at once is told what has ended, and with `news` the
    report, too. `idle` is set while nothing is in flight.
    """

    def __init__(self) -> None:
        self.started_at = time.time()
        self.perf = 0.0
        """Measured work per second; 0 until the worker is ready."""
        self.loading_s = 0.0
        self.failure = ""
        """Why the worker is of no use, for good."""
        self.illness = ""
        """Why the worker is of no use at the moment."""
        self.stopping = False
        """No new requests are accepted."""
        self.answered_at = 0.0
        """When the model server last sent a byte for a request, by `time.monotonic`."""
        self.busy_since = 0.0
        """When it last began to have something to do, by the same clock."""
        self.waiting_text = ""
        """What a worker that loads waits for."""
        self._waiting_since = time.monotonic()
        self.adapters: tuple[str, ...] = ()
        """What to call each adapter that the model server holds."""
        self.in_flight: set[Request] = set()
        self.accepted = 0
        self.amounts = Amounts()
        self.ended: list[dict[str, Any]] = []
        """Ended requests, as `/delete_requests/` takes them, that the server does not know of."""
        self.changed = asyncio.Event()
        self.urgent = asyncio.Event()
        self.news = False
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def ready(self) -> bool:
        return self.perf > 0 and not self.failure and not self.illness

    @property
    def load(self) -> float:
        """Work of all requests in flight that the server knows of, open sessions among them."""
        return sum(request.work for request in self._reported)

    @property
    def wait_s(self) -> float:
        """How long a new request would wait, if all work is done one after the other."""
        return sum(request.work for request in self._running) / self.perf if self.perf else 0.0

    @property
    def busy(self) -> bool:
        """Whether the model has something to do."""
        return bool(self._running)

    @property
    def _reported(self) -> list[Request]:
        return [request for request in self.in_flight if not request.in_session]

    @property
    def _running(self) -> list[Request]:
        return [request for request in self.in_flight if not request.is_session]

    def become_ready(self, perf: float) -> None:
        self.perf = perf
        self.loading_s = time.time() - self.started_at
        self._report_now()

    def waits_for(self, text: str) -> None:
        """Note what a worker that is not ready waits for; the time runs on while it is the same."""
        if text != self.waiting_text:
            self.waiting_text, self._waiting_since = text, time.monotonic()
            self.changed.set()

    @property
    def message(self) -> str:
        """What a worker that loads waits for, and for how long already."""
        if self.perf or not self.waiting_text:
            return ""
        waited_s = time.monotonic() - self._waiting_since
        step_s = next(step_s for most_s, step_s in _SPAN_S if waited_s < most_s)
        return f"{self.waiting_text}, {waited_s // step_s * step_s:.0f} s" if waited_s >= step_s else self.waiting_text

    def note_restart(self, reason: str) -> None:
        """Note that the model server is started again: the worker is not ready until it is."""
        self.perf, self.started_at, self.illness = 0.0, time.time(), ""
        self.waits_for(reason)
        self._report_now()

    def fail(self, reason: str) -> None:
        """The first failure stays: what follows is mostly its consequence."""
        self.failure = self.failure or reason
        self._report_now()

    def feel(self, illness: str) -> None:
        """Note that the worker is ill, or with an empty text that it is well."""
        if illness != self.illness:
            self.illness = illness
            self._report_now()

    def hold(self, adapters: tuple[str, ...]) -> None:
        """Note which adapters the model server holds."""
        if adapters != self.adapters:
            self.adapters = adapters
            self._report_now()

    def start(self, request: Request) -> None:
        if not self.busy:
            self.busy_since = time.monotonic()
        self.in_flight.add(request)
        self.idle.clear()
        self.accepted += not request.in_session
        self.amounts.received += request.work
        self.changed.set()

    def end(self, request: Request, outcome: Outcome, done: float = 0.0, counted: float | None = None) -> None:
        """Note the end of `request`, and how much of its work was done. `counted`: in its answer, if it was."""
        self.in_flight.discard(request)
        if not self.in_flight:
            self.idle.set()
        self.amounts.done += done
        if outcome == "Cancelled":
            self.amounts.cancelled += request.work
        elif outcome == "Rejected":
            self.amounts.rejected += request.work
        # 0: a client that did not pass its index on, so the server cannot know which one has ended.
        if request.request_idx and not request.in_session and len(self.ended) < MAX_UNREPORTED:
            self.ended.append(
                {
                    "request_idx": request.request_idx,
                    # As the peer's worker tells it: a client that left is no fault of the worker.
                    "success": outcome in {"Success", "Cancelled"},
                    "status": outcome,
                    "entered_queue_at": request.entered_queue_at,
                    "work_started_at": request.work_started_at,
                    "work_completed_at": time.time() if outcome in {"Success", "Error"} else 0.0,
                    **({} if counted is None else {"work": counted}),
                }
            )
        if outcome == "Cancelled":  # nobody but this worker can tell the server that its place is free
            self.urgent.set()
        self.changed.set()

    def answered(self) -> None:
        """Note that the model server sent something for a request."""
        self.answered_at = time.monotonic()

    def report(self, amounts: Amounts, grants: bool) -> dict[str, Any]:
        """Return the body of `/worker_status/`, without the worker's identity and disk.

        `grants`: this agent can verify them. Otherwise the server signs as for the peer's worker.
        """
        return {
            "version": f"{VERSION}{AGENT}" if grants else VERSION,
            "loadtime": self.loading_s,
            "cur_load": self.load,
            "new_load": max(0.0, amounts.received - amounts.cancelled),
            "rej_load": amounts.rejected,
            "cur_perf": amounts.done,
            "max_perf": self.perf,
            "error_msg": self.failure or self.illness,
            "num_requests_working": len(self._reported),
            "num_requests_recieved": self.accepted,  # the wire's spelling
            "working_request_idxs": [r.request_idx for r in self._reported if r.request_idx],
            "cur_capacity": 0,
            "max_capacity": 0,
        }

    def _report_now(self) -> None:
        self.news = True
        self.changed.set()
        self.urgent.set()
