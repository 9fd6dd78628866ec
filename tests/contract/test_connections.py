"""Connections that do not end, or are too many: they cost a bounded time and place, and nobody else is kept waiting."""

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from posthouse import places
from posthouse.app import listen
from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.engine import router
from posthouse.http1 import server as http
from posthouse.server import connection
from tests.kit.live import live_server, until

MOST = 10


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(
        tmp_path / "data", **{"server.max_connections": MOST, "server.route_hold_s": 0, "providers.process.poll_s": 30}
    ) as server:
        async with AsyncClient(server.url, server.admin_key) as owner:
            await owner.create_endpoint("llm", min_load=0, cold_workers=0)
        await until(lambda: not server.server.connections, "nobody is connected")
        yield server


class Caller:
    """A plain connection that says what the test says."""

    def __init__(self, server: Running, stack: ExitStack) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
        self._socket.setblocking(False)
        self._key = server.admin_key
        self.said = b""

    def send(self, raw: bytes) -> None:
        self._socket.send(raw)

    def ask(self, method: str = "POST", path: str = "/route/") -> None:
        body = b'{"endpoint":"llm"}'
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {self._key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.send(head.encode() + body)

    def closed(self) -> bool:
        """Reads what has come; true once the server has closed the connection."""
        try:
            while data := self._socket.recv(65_536):
                self.said += data
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass
        return True

    def answer(self) -> tuple[int, Any]:
        """Status and body of the one answer so far."""
        head, _, body = self.said.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


async def open_ones(server: Running, stack: ExitStack, count: int) -> list[Caller]:
    before = len(server.server.connections)
    callers = [Caller(server, stack) for _ in range(count)]
    await until(lambda: len(server.server.connections) == before + count, "all are connected")
    return callers


async def known_ones(server: Running, stack: ExitStack, count: int) -> list[Caller]:
    """Connections that have shown a good key."""
    callers = await open_ones(server, stack, count)
    for caller in callers:
        caller.ask()
    await until(lambda: not any(c.closed() for c in callers) and all(c.said for c in callers), "they were answered")
    return callers


async def test_the_unproven_that_is_silent_longest_makes_place(server: Running) -> None:
    with ExitStack() as stack:
        (known,) = await known_ones(server, stack, 1)
        silent = await open_ones(server, stack, MOST - 1)
        fresh = [Caller(server, stack) for _ in range(3)]
        await until(lambda: all(caller.closed() for caller in silent[:3]), "those that are silent longest go")
        for caller in (known, *fresh):
            caller.said = b""
            caller.ask()
        await until(lambda: not any(c.closed() for c in fresh) and all(c.said for c in fresh), "the others are served")
        assert {caller.answer()[0] for caller in fresh} == {200}
        assert not known.closed()
        assert not any(caller.closed() for caller in silent[3:])


async def test_bytes_of_nobody_are_bounded_and_those_of_a_good_key_are_not_counted(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "MAX_UNPROVEN_BYTES_EACH", 5_000)
    head = b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n"
    with ExitStack() as stack:
        first, second, owner = await open_ones(server, stack, 3)
        owner.send(head + f"Authorization: {server.admin_key}\r\n\r\n".encode() + b" " * 3000)
        first.send(head + b"\r\n" + b" " * 3000)
        await until(lambda: server.server.places.held_bytes > 3000, "what came first is counted")
        second.send(head + b"\r\n" + b" " * 3000)
        await until(first.closed, "the older one makes place")
        assert not second.closed()
        assert server.server.places.held_bytes < 5_000
        owner.send(b'{"endpoint":"llm"}'.rjust(1000))
        await until(lambda: not owner.closed() and bool(owner.said), "who has a key is served")
        assert owner.answer()[0] == 200


async def test_a_body_too_long_for_the_call_is_refused_before_it_has_come(server: Running) -> None:
    with ExitStack() as stack:
        (caller,) = await open_ones(server, stack, 1)
        caller.send(b"POST /route/ HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n" + b" " * 70_000)
        await until(lambda: caller.closed() or bool(caller.said), "it is told")
        assert caller.answer()[0] == 400
        assert "at most 65536 bytes" in caller.answer()[1]["error"]


async def test_so_many_calls_of_a_key_are_held_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "MAX_HELD_EACH", 2)
    async with live_server(tmp_path / "held", **{"server.route_hold_s": 2}) as server:
        async with AsyncClient(server.url, server.admin_key) as owner:
            await owner.create_endpoint("llm", min_load=0, cold_workers=0)
        with ExitStack() as stack:
            callers = [Caller(server, stack) for _ in range(3)]
            for caller in callers:
                caller.ask()
            await until(lambda: sum(not c.closed() and bool(c.said) for c in callers) == 1, "one is told at once")
            await until(lambda: all(not c.closed() and bool(c.said) for c in callers), "the others when they were held")


async def test_beyond_the_most_connections_a_request_waits_and_nothing_is_held(server: Running) -> None:
    with ExitStack() as stack:
        inside = await known_ones(server, stack, MOST)
        inside[0].said = b""
        route, manage = await open_ones(server, stack, 2)
        route.ask()
        manage.ask("GET", "/v1/status")
        await until(lambda: route.closed() and manage.closed(), "both are answered and closed")
        assert route.answer() == (200, {"endpoint": "", "status": "the server has too many connections"})
        status, body = manage.answer()
        assert (status, body["success"], body["error"]) == (503, False, "busy")
        assert b"retry-after: 1" in manage.said
        inside[0].ask()
        await until(lambda: not inside[0].closed() and bool(inside[0].said), "who was there is served")
        assert inside[0].answer()[0] == 200


async def test_far_beyond_they_are_closed_at_once(server: Running) -> None:
    with ExitStack() as stack:
        await known_ones(server, stack, MOST)
        await open_ones(server, stack, int(MOST * http.BEYOND) - MOST)
        more = [Caller(server, stack) for _ in range(5)]
        await until(lambda: all(caller.closed() for caller in more), "the others are closed")
        assert not any(caller.said for caller in more)


@pytest.mark.parametrize(
    "sent", [b"", b"POST /route/ HTTP/1.1\r\nHo", b"POST /route/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]
)
async def test_a_request_that_does_not_arrive_is_not_waited_for(
    sent: bytes, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        fresh, used = await open_ones(server, stack, 2)
        used.ask()
        await until(lambda: not used.closed() and bool(used.said), "one has had an answer")
        for caller in (fresh, used):
            if sent:
                caller.send(sent)
        monkeypatch.setattr(connection, "READ_WAIT_S", 0.2)
        await until(fresh.closed, "the first request is given up")
        await until(lambda: used.closed() or not sent, "so is a later one; one that is idle may stay")
        assert used.closed() is bool(sent)


async def test_a_connection_that_is_idle_for_long_is_closed(server: Running) -> None:
    with ExitStack() as stack:
        (idle,) = await open_ones(server, stack, 1)
        idle.ask()
        await until(lambda: not idle.closed() and bool(idle.said), "it was answered")
        now = asyncio.get_running_loop().time()
        server.server.close_late(list(server.server.connections), now + http.KEEP_ALIVE_S - 1)
        rounds = server.loop.counts["rounds"]
        await until(lambda: server.loop.counts["rounds"] > rounds + 2, "some time goes by")
        assert not idle.closed()
        server.server.close_late(list(server.server.connections), now + http.KEEP_ALIVE_S + 1)
        await until(idle.closed, "it is closed")


async def test_idle_connections_make_place_when_it_gets_narrow(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "IDLE_S", 0.1)
    with ExitStack() as stack:
        few = await open_ones(server, stack, 3)
        for caller in few:
            caller.ask()
        await until(lambda: not any(c.closed() for c in few) and all(c.said for c in few), "they were answered")
        rounds = server.loop.counts["rounds"]
        await until(lambda: server.loop.counts["rounds"] > rounds + 10, "more than a second goes by")
        assert not any(caller.closed() for caller in few)
        for _ in range(MOST - 3):
            Caller(server, stack)
        await until(lambda: all(caller.closed() for caller in few), "those that are idle are closed")


async def test_however_many_are_late_others_have_their_turn(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "AT_ONCE", 2)
    monkeypatch.setattr(connection, "READ_WAIT_S", 3600.0)
    with ExitStack() as stack:
        await open_ones(server, stack, MOST - 1)
        here = server.server.connections
        looked_at: list[int] = []
        monkeypatch.setattr(server.server, "close_late", lambda some, now: looked_at.append(len(some)))
        server.server.every_second()
        in_turns = [list(looked_at)]
        while sum(looked_at) < MOST - 1:
            await asyncio.sleep(0)
            in_turns.append(list(looked_at))
        assert len(here) == MOST - 1
        assert in_turns == [[2] * turns for turns in range(1, 5)] + [[2, 2, 2, 2, 1]]


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "most"),
    [
        (20_000, 20_000, None, 10_000),
        (1024, 524_288, 12_700, 10_000),
        (1024, 2048, 2048, 1478),
        (1024, 1024, 1024, 659),
    ],
)
def test_there_are_never_more_connections_than_files_may_be_open(
    soft: int, hard: int, raised: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    assert listen.max_connections(10_000) == most
    assert limits == ([] if raised is None else [(raised, hard)])


async def test_a_long_request_needs_its_key_in_the_head(server: Running) -> None:
    with ExitStack() as stack:
        nobody, owner = await open_ones(server, stack, 2)
        head = "POST /api/v0/endptjobs/ HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n"
        nobody.send(f"{head}\r\n".encode() + b" " * 150_000)
        await until(nobody.closed, "it is refused before the rest has come")
        assert b"needs a good key in the request's header" in nobody.said
        owner.send(f"{head}Authorization: {server.admin_key}\r\n\r\n".encode() + b" " * 150_000)
        await until(lambda: not owner.closed() and server.server.places.held_bytes == 0, "nothing is held of nobody")
        assert owner.said == b""
