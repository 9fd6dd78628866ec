"""What a provider's package brings: a class behind an entry point of the group `posthouse.providers`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from posthouse.config import ProviderSettings
from posthouse.ports import Provider


@dataclass(frozen=True, slots=True)
class Context:
    """What a provider is told about the server that opens it."""

    name: str
    """Of its table `[providers.NAME]`: what its offers and the provider itself call themselves."""
    installation: str
    """Part of every label: `posthouse-<installation>-<worker id>`. What carries another is not ours."""
    data_dir: Path
    """The server's data directory. What a provider keeps there has its name in its path."""


class Plugin(Protocol):
    """The class itself: not an instance of it."""

    Settings: ClassVar[type[ProviderSettings]]
    """The model of its table. Each field has a description, which the documentation and `config show` repeat."""

    async def open(self, settings: Any, context: Context) -> Provider:
        """The provider with these settings, an instance of `Settings`. A class method.

        Raises: Refused where it cannot work, which keeps the server from starting.
        """
        ...
