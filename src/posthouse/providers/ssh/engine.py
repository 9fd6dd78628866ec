"""A container engine on a box: the docker provider, which finds the engine's socket here, brought by ssh."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import asyncssh

from posthouse.providers.docker.provider import DockerProvider
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.plugin import Context
from posthouse.providers.ssh.frames import Listing
from posthouse.providers.ssh.settings import Host, SshSettings

CHECK_S: Final = 20.0
"""How long an engine may take for its first answer over a new connection, in seconds."""


class Engine:
    """The docker provider of one box. It stays while connections come and go: it has pulls that are on their way."""

    def __init__(self, host: Host, settings: SshSettings, context: Context) -> None:
        # Anyone who can write to the socket is root on the box: its folder is for this user alone.
        self._folder = tempfile.mkdtemp(prefix="posthouse-")
        self._socket = Path(self._folder, "engine.sock")
        self._theirs = host.engine
        own = DockerSettings(
            type="docker",
            url=f"unix://{self._socket}",
            host=host.reached_at,
            ports=host.ports,
            slots=host.slots,
            gpus=host.gpus,
            gpu_name=host.gpu_name,
            gpu_ram_gb=host.gpu_ram_gb,
            image=host.image,
            memory_gb=settings.memory_gb,
            max_processes=settings.max_processes,
            grace_s=round(settings.grace_s),
            ready_usd_h=host.ready_usd_h,
            loading_usd_h=host.loading_usd_h,
            stopped_usd_h=host.stopped_usd_h,
        )
        self._provider = DockerProvider(own, context)

    async def linked(self, connection: asyncssh.SSHClientConnection) -> "EngineLink":
        """The engine over this connection. Raises: OSError, TimeoutError if it does not answer."""
        self._socket.unlink(missing_ok=True)
        await connection.forward_local_path(str(self._socket), self._theirs)
        link = EngineLink(connection, self._provider)
        await link.call("instances", limit_s=CHECK_S)
        return link

    async def close(self) -> None:
        await self._provider.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class EngineLink:
    """An engine, over one connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, provider: DockerProvider) -> None:
        self.connection = connection
        self._provider = provider

    @property
    def alive(self) -> bool:
        return not self.connection.is_closed()

    async def call(self, name: str, *given: Any, limit_s: float) -> Any:
        """What the call of that name returns. Raises: what the docker provider raises; TimeoutError."""
        async with asyncio.timeout(limit_s):
            value = await getattr(self._provider, name)(*given)
        return Listing(list(value), "") if name == "instances" else value

    async def close(self) -> None:
        """Lets go of the box."""
        self.connection.abort()
