"""A box: connected to when it is needed, again after ever longer pauses, and asked over its one connection."""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import asyncssh
import structlog

import posthouse
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Offer, Price
from posthouse.errors import Busy, Refused, Unavailable
from posthouse.hosts import in_url
from posthouse.ports import InstanceSpec
from posthouse.providers.plugin import Context
from posthouse.providers.process.settings import WorkerSettings
from posthouse.providers.ssh import stock
from posthouse.providers.ssh.frames import Listing, Start
from posthouse.providers.ssh.link import Link, connect
from posthouse.providers.ssh.settings import Host, SshSettings

if TYPE_CHECKING:  # an extra of its own
    from posthouse.providers.ssh.engine import Engine, EngineLink

log = structlog.get_logger()

WAIT_S: Final = 8.0
"""How long a call waits for a connection that is being made, in seconds."""
LIST_S: Final = 12.0
"""How long a box may take to list what it has, or has free, in seconds: less than the engine gives to all boxes."""
CALL_S: Final = 60.0
"""How long another call may take, in seconds, beyond the time that a worker has to end."""
RETRY_S: Final = 3.0
MAX_PAUSE_S: Final = 60.0
"""The longest pause between two attempts to connect, in seconds. The first is a second, and each twice the last."""
TEXT_CHARS: Final = 600
"""Most that is taken of a text that a box sends with an instance."""


class Box:
    """One host of the settings."""

    def __init__(
        self, host: Host, key: asyncssh.SSHKey, settings: SshSettings, context: Context, engine: "Engine | None"
    ) -> None:
        """`engine`: the box's container engine, where it is one that has the workers."""
        self.name = host.name
        self._host = host
        self._key = key
        self._settings = settings
        self._context = context
        self._link: Link | EngineLink | None = None
        self._engine = engine
        self._connecting: asyncio.Task[None] | None = None
        self._price = Price(host.ready_usd_h, host.loading_usd_h, host.stopped_usd_h)
        self._failures = 0
        self._again_at = 0.0
        self._lost_at = ""
        """Since when it cannot be reached; empty while it can."""
        self._why = ""
        """What keeps it from being worked with, if something does."""
        self._obstacle = ""
        self._unlisted = ""
        self._unoffered = ""
        self._unforwarded = ""
        self._listeners: dict[int, asyncssh.SSHListener] = {}
        self._forwarding = asyncio.Lock()

    def troubles(self) -> list[str]:
        """What an operator should mend there."""
        found = (self._away, self._obstacle, self._unlisted, self._unoffered, self._unforwarded)
        return [f"box {self.name}: {text}" for text in found if text]

    @property
    def _away(self) -> str:
        return f"cannot be reached since {self._lost_at} UTC: {self._why}" if self._lost_at else self._why

    async def catalog(self) -> list[Offer]:
        """What it has free, each offer with its name before its own; nothing while that cannot be asked."""
        if self._host.drain:
            return []
        try:
            offers: list[Offer] = await self._call("catalog", limit_s=LIST_S)
            self._unoffered = ""
        except Unavailable:  # which is said already
            return []
        except Exception as error:  # noqa: BLE001 - the seam of a box: whatever it does, the others have offers
            self._unoffered = f"does not say what is free there: {str(error) or repr(error)}"[:TEXT_CHARS]
            return []
        own = self._context.name
        return [
            replace(offer, id=f"{self.name}/{offer.id}", provider=own, machine=self.name, price=self._price)
            for offer in offers
        ]

    async def instances(self) -> list[Instance]:
        """All that it has of this installation, reached from here by now if need be."""
        before = set(self._listeners)
        try:
            listing: Listing = await self._call("instances", limit_s=LIST_S)
        except Exception as error:
            self._unlisted = (
                "" if self._away else f"does not list its workers: {str(error) or repr(error)}"[:TEXT_CHARS]
            )
            raise
        self._unlisted, self._obstacle = "", listing.obstacle[:TEXT_CHARS]
        found = [self._believed(instance, instance.label) for instance in listing.instances]
        if self._host.forward:
            self._unforwarded = ""
            await self._forward(found, instead_of=before)
        return found

    async def create(self, offer_id: str, spec: InstanceSpec, max_usd_h: float) -> Instance:
        """Raises: Busy if a port of this server that it needs is taken: then it is gone again."""
        made = self._believed(await self._call("create", offer_id, spec, max_usd_h), spec.label)
        if self._host.forward and not await self._forward([made]):
            try:
                await self._call("destroy", made.id)
            except Busy as error:
                raise ConnectionError(str(error)) from error
            raise Busy(f"box {self.name}: {self._unforwarded}", RETRY_S)
        return made

    async def update(self, instance_id: str, spec: InstanceSpec) -> Instance:
        updated = self._believed(await self._call("update", instance_id, spec), instance_id)
        if self._host.forward:
            await self._forward([updated])
        return updated

    async def ask(self, name: str, *given: Any) -> Any:
        """Another call of `CALLS`, as it is."""
        return await self._call(name, *given)

    async def close(self) -> None:
        """Lets go of it; its workers go on."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._link is not None:
            await self._link.close()
        if self._engine is not None:
            await self._engine.close()
        for listener in self._listeners.values():
            listener.close()

    # -- its connection ----------------------------------------------------------------------------------------------

    async def _call(self, name: str, *given: Any, limit_s: float = 0.0) -> Any:
        """Raises: Unavailable where nothing was asked; what the call raises; ConnectionError, TimeoutError."""
        link = await self._linked()
        try:
            return await link.call(name, *given, limit_s=limit_s or CALL_S + self._settings.grace_s)
        except (ConnectionError, TimeoutError) as error:
            if not link.alive:
                self._leave(str(error))
            raise type(error)(f"box {self.name}: {name}: {error}") from error

    async def _linked(self) -> "Link | EngineLink":
        """The connection, made if need be. Raises: Unavailable while there is none."""
        now = asyncio.get_running_loop().time
        if self._link is not None and self._link.alive:
            return self._link
        if self._connecting is None and now() >= self._again_at:
            self._connecting = asyncio.create_task(self._connect())
        if self._connecting is not None:
            await asyncio.wait([self._connecting], timeout=WAIT_S)
        if self._link is not None and self._link.alive:
            return self._link
        raise Unavailable(f"box {self.name}: {self._away or 'it is being connected to'}", RETRY_S)

    async def _connect(self) -> None:
        """Makes the connection, or says why there is none, and when it is worth another attempt."""
        host = self._host
        try:
            connection = await connect(host, self._key)
            try:
                link = await self._open(connection)
            except BaseException:
                connection.abort()
                raise
        except Exception as error:  # noqa: BLE001 - the seam of a box: whatever it does, it is tried again later
            why = str(error) or type(error).__name__
            self._leave(why if isinstance(error, Refused) else f"{host.address} port {host.port}: {why}")
            self._again_at = asyncio.get_running_loop().time() + min(MAX_PAUSE_S, 2.0 ** min(self._failures, 10))
            self._failures += 1
        else:
            if self._lost_at:
                log.info("a box is reached again", box=self.name)
            self._link, self._listeners = link, {}
            self._lost_at, self._why, self._failures = "", "", 0
        finally:
            self._connecting = None

    async def _open(self, connection: asyncssh.SSHClientConnection) -> "Link | EngineLink":
        if self._engine is not None:
            return await self._engine.linked(connection)
        root, python = await stock.python_of(self._host, connection, self._copying)
        return await Link.opened(connection, [python, "-m", "posthouse.providers.ssh.remote"], self._start(root))

    def _leave(self, why: str) -> None:
        """Notes that it cannot be reached, and since when."""
        self._why = why[:TEXT_CHARS]
        if not self._lost_at:
            self._lost_at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            log.warning("a box cannot be reached", box=self.name, why=self._why)

    def _copying(self, progress: str) -> None:
        self._why = progress

    def _start(self, root: str) -> Start:
        host, own = self._host, self._settings
        first, last = map(int, host.ports.split("-"))
        return Start(
            installation=self._context.installation,
            name=self._context.name,
            host=host.reached_at,
            version=posthouse.__version__,
            root=root,
            slots=host.slots,
            gpus=host.gpus,
            gpu_name=host.gpu_name,
            gpu_ram_gb=host.gpu_ram_gb,
            ports=(first, last),
            price=self._price,
            workers=own.model_dump(include=set(WorkerSettings.model_fields)),
            wall=own.wall,
            users=own.users,
        )

    # -- what it says ------------------------------------------------------------------------------------------------

    def _believed(self, instance: Instance, label: str) -> Instance:
        """The instance without what a box cannot know: what it costs, addresses of other machines, and where else this
        server is to listen than the settings say. Its texts are bounded. Raises: RuntimeError if it has another label.
        """
        if instance.label != label:
            raise RuntimeError(f"box {self.name}: answered with another instance than was asked for")
        host = in_url(self._host.reached_at)
        first, last = map(int, self._host.ports.split("-")) if self._host.forward else (1, 65_535)
        places = [address.rpartition(":") for address in instance.addresses]
        own = {
            f"{there}:{port}"
            for there, _, port in places
            if there == host and re.fullmatch("[1-9][0-9]{0,4}", port) and first <= int(port) <= last
        }
        return replace(
            instance,
            id=label,
            addresses=frozenset(own),
            price=self._price,
            message=instance.message[:TEXT_CHARS],
            progress=instance.progress[:TEXT_CHARS],
        )

    async def _forward(self, instances: Sequence[Instance], instead_of: Set[int] = frozenset()) -> bool:
        """Listens on the ports of these instances, and no longer on others of `instead_of`. Whether that works."""
        wanted = {int(a.rpartition(":")[2]) for instance in instances for a in instance.addresses}
        async with self._forwarding:
            link = self._link
            if link is None or not link.alive:
                raise ConnectionError(f"box {self.name}: the connection was lost")
            await self._drop(instead_of & self._listeners.keys() - wanted)
            for port in wanted - self._listeners.keys():
                try:
                    self._listeners[port] = await link.connection.forward_local_port(
                        "" if self._host.public_address else "127.0.0.1", port, "127.0.0.1", port
                    )
                except (OSError, asyncssh.Error) as error:
                    self._unforwarded = f"port {port} of this server cannot be listened on: {error}"[:TEXT_CHARS]
        return wanted <= self._listeners.keys()

    async def _drop(self, ports: Iterable[int]) -> None:
        for port in list(ports):
            listener = self._listeners.pop(port)
            listener.close()
            with suppress(OSError):
                await listener.wait_closed()
