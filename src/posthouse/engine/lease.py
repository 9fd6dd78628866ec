"""Which endpoints a server may run, where one server has the whole store to itself."""

from dataclasses import dataclass

from posthouse.domain.endpoint import EndpointId


@dataclass(frozen=True, slots=True)
class SoleLease:
    """The `Lease` port of the only server: it has every endpoint. The lock of its data directory sees to that."""

    epoch: int = 1
    """Of this start: an earlier process that is still there may write no more."""
    server: str = "this server"

    async def acquire(self, endpoint_id: EndpointId) -> int | None:
        return self.epoch

    async def release(self, endpoint_id: EndpointId) -> None:
        return

    async def holder(self, endpoint_id: EndpointId) -> str:
        return self.server
