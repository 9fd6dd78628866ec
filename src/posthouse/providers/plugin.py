"""What a provider's package brings: a class behind an entry point of the group `posthouse.providers`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from posthouse.config import ProviderSettings
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities
from posthouse.errors import Refused
from posthouse.ports import InstanceSpec, Provider


@dataclass(frozen=True, slots=True)
class Context:
    """What a provider is told about the server that opens it."""

    name: str
    """Of its table `[providers.NAME]`: what its offers and the provider itself call themselves."""
    installation: str
    """Part of every label: `posthouse-<installation>-<worker id>`. What carries another is not ours."""
    data_dir: Path
    """The server's data directory. What a provider keeps there has its name in its path."""
    bell: Callable[[], None] = lambda: None
    """Asks for a look at its list soon: for a provider that is told of changes. Only the list is believed."""
    report_url: str = ""
    """Where its workers report to the server; empty if that is not known yet."""
    servers: Callable[[], int] = lambda: 1
    """How many servers share the installation now, and so what it allows to one caller."""


class Plugin(Protocol):
    """The class itself: not an instance of it."""

    Settings: ClassVar[type[ProviderSettings]]
    """The model of its table. Each field has a description, which the documentation and `config show` repeat."""

    async def open(self, settings: Any, context: Context) -> Provider:
        """The provider with these settings, an instance of `Settings`. A class method.

        Raises: Refused where it cannot work, which keeps the server from starting.
        """
        ...


class BaseProvider:
    """A provider that can do nothing beyond making and destroying workers; who can do more overrides that."""

    name: str
    capabilities = Capabilities(stop=False, update=False, logs=False)

    async def start(self, instance_id: str) -> None:
        raise Refused(f"provider {self.name} cannot start what is stopped")

    async def stop(self, instance_id: str) -> None:
        raise Refused(f"provider {self.name} cannot stop a worker and keep its disk")

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        raise Refused(f"provider {self.name} cannot update a worker in place")

    async def logs(self, instance_id: str, tail: int) -> str:
        return ""

    def troubles(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None
