"""Connections, byte by byte: what is HTTP, or hardly, in pieces, through the connection that reads it."""

import asyncio
import json
import re
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from posthouse.server.asgi import AsgiCall
from posthouse.server.connection import Connection
from tests.fuzz.cases import mutated
from tests.fuzz.site import ENDPOINT, WORKER_ID, Site

_STATUS = re.compile(rb"(?:^|\n|\})HTTP/1\.1 ([0-9]{3}) ")


class Wire(asyncio.Transport):
    """What the protocol thinks is a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.said, self.paused, self.closed = b"", False, False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.said += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def streams(here: Site) -> st.SearchStrategy[list[bytes]]:
    """What a client sends on one connection, in pieces: calls whose answers do not depend on those before, damaged.

    Some have the same head, which is not parsed again where a whole call is a piece.
    """
    route = {"endpoint": ENDPOINT, "cost": 5, "request_idx": 0}
    report = {"id": WORKER_ID, "mtoken": here.secrets["worker"], "cur_load": 1}
    key = f"Authorization: Bearer {here.secrets['endpoint']}"
    calls = [
        _call("POST", "/route/", route, key),
        _call("POST", "/route/", {**route, "cost": 7}, key),
        _call("POST", "/route/", {**route, "endpoint": ENDPOINT[::-1]}, key),
        _call("POST", "/route/", {**route, "note": "x" * 3000}, key, "Expect: 100-continue"),
        _call("POST", "/api/v0/route", {**route, "endpoint": "nobody"}, key),
        _call("POST", "/route/", route),
        _call("POST", "/route/", route, key, "Connection: close"),
        _call("POST", "/worker_status/", report),
        _call("GET", "/pubkey/", None),
        _call("GET", "/v1/status", None, f"Authorization: {here.secrets['read']}"),
        _call("POST", "/route/", None, key, "Transfer-Encoding: chunked") + b'5\r\n{"end\r\n0\r\n\r\n',
    ]
    whole = st.lists(st.sampled_from(calls), min_size=1, max_size=4).map(b"".join)
    damaged = st.lists(st.sampled_from(calls) | mutated(calls), min_size=1, max_size=4).map(b"".join)
    each = st.lists(st.sampled_from(calls[:3]) | st.sampled_from(calls) | mutated(calls[:3]), min_size=3, max_size=6)
    return st.builds(_cut, whole | damaged, st.lists(st.floats(0, 1), max_size=6)) | each


def _call(method: str, path: str, body: object, *headers: str) -> bytes:
    raw = b"" if body is None else json.dumps(body).encode()
    length = [] if any("chunked" in header for header in headers) else [f"Content-Length: {len(raw)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, *length, "", ""]).encode() + raw


def _cut(stream: bytes, cuts: list[float]) -> list[bytes]:
    edges = sorted({0, len(stream), *(int(cut * len(stream)) for cut in cuts)})
    return [stream[a:b] for a, b in pairwise(edges)]


async def talk(here: Site, pieces: list[bytes]) -> list[int]:
    """The statuses of the answers to what is sent. Fails on what no client may bring about."""
    loop, troubles = asyncio.get_running_loop(), list[Any]()
    loop.set_exception_handler(lambda _, trouble: troubles.append(trouble))
    here.logs.clear()
    wire, connection = Wire(), here.server.connection()
    try:
        connection.connection_made(wire)
        async with asyncio.timeout(60):
            for piece in pieces:
                while wire.paused and not wire.closed:
                    await asyncio.sleep(0)
                if wire.closed:
                    break
                connection.data_received(piece)
                await asyncio.sleep(0)
            while not (wire.closed or _waits(connection)):
                await asyncio.sleep(0)
            connection.connection_lost(None)
            while here.server.calls:
                await asyncio.wait(set(here.server.calls))
    finally:
        loop.set_exception_handler(None)
    statuses = [int(code) for code in _STATUS.findall(wire.said)]
    assert not troubles, (pieces, troubles)
    assert all(status < 500 for status in statuses), (pieces, wire.said)
    assert not here.server.connections
    logged = str(here.logs) + wire.said.decode("latin-1")
    assert "Traceback" not in logged, (pieces, logged)
    assert "could not answer" not in logged, (pieces, logged)
    return [status for status in statuses if status != 100]


def _waits(connection: Connection) -> bool:
    """Every answer that it owes is out."""
    current = connection._current
    return current is None or (isinstance(current, AsgiCall) and current.waits)
