"""What endpoints were, as it is stored."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from posthouse.domain.endpoint import AccountId, EndpointId

COST_SPANS: Final = {100: (3600.0, 200), 101: (86_400.0, 400)}
"""Scales of what endpoints cost, which outlives them: the length of a chunk in seconds, and how many are kept of an
endpoint: hours of eight days, days of thirteen months."""


@dataclass(frozen=True, slots=True)
class HistoryChunk:
    """A piece of an endpoint's history."""

    endpoint_id: EndpointId
    scale: int
    """How fine it is; 0: the finest."""
    number: int
    """Rises with time."""
    slot: int
    """Where it is kept: of two with the same slot the later one stays."""
    rows: int
    packed: bytes
    """For each row its time, eight bytes; then its figures, four bytes each."""


@dataclass(frozen=True, slots=True)
class DeletedEndpoint:
    """An endpoint that is there no more, of whose costs some are kept."""

    id: EndpointId
    account_id: AccountId
    name: str
    deleted_at: float


class Histories(Protocol):
    """What endpoints were."""

    async def put_history(self, chunks: Sequence[HistoryChunk]) -> None:
        """Writes chunks, each in place of the one in its slot. Raises: Unavailable where the disk is nearly full."""
        ...

    async def history(self, endpoint_ids: Collection[EndpointId], scale: int, first: int) -> Sequence[HistoryChunk]:
        """The endpoints' chunks of a scale with this number or a later one, in the order of time."""
        ...

    async def latest_history(
        self, endpoint_ids: Collection[EndpointId], scale: int | None = None
    ) -> Sequence[HistoryChunk]:
        """The latest chunk of each endpoint, of this scale or of each."""
        ...

    async def deleted_endpoints(self) -> Sequence[DeletedEndpoint]:
        """Those of whose costs some are kept: the latest that were deleted."""
        ...
