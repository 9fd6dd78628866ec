"""`/route/`: from a checked request to a signed address, or to a status while it waits."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from posthouse.domain.worker import Worker
from posthouse.engine import wishes
from posthouse.engine.estimate import expected
from posthouse.engine.hub import Hub
from posthouse.engine.limits import Meter, OverLimit, Reserved
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.standing import why
from posthouse.engine.verdict import stuck
from posthouse.errors import BadRequest
from posthouse.fleet.events import Assignment, Left, Waiting, Wish
from posthouse.fleet.ledger import OnEnd
from posthouse.ports import Signer
from posthouse.wire.grant import AGENT, issued
from posthouse.wire.route import DEFAULT_COST, NOT_STATED, RouteAsk, RouteReply, WaitReply
from posthouse.wire.signed import Scheme, signed_text, wire_cost
from posthouse.wire.status import FLAT

MAX_HELD = 10_000
"""Most requests held open at once; the others get their status at once."""
MAX_HELD_EACH = 1_000
"""The same, of one caller."""
MAX_SIGNATURES = 100_000
"""Most addresses whose signature is remembered."""
OLDEST = Scheme.A4
"""The scheme of workers that hand unknown fields on to the model; the next need the index for clients that poll alone.
"""
LOOKS_S = 1.0
"""How long a request is held open while no worker is known that may have it; then its client asks again."""
ADDRESS_ALONE = ("", Scheme.U)
"""Schemes whose signature covers the address alone, so that it can be kept. A worker that has not said is of today."""


Deliver = Callable[[RouteReply | WaitReply | Exception], None]
"""Called with the reply to a `/route/` call, or with the error that prevented one."""


@dataclass(slots=True)
class Router:
    hub: Hub
    signer: Signer
    grant_key: Callable[[int], bytes]
    """The key for the grants of a worker that runs our agent, by its id; quick, for every such reply asks for it."""
    hold_s: float
    """How long a request that finds no worker is held open for one that frees up."""
    sign_beside: Callable[[bytes, Callable[[str | Exception], None]], None]
    """Makes the signer's signature while the event loop goes on, and calls with it, or with what the signer raised."""
    _held: Counter[str] = field(default_factory=Counter)
    """Requests held open, by caller."""
    _held_count: int = 0
    _released: bool = False
    _signatures: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def route(
        self,
        managed: ManagedEndpoint,
        ask: RouteAsk,
        deliver: Deliver,
        caller: str,
        now: float,
        hold_s: float | None = None,
        on_end: OnEnd | None = None,
    ) -> Callable[[], None] | None:
        """Has `deliver` called once: now, or when the request has a worker, or has been held open for `hold_s`.

        `hold_s`: None is the setting. `on_end`: called when a new request ends, also where it is not accepted. Returns
        what is to be called if the client goes away first, and None where the reply was delivered at once. Called later
        it takes the worker back from a client that cannot have got it.
        """
        if self._released or (self._held_count and self._has_most(caller)):
            hold_s = 0.0
        elif hold_s is None:
            hold_s = self.hold_s
        announced = ask.cost
        if announced == NOT_STATED:
            announced, usual = managed.fleet.requests.claims.unstated(DEFAULT_COST)
            ask.cost = float(f"{usual:.3g}")
        wish: Wish | None = None
        if ask.prefer is not None:
            wish, names = wishes.wish(managed, ask.prefer)
            deliver = _naming(deliver, names) if names else deliver
            hold_s = min(hold_s, LOOKS_S) if wish.only == frozenset() else hold_s
        outcome = managed.assign(ask.request_idx or 0, announced, now, ask.request_idx is not None, hold_s, wish)
        if on_end is not None:
            if outcome.request_idx:
                managed.call_at_end(outcome.request_idx, on_end)
            else:
                on_end(None, now)
        if isinstance(outcome, Assignment):
            managed.costs.asked[caller] += announced
            return self._assigned(ask, outcome, deliver, now)
        managed.measured.found_none(managed.fleet, now)
        if outcome.held:
            return self._hold(managed, ask, announced, outcome.request_idx, deliver, caller)
        deliver(_waits(managed, ask, outcome, now))
        return None

    def route_within(
        self, meter: Meter, managed: ManagedEndpoint, ask: RouteAsk, deliver: Deliver, caller: str, now: float
    ) -> Callable[[], None] | None:
        """The same for a key that has limits: delivers an `OverLimit` beyond them. Raises: BadRequest."""
        ledger, idx = managed.fleet.ledger, ask.request_idx or 0
        reserved = ledger.on_end.get(idx)
        if isinstance(reserved, Reserved) and reserved.meter is meter:
            return self.route(managed, ask, deliver, caller, now)  # it has its share, however often it asks
        if idx in ledger.open:  # of somebody else, who pays for it: this one is another
            ask.request_idx = 0

        def go(found: Reserved | OverLimit) -> Callable[[], None] | None:
            if isinstance(found, OverLimit):
                managed.limited[found.limit] += 1
                deliver(found)
            elif managed.closing or managed.leaving:  # meanwhile
                found(None, self.hub.clock.now())
                deliver(WaitReply(ask.endpoint, "the endpoint is moving or was deleted", ask.request_idx or 0))
            else:
                try:
                    return self.route(managed, ask, deliver, caller, self.hub.clock.now(), on_end=found)
                except Exception as error:  # noqa: BLE001 - the seam of a request, where it had to wait for its share
                    found(None, self.hub.clock.now())
                    deliver(error)
            return None

        work = managed.fleet.requests.claims.unstated(DEFAULT_COST)[0] if ask.cost == NOT_STATED else ask.cost
        return meter.admit(work, now, go)

    def release(self) -> None:
        """Answers every held request that it waits, and holds none from now on."""
        self._released = True
        self.hub.release()

    def _hold(
        self, managed: ManagedEndpoint, ask: RouteAsk, announced: float, idx: int, deliver: Deliver, caller: str
    ) -> Callable[[], None]:
        def answer(outcome: Assignment | Waiting) -> None:
            self._count_held(caller, -1)
            now = self.hub.clock.now()
            if isinstance(outcome, Assignment):
                managed.costs.asked[caller] += announced
                self._assigned(ask, outcome, deliver, now)
            else:
                deliver(_waits(managed, ask, outcome, now))

        def leave() -> None:
            if managed.held.get(idx) is answer:
                del managed.held[idx]
                self._count_held(caller, -1)
            elif idx in managed.held:
                return  # its client has asked again, and that call is held now
            managed.handle(Left(idx), self.hub.clock.now())  # should the client come back, it asks with this index

        before = managed.held.pop(idx, None)
        if before is not None:  # nobody listens to that call any more: the same request was asked for again
            before(Waiting(idx))
        self._count_held(caller, +1)
        managed.held[idx] = answer
        return leave

    def _has_most(self, caller: str) -> bool:
        return self._held_count >= MAX_HELD or self._held[caller] >= MAX_HELD_EACH

    def _count_held(self, caller: str, change: int) -> None:
        self._held_count += change
        self._held[caller] += change
        if not self._held[caller]:
            del self._held[caller]

    def _assigned(self, ask: RouteAsk, found: Assignment, deliver: Deliver, now: float) -> Callable[[], None] | None:
        """Delivers the address of a worker with the signature that this worker verifies, now or when it is made."""
        worker = found.worker
        try:
            if worker.version.endswith(AGENT):
                reply = self.reply(ask, found, "")
                reply.signature = issued(
                    self.grant_key(worker.id),
                    url=reply.url,
                    worker_id=worker.id,
                    endpoint=reply.endpoint,
                    reqnum=reply.reqnum,
                    request_idx=reply.request_idx,
                    cost=reply.cost,
                    perf=worker.perf,
                    now=now,
                )
            elif worker.scheme in ADDRESS_ALONE:
                reply = self.reply(ask, found, self._signatures.get(worker.url) or self._sign_address(ask, found))
            else:
                text = _text(ask, found, worker.scheme)
                self.sign_beside(text, partial(self._signed, ask, found, deliver))
                return _nothing
        except Exception as error:  # noqa: BLE001 - the seam of a request: its caller must get an answer
            deliver(error)
        else:
            deliver(reply)
        return None

    def _sign_address(self, ask: RouteAsk, found: Assignment) -> str:
        signature = self._signatures[found.worker.url] = self.signer.sign(_text(ask, found, Scheme.U))
        if len(self._signatures) > MAX_SIGNATURES:
            self._signatures.popitem(last=False)
        return signature

    def _signed(self, ask: RouteAsk, found: Assignment, deliver: Deliver, signature: str | Exception) -> None:
        try:
            reply = signature if isinstance(signature, Exception) else self.reply(ask, found, signature)
        except Exception as error:  # noqa: BLE001 - as above
            reply = error
        deliver(reply)

    def reply(self, ask: RouteAsk, found: Assignment, signature: str) -> RouteReply:
        """The reply to a request that has a worker, and the signature that this worker verifies."""
        worker, idx = found.worker, found.request_idx
        if worker.scheme == OLDEST and (not ask.polls or worker.version == FLAT):
            idx = 0
        return RouteReply(ask.endpoint, wire_cost(ask.cost), found.reqnum, signature, worker.url, idx)


def _naming(deliver: Deliver, names: Mapping[str, str]) -> Deliver:
    """The same, with the name of the adapter at the worker."""

    def named(reply: RouteReply | WaitReply | Exception) -> None:
        if isinstance(reply, RouteReply):
            reply.model = names.get(reply.url, "")
        deliver(reply)

    return named


def _nothing() -> None:
    """A client left while its reply was being signed: its worker reports it if no request comes."""


def statuses(workers: Iterable[Worker]) -> str:
    """The breakdown of workers by status, as on the wire: `loading: 2, stopped: 1`."""
    counts = Counter(w.status() for w in workers if w.status())
    return ", ".join(f"{status}: {n}" for status, n in sorted(counts.items())) or "no workers"


def _waits(managed: ManagedEndpoint, ask: RouteAsk, outcome: Waiting, now: float) -> WaitReply | BadRequest:
    if outcome.denied:
        return BadRequest(f"request {ask.request_idx}: {outcome.denied}")
    status = statuses(managed.fleet.workers.values())
    if (word := stuck(managed, now)) and f"{word}: " not in status:  # no "starting: 1; starting"
        status = f"{status}; {word}"
    if managed.last_failures(now) and (failure := why(managed, now)):
        status = f"{status}; {failure}"
    expected_s = (ask.estimate and round(expected(managed, now).in_s, 1)) or 0  # 0 itself: only that is left out
    return WaitReply(ask.endpoint, status, outcome.request_idx if ask.polls else 0, expected_s)


def _text(ask: RouteAsk, found: Assignment, scheme: str) -> bytes:
    return signed_text(
        scheme,
        cost=wire_cost(ask.cost),
        endpoint=ask.endpoint,
        reqnum=found.reqnum,
        request_idx=found.request_idx,
        url=found.worker.url,
    )
