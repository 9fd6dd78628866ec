"""Lists what providers have, again and again, and tells every endpoint."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker
from posthouse.engine.hub import Hub
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import Listed
from posthouse.ports import Provider
from posthouse.waiting import is_set_within

log = structlog.get_logger()

TRUSTED_S = 12.0
"""How long a worker's report outweighs a list without it: reports come every 10 s."""
CONFIRM_S = 60.0
"""How long most of what was there must be missing in every list before that is believed."""
LIST_TIMEOUT_S = 30.0
"""How long a provider may take to list what it has."""


@dataclass(slots=True)
class Observer:
    hub: Hub
    bells: defaultdict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    """By provider: set when it should be listed soon."""
    counts: Counter[str] = field(default_factory=Counter)
    failing: set[str] = field(default_factory=set)
    """Providers whose latest list failed."""
    _listed: dict[str, dict[str, Instance]] = field(default_factory=dict)
    """The latest list by label, by provider."""
    _doubted_at: dict[str, float] = field(default_factory=dict)
    """Since when most of what a provider had is missing in its lists."""

    def poke(self, provider: str) -> None:
        """Has a provider listed soon."""
        self.bells[provider].set()

    async def run(
        self,
        provider: Provider,
        poll_s: float,
        then: Callable[[Provider, Sequence[Instance]], Awaitable[None]],
    ) -> None:
        """Lists one provider every `poll_s` and when poked, until cancelled; calls `then` with each complete list."""
        look = self.bells[provider.name]
        while True:
            look.clear()
            try:
                async with asyncio.timeout(LIST_TIMEOUT_S):
                    await then(provider, await self.observe(provider))
                self.failing.discard(provider.name)
                self.hub.listing[provider.name] = True
            except Exception as error:  # noqa: BLE001 - the seam of a list: a provider may raise anything; routing goes on
                self.counts[f"{provider.name}_failed"] += 1
                self.failing.add(provider.name)
                self.hub.listing[provider.name] = False
                log.warning("could not list a provider", provider=provider.name, error=repr(error)[:300])
            await is_set_within(look, poll_s)

    async def observe(self, provider: Provider) -> Sequence[Instance]:
        """Asks a provider for its complete list, hands it to every endpoint, and returns it."""
        asked_at = self.hub.clock.now()
        instances = list(await provider.instances())
        now = self.hub.clock.now()
        for instance in instances:
            self.hub.note_label(instance.label)
        instances += self._left_out(provider, instances, now)
        by_id, by_label = {i.id: i for i in instances}, {i.label: i for i in instances}
        for managed in list(self.hub.endpoints.values()):
            # Only its own, so that a list costs each endpoint the same however many there are.
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
        Where most of what there was is missing at once, a list alone is no proof either: others must say so, too, for
        `CONFIRM_S`. Then nothing is concluded from any absence: else one empty answer would end a whole fleet.
        """
        listed, before = {i.label: i for i in instances}, self._listed.get(provider.name, {})
        theirs = [
            (managed.fleet, worker)
            for managed in self.hub.endpoints.values()
            for worker in managed.fleet.workers.values()
            if worker.provider == provider.name and worker.state is not State.DESTROYING
        ]
        missing = [(f, w) for f, w in theirs if w.label not in listed]
        lost = sum(w.label in before for _, w in missing)
        if lost < 2 or lost * 2 <= sum(w.label in before for _, w in theirs):
            self._doubted_at.pop(provider.name, None)
        elif now - self._doubted_at.setdefault(provider.name, now) < CONFIRM_S:
            return self._completed(provider.name, listed, missing)
        if any(w.state is State.IDLE and now - f.roster.reported_at(w.id) < TRUSTED_S for f, w in missing):
            return self._completed(provider.name, listed, missing)
        self._listed[provider.name] = listed
        return []

    def _completed(
        self, provider: str, listed: dict[str, Instance], missing: Sequence[tuple[Controller, Worker]]
    ) -> list[Instance]:
        """What is missing in a list, as the one before had it."""
        self.counts[f"{provider}_incomplete"] += 1
        before = self._listed.get(provider, {})
        left_out = [before[worker.label] for _, worker in missing if worker.label in before]
        self._listed[provider] = {**listed, **{i.label: i for i in left_out}}
        return left_out

    def troubles(self) -> list[str]:
        """What fails at providers, as texts for users."""
        return [f"provider {name} cannot be listed" for name in sorted(self.failing)]
