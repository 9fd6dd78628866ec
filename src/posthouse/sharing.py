"""The port by which servers that share a store find each other and divide the endpoints among them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from posthouse.domain.endpoint import EndpointId

KEY_FILES: Final = ("secret", "signing.pem", "authority.pem", "authority.cer")
"""Files of the data directory with the keys of the installation: every server and every backup needs them."""


class LiveServer(NamedTuple):
    """A registered server."""

    name: str
    url: str
    """Where other servers reach it; empty while it hands over what it has and leaves."""
    expired: bool = False
    """Whether it failed to renew its lease in time."""


class Servers(Protocol):
    """The servers that share a store, and the owner of each endpoint.

    A server's name is `ID-RUN`: it registers under another name after each start, and after it was declared dead.

    Raises: Unavailable from every call while the store cannot be used.
    """

    on_notice: Callable[[str], None]
    """Called with what another server has changed: a topic of `revisions`, or `owners`. Notices may be lost."""

    async def register(self, server: str, url: str, lease_s: float) -> None:
        """Adds a server, and removes its earlier names."""
        ...

    async def renew(self, server: str, lease_s: float) -> tuple[Sequence[LiveServer], float] | None:
        """Renews a server's lease on all that it owns. Returns the registered servers and the store's time in epoch
        seconds; None if the server was evicted: then others may own its endpoints."""
        ...

    async def evict_expired(self, server: str) -> Sequence[str]:
        """Removes every other server whose lease has expired, which frees its endpoints. Returns their names."""
        ...

    async def withdraw(self, server: str) -> None:
        """Takes a server's URL away: it leaves, and takes nothing more."""
        ...

    async def deregister(self, server: str) -> None:
        """Removes a server, which frees its endpoints; an unknown one is success."""
        ...

    async def owners(self) -> Mapping[EndpointId, str]:
        """The name of each endpoint's owner, empty for a free one; also of deleted endpoints that have workers."""
        ...

    async def claim(self, server: str, most: int) -> Mapping[EndpointId, int]:
        """Makes a registered server the owner of up to `most` free endpoints. Returns their epochs, each higher than
        every earlier one of the endpoint."""
        ...

    async def acquire(self, server: str, endpoint_id: EndpointId) -> int | None:
        """The same for one endpoint, which the server may own already. None if another server owns it, or this one was
        evicted."""
        ...

    async def release(self, server: str, endpoint_id: EndpointId) -> None:
        """Frees an endpoint; one that the server does not own is success."""
        ...

    async def shared_file(self, name: str) -> bytes | None:
        """The content of a file that all servers have; None if there is none of this name."""
        ...

    async def put_shared_file(self, name: str, body: bytes, replace: bool = False) -> bytes:
        """Stores a file for all servers, unless it exists and `replace` is not set. Returns its content from now on."""
        ...

    async def close(self) -> None: ...
