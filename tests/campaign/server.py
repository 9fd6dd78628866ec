"""The engine as `wiring` puts it together, on a disk that survives it: it can be killed between any two steps."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

from posthouse.app.supervise import keep_running
from posthouse.config import Limits, Money
from posthouse.domain.instance import Instance
from posthouse.domain.reports import Ended, Report
from posthouse.engine.buckets import Buckets
from posthouse.engine.changes import Changes
from posthouse.engine.clock import SystemClock
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.lease import SoleLease
from posthouse.engine.loop import Loop
from posthouse.engine.management import Management
from posthouse.engine.observer import Observer
from posthouse.engine.orphans import Orphans
from posthouse.engine.router import Router
from posthouse.errors import PosthouseError, Unavailable
from posthouse.ports import Lease, Provider, Store
from posthouse.server.auth import SECRET_BYTES, Keyring
from posthouse.wire.route import RouteAsk, RouteReply, WaitReply
from tests.campaign.awaits import Await, suspended
from tests.campaign.checks import Checks
from tests.campaign.disk import Connection, Disk
from tests.campaign.virtual import LIFE
from tests.campaign.world import SimInstance, World

STABILIZATION_S = 60.0
SILENT_S = 60.0
ACTION_TIMEOUT_S = 120.0
"""The settings' defaults."""
MAX_USD_H = 3.0
"""Less than what all endpoints ask for in a storm, and enough for a worker of each in the calm."""
HOLD_S = 4.0
"""As in the settings."""

T = TypeVar("T")


class Gone(PosthouseError):
    """The server died before it answered."""


class _Signer:
    public_pem = ""

    def sign(self, data: bytes) -> str:
        return "signed"

    def sign_beside(self, data: bytes, then: Callable[[str | Exception], None]) -> None:
        asyncio.get_running_loop().call_soon(then, "signed")


class Server:
    """One life of the server, from its start to its end."""

    def __init__(self, world: World, disk: Disk, checks: Checks, tick_s: float, lease: Lease | None = None) -> None:
        """`lease`: by default that of the only server."""
        self.world, self.checks = world, checks
        self._lease = lease
        self.up = False
        self._tick_s = tick_s
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._own: Context = copy_context()
        self._own.run(LIFE.set, self._tasks)
        self._store = cast(Store, Connection(disk, self._before_store))
        self._kill_in: tuple[str, int, Callable[[], None]] | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Does something whose tasks end with this life."""
        self._own.run(work)

    async def start(self) -> None:
        """As `wiring.running`. Raises: Unavailable where the store cannot be read; Gone."""
        await self.call(self._start())

    async def _start(self) -> None:
        clock = SystemClock(await self._store.latest_at())
        providers = {self.world.name: self.world}
        installation, epoch = await self._store.installation(), await self._store.next_epoch()
        lease = self._lease or SoleLease(epoch)
        self.hub = Hub(self._store, clock, providers, self.world.name, installation, STABILIZATION_S, lease)
        self.hub.tick_s, self.hub.silent_s = self._tick_s, SILENT_S
        self.hub.treasury.caps = Money(max_usd_h=MAX_USD_H)
        await self.hub.load()
        signer = _Signer()
        self.router = Router(self.hub, signer, lambda worker_id: bytes(32), HOLD_S, signer.sign_beside)
        self.ingest = Ingest(self.hub, lambda worker_id, token: True, Buckets(10.0))
        self.observer = Observer(self.hub)
        self.executor = Executor(
            self.hub,
            report_url=lambda worker: "",
            worker_token=lambda worker_id: "",
            secrets=lambda owner: {},
            root_pem="",
            most_at_once=1 if self.world.thorough else 8,
            timeout_s=ACTION_TIMEOUT_S,
            on_answer=self.observer.poke,
        )
        self.orphans = Orphans(self.hub, self._destroy_orphan, self.hub.store.workers_labelled)
        self.ingest.on_unknown = self.orphans.heard
        self.loop = Loop(self.hub, self.executor)
        self.hub.before_close += [self.loop.settle, self.executor.settle]
        self.management = Management(self.hub, Limits(), Keyring(bytes(SECRET_BYTES), [], self.hub.endpoint))
        self.checks.begin(self.hub, self.world)
        self.world.tell = self._hear
        self._for_ever = [
            asyncio.create_task(keep_running("control loop", self.loop.run)),
            asyncio.create_task(keep_running("observer", self._observe)),
            asyncio.create_task(keep_running("offers", lambda: self.hub.offers.run(self.world, self.world.catalog_s))),
        ]
        self.up = True

    def _destroy_orphan(self, provider: Provider, instance: Instance) -> None:
        self.checks.orphan_destroyed(instance)
        self.executor.destroy_orphan(provider, instance)

    async def _observe(self) -> None:
        await self.observer.run(self.world, self.world.poll_s, self.orphans.sweep)

    def follow(self) -> None:
        """Shares the store: what others change there is read again from now on."""
        self.keep(Changes(self.hub, lambda keys: None).run)

    def keep(self, *parts: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Keeps parts running until it ends."""
        for part in parts:
            task = asyncio.get_running_loop().create_task(keep_running(repr(part), part), context=self._own)
            self._for_ever.append(task)

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What the server answers. Raises: Gone where it dies before."""
        task = asyncio.get_running_loop().create_task(work, context=self._own)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # its client may have left
        await asyncio.wait([task])
        if task.cancelled():
            raise Gone("connection reset")
        return task.result()

    async def route(self, ask: RouteAsk, left_s: float) -> RouteReply | WaitReply | None:
        """What `/route/` answers to a client that leaves after `left_s`. Raises: Gone, BadRequest."""
        if not self.up:
            raise Gone("connection refused")
        managed = self.hub.named(ask.endpoint)
        if managed is None:
            return None
        reply: asyncio.Future[RouteReply | WaitReply | Exception] = asyncio.get_running_loop().create_future()
        leave = self._own.run(self.router.route, managed, ask, reply.set_result, "", self.hub.clock.now())
        if leave is not None and not await self.call(_came(reply, left_s)):
            leave()
            return None
        found = reply.result()
        if isinstance(found, Exception):
            raise found
        return found

    def _hear(self, instance: SimInstance, message: Report | Ended) -> None:
        if not self.up:
            return
        self.checks.told(instance)
        try:
            if isinstance(message, Report):
                self.ingest.report(self.ingest.home(instance.worker_id, ""), instance.worker_id, message)
            else:
                self.ingest.ended(self.ingest.home(instance.worker_id, ""), instance.worker_id, (message,))
        except PosthouseError:
            return
        self.checks.heard(instance, message)

    def waits_at(self) -> set[Await]:
        """Where in the engine its tasks wait."""
        return suspended(self._tasks)

    def kill(self) -> None:
        """Ends it at once: nothing of it runs on, nothing in its memory is kept."""
        self.up = False
        self.world.tell = lambda instance, message: None
        self.checks.end()
        for task in list(self._tasks):
            task.cancel()

    async def stop(self) -> None:
        """As the end of `wiring.running`: what was begun is finished, and what is only in memory written down."""
        self.up = False
        self.world.tell = lambda instance, message: None
        await self.call(self._stop())
        self.kill()

    async def _stop(self) -> None:
        for task in self._for_ever:
            task.cancel()
        await asyncio.wait(self._for_ever)
        await self.loop.close()
        await self.executor.close()
        for managed in self.hub.endpoints.values():
            await self.hub.write_down(managed)

    def kill_at(self, call: str, steps: int, kill: Callable[[], None]) -> None:
        """Has it killed so many steps after the next call of that kind to the store has begun."""
        self._kill_in = call, steps, kill

    async def _before_store(self, call: str, args: tuple[Any, ...]) -> None:
        if self._kill_in is not None and call.startswith(self._kill_in[0]):
            _, steps, kill = self._kill_in
            self._kill_in = None
            self.world.loop.after_steps = self.world.loop.steps + steps, kill
        if call == "commit":
            self.checks.look(args[0])
        await asyncio.sleep(self.world.random.uniform(0.1, 20.0) if self.world.hit("store slow") else 0)
        if self.world.hit("store fails"):
            self.checks.store_failed()
            raise Unavailable("the database is locked", 5.0)


async def _came(reply: "asyncio.Future[Any]", within_s: float) -> bool:
    await asyncio.wait([reply], timeout=within_s)
    return reply.done()
