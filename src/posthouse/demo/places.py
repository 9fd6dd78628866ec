"""Where the demo's workers run: as processes, or as containers of an engine on this machine."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from signal import SIGKILL
from typing import Protocol

from rich.console import Console

from posthouse.errors import BadRequest, Refused
from posthouse.providers.process.procfs import census, send


class Place(Protocol):
    """Where workers run."""

    @property
    def provider(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, object]:
        """Of the provider, beside those that every one has."""
        ...

    async def clear(self, installation: str) -> int:
        """Ends what an installation's server has left there; returns how many workers that were."""
        ...


@dataclass(frozen=True, slots=True)
class Processes:
    """Workers as processes of this machine."""

    data_dir: Path
    provider: str = "process"
    settings: Mapping[str, object] = field(default_factory=dict)

    async def clear(self, installation: str) -> int:
        left = census(str(self.data_dir / "workers"))
        for process in chain.from_iterable(left.values()):
            send(process, SIGKILL)
        return len(left)


@asynccontextmanager
async def opened(provider: str, engine: str, image: str, data_dir: Path, console: Console) -> AsyncIterator[Place]:
    """The place that a command names, ready for workers.

    Raises: BadRequest for options that do not belong together, Refused for an engine or an image that is of no use.
    """
    if provider != "docker":
        for option in (engine and "--engine", image and "--image"):
            if option:
                raise BadRequest(f"{option} is for --provider docker; workers of {provider} are processes")
        yield Processes(data_dir)
        return
    try:
        from posthouse.demo.containers import containers
    except ModuleNotFoundError as error:
        raise Refused(
            f"--provider docker: {error.name} is not installed; run: pip install 'posthouse[docker]'"
        ) from error
    async with containers(engine, image, console) as place:
        yield place
