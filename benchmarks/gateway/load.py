"""Keep-alive connections, each with one chat on its way: answered at once, or streamed."""

import asyncio
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import cast

import httptools
import psutil

from benchmarks.gateway.engine import GAP_S
from benchmarks.gateway.rivals import Running

WARM_UP_S = 2.0
STAMP = re.compile(rb'"content":"(\d+)"')


@dataclass(slots=True)
class Seen:
    """What the connections have seen since they were last cleared; in milliseconds."""

    answers: int = 0
    failed: int = 0
    whole_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    """From the request to its first event, without the time that the engine takes."""
    event_ms: list[float] = field(default_factory=list)
    """From where the engine writes an event to where the client reads it."""


class Caller(asyncio.Protocol):
    """One connection; asks again as soon as it is answered, until it is told to stop."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self.request, self.seen, self.stopped = request, seen, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.first = True
        self.asked_at = time.monotonic()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        now_ns = time.monotonic_ns()
        for stamp in STAMP.finditer(body):
            self.seen.event_ms.append((now_ns - int(stamp[1])) / 1e6)
            if self.first:
                self.seen.first_ms.append((now_ns / 1e9 - self.asked_at - GAP_S) * 1e3)
                self.first = False

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() == 200:
            self.seen.answers += 1
            self.seen.whole_ms.append((time.monotonic() - self.asked_at) * 1e3)
        else:
            self.seen.failed += 1
        if self.stopped:
            self.transport.close()
        else:
            asyncio.get_running_loop().call_soon(self.ask)

    def connection_lost(self, exc: Exception | None) -> None:
        self.seen.failed += not self.stopped


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen in front of one gateway. Times in milliseconds, of processors in microseconds for each answer."""

    per_s: float
    failed: int
    p50_ms: float
    p99_ms: float
    """Of whole answers, or of events where they are streamed."""
    first_p50_ms: float
    first_p99_ms: float
    cpu_us: float
    beside_us: float
    """Of `cpu_us`, what the server takes that routes."""
    stream_kb: float
    """Memory for each connection."""


async def measure(gateway: Running, connections: int, stream: bool, span_s: float) -> Result:
    """`connections` callers for `span_s`, after a warm-up."""
    said = {"model": "m", "messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 20, "stream": stream}
    body = json.dumps(said).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {gateway.key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    loop, seen = asyncio.get_running_loop(), Seen()
    memory = rss(gateway.processes)
    callers = []
    for _ in range(connections):
        callers.append((await loop.create_connection(lambda: Caller(request, seen), "127.0.0.1", gateway.port))[1])
        await asyncio.sleep(1.0 / connections)
    await asyncio.sleep(WARM_UP_S)
    for name in ("whole_ms", "first_ms", "event_ms"):
        getattr(seen, name).clear()
    seen.answers = seen.failed = 0
    began_at, used_s, beside_s = time.monotonic(), used(gateway.processes), used(gateway.beside)
    await asyncio.sleep(span_s)
    took_s = time.monotonic() - began_at
    used_s, beside_s = used(gateway.processes) - used_s, used(gateway.beside) - beside_s
    memory = rss(gateway.processes) - memory
    done, failed = max(seen.answers, 1), seen.failed
    times = seen.event_ms if stream else seen.whole_ms
    figures = (at(times, 50), at(times, 99), at(seen.first_ms, 50), at(seen.first_ms, 99))
    for caller in callers:
        caller.stopped = True
    await asyncio.sleep(0 if not stream else 2.0)
    for caller in callers:
        caller.transport.abort()
    await asyncio.sleep(0.5)
    return Result(
        done / took_s, failed, *figures, used_s / done * 1e6, beside_s / done * 1e6, memory / connections / 1024
    )


def at(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else 0.0


def used(processes: Sequence[psutil.Process]) -> float:
    """Processor time that they have used, in seconds."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def rss(processes: Sequence[psutil.Process]) -> int:
    return int(sum(process.memory_info().rss for process in processes))
