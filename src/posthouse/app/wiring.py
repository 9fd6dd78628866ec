"""Settings in, a running server out: the only module that knows the adapters."""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from posthouse.app import datadir, listen, sharing
from posthouse.app.gateway import OwnGateway, own_gateway
from posthouse.app.handover import Inheritance
from posthouse.app.keys import Keys, load_keys
from posthouse.app.playground import Playground
from posthouse.app.providers import looks, open_providers
from posthouse.app.running import Running
from posthouse.app.settings_log import note_settings
from posthouse.app.sharing import Shared
from posthouse.app.supervise import saved, supervised
from posthouse.config import Settings
from posthouse.engine import journal
from posthouse.engine.buckets import Buckets
from posthouse.engine.certificates import Certificates
from posthouse.engine.choice import words_of
from posthouse.engine.clock import SystemClock
from posthouse.engine.executor import Executor
from posthouse.engine.externals import NO_ENDPOINT, ExternalCosts
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.lag import Lag
from posthouse.engine.lease import SharedLease, SoleLease
from posthouse.engine.loop import Loop
from posthouse.engine.observer import Observer
from posthouse.engine.orphans import Orphans
from posthouse.engine.publisher import Publisher
from posthouse.engine.recorder import Recorder
from posthouse.engine.router import Router
from posthouse.engine.samples import Sampler
from posthouse.engine.stream import EventStream
from posthouse.ports import Clock, Lease, Provider, Store
from posthouse.providers.wrappers import Metered
from posthouse.server.asgi import App
from posthouse.server.auth import Keyring
from posthouse.server.console.oidc import OpenId
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer
from posthouse.server.metrics import Metrics
from posthouse.server.middleware import NO_SHARING
from posthouse.server.peers import FromPeers, SharedFastPath
from posthouse.server.throttle import Throttle
from posthouse.server.web import web_app
from posthouse.sharing import Servers
from posthouse.signing.threads import SigningThreads
from posthouse.store import SqlStore, open_store
from posthouse.wire import spent

log = structlog.get_logger()

MONEY_S = 5.0
"""How often it is looked whether a cap is nearly used, and written down that a day has begun."""
HOUSEKEEPING_S = 30.0
"""How often the last use of keys is written down, and the age of keys and certificates looked at."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of."""

    hub: Hub
    keyring: Keyring
    router: Router
    ingest: Ingest
    certificates: Certificates
    executor: Executor
    observer: Observer
    orphans: Orphans
    meters: Mapping[str, Metered]
    """What counts the calls of each provider."""
    loop: Loop
    recorder: Recorder
    sampler: Sampler
    throttle: Throttle
    stream: EventStream
    lag: Lag
    shared: Shared | None
    """Where it is one of several."""


@asynccontextmanager
async def running(settings: Settings, inheritance: Inheritance | None = None) -> AsyncIterator[Running]:
    """A server with these settings, for as long as the context lasts. Workers outlive it.

    `inheritance`: what the process before leaves to this one, which waits for it.

    Raises: Refused where the address or the data directory is in use or cannot be used, or a successor does not serve.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listen.listen(settings.server.host, settings.server.port, inheritance))
        lock = datadir.own(settings, stack, inheritance)
        data_dir = lock.path
        gateway = own_gateway(settings, listener, data_dir, inheritance, stack)
        if inheritance is not None:
            await inheritance.wait()
        datadir.write_pid(data_dir)
        url = listen.url_of(settings, listener)
        store = await open_store(datadir.database_url(settings, data_dir))
        stack.push_async_callback(store.close)
        servers, clock = store.servers(settings.server.lease_s / 2), await _clock(store)
        keys = await load_keys(data_dir, clock, listen.names_of(settings), servers)
        tls, renew_certificate = listen.certificate(settings, data_dir, keys.authority, clock)
        if tls is None:
            listen.warn_if_plain(url, listener)
        await note_settings(store, settings)
        bells: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        installation, lease = await store.installation(), await _lease(settings, store, servers, data_dir)
        providers, meters = await open_providers(
            settings, data_dir, installation, url, stack, bells, lease.server_count
        )
        hub = await _hub(settings, store, clock, providers, installation, lease)
        keyring = Keyring(keys.secret, await store.keys(), hub.endpoint)
        admin_key = await datadir.first_key(keyring, store, data_dir / "admin-key", clock.now())
        signing = SigningThreads(keys.signer, os.cpu_count() or 1)
        stack.callback(signing.close)
        shared = await _shared(settings, hub, keyring, keys, listen.peer_url(settings, listener), stack)
        parts = _parts(settings, hub, keyring, keys, signing, url, meters, bells, shared)
        parts.loop.may_act = lock.is_held
        if shared is not None:
            await shared.owners.rebalance()
        ca = data_dir / "authority.cer" if settings.server.tls == "self" else None
        server = _http_server(settings, parts, keys, gateway, Playground(listen.local_url(settings, listener), ca), url)
        await server.start(listener, tls)
        server_running = Running(
            url, admin_key, hub, parts.loop, parts.observer, parts.router, parts.stream, server, listener, lock, gateway
        )
        tasks = _tasks(settings, parts, server, renew_certificate)
        if gateway is not None:
            gateway.hands_over = lambda: server_running.successor is not None
            tasks["gateway"] = gateway.run
        try:
            async with supervised(tasks):
                if inheritance is not None:
                    await inheritance.accept()
                yield server_running
        finally:
            await _end(parts, server_running)
    if server_running.successor is not None:
        await server_running.successor.let_go()


async def _clock(store: Store) -> SystemClock:
    clock = SystemClock(await store.latest_at())
    if clock.behind_s:
        log.warning(
            "this machine's clock is behind the database: times continue from the database's", behind_s=clock.behind_s
        )
    return clock


async def _lease(
    settings: Settings, store: SqlStore, servers: Servers | None, data_dir: Path
) -> SoleLease | SharedLease:
    if servers is None:
        return SoleLease(await store.next_epoch())
    return SharedLease(servers, sharing.server_id(data_dir), settings.server.lease_s)


async def _shared(
    settings: Settings, hub: Hub, keyring: Keyring, keys: Keys, url: str, stack: AsyncExitStack
) -> Shared | None:
    """What this server has in common with others; None where it has its database to itself."""
    if not isinstance(hub.lease, SharedLease):
        return None
    return await sharing.join(
        hub.lease, hub, keyring, url, keys.authority.root_pem, settings.server.route_hold_s, stack
    )


async def _hub(
    settings: Settings,
    store: Store,
    clock: Clock,
    providers: Mapping[str, Provider],
    installation: str,
    lease: Lease,
) -> Hub:
    hub = Hub(
        store,
        clock,
        providers,
        settings.default_provider,
        installation,
        settings.engine.stabilization_s,
        lease,
        tick_s=settings.engine.tick_s,
        silent_s=settings.engine.silent_s,
        canary_s=settings.engine.canary_s,
        events_dir=settings.engine.events_dir or settings.data_dir / "events",
        keep_events_bytes=int(settings.engine.keep_events_mb * 1_000_000),
    )
    hub.treasury.caps = settings.money
    externals = settings.gateway.externals
    hub.external = ExternalCosts(
        spent.file_of(externals.expanduser().absolute()) if externals is not None else None,
        sharing.history_id(settings.data_dir) if lease.is_shared() else NO_ENDPOINT,
    )
    hub.provider_types = {name: table.type for name, table in settings.providers.items()}
    hub.provider_classes = {name: words_of(table.classes) for name, table in settings.providers.items()}
    hub.offers.regions = {name: table.region for name, table in settings.providers.items()}
    await hub.load()
    return hub


def _parts(
    settings: Settings,
    hub: Hub,
    keyring: Keyring,
    keys: Keys,
    signing: SigningThreads,
    url: str,
    meters: Mapping[str, Metered],
    bells: defaultdict[str, asyncio.Event],
    shared: Shared | None,
) -> Parts:
    observer = Observer(hub, bells)
    urls = {name: provider.public_url for name, provider in settings.providers.items()}
    router = Router(hub, keys.signer, keyring.grant_key, settings.server.route_hold_s, signing.sign)
    executor = Executor(
        hub,
        report_url=lambda worker: urls.get(worker.provider) or url,
        worker_token=keyring.worker_token,
        secrets=lambda owner: {name: keyring.unseal(name, text) for name, text in hub.secrets.get(owner, {}).items()},
        root_pem=keys.authority.root_pem.decode() if settings.server.tls == "self" else "",
        most_at_once=settings.engine.max_actions,
        timeout_s=settings.engine.action_timeout_s,
        on_answer=observer.poke,
    )
    orphans = Orphans(hub, executor.destroy_orphan, hub.store.workers_labelled, settings.engine.orphan_after_s)
    loop, recorder = Loop(hub, executor), Recorder(hub, int(settings.engine.traffic_log_mb * 1_000_000))
    sampler = Sampler(hub.endpoints.values, hub.clock.now, hub.store, hub.external)
    hub.on_open.append(sampler.opened)
    hub.on_over.append(sampler.over)
    hub.before_close += [loop.settle, executor.settle, recorder.keep, sampler.keep]
    if shared is not None:
        shared.owners.is_free, orphans.is_leader = executor.is_idle, shared.owners.is_leader
        shared.peers.on_unknown = orphans.heard
    return Parts(
        hub,
        keyring,
        router,
        Ingest(hub, keyring.check_worker, Buckets(settings.rates.reports_per_worker), orphans.heard),
        Certificates(hub, keyring.check_worker, keys.authority.sign_request),
        executor,
        observer,
        orphans,
        meters,
        loop,
        recorder,
        sampler,
        Throttle(settings.rates),
        _stream(hub),
        Lag(),
        shared,
    )


def _stream(hub: Hub) -> EventStream:
    """What happens to every endpoint, those that are opened later too."""
    stream = EventStream(int(hub.clock.now() * 1000))
    publisher = Publisher(stream)
    for managed in hub.endpoints.values():
        publisher.attach(managed)
    hub.on_open.append(publisher.attach)
    return stream


def _http_server(
    settings: Settings, parts: Parts, keys: Keys, gateway: OwnGateway | None, playground: Playground, url: str
) -> HttpServer:
    hub, loop, observer, shared = parts.hub, parts.loop, parts.observer, parts.shared
    web = web_app(
        hub,
        parts.keyring,
        settings.limits,
        explain=lambda endpoint_id: journal.explain(hub.managed(endpoint_id), hub.treasury, hub.clock.now()),
        throttle=parts.throttle,
        stream=parts.stream,
        orphans=parts.orphans,
        troubles=lambda: fast.troubles(),
        gateway=gateway.url if gateway is not None else "",
        ask=playground.ask,
        openid=_openid(settings, parts.keyring, url),
        sharing=NO_SHARING if shared is None else shared.of_api,
    )
    fast = (FastPath if shared is None else SharedFastPath)(
        hub,
        parts.router,
        parts.ingest,
        parts.certificates,
        parts.keyring,
        settings.server.max_body_bytes,
        ready=lambda: "" if loop.counts["rounds"] else "the control loop has not finished its first round",
        troubles=lambda: (
            loop.troubles()
            + observer.troubles()
            + hub.offers.troubles()
            + parts.orphans.troubles()
            + hub.store.troubles()
            + hub.treasury.troubles(hub.clock.now())
            + (gateway.troubles() if gateway is not None else [])
            + (shared.owners.troubles() if shared is not None else [])
            + [text for provider in hub.providers.values() for text in provider.troubles()]
        ),
        metrics=lambda: metrics.page(),
        root_certificate=keys.authority.root_pem,
        throttle=parts.throttle,
    )
    work = (parts.executor, parts.certificates, parts.ingest, parts.throttle, parts.recorder)
    counts = [part.counts for part in (loop, observer, hub.offers, *work)]
    metrics = Metrics(
        hub, loop, parts.orphans, parts.lag, counts, fast.answers, fast.routed, fast.troubles, parts.meters
    )
    app: App = web
    if shared is not None:
        assert isinstance(fast, SharedFastPath)
        fast.peers, app = shared.peers, FromPeers(web, shared.peers)
    return HttpServer(fast, app, listen.max_connections(settings.server.max_connections))


def _openid(settings: Settings, keyring: Keyring, url: str) -> OpenId | None:
    """Raises: Refused if what it needs is not installed."""
    return OpenId(settings.oidc, keyring.fernet("oidc"), settings.oidc.url or url) if settings.oidc.issuer else None


def _tasks(
    settings: Settings, parts: Parts, server: HttpServer, renew_certificate: Callable[[], None]
) -> dict[str, Callable[[], Awaitable[None]]]:
    """What must always run, by the names that the log has for it."""

    async def housekeeping() -> None:
        await asyncio.sleep(HOUSEKEEPING_S)
        renew_certificate()
        await _save_key_uses(parts)  # last, so that nothing expires while the database cannot be used

    async def money() -> None:
        await asyncio.sleep(MONEY_S)
        await parts.hub.treasury.look(parts.hub.endpoints.values(), parts.hub.store, parts.hub.clock.now())

    async def late_connections() -> None:
        server.every_second()
        if parts.shared is not None:
            parts.shared.peers.every_second()

    tasks: dict[str, Callable[[], Awaitable[None]]] = {
        "control loop": parts.loop.run,
        "housekeeping": housekeeping,
        "recorder": parts.recorder.run,
        "money": money,
        "samples": parts.sampler.run,
        "late connections": late_connections,
        "lag": parts.lag.run,
    }
    for name, provider in parts.hub.providers.items():
        tasks |= looks(name, provider, settings.providers[name], parts.observer, parts.orphans, parts.hub.offers)
    if parts.shared is not None:
        tasks |= {"owners": parts.shared.owners.keep_balance, "changes": parts.shared.changes.run}
        tasks["money of others"] = partial(sharing.money, parts.hub)
    return tasks


async def _end(parts: Parts, server: Running) -> None:
    """First what acts, then what answers: calls are answered until the last command has been."""
    if parts.shared is not None:
        await parts.shared.owners.leave()
    await parts.loop.close()
    await parts.executor.close()
    await server.close()
    await _save(parts)


async def _save(parts: Parts) -> None:
    """Writes what is only in memory. Everything that matters was written before, so what fails is only logged."""
    hub = parts.hub
    fleets = [partial(hub.write_down, managed) for managed in hub.endpoints.values()]
    traffic = [partial(parts.recorder.keep_all, at_once=True), partial(parts.sampler.save, at_once=True)]
    await saved([partial(_save_key_uses, parts), *fleets, *traffic])
    for managed in hub.endpoints.values():
        if managed.kept is not None:
            managed.kept.close()


async def _save_key_uses(parts: Parts) -> None:
    for record, use in parts.keyring.dirty():
        await parts.hub.store.note_key_use(record.id, record.last_used_at, use)
