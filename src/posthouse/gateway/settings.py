"""The settings of a gateway: one frozen value. The command line names each, with its bounds."""

from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Everything a gateway needs to know."""

    listen_host: str = "127.0.0.1"
    listen_port: int = 8081
    """0 takes a free one."""
    url: str | None = None
    """Of the server, or of several with commas between; None: the client's own default."""
    ca: str | None = None
    """File of root certificates that are trusted beside the machine's own, in PEM."""
    hold_s: float = 300.0
    """How long a request may wait for a worker."""
    keep_alive_s: float = 10.0
    """A streamed answer of which nothing has come for so long is begun, and then gets a comment as often."""
    silence_s: float = 600.0
    """How long a worker may send nothing; as long as the agent waits for its model."""
    stall_s: float = 60.0
    """How long a client may take nothing of its answer."""
    drain_s: float = 60.0
    """How long requests may go on when the gateway stops."""
    max_body_bytes: int = 32 * MIB
    max_held_bytes: int = 512 * MIB
    """All bodies together, of requests whose answer has not ended."""
    max_connections: int = 4096
    records: str | None = None
    """File for what became of each request, as JSON lines; None: it is only logged."""
    externals: str | None = None
    """File with servers of others that aliases may fall back on, in TOML; None: there are none."""
    max_records_bytes: int = 64 * MIB
