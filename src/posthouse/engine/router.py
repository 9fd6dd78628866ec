"""`/route/`: from a checked request to a signed address, or word that it waits."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.worker import Worker
from posthouse.engine.hub import Hub
from posthouse.fleet.fleet import Assignment, Fleet, Waiting
from posthouse.ports import Signer
from posthouse.wire.grant import AGENT, issued
from posthouse.wire.route import RouteAsk, RouteReply, WaitReply
from posthouse.wire.signed import Scheme, signed_text, wire_cost
from posthouse.wire.status import FLAT

MAX_HELD = 10_000
"""Most requests held open at once; the others are told at once that they wait."""
MAX_SIGNATURES = 100_000
"""Most addresses whose signature is remembered."""
MISSES = 32
"""How many held requests in a row may find nothing before looking on is a waste: each is kept from other workers."""

ADDRESS_ALONE = ("", Scheme.U)
"""Schemes whose signature covers the address alone, so that it can be kept. A worker that has not said is of today."""


@dataclass(slots=True)
class _Held:
    fleet: Fleet
    ask: RouteAsk
    idx: int
    since: float
    found: asyncio.Future[Assignment | Waiting]


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
    _held: dict[EndpointId, OrderedDict[int, _Held]] = field(default_factory=dict)
    _held_count: int = 0
    _signatures: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def route_now(self, fleet: Fleet, ask: RouteAsk, now: float) -> RouteReply | Assignment | Waiting:
        """The reply, where it takes no waiting; else how far the request has come, to go on with in `route_later`."""
        idx = ask.request_idx or 0
        held = self._held.get(fleet.endpoint.id)
        if held and idx not in held and fleet.has_room(ask.cost, now):
            self.serve_held(fleet)  # room that came with time alone is for those that wait already
        outcome = fleet.assign(idx, ask.cost, now, ask.request_idx is not None)
        if isinstance(outcome, Waiting):
            self.hub.bell.set()
            return outcome
        worker = outcome.worker
        if worker.version.endswith(AGENT):
            return self.reply(ask, outcome, "")
        if worker.scheme not in ADDRESS_ALONE:
            return outcome
        signature = self._signatures.get(worker.url)
        if signature is None:
            signature = self._signatures[worker.url] = self.signer.sign(_text(ask, outcome, Scheme.U))
            if len(self._signatures) > MAX_SIGNATURES:
                self._signatures.popitem(last=False)
        return self.reply(ask, outcome, signature)

    async def route_later(
        self, fleet: Fleet, ask: RouteAsk, outcome: Assignment | Waiting, left: Callable[[], Coroutine[Any, Any, None]]
    ) -> RouteReply | WaitReply | None:
        """The address of a worker, signed; or, after `hold_s` without one, the breakdown of workers by status.

        `left`: ends when the client goes away. None: it did, before there was a worker, and its place is given back.
        """
        if isinstance(outcome, Waiting):
            held = await self._hold(fleet, ask, outcome, left)
            if held is None:
                return None
            outcome = held
        if isinstance(outcome, Waiting):
            idx = outcome.request_idx if ask.polls else 0
            return WaitReply(ask.endpoint, fleet.statuses(), idx)
        if outcome.worker.version.endswith(AGENT):
            return self.reply(ask, outcome, "")
        signature: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.when_signed(ask, outcome, partial(_settle, signature))
        return self.reply(ask, outcome, await signature)

    def when_signed(self, ask: RouteAsk, found: Assignment, then: Callable[[str | Exception], None]) -> None:
        """Has `then` called with the signature that the reply needs, or with what kept it from being made."""
        self.sign_beside(_text(ask, found, found.worker.scheme or Scheme.U), then)

    def reply(self, ask: RouteAsk, found: Assignment, signature: str) -> RouteReply:
        """The reply to a request that has a worker, and the signature that this worker verifies.

        A worker that runs our agent verifies a grant, which takes the place of the signature.
        """
        worker = found.worker
        # The oldest workers hand unknown fields on to the model; the next need the index for clients that poll alone.
        classic = worker.scheme == Scheme.A4 and (not ask.polls or worker.version == FLAT)
        idx = 0 if classic else found.request_idx
        reply = RouteReply(ask.endpoint, wire_cost(ask.cost), found.reqnum, signature, worker.url, idx)
        if worker.version.endswith(AGENT):
            reply.signature = self._grant(reply, worker)
        return reply

    def serve_held(self, fleet: Fleet) -> None:
        """Gives held requests the workers that have freed up, the one that has waited longest first.

        It is called before a new request is given room and whenever a worker reports. So while a request is held, none
        that came later takes a room that it could have, unless `MISSES` older ones are kept from that room. Between
        the polls of its client, `Fleet` sees to it that it is not overtaken for long.
        """
        held = self._held.get(fleet.endpoint.id)
        if not held:
            return
        now, misses_left = self.hub.clock.now(), MISSES
        for entry in sorted(held.values(), key=lambda h: h.since):
            if entry.found.done() or entry.idx not in fleet.ledger.waiting:
                continue
            outcome = fleet.assign(entry.idx, entry.ask.cost, now, entry.ask.polls)
            if isinstance(outcome, Assignment):
                entry.found.set_result(outcome)
            else:
                misses_left -= 1
                if misses_left <= 0:
                    break

    def release(self) -> None:
        """Tells every held request that it waits, and holds none from now on."""
        self.hold_s = 0.0
        for held in self._held.values():
            for entry in held.values():
                if not entry.found.done():
                    entry.found.set_result(Waiting(entry.idx))

    async def _hold(
        self, fleet: Fleet, ask: RouteAsk, waiting: Waiting, left: Callable[[], Coroutine[Any, Any, None]]
    ) -> Assignment | Waiting | None:
        idx = waiting.request_idx
        held = self._held.get(fleet.endpoint.id) or OrderedDict()
        if self.hold_s <= 0 or idx == 0 or idx in held or self._held_count >= MAX_HELD:
            return waiting
        request = fleet.ledger.find(idx)
        since = request.first_at if request is not None else self.hub.clock.now()
        found: asyncio.Future[Assignment | Waiting] = asyncio.get_running_loop().create_future()
        held[idx] = _Held(fleet, ask, idx, since, found)
        self._held[fleet.endpoint.id] = held
        self._held_count += 1
        leaving = asyncio.ensure_future(left())
        try:
            both: set[asyncio.Future[Any]] = {found, leaving}
            await asyncio.wait(both, timeout=self.hold_s, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():  # even with a worker found: nobody is there to go to it
                fleet.forget(idx)  # should the client come back, it asks with this index again
                return None
            return found.result() if found.done() else waiting
        except asyncio.CancelledError:
            fleet.forget(idx)
            raise
        finally:
            leaving.cancel()
            self._held_count -= 1
            del held[idx]
            if not held:  # or every endpoint that ever was would leave one
                del self._held[fleet.endpoint.id]

    def _grant(self, reply: RouteReply, worker: Worker) -> str:
        return issued(
            self.grant_key(worker.id),
            url=reply.url,
            worker_id=worker.id,
            endpoint=reply.endpoint,
            reqnum=reply.reqnum,
            request_idx=reply.request_idx,
            cost=reply.cost,
            perf=worker.perf,
            now=self.hub.clock.now(),
        )


def _settle(future: "asyncio.Future[str]", signed: str | Exception) -> None:
    if future.done():  # whoever waited went away
        return
    if isinstance(signed, Exception):
        future.set_exception(signed)
    else:
        future.set_result(signed)


def _text(ask: RouteAsk, found: Assignment, scheme: str) -> bytes:
    return signed_text(
        scheme,
        cost=wire_cost(ask.cost),
        endpoint=ask.endpoint,
        reqnum=found.reqnum,
        request_idx=found.request_idx,
        url=found.worker.url,
    )
