"""Aliases: names that callers of a gateway may give as `model`."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import MAX_NAME, NewAlias
from posthouse.errors import BadRequest, NotFound
from posthouse.wire.checks import unknown
from posthouse.wire.fallback import EXTERNAL
from posthouse.wire.rows import Alias, AliasFallback, AliasTarget

MAX_ALIASES = 1000
"""Most aliases of an account: our choice."""


@dataclass(slots=True)
class Aliases:
    """The use cases of aliases."""

    hub: Hub
    lock: asyncio.Lock

    def of(self, owner: AccountId) -> Mapping[str, Alias]:
        """By name."""
        return self.hub.aliases.get(owner, {})

    async def put(self, name: str, new: NewAlias, owner: AccountId) -> Alias:
        """The alias, new or in place of the one of this name. Raises: BadRequest."""
        async with self.lock:
            known, now = self.of(owner), self.hub.clock.now()
            if not (0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()):
                raise BadRequest(f"name: must have 1 to {MAX_NAME} printable characters, without blanks around them")
            if self.hub.directory.id_of(owner, name) is not None:
                raise BadRequest(f"name: {name!r} is an endpoint; choose another")
            if name not in known and len(known) >= MAX_ALIASES:
                raise BadRequest(f"name: there are {MAX_ALIASES} aliases, which is the limit: delete some")
            alias = Alias(
                name=name,
                targets=[AliasTarget(model=one.model, weight=one.weight) for one in new.targets],
                fallbacks=[AliasFallback(model=one.model, faults=one.faults) for one in new.fallbacks],
                wait_s=new.wait_s,
                created_at=known[name].created_at if name in known else now,
            )
            self._check(alias, owner)
            await self.hub.store.put_alias(owner, alias)
            self.hub.aliases.setdefault(owner, {})[name] = alias
            return alias

    async def delete(self, name: str, owner: AccountId) -> Alias:
        """The alias that was deleted. Raises: NotFound, BadRequest while another one names it."""
        async with self.lock:
            if name not in self.of(owner):
                raise NotFound(f"there is no alias {name[:MAX_NAME]!r}")
            check_unnamed(self.hub, owner, name, "alias")
            await self.hub.store.drop_alias(owner, name)
            return self.hub.aliases[owner].pop(name)

    def _check(self, alias: Alias, owner: AccountId) -> None:
        """Raises: BadRequest where it names what there is not, or leads back to itself."""
        if not any(target.weight for target in alias.targets):
            raise BadRequest("targets: one at least must have a weight above 0")
        known = {**self.of(owner), alias.name: alias}
        endpoints = [endpoint.name for endpoint in self.hub.directory if endpoint.account_id == owner]
        last = len(alias.fallbacks) - 1
        for field, model in _named(alias):
            if model.startswith(EXTERNAL) and model not in endpoints:
                if field == f"fallbacks[{last}].model" and model != EXTERNAL:
                    continue
                raise BadRequest(f"{field}: {EXTERNAL}NAME can only be the last fallback")
            if model not in known and model not in endpoints:
                raise BadRequest(f"{field}: {unknown(model, [*endpoints, *known], 'endpoint or alias')}")
            if path := _way(known, model, alias.name):
                shown = " -> ".join(map(repr, [alias.name, *path]))
                raise BadRequest(f"{field}: leads back to where it began: {shown}")


def check_unnamed(hub: Hub, owner: AccountId, name: str, what: str) -> None:
    """Raises: BadRequest while an alias names this model."""
    users = [repr(alias.name) for alias in hub.aliases.get(owner, {}).values() if name in dict(_named(alias)).values()]
    if users:
        raise BadRequest(f"{what} {name!r} is named by the alias {', '.join(users[:10])}: change that first")


def _named(alias: Alias) -> list[tuple[str, str]]:
    """The models that an alias names, each with its field."""
    found = [(f"targets[{number}].model", target.model) for number, target in enumerate(alias.targets)]
    return found + [(f"fallbacks[{number}].model", one.model) for number, one in enumerate(alias.fallbacks)]


def _way(known: Mapping[str, Alias], begin: str, end: str) -> list[str]:
    """The models on a way from one to the other, the shortest; empty where there is none."""
    before, row = {begin: ""}, [begin]
    for model in row:
        if model == end:
            path = [model]
            while before[path[0]]:
                path.insert(0, before[path[0]])
            return path
        for _, other in _named(known[model]) if model in known else []:
            if other not in before:
                before[other] = model
                row.append(other)
    return []
