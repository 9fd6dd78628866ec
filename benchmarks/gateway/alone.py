"""A gateway without sockets: what a chat takes of it alone, in processor time, on a machine that others use, too.

`python -m benchmarks.gateway.alone [COUNT]`: the least and the median of nine rounds of COUNT chats each, after one to
warm up; twice, once answered whole and once as streams of 20 events. `--once`: one round of whole ones, for
`valgrind --tool=cachegrind`: the difference of two counts is what those chats took.
"""

import argparse
import asyncio
import json
import time
from statistics import median
from typing import Any

import uvloop

from benchmarks.gateway.engine import ANSWER, DONE, EVENT, EVENTS, JSON, LAST, STREAM, chunk
from posthouse import logs
from posthouse.app import garbage
from posthouse.gateway.application import Gateway
from posthouse.gateway.inward import Inward
from posthouse.gateway.records import Records
from posthouse.gateway.server import Server
from posthouse.gateway.settings import GatewaySettings
from posthouse.gateway.ways import Ways
from posthouse.http1.upstream import Link, Origin, Upstreams

CALLERS = 16
ROUNDS = 9
ROUTED = {"endpoint": "m", "cost": 20, "reqnum": 1795467071432, "signature": "g" * 120, "url": "http://127.0.0.1:9"}
ROUTED["request_idx"] = 1795467071432001
SAID = {"model": "m", "messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 20}
HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ph_01234567_{'a' * 43}\r\n"


class Nowhere:
    """A transport; what is written to it goes to `wrote`."""

    def __init__(self, wrote: Any) -> None:
        self.write = wrote

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def nothing(self) -> None: ...

    abort = close = pause_reading = resume_reading = nothing


class Answered(Upstreams):
    """Servers that answer at once: the one that routes, or a worker."""

    answer: tuple[bytes, ...]

    async def _connect(self, origin: Origin) -> Link:
        link = Link(self, origin)

        def asked(request: bytes) -> None:
            for piece in self.answer:
                link.loop.call_soon(link.data_received, piece)

        link.connection_made(Nowhere(asked))  # type: ignore[arg-type]
        return link


async def chats(inward: Inward, count: int, stream: bool) -> None:
    body = json.dumps(SAID | {"stream": stream}).encode()
    request = f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    loop, over, left = asyncio.get_running_loop(), asyncio.Event(), count

    def caller() -> None:
        connection = inward.connection()

        def answered(piece: bytes) -> None:
            nonlocal left
            if stream and not piece.endswith(b"\r\n0\r\n\r\n"):
                return
            left -= 1
            if left >= CALLERS:
                loop.call_soon(connection.data_received, request)
            elif not left:
                over.set()

        connection.connection_made(Nowhere(answered))  # type: ignore[arg-type]
        connection.data_received(request)

    for _ in range(CALLERS):
        caller()
    await over.wait()


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.alone", description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--once", action="store_true")
    asked = parser.parse_args()
    logs.configure("warning", "console")
    server = Server("http://127.0.0.1:8080", None, 600.0)
    routes, workers = Answered(server.context, 600.0), Answered(server.context, 600.0)
    server._upstreams, server.workers = routes, workers
    said = json.dumps(ROUTED, separators=(",", ":")).encode()
    routes.answer = (JSON % (len(said), said),)
    gateway = Gateway(Ways(GatewaySettings(), server, Records(None, 0)))
    inward = Inward(gateway.answer, 4096, 2**25, 60.0)
    inward.date = b""
    whole = (JSON % (len(ANSWER), ANSWER),)
    events = (STREAM, *(chunk(EVENT % i) for i in range(EVENTS)), chunk(LAST) + chunk(DONE) + b"0\r\n\r\n")
    for workers.answer, stream in ((whole, False), (events, True)):
        took_us = []
        for _ in range(1 if asked.once else ROUNDS + 1):
            began = time.process_time()
            await chats(inward, asked.count, stream)
            took_us.append((time.process_time() - began) / asked.count * 1e6)
        if asked.once:
            return
        print(
            f"{'streamed' if stream else 'whole':8} {min(took_us):7.1f} µs at least, {median(took_us[1:]):7.1f} median"
        )


if __name__ == "__main__":
    garbage.settle(garbage.OF_STREAMS)
    uvloop.run(main())
