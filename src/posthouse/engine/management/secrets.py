"""Secrets: environment variables that every new instance is given."""

import asyncio
import re
from dataclasses import dataclass
from typing import Protocol

from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import Secret
from posthouse.errors import BadRequest, NotFound

MAX_SECRETS = 100
"""Most secrets: our choice."""
MAX_TOTAL_BYTES = 32_768
"""Most bytes of all names and values together: half of what an instance's environment may have on this machine, so that
a template's own variables have room beside them."""
MAX_NAME = 128
"""Longest name, in characters: our choice."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = re.compile(
    r"REPORT_ADDR|MASTER_TOKEN|USE_SSL|CONTAINER_ID|PUBLIC_IPADDR|WORKER_(HTTP_)?PORT|MODEL_(PORT|LOG)"
    r"|(VAST_TCP_PORT|POSTHOUSE)_.*",
    re.IGNORECASE,
)
"""Names that the server and its providers set themselves, and prefixes of such."""


class Sealer(Protocol):
    """Encrypts values for the store."""

    def seal(self, value: str) -> str: ...

    def unseal(self, name: str, sealed: str) -> str: ...


@dataclass(slots=True)
class Secrets:
    """The use cases of secrets."""

    hub: Hub
    sealer: Sealer
    lock: asyncio.Lock

    def plain(self, owner: AccountId) -> dict[str, str]:
        """Every secret of the owner with its value, by name. Raises: Refused for one that cannot be read."""
        return {name: self.sealer.unseal(name, sealed) for name, sealed in sorted(self._owned(owner).items())}

    async def create(self, new: Secret, owner: AccountId) -> None:
        """Raises: BadRequest."""
        async with self.lock:
            name = _checked(new.key)
            if name in self._owned(owner):
                raise BadRequest(f"key: there is already a secret {name}; update or delete it")
            if len(self._owned(owner)) >= MAX_SECRETS:
                raise BadRequest(f"key: there are {MAX_SECRETS} secrets, which is the limit: delete some")
            await self._put(owner, name, new.value)

    async def update(self, changed: Secret, owner: AccountId) -> None:
        """Raises: BadRequest, NotFound."""
        async with self.lock:
            await self._put(owner, self._known(owner, changed.key), changed.value)

    async def delete(self, name: str, owner: AccountId) -> None:
        """Raises: BadRequest, NotFound."""
        async with self.lock:
            known = self._known(owner, name)
            await self.hub.store.drop_secret(owner, known)
            del self.hub.secrets[owner][known]

    def _owned(self, owner: AccountId) -> dict[str, str]:
        return self.hub.secrets.get(owner, {})

    async def _put(self, owner: AccountId, name: str, value: str) -> None:
        others = {n: self.sealer.unseal(n, sealed) for n, sealed in self._owned(owner).items() if n != name}
        total = sum(len(text.encode()) for pair in [*others.items(), (name, value)] for text in pair)
        if total > MAX_TOTAL_BYTES:
            raise BadRequest(f"value: all secrets together would have {total} bytes, and {MAX_TOTAL_BYTES} are allowed")
        sealed = self.sealer.seal(value)
        await self.hub.store.put_secret(owner, name, sealed)
        self.hub.secrets.setdefault(owner, {})[name] = sealed

    def _known(self, owner: AccountId, name: str) -> str:
        if _checked(name) not in self._owned(owner):
            raise NotFound(f"there is no secret {name}")
        return name


def _checked(name: str) -> str:
    """The name of a secret. Raises: BadRequest."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise BadRequest(
            f"key: must be the name of a variable: 1 to {MAX_NAME} letters, digits and _, and no digit first"
        )
    if _OURS.fullmatch(name):
        raise BadRequest(f"key: {name} is set by the server itself; choose another")
    return name
