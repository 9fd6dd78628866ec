"""What an engine must have before a worker can run: its image, and the agent."""

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from posthouse.errors import Busy
from posthouse.ports import RegistryLogin
from posthouse.providers import bundle
from posthouse.providers.docker import layout
from posthouse.providers.docker.engine import RETRY_S, Engine
from posthouse.providers.docker.layout import AGENT_DIR

log = structlog.get_logger()

PULL_WAIT_S: Final = 30.0
"""How long a call waits for an image, in seconds. A pull goes on after it."""
AGENT_MARK: Final = "posthouse.agent"
"""Label of what brings the agent to an engine."""


@dataclass(frozen=True, slots=True)
class Pull:
    """An image on its way."""

    task: asyncio.Task[None]
    layers: dict[str, tuple[int, int]]
    """Bytes so far and in all, by layer."""


class Stock:
    """Brings images and the agent to an engine."""

    def __init__(self, engine: Engine, installation: str) -> None:
        self._engine = engine
        self._installation = installation
        self._pulls: dict[tuple[str, RegistryLogin | None], Pull] = {}
        self._filling = asyncio.Lock()
        self._volume = ""
        """Name of the agent's volume, once it is known."""
        self._filled = False

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The pulls that are on their way."""
        return [pull.task for pull in self._pulls.values()]

    def pull(self, image: str, login: RegistryLogin | None) -> Pull:
        """The pull of an image, which workers share."""
        key = image, login
        if key not in self._pulls:
            layers: dict[str, tuple[int, int]] = {}
            task = asyncio.create_task(self._engine.pull(image, login, layers))
            self._pulls[key] = Pull(task, layers)
            task.add_done_callback(lambda done: (self._pulls.pop(key, None), done.cancelled() or done.exception()))
        return self._pulls[key]

    async def require(self, image: str, login: RegistryLogin | None) -> None:
        """Returns once the engine has the image. Raises: Busy while its pull takes longer, Refused."""
        if await self._engine.has_image(image):
            return
        pull = self.pull(image, login)
        try:
            async with asyncio.timeout(PULL_WAIT_S):
                await asyncio.shield(pull.task)
        except TimeoutError as error:
            raise Busy(f"pulling {image}: {layout.progress(pull.layers)}", RETRY_S) from error

    async def agent(self, image: str) -> str:
        """The volume with the agent, filled if need be by way of an image that is there."""
        async with self._filling:
            if not self._volume:
                version = await asyncio.to_thread(bundle.version)
                self._volume = f"posthouse-{self._installation}-agent-{version}"
            if not self._filled or not await self._engine.has_volume(self._volume):
                await self._fill(self._volume, image)
                self._filled = True
        return self._volume

    async def _fill(self, volume: str, image: str) -> None:
        """Puts the agent into its volume by way of a container that never runs, and removes those of other versions."""
        mark = {AGENT_MARK: self._installation}
        old_volumes, old_containers = await self._engine.listed(f"{AGENT_MARK}={self._installation}")
        for left in old_containers:
            await self._engine.remove(left["Id"], anonymous=True)
        for old in old_volumes:
            if old["Name"] != volume:
                with suppress(Busy):  # a worker has it
                    await self._engine.remove_volume(old["Name"])
        await self._engine.make_volume(volume, mark)
        body = {"Image": image, "Labels": mark, "Cmd": ["true"], "HostConfig": {"Binds": [f"{volume}:{AGENT_DIR}"]}}
        container = await self._engine.create(f"posthouse-{self._installation}-agent", body)
        try:
            if not await self._engine.read(container, f"{AGENT_DIR}/{bundle.COMPLETE}"):
                log.info("putting the agent on an engine", volume=volume)
                with tempfile.TemporaryFile() as archive:
                    await asyncio.to_thread(bundle.archive, AGENT_DIR, archive, "agent = 'image'")
                    archive.seek(0)
                    await self._engine.write(container, AGENT_DIR, archive)
        finally:
            await self._engine.remove(container, anonymous=True)
