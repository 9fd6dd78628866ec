"""Certificates for workers: which worker gets one, and for which addresses."""

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.hub import Hub
from posthouse.errors import BadRequest, Elsewhere, TooMany, Unauthorized

log = structlog.get_logger()

MAX_REQUEST_BYTES = 16_384
"""Longest signing request. One with an RSA key of 4096 bits has some 1,700."""
MAX_GIVEN = 20
"""Certificates of one worker within `GIVEN_S`; those by its token and those by its address are counted apart, as others
may share that. The protocol's own script asks for five at a boot."""
GIVEN_S = 3600.0
PLACED_S = 20.0
"""How long a worker waits for its provider's word where it is: it may ask before its creation has been answered."""
MAX_WAITING = 200
"""Calls that wait for such a word at once. Anybody can make one; workers that boot at once are fewer."""
NOWHERE = frozenset({State.WANTED, State.DESTROYING, State.DESTROYED})
"""States of workers that have no instance, or soon have none."""

Sign = Callable[[bytes, str, Iterable[str], float], bytes]
"""A certificate for a request, a name and hosts, at a time. Raises: ValueError."""


@dataclass(slots=True)
class Certificates:
    hub: Hub
    check_worker: Callable[[int, str], bool]
    """Whether a token is that worker's own; constant in time."""
    authority: Sign
    counts: Counter[str] = field(default_factory=Counter)
    _given: dict[tuple[int, bool], list[float]] = field(default_factory=dict)
    _waiting: int = 0

    async def sign(self, worker_id: int, token: str, source: str, request: bytes) -> bytes:
        """A certificate, PEM, for the hosts where the provider placed the worker, whatever the request asks for.

        Given to a caller that shows the worker's token, or that shows none and calls from one of these hosts.

        Raises: Unauthorized, TooMany, BadRequest.
        """
        if token and not self.check_worker(worker_id, token):
            raise self._refused()
        hosts = await self._hosts(worker_id)
        if not token and _plain(source) not in hosts:
            raise self._refused()
        now = self.hub.clock.now()
        given = self._recently_given(worker_id, bool(token), now)
        try:
            if len(request) > MAX_REQUEST_BYTES:
                raise ValueError(f"must be at most {MAX_REQUEST_BYTES} bytes")
            certificate = self.authority(request, f"worker {worker_id}", hosts, self.hub.clock.wall())
        except ValueError as error:
            raise BadRequest(f"body: {error}") from None
        given.append(now)
        self.counts["certificates"] += 1
        log.info("certificate for a worker", worker=worker_id, hosts=sorted(hosts), by="token" if token else source)
        return certificate

    async def _hosts(self, worker_id: int) -> frozenset[str]:
        """Where the worker is, once that is known. Raises: Unauthorized if there is no such worker, TooMany."""
        until = self.hub.clock.now() + PLACED_S
        while not (hosts := _hosts_of(self._worker(worker_id))):
            if self.hub.clock.now() >= until or self._waiting >= MAX_WAITING:
                raise TooMany("instance_id: its provider has not said yet where it is; ask again", PLACED_S)
            self._waiting += 1
            try:
                await asyncio.sleep(0.1)
            finally:
                self._waiting -= 1
        return hosts

    def _worker(self, worker_id: int) -> Worker:
        """Raises: Unauthorized if there is no such worker, Elsewhere where another server may have it."""
        home = self.hub.home_of(worker_id)
        if home is None and self.hub.lease.is_shared():
            raise Elsewhere("another server may have this worker: ask again", worker_id=worker_id)
        worker = None if home is None else home.fleet.workers.get(WorkerId(worker_id))
        if worker is None or worker.state in NOWHERE:
            raise self._refused()
        return worker

    def _recently_given(self, worker_id: int, by_token: bool, now: float) -> list[float]:
        """When the worker was given a certificate in the last `GIVEN_S`. Raises: TooMany if that was too often."""
        self._given = {who: times for who, times in self._given.items() if times and times[-1] > now - GIVEN_S}
        times = [at for at in self._given.get((worker_id, by_token), ()) if at > now - GIVEN_S]
        if len(times) >= MAX_GIVEN:
            self.counts["certificates_refused"] += 1
            raise TooMany(f"instance_id: {MAX_GIVEN} certificates within {GIVEN_S:g} s", times[0] + GIVEN_S - now)
        self._given[worker_id, by_token] = times
        return times

    def _refused(self) -> Unauthorized:
        """Says the same whether there is such a worker or not."""
        self.counts["certificates_refused"] += 1
        return Unauthorized("instance_id: not a worker with this token, or at the address that this call comes from")


def _hosts_of(worker: Worker) -> frozenset[str]:
    """The hosts of its addresses."""
    return frozenset(_plain(host_of(address)) for address in worker.addresses)


def _plain(host: str) -> str:
    """The one spelling of an IP address; IPv4 inside IPv6, as a listener on `::` sees it, is IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(getattr(address, "ipv4_mapped", None) or address)


def host_of(address: str) -> str:
    """The host of an address of either form, without the brackets of IPv6."""
    place = address.rpartition("://")[2].partition("/")[0]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
