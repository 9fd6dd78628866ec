"""What other servers change in a store that is shared: noticed by its revisions, and read again."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from posthouse.engine import memory
from posthouse.engine.hub import Hub
from posthouse.errors import Unavailable
from posthouse.keys import KeyRecord
from posthouse.waiting import is_set_within

POLL_S = 0.9
"""How often the revisions are read without a notice: the longest time until a change is known here."""


@dataclass(slots=True)
class Changes:
    """Follows the store for a hub that shares it. The only server on a store needs none."""

    hub: Hub
    take_keys: Callable[[Sequence[KeyRecord]], None]
    """Called with all keys when some have changed."""
    _seen: dict[str, int] = field(default_factory=dict)
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.hub.before_open.append(self.look)

    def notice(self, topic: str) -> None:
        """Handles a notice that another server has changed something."""
        self._told.set()

    async def run(self) -> None:
        """Reads what has changed, at each notice and every `POLL_S`, until cancelled."""
        while True:
            await is_set_within(self._told, POLL_S)
            self._told.clear()
            with suppress(Unavailable):  # it is among the store's troubles
                await self.look()

    async def look(self) -> None:
        """Reads again what others have changed since the last look. Raises: Unavailable."""
        readers: dict[str, Callable[[], Awaitable[None]]] = {  # what others are made of comes first
            "accounts": self._accounts,
            "templates": self._templates,
            "endpoints": self._endpoints,
            "workergroups": self._workergroups,
            "secrets": self._secrets,
            "aliases": self._aliases,
            "keys": self._keys,
            "users": self._users,
            "sessions": self._sessions,
        }
        async with self._looking:
            found = await self.hub.store.revisions()  # before the rows: what changes meanwhile is read again next time
            for kind, read in readers.items():
                if self._seen.get(kind) != found[kind]:
                    await read()
                    self._seen[kind] = found[kind]

    async def _accounts(self) -> None:
        self.hub.accounts = {a.id: a for a in await self.hub.store.accounts()}

    async def _secrets(self) -> None:
        self.hub.secrets = {owner: {**values} for owner, values in (await self.hub.store.secrets()).items()}

    async def _aliases(self) -> None:
        self.hub.aliases = {owner: {**found} for owner, found in (await self.hub.store.aliases()).items()}

    async def _users(self) -> None:
        self.hub.users = {user.name: user for user in await self.hub.store.users()}

    async def _sessions(self) -> None:
        self.hub.sessions = {session.digest: session for session in await self.hub.store.sessions()}

    async def _keys(self) -> None:
        self.take_keys(await self.hub.store.keys())

    async def _templates(self) -> None:
        rows, known = {t.id: t for t in await self.hub.store.templates()}, self.hub.templates
        for template in rows.values():
            if template.id not in known or known[template.id].revision < template.revision:
                memory.take_template(self.hub, template)
        for gone in known.keys() - rows.keys():
            memory.drop_template(self.hub, gone)

    async def _endpoints(self) -> None:
        rows, directory = {e.id: e for e in await self.hub.store.endpoints()}, self.hub.directory
        for endpoint in rows.values():
            listed = directory.get(endpoint.id)
            if listed is None or listed.endpoint.revision < endpoint.revision:
                memory.take_endpoint(self.hub, endpoint)
        for gone in [e.id for e in directory if e.id not in rows]:
            memory.drop_endpoint(self.hub, gone)

    async def _workergroups(self) -> None:
        rows, known = {g.id: g for g in await self.hub.store.workergroups()}, self.hub.workergroups
        for group in rows.values():
            if group.id not in known or known[group.id].revision < group.revision:
                memory.take_group(self.hub, group)
        for gone in known.keys() - rows.keys():
            memory.drop_group(self.hub, gone)
