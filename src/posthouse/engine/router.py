"""`/route/`: from a checked request to a signed address, or word that it waits."""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from posthouse.domain.endpoint import EndpointId
from posthouse.engine.hub import Hub
from posthouse.fleet.fleet import Assignment, Fleet, Waiting
from posthouse.ports import Signer
from posthouse.wire.route import RouteAsk, RouteReply, WaitReply
from posthouse.wire.signed import Scheme, signed_text, wire_cost

MAX_HELD = 10_000
"""Most requests held open at once; the others are told at once that they wait."""
MAX_SIGNATURES = 100_000
"""Most addresses whose signature is remembered."""
MISSES = 32
"""How many held requests in a row may find nothing before looking on is a waste: each is kept from other workers."""


@dataclass(slots=True)
class _Held:
    fleet: Fleet
    ask: RouteAsk
    idx: int
    since: float
    found: asyncio.Future[Assignment]


@dataclass(slots=True)
class Router:
    hub: Hub
    signer: Signer
    hold_s: float
    """How long a request that finds no worker is held open for one that frees up."""
    signing_threads: ThreadPoolExecutor
    _held: dict[EndpointId, OrderedDict[int, _Held]] = field(default_factory=dict)
    _held_count: int = 0
    _signatures: OrderedDict[str, str] = field(default_factory=OrderedDict)

    async def route(self, fleet: Fleet, ask: RouteAsk) -> RouteReply | WaitReply:
        """The address of a worker, signed; or, after `hold_s` without one, the breakdown of workers by status."""
        clock = self.hub.clock
        outcome = fleet.assign(ask.request_idx, ask.cost, clock.now(), ask.polls)
        if isinstance(outcome, Waiting):
            self.hub.bell.set()
            outcome = await self._hold(fleet, ask, outcome)
        if isinstance(outcome, Waiting):
            idx = outcome.request_idx if ask.polls else 0
            return WaitReply(ask.endpoint, fleet.statuses(), idx)
        return await self._signed(ask, outcome)

    def serve_held(self, fleet: Fleet) -> None:
        """Gives held requests the workers that have freed up, the one that has waited longest first."""
        held = self._held.get(fleet.endpoint.id)
        if not held:
            return
        now, misses = self.hub.clock.now(), 0
        for entry in sorted(held.values(), key=lambda h: h.since):
            if entry.found.done():
                continue
            outcome = fleet.assign(entry.idx, entry.ask.cost, now, entry.ask.polls)
            if isinstance(outcome, Assignment):
                entry.found.set_result(outcome)
            else:
                misses += 1
                if misses >= MISSES:
                    break

    async def _hold(self, fleet: Fleet, ask: RouteAsk, waiting: Waiting) -> Assignment | Waiting:
        idx = waiting.request_idx
        held = self._held.setdefault(fleet.endpoint.id, OrderedDict())
        if self.hold_s <= 0 or idx == 0 or idx in held or self._held_count >= MAX_HELD:
            return waiting
        request = fleet.ledger.find(idx)
        since = request.first_at if request is not None else self.hub.clock.now()
        found: asyncio.Future[Assignment] = asyncio.get_running_loop().create_future()
        held[idx] = _Held(fleet, ask, idx, since, found)
        self._held_count += 1
        try:
            return await asyncio.wait_for(found, self.hold_s)
        except TimeoutError:
            return waiting
        except asyncio.CancelledError:
            fleet.forget(idx)  # the client left; should it come back, it asks with this index again
            raise
        finally:
            self._held_count -= 1
            del held[idx]

    async def _signed(self, ask: RouteAsk, found: Assignment) -> RouteReply:
        worker, cost = found.worker, wire_cost(ask.cost)
        scheme = Scheme(worker.scheme or Scheme.U)
        data = signed_text(
            scheme,
            cost=cost,
            endpoint=ask.endpoint,
            reqnum=found.reqnum,
            request_idx=found.request_idx,
            url=worker.url,
        )
        if scheme is Scheme.U:
            signature = self._signatures.get(worker.url)
            if signature is None:
                signature = self.signer.sign(data)
                self._signatures[worker.url] = signature
                if len(self._signatures) > MAX_SIGNATURES:
                    self._signatures.popitem(last=False)
        else:
            # RSA lets go of the interpreter while it computes, so threads use every core.
            loop = asyncio.get_running_loop()
            signature = await loop.run_in_executor(self.signing_threads, self.signer.sign, data)
        # The oldest workers hand unknown fields on to the model; only clients that poll need the index with them.
        idx = found.request_idx if scheme is not Scheme.A4 or ask.polls else 0
        return RouteReply(ask.endpoint, cost, found.reqnum, signature, worker.url, idx)
