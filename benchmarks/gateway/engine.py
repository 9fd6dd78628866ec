"""A stand-in for a model server that costs little: `engine.py PORT`.

It answers OpenAI's chat completions: at once, or as a stream of `EVENTS` events, `GAP_S` apart, each with the time at
which it was sent. As a worker of Posthouse, with `REPORT_ADDR` in its environment, it reports that it is ready and what
has ended, without an agent before it.
"""

import asyncio
import base64
import json
import os
import sys
import time
from typing import Any, cast

import aiohttp
import httptools

from posthouse.agent.worker import VERSION
from posthouse.wire.grant import AGENT, AUTH_HEADER

EVENTS = 20
GAP_S = 0.05
REPORT_S = 0.1
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = b'"usage":{"prompt_tokens":8,"completion_tokens":20,"total_tokens":28}'
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"so it was"},"finish_reason":"stop"}],' + USAGE + b"}"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":"%d"},"finish_reason":null}]}\n\n'
)
LAST = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],%s}\n\n' % USAGE
DONE = b"data: [DONE]\n\n"
MODELS = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x","max_model_len":4096}]}'

running: set[int] = set()
ended: list[dict[str, Any]] = []


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One connection of a client: a request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.streaming: asyncio.Task[None] | None = None
        self.on_message_begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.streaming:
            self.streaming.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body, self.proof = b"", b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == AUTH_HEADER.lower().encode():
            self.proof = value

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.parser.get_method() == b"GET":
            self.transport.write(JSON % (len(MODELS), MODELS))
            return
        index = json.loads(base64.b64decode(self.proof))["request_idx"] if self.proof else 0
        running.add(index)
        if b'"stream":true' in self.body.replace(b" ", b""):
            self.streaming = asyncio.create_task(self.stream(index))
        else:
            self.transport.write(JSON % (len(ANSWER), ANSWER))
            end(index)

    async def stream(self, index: int) -> None:
        try:
            self.transport.write(STREAM)
            for _ in range(EVENTS):
                await asyncio.sleep(GAP_S)
                self.transport.write(chunk(EVENT % time.monotonic_ns()))
            self.transport.write(chunk(LAST) + chunk(DONE) + b"0\r\n\r\n")
        finally:
            end(index)


def end(index: int) -> None:
    running.discard(index)
    if index:
        ended.append({"request_idx": index, "success": True, "status": "Success"})


async def report(port: int) -> None:
    """Tells the server, forever, that this worker is ready and which requests have ended."""
    address, identity = os.environ["REPORT_ADDR"].rstrip("/"), {"mtoken": os.environ["MASTER_TOKEN"]}
    number = int(os.environ["CONTAINER_ID"])
    form = {"id": number, **identity, "version": f"{VERSION}{AGENT}", "loadtime": 1.0, "max_perf": 1e6, "error_msg": ""}
    async with aiohttp.ClientSession() as http:
        while True:
            gone = [ended.pop() for _ in range(min(len(ended), 1000))]
            if gone:
                await http.post(f"{address}/delete_requests/", json={"worker_id": number, **identity, "requests": gone})
            work = {"cur_load": float(len(running)), "num_requests_working": len(running)}
            indices = {"working_request_idxs": [i for i in running if i], "url": f"http://127.0.0.1:{port}"}
            await http.post(f"{address}/worker_status/", json=form | work | indices)
            if len(ended) < 1000:
                await asyncio.sleep(REPORT_S)


async def main() -> None:
    port = int(sys.argv[1])
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    async with server:
        await (report(port) if os.environ.get("REPORT_ADDR") else server.serve_forever())


if __name__ == "__main__":
    asyncio.run(main())
