"""What endpoints were, as it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from posthouse.domain.endpoint import EndpointId


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


class Histories(Protocol):
    """What endpoints were."""

    async def put_history(self, chunks: Sequence[HistoryChunk]) -> None:
        """Writes chunks, each in place of the one in its slot. Raises: Unavailable where the disk is nearly full."""
        ...

    async def history(self, endpoint_id: EndpointId, scale: int, first: int) -> Sequence[HistoryChunk]:
        """The endpoint's chunks of a scale with this number or a later one, in the order of time."""
        ...

    async def latest_history(self, endpoint_id: EndpointId) -> Sequence[HistoryChunk]:
        """Its latest chunk of each scale."""
        ...
