"""What servers that share a store need of it: to know of each other, and who has which endpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from posthouse.domain.endpoint import EndpointId

KEY_FILES: Final = ("secret", "signing.pem", "authority.pem", "authority.cer")
"""Of the data directory, what an installation signs and seals with: every server and every backup must have them."""


class LivingServer(NamedTuple):
    """One of the servers that share a store."""

    name: str
    url: str
    """Where the others reach it."""
    late: bool = False
    """It has not renewed its lease in time."""


class Servers(Protocol):
    """The servers that share a store: who lives, and who has which endpoint. A name, `ID-LIFE`, is of one life of a
    server.

    Raises: Unavailable from every call while the store cannot be used.
    """

    on_notice: Callable[[str], None]
    """Told what another server has changed: a topic as of `revisions`, or `owners`. Some notices may be lost."""

    async def enter(self, server: str, url: str, lease_s: float) -> None:
        """Has a server live, and ends its life before."""
        ...

    async def renew(self, server: str, lease_s: float) -> tuple[Sequence[LivingServer], float] | None:
        """Renews a server's lease, whatever it has: who lives now, and what time the store has. None if it lives no
        more: then others may have what it had."""
        ...

    async def bury(self, server: str) -> Sequence[str]:
        """Ends the lives of all but this one who are late; their names. What they had is free."""
        ...

    async def leave(self, server: str) -> None:
        """Ends a server's life; one that has none is success."""
        ...

    async def holders(self) -> Mapping[EndpointId, str]:
        """Who has each endpoint, also one that was deleted and has workers; empty: nobody."""
        ...

    async def claim(self, server: str, most: int) -> Mapping[EndpointId, int]:
        """Gives a server that lives at most so many of the free endpoints; their epochs, each above all before."""
        ...

    async def take(self, server: str, endpoint_id: EndpointId) -> int | None:
        """The same of one endpoint, which it may have already. None if another has it, or the server lives no more."""
        ...

    async def free(self, server: str, endpoint_id: EndpointId) -> None:
        """Has a server have an endpoint no more; one that it does not have is success."""
        ...

    async def shared(self, name: str) -> bytes | None:
        """What was shared under a name; None if nothing was."""
        ...

    async def share(self, name: str, body: bytes, replace: bool = False) -> bytes:
        """What is shared under a name: this, if there was nothing, or it is to `replace` that."""
        ...

    async def close(self) -> None: ...
