"""Where every endpoint of the installation is: by owner and name, or by id."""

from collections.abc import Iterator
from dataclasses import dataclass

from posthouse.domain.endpoint import AccountId, Endpoint, EndpointId
from posthouse.engine.managed import ManagedEndpoint


@dataclass(slots=True)
class Listed:
    """One endpoint of the installation, on whatever server."""

    endpoint: Endpoint
    managed: ManagedEndpoint | None = None
    """None if this server does not have it."""
    server: str = ""
    """Which server has it, as far as is known."""


class Directory:
    """Every endpoint that exists, by owner and name and by id. One that is being deleted is in it no more."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[AccountId, str], Listed] = {}
        self._by_id: dict[EndpointId, Listed] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Endpoint]:
        return (listed.endpoint for listed in self._by_id.values())

    def find(self, account_id: AccountId, name: str) -> Listed | None:
        """The account's endpoint with this name."""
        return self._by_name.get((account_id, name))

    def id_of(self, account_id: AccountId, name: str) -> EndpointId | None:
        """The id of the account's endpoint with this name."""
        listed = self._by_name.get((account_id, name))
        return None if listed is None else listed.endpoint.id

    def get(self, endpoint_id: EndpointId) -> Listed | None:
        return self._by_id.get(endpoint_id)

    def free(self) -> list[EndpointId]:
        """Those that no server has, as far as is known."""
        return [i for i, listed in self._by_id.items() if listed.managed is None and not listed.server]

    def put(self, endpoint: Endpoint) -> Listed:
        """Adds or replaces an endpoint."""
        listed = self._by_id.get(endpoint.id)
        if listed is None:
            listed = self._by_id[endpoint.id] = Listed(endpoint)
        else:
            del self._by_name[listed.endpoint.account_id, listed.endpoint.name]
            listed.endpoint = endpoint
        self._by_name[endpoint.account_id, endpoint.name] = listed
        return listed

    def drop(self, endpoint_id: EndpointId) -> None:
        """Forgets an endpoint."""
        listed = self._by_id.pop(endpoint_id, None)
        if listed is not None:
            del self._by_name[listed.endpoint.account_id, listed.endpoint.name]
