"""Providers around a provider: what every call goes through, whatever it asks for."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from posthouse import tracing
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Offer
from posthouse.errors import PosthouseError, Unavailable
from posthouse.measures import CALL_S, Histogram
from posthouse.ports import InstanceSpec, Provider

T = TypeVar("T")

BURST_S = 2.0
"""For how long a provider may be called at twice its pace after a pause, in seconds."""
MAX_WAIT_S = 60.0
"""The longest that a call waits for its turn; beyond it the caller is told when to come again."""
FAILURES = 5
"""So many calls of one kind without an answer, one after another, and the next is not made for a while."""
FIRST_PAUSE_S, MAX_PAUSE_S = 5.0, 60.0
"""That while: it doubles with every further failure. Nominal: short enough that nobody misses the recovery."""


class Wrapper:
    """A provider whose every call goes through `around`."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.name = inner.name
        self.capabilities = inner.capabilities

    async def around(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` answers; `call` is the name of the call."""
        raise NotImplementedError

    async def catalog(self) -> Sequence[Offer]:
        return await self.around("catalog", self.inner.catalog)

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        return await self.around("create", lambda: self.inner.create(offer_id, spec, max_usd_h))

    async def start(self, instance_id: str) -> None:
        await self.around("start", lambda: self.inner.start(instance_id))

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        return await self.around("update", lambda: self.inner.update(instance_id, spec))

    async def stop(self, instance_id: str) -> None:
        await self.around("stop", lambda: self.inner.stop(instance_id))

    async def destroy(self, instance_id: str) -> None:
        await self.around("destroy", lambda: self.inner.destroy(instance_id))

    async def instances(self) -> Sequence[Instance]:
        return await self.around("instances", self.inner.instances)

    async def logs(self, instance_id: str, tail: int) -> str:
        return await self.around("logs", lambda: self.inner.logs(instance_id, tail))

    def troubles(self) -> list[str]:
        return self.inner.troubles()

    async def close(self) -> None:
        await self.inner.close()


class Metered(Wrapper):
    """Counts calls by outcome, and how long they take."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner)
        self.took: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(CALL_S))
        """In seconds, by call and outcome: `ok`, `refused` for a clear answer that is no success, `unclear`."""

    async def around(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        began, outcome = time.perf_counter(), "unclear"
        try:
            with tracing.within(f"{self.name} {call}", "CLIENT"):
                answer = await ask()
            outcome = "ok"
        except PosthouseError:
            outcome = "refused"
            raise
        finally:
            self.took[call, outcome].add(time.perf_counter() - began)
        return answer


class Throttled(Wrapper):
    """Keeps a provider's calls to a rate: a token bucket, in which callers wait in turn."""

    def __init__(self, inner: Provider, calls_per_s: float, servers: Callable[[], int] = lambda: 1) -> None:
        """`calls_per_s`: as a mean, of all `servers` that share the installation; 0: no limit."""
        super().__init__(inner)
        self._servers = servers
        self._gap_s = 1 / calls_per_s if calls_per_s else 0.0
        self._free_at = 0.0
        """When the bucket will be full again."""

    async def around(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        if self._gap_s:
            now = asyncio.get_running_loop().time()
            gap_s = self._gap_s * self._servers()
            free_at = max(self._free_at, now) + gap_s
            wait_s = free_at - now - max(BURST_S, gap_s)
            if wait_s > MAX_WAIT_S:
                raise Unavailable(f"provider {self.name}: too many calls wait for their turn", wait_s)
            self._free_at = free_at
            if wait_s > 0:
                await asyncio.sleep(wait_s)
        return await ask()


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0
    """No call is made before: in the words of the field, the circuit is open until then."""


class Breaker(Wrapper):
    """Leaves a provider alone that does not answer: each kind of call by itself, with one try after each pause.

    A clear answer of any kind is an answer; what counts is silence and whatever has an unknown outcome.
    """

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner)
        self._circuits: defaultdict[str, _Circuit] = defaultdict(_Circuit)

    async def around(self, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        circuit, now = self._circuits[call], asyncio.get_running_loop().time()
        if now < circuit.open_until:
            left_s = circuit.open_until - now
            raise Unavailable(f"provider {self.name}: {call} failed {circuit.failures} times; not called now", left_s)
        if circuit.failures >= FAILURES:  # one tries, and the others wait for what becomes of it
            circuit.open_until = now + self._pause_s(circuit)
        try:
            answer = await ask()
        except Unavailable:  # nobody was asked
            raise
        except PosthouseError:
            self._circuits[call] = _Circuit()
            raise
        except BaseException:  # what is cancelled was waited for in vain
            circuit.failures += 1
            if circuit.failures >= FAILURES:
                circuit.open_until = asyncio.get_running_loop().time() + self._pause_s(circuit)
            raise
        self._circuits[call] = _Circuit()
        return answer

    def _pause_s(self, circuit: _Circuit) -> float:
        return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(10, circuit.failures - FAILURES))
