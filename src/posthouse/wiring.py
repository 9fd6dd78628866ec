"""Settings in, a running server out: the only module that knows the adapters."""

import asyncio
import fcntl
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvicorn

from posthouse.config import Settings, make_data_dir
from posthouse.domain.errors import Refused
from posthouse.domain.offer import Price
from posthouse.engine import journal
from posthouse.engine.certificates import Certificates
from posthouse.engine.clock import SystemClock
from posthouse.engine.executor import Executor
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.loop import Loop
from posthouse.engine.observer import Observer
from posthouse.engine.router import Router
from posthouse.ports import Clock, Provider, Store
from posthouse.providers import providers as provider_classes
from posthouse.server.auth import Keyring, Scope, load_secret
from posthouse.server.hot import Hot
from posthouse.server.metrics import Metrics
from posthouse.server.protocol import protocol_for
from posthouse.server.tls import ServerCertificate
from posthouse.server.web import web_app
from posthouse.signing.authority import Authority
from posthouse.signing.ed25519 import Ed25519Keys
from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads
from posthouse.store import open_store

log = structlog.get_logger()

HOUSEKEEPING_S = 30.0
"""How often the last use of keys is written down, and the age of keys and certificates looked at."""
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""That our own certificate is for in any case."""
KEEP_ALIVE_S = 75
"""How long an idle connection stays open: nginx's default. Clients must be the first to close one: a poll that meets a
server just closing is lost, and the protocol's client then gives up. It closes after 15 s."""
GRACEFUL_S = 6
"""How long a stop waits for calls that are being answered; a held request takes at most 4."""


@dataclass(slots=True)
class Running:
    """A server that runs."""

    url: str
    admin_key: str
    """The first admin key, on the very first start; empty afterwards: it is shown once."""
    hub: Hub
    loop: Loop
    server: uvicorn.Server

    async def until_stopped(self) -> None:
        """Waits until the server has been told to stop, by a signal or by `stop`."""
        while not self.server.should_exit:  # noqa: ASYNC110 - uvicorn tells by a flag, not by an event
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        self.server.should_exit = True


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A server with these settings, for as long as the context lasts. Workers outlive it.

    Raises: Refused where the address or the data directory is in use or cannot be used.
    """
    async with AsyncExitStack() as stack:
        data_dir = _own(settings, stack)
        listener = stack.enter_context(_listen(settings.server.host, settings.server.port))
        port = listener.getsockname()[1]
        url = settings.public_url
        if not settings.server.port:
            url = f"{'http' if settings.server.tls == 'off' else 'https'}://{settings.server.host}:{port}"
        store = await open_store(f"sqlite+aiosqlite:///{data_dir / 'posthouse.db'}")
        stack.push_async_callback(store.close)
        clock = SystemClock()
        secret = await asyncio.to_thread(load_secret, data_dir / "secret")
        signer = await asyncio.to_thread(RsaKey.load_or_create, data_dir / "signing.pem")
        grant_keys = Ed25519Keys(data_dir / "grant.pem", clock.now())
        authority = Authority(data_dir / "authority.pem", clock.now())
        tls, renew_certificate = _tls(settings, data_dir, authority, clock)
        if tls is None and not url.startswith("https://") and not ip_address(listener.getsockname()[0]).is_loopback:
            log.warning("plain HTTP on an address that others reach: keys and prompts can be read; see server.tls")
        installation = await store.installation()
        providers = _providers(settings, data_dir, installation)
        for provider in providers.values():
            stack.push_async_callback(provider.close)
        hub = Hub(store, clock, providers, settings.default_provider, installation, settings.engine.calm_s)
        await hub.load()
        keyring = Keyring(secret, await store.keys(), hub.key_version)
        admin_key = await _first_key(keyring, store, clock.now())

        threads = SigningThreads(signer, os.cpu_count() or 1)
        stack.callback(threads.close)
        router = Router(hub, signer, grant_keys.sign, settings.server.route_hold_s, threads.sign)
        ingest = Ingest(hub, router, keyring.check_worker)
        certificates = Certificates(hub, keyring.check_worker, authority.sign_request)
        executor = Executor(
            hub,
            report_url=lambda worker_id: f"{url}/w/{keyring.worker_token(worker_id)}",
            worker_token=keyring.worker_token,
            secrets=lambda: {name: keyring.unseal(name, sealed) for name, sealed in hub.secrets.items()},
            root_pem=authority.root_pem.decode() if settings.server.tls == "self" else "",
            most_at_once=settings.engine.max_actions,
            timeout_s=settings.engine.action_timeout_s,
        )
        observer = Observer(hub, router, executor)
        executor.on_answer = observer.poke
        loop = Loop(hub, router, observer, executor, settings.engine.tick_s, settings.engine.silent_s)
        web = web_app(
            hub,
            keyring,
            settings.limits,
            explain=lambda endpoint_id: journal.explain(hub.stall(endpoint_id), clock.now()),
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
            metrics=lambda: metrics.page(),
            root_certificate=authority.root_pem,
            jwks=lambda: grant_keys.jwks,
        )
        metrics = Metrics(hub, loop, observer, executor, certificates, hot.answers)
        server = _Server(
            uvicorn.Config(
                hot,
                loop="none",
                http=protocol_for(hot, settings.server.early_answers),
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,  # who calls decides who gets a certificate, and anybody can write a header
                ssl_context_factory=None if tls is None else lambda config, default: tls,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACEFUL_S,
            )
        )

        async def housekeeping() -> None:
            await asyncio.sleep(HOUSEKEEPING_S)
            for record in keyring.dirty():
                await store.put_key(record)
            grant_keys.rotate_if_old(clock.now())
            renew_certificate()

        tasks = [
            asyncio.create_task(_for_ever("control loop", loop.run)),
            asyncio.create_task(_for_ever("housekeeping", housekeeping)),
            *(
                asyncio.create_task(_for_ever(f"observer of {p.name}", _looking(observer, p)))
                for p in providers.values()
            ),
        ]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started and not serving.done():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            yield Running(url, admin_key, hub, loop, server)
        finally:
            server.should_exit = True
            await asyncio.wait([serving])
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await executor.close()
            await _save(hub, keyring)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever runs the server: it must write things down before it goes."""
        yield


def _own(settings: Settings, stack: AsyncExitStack) -> Path:
    """The data directory, made if need be, and locked: two servers on one would destroy each other's workers."""
    data_dir = make_data_dir(settings)
    try:
        lock = stack.enter_context((data_dir / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"data_dir: another server is running on {data_dir.absolute()}") from None
    except OSError as error:
        raise Refused(f"data_dir: {data_dir} cannot be used: {error.strerror}") from None
    return data_dir.absolute()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Refused(f"server.host: {host!r} is not an address: {error.strerror}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise Refused(f"server.port: cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


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
    authority.renew(own, names, clock.now(), begin=True)
    certificate = ServerCertificate(own, own)

    def renew() -> None:
        authority.renew(own, names, clock.now())
        certificate.reload_if_changed()

    return certificate.context, renew


def _providers(settings: Settings, data_dir: Path, installation: str) -> dict[str, Provider]:
    found: dict[str, Provider] = {}
    process = settings.providers.process
    if process.enabled:
        found["process"] = provider_classes()["process"].load()(
            root=data_dir / "workers",
            installation=installation,
            slots=process.slots or None,
            memory_gb=process.memory_gb or None,
            grace_s=process.grace_s,
            price=Price(process.ready_usd_h, process.loading_usd_h, process.stopped_usd_h),
        )
    for provider in found.values():
        provider.poll_s = settings.engine.observe_s
    if settings.default_provider not in found:
        raise Refused(f"default_provider: {settings.default_provider!r} is not one of: {', '.join(found) or 'none'}")
    return found


async def _first_key(keyring: Keyring, store: Store, now: float) -> str:
    """The admin key of a new installation, empty if it has keys already."""
    if keyring.records():
        return ""
    record, key = keyring.mint("first", Scope.ADMIN, now)
    await store.add_key(record)
    keyring.put(record)
    return key


def _looking(observer: Observer, provider: Provider) -> Callable[[], Awaitable[None]]:
    return lambda: observer.run(provider)


async def _for_ever(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs what must always run; should it end or break, that is logged and it begins anew."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - the last seam: nothing may end what keeps the server going
            log.error("a part of the server broke and begins anew", part=what, error=repr(error)[:500])
        await asyncio.sleep(1.0)


async def _save(hub: Hub, keyring: Keyring) -> None:
    """Writes down what is only in memory. Best effort: everything that matters was written before."""
    with suppress(Exception):
        for record in keyring.dirty():
            await hub.store.put_key(record)
        for endpoint_id, stall in hub.stalls.items():
            rows = stall.fleet.take_changes(everything=True)
            if rows:
                stall.version = await hub.store.commit(endpoint_id, stall.version, rows, None)
