"""Settings in, a running server out: the only module that knows the adapters."""

import asyncio
import fcntl
import os
import resource
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

import structlog
import uvicorn

from posthouse.config import ProviderSettings, Settings, make_data_dir
from posthouse.domain.errors import Refused
from posthouse.engine import journal
from posthouse.engine.buckets import Buckets
from posthouse.engine.certificates import Certificates
from posthouse.engine.clock import SystemClock
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.loop import Loop
from posthouse.engine.observer import Observer
from posthouse.engine.offers import Offers
from posthouse.engine.orphans import Orphans
from posthouse.engine.recorder import Recorder
from posthouse.engine.router import Router
from posthouse.handover import Inheritance, Successor
from posthouse.ports import Clock, Provider, Store
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened, require
from posthouse.providers.wrappers import Metered
from posthouse.server.auth import Keyring, Scope, load_secret
from posthouse.server.hot import Hot
from posthouse.server.metrics import Metrics
from posthouse.server.protocol import BEYOND, Protocol, close_late, protocol_for
from posthouse.server.throttle import Throttle
from posthouse.server.tls import ServerCertificate
from posthouse.server.web import web_app
from posthouse.signing.authority import Authority
from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads
from posthouse.store import open_store

log = structlog.get_logger()

HOUSEKEEPING_S = 30.0
"""How often the last use of keys is written down, and the age of keys and certificates looked at."""
LOCK_FILE = "lock"
"""In the data directory: locked by the server that owns it, whose process id it holds."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""That our own certificate is for in any case."""
GRANT_KEYS = 20_000
"""Most workers whose key for grants is remembered: deriving one takes as long as a grant."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open: nginx's default. Clients must be the first to close one: a poll that meets a
server just closing is lost, and the protocol's client then gives up. It closes after 15 s."""
OWN_FILES = 200
"""How many files the server may have open beside connections: the database, the logs of workers it starts."""
GRACEFUL_S = 6
"""How long a stop waits for calls that are being answered; a held request takes at most 4."""


PARTING_S = 20.0
"""How long a restart in place waits for clients to end the connections of before, which each does with its next call.
Clients of the protocol close idle ones after 15 s."""
LAST_CALLS_S = 3.0
"""How long it then waits, no longer listening, for connections whose call has not come yet."""
QUIET_S = 0.2
"""Without a connection for this long, none is on its way any more, a TLS handshake included."""


@dataclass(slots=True)
class Running:
    """A server that runs."""

    url: str
    admin_key: str
    """The first admin key, on the very first start; empty afterwards: it is shown once."""
    hub: Hub
    loop: Loop
    router: Router
    server: uvicorn.Server
    listener: socket.socket
    lock: IO[str]
    successor: Successor | None = None
    """Who takes over at the end of the context."""
    takes_down: bool = False
    _told: asyncio.Event = field(default_factory=asyncio.Event)
    _restarting: asyncio.Task[None] | None = None

    async def until_stopped(self) -> None:
        """Waits until the server has been told to stop, or a new process is ready to take over."""
        await self._told.wait()

    def stop(self, take_down: bool = False) -> None:
        """Tells whoever waits for it to stop. `take_down`: the workers, too; asked for again, it is to stop at once."""
        self.takes_down = take_down
        self._told.set()

    async def take_down(self, tell: Callable[[str], None]) -> None:
        """Has every worker finish what it has and destroys it; returns when none is left or when told to stop again.

        The endpoints stay, and get workers again at the next start. `tell` hears how it goes.
        """
        self.loop.taking_down = True
        self.hub.bell.set()
        self._told.clear()
        said = ""
        while not self._told.is_set():
            workers = [w for managed in self.hub.endpoints.values() for w in managed.fleet.workers.values()]
            counts = Counter(str(w.state) for w in workers)
            busy = sum(managed.fleet.ledger.outstanding() > 0 for managed in self.hub.endpoints.values())
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            many = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
            now = f"{many} left: {states}" if workers else "no worker is left"
            now += f"; {busy} endpoints have work that is being finished" if busy and workers else ""
            if now != said:
                tell(now)
                said = now
            if not workers:
                return
            await asyncio.sleep(0.1)

    def restart(self) -> None:
        """Begins a restart in place: a new process with the same command line takes over, without a refused call."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._restart())

    async def _restart(self) -> None:
        try:
            successor = await Successor.start(self.listener, self.lock)
        except (Refused, OSError) as error:
            log.error("no restart: this process goes on", why=str(error))
            return
        try:
            await self._part()
        except BaseException:
            successor.dismiss()
            raise
        self.successor = successor
        self.stop()

    async def _part(self) -> None:
        """Asks every client to end its connection with its next call, and waits until they have."""
        state, config = self.server.server_state, self.server.config
        goodbye = [(b"connection", b"close")]
        cast(type[Protocol], config.http_protocol_class).early = False
        config.encoded_headers = [*config.encoded_headers, *goodbye]
        state.default_headers = [*state.default_headers, *goodbye]
        before = set(state.connections)
        await _within(PARTING_S, lambda: not before & state.connections)

    async def close(self) -> None:
        """Has the server answer the calls that have come, and end."""
        if self._restarting is not None and self.successor is None:
            self._restarting.cancel()
            await asyncio.wait([self._restarting])
        if self.successor is not None:
            self.router.release()
            for server in self.server.servers:
                server.close()
            quiet_since = asyncio.get_running_loop().time()

            def quiet() -> bool:
                nonlocal quiet_since
                now = asyncio.get_running_loop().time()
                if self.server.server_state.connections:
                    quiet_since = now
                return now - quiet_since > QUIET_S

            await _within(LAST_CALLS_S, quiet)
        self.server.should_exit = True


async def _within(timeout_s: float, reached: Callable[[], bool]) -> None:
    """Waits for a condition, at most so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while not reached():  # noqa: ASYNC110 - of uvicorn's state, which tells by no event
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running(settings: Settings, inheritance: Inheritance | None = None) -> AsyncIterator[Running]:
    """A server with these settings, for as long as the context lasts. Workers outlive it.

    `inheritance`: what the process before leaves to this one, which waits for it.

    Raises: Refused where the address or the data directory is in use or cannot be used, or a successor does not serve.
    """
    async with AsyncExitStack() as stack:
        data_dir, lock = _own(settings, stack, inheritance)
        listener = stack.enter_context(_listen(settings.server.host, settings.server.port, inheritance))
        if inheritance is not None:
            await inheritance.wait()
        _sign(lock)
        port = listener.getsockname()[1]
        url = settings.public_url
        if not settings.server.port:
            url = f"{'http' if settings.server.tls == 'off' else 'https'}://{settings.server.host}:{port}"
        store = await open_store(f"sqlite+aiosqlite:///{data_dir / 'posthouse.db'}")
        stack.push_async_callback(store.close)
        clock = SystemClock(await store.latest_at())
        if clock.behind_s:
            log.warning("this machine's clock is behind the database: times go on from there", behind_s=clock.behind_s)
        secret = await asyncio.to_thread(load_secret, data_dir / "secret")
        signer = await asyncio.to_thread(RsaKey.load_or_create, data_dir / "signing.pem")
        authority = Authority(data_dir / "authority.pem", clock.wall())
        tls, renew_certificate = _tls(settings, data_dir, authority, clock)
        if tls is None and not url.startswith("https://") and not ip_address(listener.getsockname()[0]).is_loopback:
            log.warning("plain HTTP on an address that others reach: keys and prompts can be read; see server.tls")
        installation = await store.installation()
        providers, meters = await _providers(settings, data_dir, installation, stack)
        hub = Hub(
            store,
            clock,
            providers,
            settings.default_provider,
            installation,
            settings.engine.stabilization_s,
            await store.next_epoch(),
        )
        await hub.load()
        keyring = Keyring(secret, await store.keys(), hub.endpoint)
        admin_key = await _first_key(keyring, store, data_dir / "admin-key", clock.now())

        signing = SigningThreads(signer, os.cpu_count() or 1)
        stack.callback(signing.close)
        grant_key = lru_cache(GRANT_KEYS)(keyring.grant_key)
        router = Router(hub, signer, grant_key, settings.server.route_hold_s, signing.sign)
        ingest = Ingest(hub, keyring.check_worker, Buckets(settings.rates.reports_per_worker))
        certificates = Certificates(hub, keyring.check_worker, authority.sign_request)
        observer = Observer(hub)
        urls = {name: provider.public_url for name, provider in settings.providers.items()}
        executor = Executor(
            hub,
            report_url=lambda worker: f"{urls.get(worker.provider) or url}/w/{keyring.worker_token(worker.id)}",
            worker_token=keyring.worker_token,
            secrets=lambda owner: {
                name: keyring.unseal(name, text) for name, text in hub.secrets.get(owner, {}).items()
            },
            root_pem=authority.root_pem.decode() if settings.server.tls == "self" else "",
            most_at_once=settings.engine.max_actions,
            timeout_s=settings.engine.action_timeout_s,
            on_answer=observer.poke,
        )
        orphans = Orphans(hub, executor.destroy_orphan, hub.owners_of)
        loop = Loop(hub, observer, executor, settings.engine.tick_s, settings.engine.silent_s)
        recorder = Recorder(hub, int(settings.engine.traffic_log_mb * 1_000_000))
        throttle = Throttle(settings.rates)
        web = web_app(
            hub,
            keyring,
            settings.limits,
            explain=lambda endpoint_id: journal.explain(hub.managed(endpoint_id), clock.now()),
            throttle=throttle,
        )
        hot = Hot(
            hub,
            router,
            ingest,
            certificates,
            keyring,
            web,
            settings.server.max_body_bytes,
            ready=lambda: "" if loop.counts["rounds"] else "the control loop has not finished its first round",
            troubles=lambda: loop.troubles() + observer.troubles() + hub.offers.troubles() + orphans.troubles(),
            metrics=lambda: metrics.page(),
            root_certificate=authority.root_pem,
            throttle=throttle,
        )
        parts = (loop, observer, hub.offers, executor, certificates, ingest, throttle, recorder)
        metrics = Metrics(hub, loop, [part.counts for part in parts], hot.answers, hot.troubles, meters)
        server = _Server(
            uvicorn.Config(
                hot,
                loop="none",
                http=protocol_for(hot, settings.server.early_answers, _connections(settings.server.max_connections)),
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="error",  # or every malformed request of anybody's is a line
                server_header=False,
                proxy_headers=False,  # who calls decides who gets a certificate, and anybody can write a header
                ssl_context_factory=None if tls is None else lambda config, default: tls,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACEFUL_S,
            )
        )

        async def housekeeping() -> None:
            await asyncio.sleep(HOUSEKEEPING_S)
            renew_certificate()
            for record in keyring.dirty():  # last, so that nothing expires while the database cannot be used
                await store.note_key_use(record.id, record.last_used_at)

        async def close_late_connections() -> None:
            open_now = cast(set[Protocol], server.server_state.connections)  # no other kind is made here
            close_late(open_now, asyncio.get_running_loop().time())

        tasks = [
            asyncio.create_task(_for_ever("control loop", loop.run)),
            asyncio.create_task(_for_ever("housekeeping", housekeeping)),
            asyncio.create_task(_for_ever("recorder", recorder.run)),
            asyncio.create_task(_for_ever("late connections", close_late_connections)),
            *(
                asyncio.create_task(_for_ever(f"{what} of {name}", work))
                for name, provider in providers.items()
                for what, work in _looks(provider, settings.providers[name], observer, orphans, hub.offers)
            ),
        ]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        found = Running(url, admin_key, hub, loop, router, server, listener, lock)
        try:
            while not server.started and not serving.done():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            if inheritance is not None:
                await inheritance.accept()
            yield found
        finally:
            # First what acts, then what answers: calls are answered until the last command has been.
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await executor.close()
            await found.close()
            await asyncio.wait([serving])
            await _save(hub, keyring, recorder)
    if found.successor is not None:
        await found.successor.let_go()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever runs the server: it must write things down before it goes."""
        yield


def _own(settings: Settings, stack: AsyncExitStack, inheritance: Inheritance | None) -> tuple[Path, IO[str]]:
    """The data directory, made if need be, and its lock: two servers on one would destroy each other's workers."""
    data_dir = make_data_dir(settings)
    try:
        if inheritance is not None:
            lock = stack.enter_context(inheritance.lock)
            if not os.path.samestat(os.fstat(lock.fileno()), (data_dir / LOCK_FILE).stat()):
                raise Refused("data_dir: a restart in place cannot change it")
        else:
            lock = stack.enter_context((data_dir / LOCK_FILE).open("a+", encoding="ascii"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"data_dir: another server is running on {data_dir.absolute()}") from None
    except OSError as error:
        raise Refused(f"data_dir: {data_dir} cannot be used: {error.strerror}") from None
    return data_dir.absolute(), lock


def _sign(lock: IO[str]) -> None:
    """Writes this process's id into the lock's file, for those who want to send it a signal."""
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _listen(host: str, port: int, inheritance: Inheritance | None) -> socket.socket:
    """A socket that is bound to the address, or the inherited one if it is. Raises: Refused."""
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"server.host: {host!r} is not an address: {error.strerror}") from None
    if inheritance is not None:
        listener.close()
        bound_host, bound_port = inheritance.listener.getsockname()[:2]
        if address != bound_host or port not in (0, bound_port):
            raise Refused(f"server.port: a restart in place cannot change it from {bound_host}:{bound_port}")
        return inheritance.listener
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise Refused(f"server.port: cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def _connections(most: int) -> int:
    """As many connections, or as many as the limit of open files allows, which is raised if it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = int(most * BEYOND) + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        most = max(min(most, int((soft - OWN_FILES) / BEYOND)), 1)
    return most


def _tls(
    settings: Settings, data_dir: Path, authority: Authority, clock: Clock
) -> tuple[ssl.SSLContext | None, Callable[[], None]]:
    """What the server listens with, None for plain HTTP, and what renews its certificate in time."""
    server = settings.server
    if server.tls == "off":
        return None, lambda: None
    if server.tls == "files":
        certificate = ServerCertificate(Path(server.tls_certificate).expanduser(), Path(server.tls_key).expanduser())
        return certificate.context, certificate.reload_if_changed
    own = data_dir / "server.pem"
    names = {*server.tls_names.split(","), server.host, urlsplit(settings.public_url).hostname or "", *LOCAL_NAMES}
    names -= {"", "0.0.0.0", "::"}  # noqa: S104 - nobody calls us by these
    authority.renew(own, names, clock.wall(), begin=True)
    certificate = ServerCertificate(own, own)

    def renew() -> None:
        authority.renew(own, names, clock.wall())
        certificate.reload_if_changed()

    return certificate.context, renew


async def _providers(
    settings: Settings, data_dir: Path, installation: str, stack: AsyncExitStack
) -> tuple[dict[str, Provider], dict[str, Metered]]:
    """Every provider that the settings name, open as long as the stack is, and what counts its calls."""
    found: dict[str, Provider] = {}
    meters: dict[str, Metered] = {}
    for name, table in settings.providers.items():
        if table.enabled:
            found[name], meters[name] = await opened(table, Context(name, installation, data_dir))
            stack.push_async_callback(found[name].close)
    require(settings.default_provider, found)
    return found, meters


async def _first_key(keyring: Keyring, store: Store, path: Path, now: float) -> str:
    """The admin key of a new installation, which is in the file at `path` too; empty if there are keys already.

    Written before it is stored: after a crash in between, the next start makes another.
    """
    if keyring.records():
        return ""
    record, key = keyring.mint("first", Scope.ADMIN, now)
    await asyncio.to_thread(_write_key, path, key)
    await store.add_key(record)
    keyring.put(record)
    return key


def _write_key(path: Path, key: str) -> None:
    """Writes the key to a file that only its owner may read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())


def _looks(
    provider: Provider, settings: ProviderSettings, observer: Observer, orphans: Orphans, offers: Offers
) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
    """What is looked at with a provider, each in a task of its own: a slow catalogue delays no list."""
    return [
        ("instances", lambda: observer.run(provider, settings.poll_s, orphans.sweep)),
        ("catalogue", lambda: offers.run(provider, settings.catalog_s)),
    ]


async def _for_ever(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs what must always run; should it end or break, that is logged and it begins anew."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the last seam: nothing may end what keeps the server going
            log.error("a part of the server broke and begins anew", part=what, error=repr(error)[:500])
        await asyncio.sleep(1.0)


async def _save(hub: Hub, keyring: Keyring, recorder: Recorder) -> None:
    """Writes down what is only in memory. Best effort: everything that matters was written before."""
    with suppress(Exception):
        for record in keyring.dirty():
            await hub.store.note_key_use(record.id, record.last_used_at)
        for endpoint_id, managed in hub.endpoints.items():
            rows = managed.fleet.take_changes(everything=True)
            if rows:
                managed.version = await hub.store.commit(endpoint_id, managed.version, hub.epoch, rows, None)
        await recorder.keep_all(at_once=True)
