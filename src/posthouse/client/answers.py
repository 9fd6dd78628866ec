"""What a client gets back."""

from typing import Any

import msgspec
from msgspec import Struct

from posthouse.client.errors import WorkerFailed


class Routed(Struct, frozen=True):
    """A worker for one request, and the proof that it may be called. Names are the wire's."""

    endpoint: str
    cost: int | float  # the very number of the reply: old workers check a signature over its digits
    reqnum: int
    signature: str
    url: str
    auth_data: dict[str, Any]
    """The whole reply, as a worker expects it."""
    request_idx: int = 0
    limits: dict[str, str] | None = None
    """What is left of the limits of the key, as headers of OpenAI's API; None where it has none, or nobody asked."""
    model: str = ""
    """What the worker calls the adapter that was asked for."""


class Waiting(Struct, frozen=True):
    """No worker is free: ask again with the same `request_idx`."""

    endpoint: str
    status: str = ""
    request_idx: int = 0
    ready_in_s: float = 0.0
    """When a worker is expected, in seconds from now; 0 where nobody can tell."""
    retry_after_s: float = 0.0
    """The key is at its limits: when there is room, in seconds from now."""
    limits: dict[str, str] | None = None
    """As of `Routed`."""


class Answer(Struct, frozen=True):
    """The answer of a worker."""

    status: int
    body: bytes
    content_type: str
    worker_url: str
    wait_s: float
    """Seconds from the call to the route that led to this answer."""
    attempts: int
    """Workers called, this one included."""

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Returns the decoded body; raises `WorkerFailed` where it is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WorkerFailed(f"the answer of {self.worker_url} is not JSON: {error}", self.status) from error
