"""Looks at what providers have."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import State
from posthouse.engine.hub import Hub
from posthouse.fleet.events import Listed
from posthouse.ports import Provider

log = structlog.get_logger()

TRUSTED_S = 12.0
"""How long a worker's report outweighs a list without it: reports come every 10 s."""
LIST_TIMEOUT_S = 30.0
"""How long a provider may take to list what it has."""


@dataclass(slots=True)
class Observer:
    hub: Hub
    counts: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)
    """Providers whose latest look failed."""
    _look: dict[str, asyncio.Event] = field(default_factory=dict)
    _listed: dict[str, dict[str, Instance]] = field(default_factory=dict)
    """The latest list by label, by provider."""

    def poke(self, provider: str) -> None:
        """Asks for a look at a provider soon."""
        self._look.setdefault(provider, asyncio.Event()).set()

    async def run(
        self,
        provider: Provider,
        poll_s: float,
        then: Callable[[Provider, Sequence[Instance]], Awaitable[None]],
    ) -> None:
        """Looks at one provider for ever: every `poll_s`, and when poked. `then` is given each complete list."""
        look = self._look.setdefault(provider.name, asyncio.Event())
        while True:
            look.clear()
            try:
                async with asyncio.timeout(LIST_TIMEOUT_S):
                    await then(provider, await self.observe(provider))
                self.failing.discard(provider.name)
                self.hub.listing[provider.name] = True
            except Exception as error:  # noqa: BLE001 - the seam of a look: a provider may raise anything; routing goes on
                self.counts[f"{provider.name}_failed"] += 1
                self.failing.add(provider.name)
                self.hub.listing[provider.name] = False
                log.warning("could not look at a provider", provider=provider.name, error=repr(error)[:300])
            try:
                async with asyncio.timeout(poll_s):
                    await look.wait()
            except TimeoutError:
                continue

    async def observe(self, provider: Provider) -> Sequence[Instance]:
        """Takes in one complete list of a provider, and returns it."""
        asked_at = self.hub.clock.now()
        instances = list(await provider.instances())
        now = self.hub.clock.now()
        for instance in instances:
            self.hub.note_label(instance.label)
        instances += self._left_out(provider, instances, now)
        by_id, by_label = {i.id: i for i in instances}, {i.label: i for i in instances}
        for managed in list(self.hub.endpoints.values()):
            # Its own alone, so that a look costs each endpoint the same however many there are.
            either = [
                found
                for w in managed.fleet.workers.values()
                for found in (by_id.get(w.instance_id), by_label.get(w.label))
            ]
            found = tuple(i for i in either if i is not None)
            managed.handle(Listed(provider.name, found, asked_at), now)
        self.hub.seen.add(provider.name)
        self.counts[f"{provider.name}_looks"] += 1
        return instances

    def _left_out(self, provider: Provider, instances: list[Instance], now: float) -> list[Instance]:
        """What a list that cannot be complete leaves out, as it was in the one before.

        A worker that its provider does not list, and that reported after that may have begun, is there all the same.
        Then nothing is concluded from any absence in this list: else one empty answer would end a whole fleet.
        """
        listed = {i.label: i for i in instances}
        mine = [
            (managed.fleet, worker)
            for managed in self.hub.endpoints.values()
            for worker in managed.fleet.workers.values()
            if worker.provider == provider.name and worker.label not in listed
        ]
        before = self._listed.get(provider.name, {})
        if not any(w.state is State.IDLE and now - f.reported_at(w.id) < TRUSTED_S for f, w in mine):
            self._listed[provider.name] = listed
            return []
        self.counts[f"{provider.name}_incomplete"] += 1
        left_out = [before[w.label] for _, w in mine if w.state is not State.DESTROYING and w.label in before]
        self._listed[provider.name] = {**listed, **{i.label: i for i in left_out}}
        return left_out

    def troubles(self) -> list[str]:
        """What fails at providers, in words that anybody may read."""
        return [f"provider {name} cannot be looked at" for name in sorted(self.failing)]
