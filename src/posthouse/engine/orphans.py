"""Instances that carry our label and belong to no worker: destroyed, but only on proof.

A store that lost rows, or one from a backup, must not end what runs: an instance is destroyed when two complete lists
`apart_s` apart have shown it without an owner, never soon after a start, and never where most of what carries our label
is unknown. Then an operator must look.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

import structlog

from posthouse.domain.errors import Busy
from posthouse.domain.instance import Instance
from posthouse.engine.hub import Hub
from posthouse.ports import Provider

log = structlog.get_logger()

MAX_KNOWN = 100_000
"""Most labels that are remembered of workers that were here; beyond it the oldest are forgotten."""


@dataclass(slots=True)
class Orphans:
    hub: Hub
    destroy: Callable[[Provider, Instance], None]
    """Begins to destroy an instance."""
    owners_of: Callable[[Collection[str]], Awaitable[Collection[str]]]
    """Those of the labels that a worker has, on whatever server."""
    apart_s: float = 120.0
    """Least time between the two lists."""
    _began_at: float = field(init=False)
    _seen_at: dict[str, dict[str, float]] = field(default_factory=dict)
    """When each orphan was first listed, by provider and id."""
    _unknown: dict[str, int] = field(default_factory=dict)
    """Providers at which most of what carries our label is unknown, and how many instances that are."""
    _known: dict[str, None] = field(default_factory=dict)
    """Labels of workers that were here: what has one of these was ended by us, and is not unknown."""

    def __post_init__(self) -> None:
        self._began_at = self.hub.clock.now()
        self._known = dict.fromkeys(self.hub.former_labels)

    async def sweep(self, provider: Provider, instances: Sequence[Instance]) -> None:
        """Takes in a complete list of a provider, and destroys what it proves to be nobody's."""
        now = self.hub.clock.now()
        ours = list({i.id: i for i in instances if i.label.startswith(self.hub.label_prefix)}.values())
        try:
            orphans, unknown = await self._without_owner(ours)
        except Busy:  # nobody knows whose they are while the store cannot be read
            return
        before = self._seen_at.get(provider.name, {})
        seen_at = self._seen_at[provider.name] = {i.id: before.get(i.id, now) for i in orphans}
        self._unknown.pop(provider.name, None)
        if unknown * 2 > len(ours):
            self._unknown[provider.name] = unknown
            return
        if now - self._began_at < self.hub.stabilization_s:
            return
        for instance in orphans:
            if now - seen_at[instance.id] >= self.apart_s:
                self.destroy(provider, instance)

    def troubles(self) -> list[str]:
        """What an operator must look at, in words that anybody may read."""
        return [
            f"provider {name} has {count} instances of this installation that no worker is known of, most of all it "
            "lists: none is destroyed; destroy them there, or restore the database that knows them"
            for name, count in sorted(self._unknown.items())
        ]

    async def _without_owner(self, ours: Sequence[Instance]) -> tuple[list[Instance], int]:
        """What belongs to no worker, or was made twice, and how many of it no worker here ever had."""
        here = {
            w.label: w.instance_id for managed in self.hub.endpoints.values() for w in managed.fleet.workers.values()
        }
        self._known |= dict.fromkeys(here)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        listed = {i.id for i in ours}
        twice = [i for i in ours if i.label in here and i.id != here[i.label] and here[i.label] in listed]
        foreign = [i for i in ours if i.label not in here]
        owned = await self.owners_of({i.label for i in foreign}) if foreign else ()
        orphans = [i for i in foreign if i.label not in owned]
        return [*twice, *orphans], sum(i.label not in self._known for i in orphans)
