"""The server processes that are measured."""

import asyncio
import gc
import os
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import cast

import uvicorn
import uvloop

from posthouse.app import garbage
from posthouse.config import Rates
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.lifecycle import State
from posthouse.domain.offer import Price
from posthouse.domain.reports import Ended
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.certificates import Certificates
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Router
from posthouse.fleet.controller import Controller
from posthouse.fleet.events import RequestsEnded
from posthouse.http1.messages import Answer
from posthouse.keys import KeyRecord
from posthouse.ports import Store
from posthouse.server.asgi import Message, Receive, Send
from posthouse.server.auth import Keyring
from posthouse.server.calls import Call, Leave, Respond
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer
from posthouse.server.throttle import Throttle
from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads
from posthouse.wire.grant import AGENT
from posthouse.wire.route import RouteReply, encode
from posthouse.wire.signed import Scheme

SIZES = (10, 100, 1_000, 10_000)
"""How many ready workers the routed endpoint has."""
END_EVERY_S = 0.01
"""How often the server process ends every open request, so that the ledger stays small."""
SERVER_CORE = 0
SECRET = bytes(32)
"""Of the installation that is measured; the load derives the workers' tokens from it."""


@dataclass(frozen=True, slots=True)
class Site:
    """What one server process serves."""

    name: str
    endpoints: int = 1
    workers: int = 0
    """Of each endpoint; 0 for the constant answer."""
    scheme: Scheme = Scheme.U
    version: str = ""
    """What the workers reported; `+posthouse` at its end means our agent, whose signature is a grant."""
    pinned: bool = True


SITES = (
    Site("constant"),
    Site("own constant"),
    *(Site(str(n), workers=n) for n in SIZES),
    Site("fast constant"),
    Site("100x100", endpoints=100, workers=100),
    Site("granted", workers=100, version=f"1.1.0{AGENT}"),
    Site("signed", workers=100, scheme=Scheme.A5S, pinned=False),
)


def serve(site: Site, record: KeyRecord, pipe: Connection) -> None:
    """Serves until the process is ended; sends its port through `pipe` once it is up."""
    uvloop.run(_serve(site, record, pipe))


async def _serve(site: Site, record: KeyRecord, pipe: Connection) -> None:
    fast = _fast_path(site, record)
    gc.collect()
    garbage.settle()
    if site.pinned:
        os.sched_setaffinity(0, {SERVER_CORE})
    listener = socket.create_server(("127.0.0.1", 0))
    if site.name == "constant":
        config = uvicorn.Config(
            _constant, loop="none", http="httptools", lifespan="off", access_log=False, log_config=None
        )
        pipe.send(listener.getsockname()[1])
        await uvicorn.Server(config).serve([listener])
        return
    server = HttpServer(fast, _constant)
    await server.start(listener)
    pipe.send(listener.getsockname()[1])
    while True:
        await asyncio.sleep(1.0)
        server.every_second()


async def _constant(scope: Message, receive: Receive, send: Send) -> None:
    """Reads the body and answers a reply of the usual size."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(CONSTANT)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT})


CONSTANT = encode(
    RouteReply("bench-1", 100, 1_763_000_000_000, "s" * 344, "http://10.0.0.1:20001", 1_763_000_000_000_000)
)


def _fast_path(site: Site, record: KeyRecord) -> FastPath:
    """The real fast path over fleets of ready workers; nothing is read from or written to a store."""
    clock = SystemClock()
    hub = Hub(cast(Store, None), clock, {}, "", "bench", stabilization_s=0.0)
    for number in range(1, site.endpoints + 1):
        endpoint = Endpoint(EndpointId(number), f"bench-{number}", Scaling(max_workers=site.workers))
        first_id = 1 + (number - 1) * site.workers
        ready = [_ready(endpoint, WorkerId(first_id + i), site, clock.now()) for i in range(site.workers)]
        hub.add(ManagedEndpoint(Controller(endpoint, clock.now(), ready)))
    return fast_path(hub, record, {"fast constant": _FastConstant, "own constant": _NoCalls}.get(site.name, FastPath))


def fast_path(hub: Hub, record: KeyRecord, kind: type[FastPath] = FastPath) -> FastPath:
    """The same over any fleets, whose open requests end every 10 ms."""
    keyring = Keyring(SECRET, [record], hub.endpoint)
    signer = RsaKey.generate()
    signing = SigningThreads(signer, os.cpu_count() or 1)
    router = Router(hub, signer, keyring.grant_key, hold_s=4.0, sign_beside=signing.sign)
    asyncio.get_running_loop().call_later(END_EVERY_S, _end_all, hub)
    return kind(
        hub,
        router,
        Ingest(hub, keyring.check_worker),
        Certificates(hub, keyring.check_worker, authority=lambda *_: b""),
        keyring,
        max_body_bytes=1_000_000,
        ready=lambda: "",
        metrics=lambda: b"",
        root_certificate=b"",
        throttle=Throttle(Rates(routes_per_key=1e6, routes_per_address=1e6)),  # counted, and never too many
    )


class _NoCalls(FastPath):
    """Leaves every call to the application."""

    def find(self, method: str, path: str) -> None:
        return None


class _FastConstant(FastPath):
    """What the fast path costs by itself."""

    def answer(self, call: Call, respond: Respond) -> Leave | None:
        respond(Answer(200, CONSTANT))
        return None


def _ready(endpoint: Endpoint, worker_id: WorkerId, site: Site, now: float) -> Worker:
    address = worker_address(worker_id)
    return Worker(
        id=worker_id,
        endpoint_id=endpoint.id,
        group_id=WorkergroupId(1),
        label=f"posthouse-bench-{worker_id}",
        provider="",
        offer_id="",
        machine=f"machine-{worker_id}",
        gpu_name="RTX 4090",
        num_gpus=1,
        price=Price(0.4, 0.4, 0.01),
        created_at=now,
        state=State.IDLE,
        since=now,
        progressed_at=now,
        addresses=frozenset({address}),
        url=f"http://{address}",
        version=site.version,
        scheme=site.scheme,
        perf=worker_perf(worker_id),
        loaded_at=now,
    )


def worker_address(worker_id: int) -> str:
    return f"10.0.{worker_id // 250}.{worker_id % 250}:20001"


def worker_perf(worker_id: int) -> float:
    """Three kinds of machine, in work per second; fast enough that no request of cost 100 ever waits."""
    return (2_000.0, 3_000.0, 5_000.0)[worker_id % 3]


def _end_all(hub: Hub) -> None:
    for managed in hub.endpoints.values():
        for worker_id, there in list(managed.fleet.ledger.at.items()):
            ends = tuple([Ended(idx, success=True) for idx in there])  # together, as workers tell them
            managed.handle(RequestsEnded(worker_id, ends), hub.clock.now())
    asyncio.get_running_loop().call_later(END_EVERY_S, _end_all, hub)


class _Echo(asyncio.Protocol):
    """Answers whatever comes with one constant reply, unread: what the load can do at most."""

    REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(CONSTANT), CONSTANT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.REPLY)


def echo(pipe: Connection) -> None:
    """Serves `_Echo` until the process is ended."""
    os.sched_setaffinity(0, {SERVER_CORE})

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(run())
