"""The load: keep-alive connections with one request each on its way, and what they see."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import cast

import psutil

from benchmarks.route.servers import worker_address, worker_perf
from posthouse.server.auth import Keyring

CONNECTIONS = 64
"""Keep-alive connections of the load, each with one request on its way."""
REPORT_CONNECTIONS = 20
REPORT_EVERY_S = 0.01
"""How often each report connection sends one: 20 connections, 100 times a second, is 2,000 a second."""
WARM_UP_S = 0.3


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


async def measure(port: int, pid: int, request: bytes | Callable[[], bytes], span_s: float) -> Seen:
    """As many requests as `CONNECTIONS` connections get answered in `span_s`, after a warm-up."""
    load = Load()
    asks = (lambda: request) if isinstance(request, bytes) else request
    callers = await _connect(port, load, asks, b'"url"', CONNECTIONS)
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


def post(path: str, body: object, key: str = "") -> bytes:
    """The bytes of a request, with the headers that the usual client sends."""
    raw = json.dumps(body).encode()
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{authorization}Accept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        f"User-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


def report(keyring: Keyring, worker_id: int) -> bytes:
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
        "max_perf": worker_perf(worker_id),
        "cur_perf": 900.0,
        "cur_capacity": 0.0,
        "max_capacity": 0.0,
        "num_requests_working": 8,
        "num_requests_recieved": 8,
        "working_request_idxs": list(range(8)),
        "additional_disk_usage": 0.0,
        "url": f"http://{worker_address(worker_id)}",
    }
    return post("/worker_status/", body)
