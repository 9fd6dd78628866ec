"""Measures the hot path side by side with a constant answer on the same stack: `python -m benchmarks.route [--quick]`.

The stack is uvicorn with our protocol class, on which the constant answer is an ASGI application. `/route/` is answered
early, where it is read. Two more rows tell the two apart: `usual`, the same with early answers switched off, and `early
constant`, a constant in place of the answer of `/route/`.

Servers run on one core, the load on the other. Measured sides alternate and medians are taken, for machines are noisy.
Prints a table and writes `benchmarks/results/route.json`.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing as mp
import os
import platform
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from itertools import cycle, pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, cast

import psutil
import uvicorn
import uvloop

from posthouse.config import Rates
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.domain.lifecycle import State
from posthouse.domain.load import Ended
from posthouse.domain.offer import Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import WorkergroupId
from posthouse.engine.certificates import Certificates
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub, ManagedEndpoint
from posthouse.engine.ingest import Ingest
from posthouse.engine.router import Router
from posthouse.fleet.fleet import Fleet
from posthouse.ports import KeyRecord, Store
from posthouse.server.auth import Keyring, Scope
from posthouse.server.hot import Headers, Hot, Message, Receive, Send
from posthouse.server.protocol import protocol_for
from posthouse.server.throttle import Throttle
from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads
from posthouse.wire.grant import AGENT
from posthouse.wire.route import RouteReply, encode
from posthouse.wire.signed import Scheme

SIZES = (10, 100, 1_000, 10_000)
"""How many ready workers the routed endpoint has."""
CONNECTIONS = 64
"""Keep-alive connections of the load, each with one request on its way."""
REPORTS_PER_S = 2_000
REPORT_CONNECTIONS = 20
REPORT_EVERY_S = 0.01
"""How often each report connection sends one: 20 connections, 100 times a second, is 2,000 a second."""
END_EVERY_S = 0.01
"""How often the server process ends every open request, through `Fleet.end`, so that the ledger stays small."""
WARM_UP_S = 0.3
SERVER_CORE, LOAD_CORE = 0, 1
SECRET = bytes(32)
"""Of the installation that is measured; the load derives the workers' tokens from it."""
RESULTS = Path(__file__).parent / "results" / "route.json"


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
    early: bool = True
    """`/route/` is answered where it is read (the setting `server.early_answers`)."""
    pinned: bool = True


SITES = (
    Site("constant", early=False),
    *(Site(str(n), workers=n) for n in SIZES),
    Site("usual", workers=100, early=False),
    Site("early constant", workers=1),
    Site("100x100", endpoints=100, workers=100),
    Site("granted", workers=100, version=f"1.1.0{AGENT}"),
    Site("signed", workers=100, scheme=Scheme.A5S, pinned=False),
)


# -- server processes ------------------------------------------------------------------------------------------------


def serve(site: Site, record: KeyRecord, pipe: Connection) -> None:
    """Serves until the process is ended; sends its port through `pipe` once it is up."""
    uvloop.run(_serve(site, record, pipe))


async def _serve(site: Site, record: KeyRecord, pipe: Connection) -> None:
    hot = _hot(site, record)
    app = _constant if site.workers == 0 else hot
    gc.collect()
    gc.freeze()  # as `posthouse serve` does
    if site.pinned:
        os.sched_setaffinity(0, {SERVER_CORE})
    config = uvicorn.Config(
        app,
        port=0,
        loop="none",
        http=protocol_for(hot, site.early),
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    pipe.send(server.servers[0].sockets[0].getsockname()[1])
    await serving


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


def _hot(site: Site, record: KeyRecord) -> Hot:
    """The real hot path over fleets of ready workers; nothing is read from or written to a store."""
    clock = SystemClock()
    hub = Hub(cast(Store, None), clock, {}, "", "bench", stabilization_s=0.0)
    for number in range(1, site.endpoints + 1):
        endpoint = Endpoint(EndpointId(number), f"bench-{number}", Scaling(max_workers=site.workers))
        first_id = 1 + (number - 1) * site.workers
        ready = [_ready(endpoint, WorkerId(first_id + i), site, clock.now()) for i in range(site.workers)]
        hub.endpoints[endpoint.id] = ManagedEndpoint(Fleet(endpoint, clock.now(), ready))
        hub.ids_by_name[endpoint.account_id, endpoint.name] = endpoint.id
    keyring = Keyring(SECRET, [record], hub.endpoint)
    signer = RsaKey.generate()
    signing = SigningThreads(signer, os.cpu_count() or 1)
    router = Router(
        hub,
        signer,
        grant_key=lru_cache(20_000)(keyring.grant_key),
        hold_s=4.0,
        sign_beside=signing.sign,
    )
    ingest = Ingest(hub, keyring.check_worker)
    asyncio.get_running_loop().call_later(END_EVERY_S, _end_all, hub)
    kind = _Constant if site.name == "early constant" else Hot
    return kind(
        hub,
        router,
        ingest,
        Certificates(hub, keyring.check_worker, authority=lambda *_: b""),
        keyring,
        rest=_constant,
        max_body_bytes=1_000_000,
        ready=lambda: "",
        metrics=lambda: b"",
        root_certificate=b"",
        throttle=Throttle(Rates(routes_per_key=1e6, routes_per_address=1e6)),  # counted, and never too many
    )


class _Constant(Hot):
    """What answering early costs by itself."""

    def route(
        self, headers: Headers, query: bytes, raw: bytes, address: str, deliver: Callable[[int, bytes], None]
    ) -> None:
        deliver(200, CONSTANT)


def _ready(endpoint: Endpoint, worker_id: WorkerId, site: Site, now: float) -> Worker:
    address = _address(worker_id)
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
        perf=_perf(worker_id),
        loaded_at=now,
    )


def _address(worker_id: int) -> str:
    return f"10.0.{worker_id // 250}.{worker_id % 250}:20001"


def _perf(worker_id: int) -> float:
    """Three kinds of machine, in work per second; fast enough that no request of cost 100 ever waits."""
    return (2_000.0, 3_000.0, 5_000.0)[worker_id % 3]


def _end_all(hub: Hub) -> None:
    for managed in hub.endpoints.values():
        for worker_id, there in list(managed.fleet.ledger.at.items()):
            for idx in list(there):
                managed.fleet.end(worker_id, Ended(idx, success=True), hub.clock.now())
    asyncio.get_running_loop().call_later(END_EVERY_S, _end_all, hub)


# -- the load --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Load:
    """What a load has seen. Units: seconds."""

    latencies_s: list[float] = field(default_factory=list)
    failed: str = ""
    """The first answer that was not as expected."""
    stopped: bool = False


_LENGTH = re.compile(rb"content-length: (\d+)")


class _Caller(asyncio.Protocol):
    """One keep-alive connection. Sends `request()` again as soon as the answer to the last has come, or when told."""

    def __init__(self, load: Load, request: Callable[[], bytes], wanted: bytes, paced: bool) -> None:
        self.load, self.request, self.wanted, self.paced = load, request, wanted, paced
        self.free = True
        self.read = self.head = b""
        self.whole = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self.paced:
            self.send()

    def send(self) -> None:
        self.free = False
        self.sent_at = time.perf_counter()
        self.transport.write(self.request())

    def data_received(self, data: bytes) -> None:
        if self.read or len(data) != self.whole or not data.startswith(self.head):  # else as long as the last answer is
            self.read += data
            head, ended, body = self.read.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)  # quicker than a parser, which would take as much of a core again as a reply
            if not ended or (length is not None and len(body) < int(length[1])):
                return
            self.head, self.whole = head + ended, len(head + ended + body)
            data, self.read = self.read, b""
        if not data.startswith(b"HTTP/1.1 200 ") or self.wanted not in data:
            self.load.failed = self.load.failed or f"{data[:400]!r}"
        self.load.latencies_s.append(time.perf_counter() - self.sent_at)
        self.free = True
        if not (self.paced or self.load.stopped):
            self.send()


@dataclass(frozen=True, slots=True)
class Seen:
    """One measurement of a load without pause."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Processor time of the server for each request: what other programs on the machine hardly change."""
    load_cpu_us: float
    """The same of the load."""


async def measure(port: int, pid: int, request: bytes, span_s: float) -> Seen:
    """As many requests as `CONNECTIONS` connections get answered in `span_s`, after a warm-up."""
    load = Load()
    callers = await _connect(port, load, lambda: request, b'"url"', CONNECTIONS)
    await asyncio.sleep(WARM_UP_S)
    load.latencies_s.clear()
    server = psutil.Process(pid)
    began_at, used_s, load_s = time.perf_counter(), _used_s(server), time.process_time()
    await asyncio.sleep(span_s)
    took_s, used_s = time.perf_counter() - began_at, _used_s(server) - used_s
    load_s = time.process_time() - load_s
    latencies_ms = sorted(s * 1000 for s in load.latencies_s)
    await _disconnect(load, callers)
    n = len(latencies_ms)
    p50_ms, p99_ms = latencies_ms[n // 2], latencies_ms[n * 99 // 100]
    return Seen(n / took_s, p50_ms, p99_ms, used_s / n * 1e6, load_s / n * 1e6)


def _used_s(process: psutil.Process) -> float:
    """Processor time that it has used."""
    return float(sum(process.cpu_times()[:2]))


async def reporting(port: int, requests: list[bytes], during: Callable[[], Awaitable[Seen]]) -> tuple[float, Seen]:
    """Reports that arrived per second, and what was measured meanwhile."""
    load, following = Load(), cycle(requests)
    callers = await _connect(port, load, lambda: next(following), b"true", REPORT_CONNECTIONS, paced=True)
    pacing = asyncio.create_task(_pace(callers))
    began_at = time.perf_counter()
    seen = await during()
    per_s = len(load.latencies_s) / (time.perf_counter() - began_at)
    pacing.cancel()
    await _disconnect(load, callers)
    return per_s, seen


async def _pace(callers: list[_Caller]) -> None:
    """Has every connection send at the pace, and catch up after a delay."""
    due_at = time.perf_counter()
    while True:
        for caller in callers:
            while not caller.free:
                await asyncio.sleep(0.0005)
            caller.send()
        due_at += REPORT_EVERY_S
        await asyncio.sleep(max(0.0, due_at - time.perf_counter()))


async def _connect(
    port: int, load: Load, request: Callable[[], bytes], wanted: bytes, count: int, paced: bool = False
) -> list[_Caller]:
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Caller(load, request, wanted, paced), "127.0.0.1", port)
        for _ in range(count)
    ]
    return [caller for _, caller in made]


async def _disconnect(load: Load, callers: list[_Caller]) -> None:
    load.stopped = True
    for _ in range(1000):
        if all(caller.free for caller in callers):
            break
        await asyncio.sleep(0.01)
    for caller in callers:
        caller.transport.close()
    await asyncio.sleep(0.05)
    if load.failed:
        raise SystemExit(f"unexpected answer: {load.failed}")


def _post(path: str, body: object, key: str = "") -> bytes:
    """The bytes of a request, with the headers that the usual client sends."""
    raw = json.dumps(body).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        f"User-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


def _report(keyring: Keyring, worker_id: int) -> bytes:
    """A status report as workers of version 1.1 and later send it."""
    body = {
        "id": worker_id,
        "mtoken": keyring.worker_token(worker_id),
        "version": "1.1.0",
        "loadtime": 12.5,
        "cur_load": 800.0,
        "rej_load": 0.0,
        "new_load": 100.0,
        "error_msg": "",
        "max_perf": _perf(worker_id),
        "cur_perf": 900.0,
        "cur_capacity": 0.0,
        "max_capacity": 0.0,
        "num_requests_working": 8,
        "num_requests_recieved": 8,
        "working_request_idxs": list(range(8)),
        "additional_disk_usage": 0.0,
        "url": f"http://{_address(worker_id)}",
    }
    return _post("/worker_status/", body)


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


# -- the run ---------------------------------------------------------------------------------------------------------


def bare(span_s: float) -> tuple[float, float]:
    """RSA-2048 signatures per second that threads on every core can make, with nothing else to do.

    And the microseconds of processor time that each takes.
    """
    signer = RsaKey.generate()
    began_at, used_s = time.perf_counter(), time.process_time()

    def sign() -> int:
        count = 0
        while time.perf_counter() - began_at < span_s:
            signer.sign(b'{"cost": 100, "reqnum": %d}' % count)
            count += 1
        return count

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        counts = [threads.submit(sign) for _ in range(os.cpu_count() or 1)]
        total = sum(c.result() for c in counts)
    return total / (time.perf_counter() - began_at), (time.process_time() - used_s) / total * 1e6


@contextmanager
def awake(pid: int) -> Iterator[None]:
    """Lets a server run for a while: all others stand still, or their timers would take their part of the cores."""
    server = psutil.Process(pid)
    server.resume()
    try:
        yield
    finally:
        server.suspend()


async def run(ports: dict[str, int], pids: dict[str, int], key: str, rounds: int, span_s: float) -> dict[str, Any]:
    """Every measurement, with progress on the terminal."""
    request = _post("/route/", {"endpoint": "bench-1", "api_key": key, "cost": 100, "request_idx": 0}, key)
    both_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})

    async def load(name: str) -> Seen:
        with awake(pids[name]):
            return await measure(ports[name], pids[name], request, span_s)

    generator = await load("echo")
    print(f"the load itself can do {generator.rps:,.0f} requests/s against a server that only echoes")
    constants = [await load("constant")]
    names = [*(str(n) for n in SIZES), "granted", "usual", "early constant"]
    seen: dict[str, list[Seen]] = {name: [] for name in names}
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        for name, mine in seen.items():  # a constant answer before and after each: C 10 C 100 C 1000 C 10000 C ...
            mine.append(await load(name))
            constants.append(await load("constant"))
            ratios[name].append(2 * mine[-1].rps / (constants[-1].rps + constants[-2].rps))
        told = "  ".join(f"{name}: {mine[-1].rps:,.0f} ({ratios[name][-1]:.2f})" for name, mine in seen.items())
        print(f"round {i + 1}/{rounds}  constant: {constants[-1].rps:,.0f}  {told}", flush=True)

    keyring = Keyring(SECRET, [], lambda _: None)
    reports = [_report(keyring, i) for i in range(1, 10_001)]
    quiet, reported, arrived = [], [], []
    port, pid = ports["100x100"], pids["100x100"]
    for i in range(rounds):
        with awake(pid):
            quiet.append(await measure(port, pid, request, span_s))
            per_s, while_reporting = await reporting(port, reports, lambda: measure(port, pid, request, span_s))
        reported.append(while_reporting)
        arrived.append(per_s)
        print(
            f"reports {i + 1}/{rounds}  without: {quiet[-1].rps:,.0f}  with {per_s:,.0f}/s: {while_reporting.rps:,.0f}",
            flush=True,
        )
    rss_mb = psutil.Process(pid).memory_info().rss / 1e6

    os.sched_setaffinity(0, both_cores)
    alone, signed = [bare(span_s)], []
    for i in range(rounds):
        signed.append(await load("signed"))
        alone.append(bare(span_s))
        print(f"signed {i + 1}/{rounds}  bare: {alone[-1][0]:,.0f}  routed: {signed[-1].rps:,.0f}", flush=True)
    beside = [((a + b) / 2, (a_us + b_us) / 2) for (a, a_us), (b, b_us) in pairwise(alone)]

    constant_cpu_us = median(s.cpu_us for s in constants)
    rows = {
        name: {
            "rps": round(median(s.rps for s in mine)),
            "ratio": round(median(ratios[name]), 3),
            "p50_ms": round(median(s.p50_ms for s in mine), 2),
            "p99_ms": round(median(s.p99_ms for s in mine), 2),
            "cpu_us": round(median(s.cpu_us for s in mine), 1),
            "cpu_ratio": round(constant_cpu_us / median(s.cpu_us for s in mine), 3),
        }
        for name, mine in seen.items()
    }
    return {
        "constant_rps": round(median(s.rps for s in constants)),
        "constant_cpu_us": round(constant_cpu_us, 1),
        **{name.replace(" ", "_"): rows.pop(name) for name in ("granted", "usual", "early constant")},
        "workers": rows,
        "signed": {
            "rps": round(median(s.rps for s in signed)),
            "bare_rps": round(median(rps for rps, _ in alone)),
            "ratio": round(median(s.rps / rps for s, (rps, _) in zip(signed, beside, strict=True)), 3),
            # What the load takes of the cores, a server and `bare` have to themselves.
            "ratio_without_load": round(
                median(
                    s.rps / rps / (1 - s.rps * s.load_cpu_us / 1e6 / len(both_cores))
                    for s, (rps, _) in zip(signed, beside, strict=True)
                ),
                3,
            ),
            "cpu_us": round(median(s.cpu_us for s in signed), 1),
            "load_cpu_us": round(median(s.load_cpu_us for s in signed), 1),
            "bare_cpu_us": round(median(us for _, us in alone), 1),
            "cpu_ratio": round(
                median(us / (s.cpu_us + s.load_cpu_us) for s, (_, us) in zip(signed, beside, strict=True)), 3
            ),
            "server_cpu_ratio": round(median(us / s.cpu_us for s, (_, us) in zip(signed, beside, strict=True)), 3),
        },
        "reports_per_s": round(median(arrived)),
        "reports": {
            "rps_without": round(median(s.rps for s in quiet)),
            "rps_with": round(median(s.rps for s in reported)),
            "cost": round(median(1 - w.rps / q.rps for w, q in zip(reported, quiet, strict=True)), 3),
            "cpu_cost": round(1 - median(s.cpu_us for s in quiet) / median(s.cpu_us for s in reported), 3),
        },
        "rss_mb": round(rss_mb, 1),
        "generator_rps": round(generator.rps),
    }


def machine() -> str:
    """Processor and cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'workers':>14} {'requests/s':>11} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} {'cpu µs':>7} {'ratio':>6}"]
    lines.append(
        f"{'constant':>14} {result['constant_rps']:>11,} {1:>6.2f} {result['constant_cpu_us']:>23.1f} {1:>6.2f}"
    )
    others = {name.replace("_", " "): result[name] for name in ("granted", "usual", "early_constant")}
    for name, row in (result["workers"] | others).items():
        lines.append(
            f"{name:>14} {row['rps']:>11,} {row['ratio']:>6.2f} {row['p50_ms']:>7.2f} {row['p99_ms']:>7.2f} "
            f"{row['cpu_us']:>7.1f} {row['cpu_ratio']:>6.2f}"
        )
    signed, reports = result["signed"], result["reports"]
    lines += [
        f"signed one by one: {signed['rps']:,}/s, bare RSA-2048 {signed['bare_rps']:,}/s, ratio {signed['ratio']:.3f}, "
        f"or {signed['ratio_without_load']:.3f} of what the load leaves of the cores",
        f"  processor time: bare {signed['bare_cpu_us']:.0f} µs, server {signed['cpu_us']:.0f} µs, load "
        f"{signed['load_cpu_us']:.0f} µs, ratio {signed['cpu_ratio']:.3f}, or {signed['server_cpu_ratio']:.3f} "
        "without the load",
        f"{result['reports_per_s']:,} reports/s cost {reports['cost']:.1%} of route throughput, "
        f"{reports['cpu_cost']:.1%} of the processor time",
        f"memory with 100 endpoints of 100 workers: {result['rss_mb']:.0f} MB",
        f"limit of the load: {result['generator_rps']:,} requests/s; {result['machine']}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds; less exact")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load")
    rounds, span_s = (2, 0.6) if options.quick else (5, 2.0)
    record, key = Keyring(SECRET, [], lambda _: None).mint("bench", Scope.ROUTE, time.time())

    spawn = mp.get_context("spawn")
    processes: dict[str, tuple[BaseProcess, Connection]] = {}
    try:
        for site in (None, *SITES):
            here, there = spawn.Pipe()
            target, args = (echo, (there,)) if site is None else (serve, (site, record, there))
            process: BaseProcess = spawn.Process(target=target, args=args, daemon=True)
            process.start()
            processes["echo" if site is None else site.name] = process, here
        ports = {name: pipe.recv() for name, (_, pipe) in processes.items() if pipe.poll(60)}
        pids = {name: process.pid or 0 for name, (process, _) in processes.items()}
        for pid in pids.values():
            psutil.Process(pid).suspend()
        result = uvloop.run(run(ports, pids, key, rounds, span_s))
    finally:
        for process, _ in processes.values():
            process.kill()
            process.join()
    packages = ("uvicorn", "httptools", "uvloop", "msgspec", "numpy", "cryptography")
    result |= {
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
    }
    print(table(result))
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
