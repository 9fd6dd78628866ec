"""Connections, byte by byte: however requests come, their answers are the same."""

import asyncio
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posthouse.config import Rates
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.lifecycle import State
from posthouse.domain.offer import Price
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.certificates import Certificates
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.engine.ingest import Ingest
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.router import Router
from posthouse.fleet.controller import Controller
from posthouse.ports import Store
from posthouse.server.asgi import Message, Receive, Send
from posthouse.server.auth import Keyring, Scope
from posthouse.server.connection import Connection
from posthouse.server.fastpath import FastPath
from posthouse.server.http import HttpServer
from posthouse.server.throttle import Throttle
from posthouse.signing.rsa import RsaKey
from posthouse.wire.route import RouteAsk, RouteReply

NOBODY = "an endpoint without workers"
SCHEMES = {"address-alone": "U", "every-field": "A5S"}
RECORD, KEY = Keyring(bytes(32), [], lambda _: None).mint("test", Scope.ROUTE, 0.0)


@dataclass
class Served:
    """A server in a thread of its own."""

    port: int
    server: HttpServer

    def talk(self, pieces: list[bytes], answers: int, in_turn: bool = False) -> list[tuple[int, dict[str, str], bytes]]:
        """Sends the pieces one by one and reads as many answers, fewer if the server closes the connection.

        `in_turn`: each piece is a request, and goes when the one before it has been answered.
        """
        reader = _Reader()
        reader.parser = parser = httptools.HttpResponseParser(reader)
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i, piece in enumerate(pieces, 1):
                try:
                    connection.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break
                while in_turn and len(reader.answers) < i and (data := connection.recv(65_536)):
                    parser.feed_data(data)
            while len(reader.answers) < answers:
                try:
                    data = connection.recv(65_536)
                except ConnectionResetError:
                    break
                if not data:
                    break
                parser.feed_data(data)
        return reader.answers


class _Reader:
    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.headers: dict[str, str] = {}
        self.body = b""
        self.parser: Any = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() == 100:
            self.headers = {}
            return
        if "transfer-encoding" not in self.headers:
            assert int(self.headers["content-length"]) == len(self.body)
        self.answers.append((self.parser.get_status_code(), self.headers, self.body))
        self.headers, self.body = {}, b""


async def _application(scope: Message, receive: Receive, send: Send) -> None:
    """Says what it was asked; at /pieces/ in pieces of a length that it does not tell before."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    said = json.dumps({"method": scope["method"], "path": scope["path"], "body": len(body)}).encode()
    headers = [(b"content-type", b"application/json")]
    if scope["path"] != "/pieces/":
        headers.append((b"content-length", b"%d" % len(said)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for i in range(0, len(said), 20):
        await send({"type": "http.response.body", "body": said[i : i + 20], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _fast_path() -> FastPath:
    clock = SystemClock()
    hub = Hub(cast(Store, None), clock, {}, "", "test", stabilization_s=0.0)
    for number, (name, scheme) in enumerate([*SCHEMES.items(), (NOBODY, "")], 1):
        endpoint = Endpoint(EndpointId(number), name, Scaling())
        workers = [_ready(endpoint, WorkerId(number), scheme, clock.now())] if scheme else []
        hub.add(ManagedEndpoint(Controller(endpoint, clock.now(), workers)))
    keyring = Keyring(bytes(32), [RECORD], hub.endpoint)
    signer = RsaKey.generate()

    def sign_beside(data: bytes, then: Callable[[str | Exception], None]) -> None:
        asyncio.get_running_loop().call_soon(then, signer.sign(data))

    router = Router(hub, signer, lambda _: bytes(32), hold_s=0.0, sign_beside=sign_beside)
    return FastPath(
        hub,
        router,
        Ingest(hub, keyring.check_worker),
        Certificates(hub, keyring.check_worker, authority=lambda *_: b""),
        keyring,
        max_body_bytes=100_000,
        ready=lambda: "",
        metrics=lambda: b"",
        root_certificate=b"root",
        throttle=Throttle(Rates(wrong_keys_per_address=0)),
    )


def _ready(endpoint: Endpoint, worker_id: WorkerId, scheme: str, now: float) -> Worker:
    return Worker(
        id=worker_id,
        endpoint_id=endpoint.id,
        group_id=WorkergroupId(1),
        label="",
        provider="",
        offer_id="",
        machine="",
        gpu_name="",
        num_gpus=1,
        price=Price(0.0, 0.0, 0.0),
        created_at=now,
        state=State.IDLE,
        since=now,
        progressed_at=now,
        addresses=frozenset({"10.0.0.1:1"}),
        url="http://10.0.0.1:1",
        version="",
        scheme=scheme,
        perf=1e9,
        loaded_at=now,
    )


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    up: queue.Queue[tuple[Served, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def main() -> None:
        server, end = HttpServer(_fast_path(), _application), asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.start(listener)
            up.put((Served(listener.getsockname()[1], server), asyncio.get_running_loop(), end))
            await end.wait()
            await server.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    served, loop, end = up.get(timeout=30)
    yield served
    loop.call_soon_threadsafe(end.set)
    thread.join()


def request(body: Any, *headers: str, path: str = "/route/", method: str = "POST", key: str = KEY) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(raw)}", *headers]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + raw


def chunked(body: Any, size: int) -> bytes:
    raw = json.dumps(body).encode()
    head = f"POST /route HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: {KEY}\r\n\r\n".encode()
    parts = [raw[i : i + size] for i in range(0, len(raw), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ASK = {"endpoint": "address-alone", "cost": 12.5, "request_idx": 0}
REQUESTS = {
    "good": request(ASK),
    "good, oldest client": request({"endpoint": "address-alone"}),
    "good, key in the query": request(ASK, path=f"/api/v0/route?api_key={KEY}", key=""),
    "good, key in the body": request({**ASK, "api_key": KEY}, key=""),
    "good, in chunks": chunked(ASK, 7),
    "good, cost in quotes": request({**ASK, "cost": "3"}),
    "good, after a byte order mark": request(b"\xef\xbb\xbf" + json.dumps(ASK).encode()),
    "good, each signed": request({**ASK, "endpoint": "every-field"}),
    "good, long": request({**ASK, "note": "x" * 70_000}),
    "waits": request({**ASK, "endpoint": NOBODY}),
    "wrong key": request(ASK, key="wrong"),
    "no key": request(ASK, key=""),
    "unknown endpoint": request({**ASK, "endpoint": "nobody"}),
    "no endpoint": request({}),
    "negative cost": request({**ASK, "cost": -1}),
    "not JSON": request(b"{"),
    "empty": request(b""),
    "not UTF-8": request(b'{"endpoint": "\xff"}'),
    "too long": request(b"x" * 100_001),
    "GET": request(ASK, method="GET"),
    "OPTIONS": request(b"", path="/route/", method="OPTIONS"),
    "another call": request(b"", path="/pubkey/", method="GET"),
    "of the application": request(ASK, path="/router/"),
    "of the application, in pieces": request({**ASK, "note": "x" * 200_000}, path="/pieces/"),
    "of the application, in chunks": chunked(ASK, 7).replace(b"/route", b"/router", 1),
    "an upgrade": request(ASK, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"),
    "an upgrade, of the application": request(ASK, "Connection: Upgrade", "Upgrade: h2c", path="/router/"),
    "asked for": request(ASK, "Expect: 100-continue"),
}


def meaning(answer: tuple[int, dict[str, str], bytes]) -> Any:
    """What two servers must agree on: everything but numbers, times and keys."""
    status, headers, body = answer
    kept = {name: value for name, value in headers.items() if name not in ("date", "content-length", "posthouse-time")}
    try:
        said = json.loads(body)
    except ValueError:
        said = "PEM" if b"PUBLIC KEY" in body else body
    if isinstance(said, dict):
        said = {k: None if k in ("reqnum", "request_idx", "signature") else v for k, v in said.items()}
    return status, kept, said


@pytest.fixture(scope="module")
def alone(served: Served) -> dict[str, Any]:
    """What each request is answered that comes alone and whole."""
    return {name: meaning(served.talk([raw], 1)[0]) for name, raw in {**REQUESTS, **ALIKE}.items()}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=5),
    st.lists(st.integers(0, 2_000), max_size=8),
)
def test_requests_are_answered_in_turn_and_alike_in_whatever_pieces_they_come(
    served: Served, alone: dict[str, Any], names: list[str], cuts: list[int]
) -> None:
    stream = b"".join(REQUESTS[name] for name in names)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    answers = served.talk([stream[a:b] for a, b in pairwise(edges)], len(names))
    assert [meaning(a) for a in answers] == [alone[name] for name in names]


@pytest.mark.parametrize(
    ("upgrade", "plain"), [("an upgrade", "good"), ("an upgrade, of the application", "of the application")]
)
def test_an_upgrade_that_is_not_offered_is_ignored(alone: dict[str, Any], upgrade: str, plain: str) -> None:
    """RFC 9110 7.8. Java's HttpClient and `curl --http2` ask for HTTP/2 beside a body."""
    assert alone[upgrade] == alone[plain]


def test_a_byte_order_mark_before_the_json_is_ignored(alone: dict[str, Any]) -> None:
    assert alone["good, after a byte order mark"] == alone["good"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/pubkey/", "/elsewhere", "/pieces/"])
def test_head_is_answered_as_get_is_without_a_body(served: Served, path: str) -> None:
    head = request(b"", path=path, method="HEAD")
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(head + head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        said = b""
        while data := connection.recv(5000):
            said += data
    heads = said.split(b"\r\n\r\n")
    assert [h.split(b"\r\n")[0] for h in heads] == [b"HTTP/1.1 200 OK"] * 2 + [b""]
    assert b"content-length: 0" not in said


@pytest.mark.parametrize(
    ("method", "status"), [("OPTIONS", 200), ("GET", 405), ("HEAD", 405), ("PUT", 405), ("DELETE", 405)]
)
def test_a_call_says_which_methods_it_takes(served: Served, method: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(request(b"", "Connection: close", method=method))
        said = b""
        while data := connection.recv(5000):
            said += data
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nallow: OPTIONS, POST\r\n" in said


def alike(body: Any, size: int = 120) -> bytes:
    """A request whose head is the same as that of all others made here, but for the length of the body."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(raw.ljust(size))


ALIKE = {
    "good": alike(ASK),
    "good, another": alike({**ASK, "cost": 1}),
    "good, each signed": alike({**ASK, "endpoint": "every-field"}),
    "waits": alike({**ASK, "endpoint": NOBODY}),
    "unknown endpoint": alike({**ASK, "endpoint": "nobody"}),
    "negative cost": alike({**ASK, "cost": -1}),
    "not JSON": alike(b"{"),
    "a request in its body": alike(request(b"", path="/pubkey/", method="GET")[:120]),
    "longer body": alike(ASK, 1_234),
    "shorter body": alike(ASK, 99),
    "a call after its body": alike(ASK, 1_234).replace(b": 1234", b": 1000")[:-234] + alike(ASK),
    "longer": request(ASK, "X-Note: " + "x" * 20),
    "wrong key": request(ASK, key="wrong"),
    "another call": request(b"", path="/pubkey/", method="GET"),
    "two at once": alike(ASK) + alike(ASK),
}
TWICE = dict.fromkeys(("two at once", "a call after its body"), ("good", "good"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(ALIKE)), min_size=2, max_size=8))
def test_a_call_with_the_head_of_the_last_is_answered_as_alone(
    served: Served, alone: dict[str, Any], names: list[str]
) -> None:
    twice = sum(n in TWICE for n in names)
    answers = [meaning(a) for a in served.talk([ALIKE[n] for n in names], len(names) + twice, in_turn=True)]
    assert answers == [alone[one] for n in names for one in TWICE.get(n, (n,))]


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("good, another", True),
        ("good, each signed", True),
        ("waits", True),
        ("longer body", True),
        ("shorter body", True),
        ("a header more", False),
        ("a letter else", False),
        ("longer", False),
    ],
)
def test_the_head_of_the_last_call_is_not_read_again(
    served: Served, name: str, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ALIKE["good"]
    others = {"a header more": request(ASK, "X: y"), "a letter else": good.replace(b"localhost", b"localhosT")}
    heads, complete = 0, Connection.on_headers_complete

    def count(self: Connection) -> None:
        nonlocal heads
        heads += 1
        complete(self)

    monkeypatch.setattr(Connection, "on_headers_complete", count)
    served.talk([good] * 4, 4, in_turn=True)
    assert heads == 1
    served.talk([good, good, {**ALIKE, **others}[name]], 3, in_turn=True)
    assert heads == (2 if again else 3)


def test_a_waiting_call_is_begun_once(served: Served) -> None:
    fleet = served.server.fast.hub.fleet_named(NOBODY)
    assert fleet is not None
    waited = fleet.counters.waited
    served.talk([REQUESTS["waits"]], 1)
    assert fleet.counters.waited == waited + 1


def test_a_call_that_needs_a_signature_of_its_own_is_begun_once(served: Served) -> None:
    fleet = served.server.fast.hub.fleet_named("every-field")
    assert fleet is not None
    routed = fleet.counters.routed
    served.talk([REQUESTS["good, each signed"]], 1)
    assert fleet.counters.routed == routed + 1


Then = Callable[[str | Exception], None]


@dataclass
class Signer:
    """Signs when the test says so."""

    asked: "queue.Queue[tuple[asyncio.AbstractEventLoop, Then]]" = field(default_factory=queue.Queue)

    def sign(self, data: bytes, then: Then) -> None:
        self.asked.put((asyncio.get_running_loop(), then))

    def answer(self) -> None:
        """Signs what was asked for first."""
        loop, then = self.asked.get(timeout=30)
        loop.call_soon_threadsafe(then, "signed")


@pytest.fixture
def signer(served: Served, monkeypatch: pytest.MonkeyPatch) -> Signer:
    signer = Signer()
    monkeypatch.setattr(served.server.fast.router, "sign_beside", signer.sign)
    return signer


SIGNED = REQUESTS["good, each signed"]


def test_what_comes_while_an_answer_is_signed_is_answered_after_it(served: Served, signer: Signer) -> None:
    answers: list[tuple[int, dict[str, str], bytes]] = []
    stream = SIGNED + REQUESTS["good"] + SIGNED + REQUESTS["wrong key"]
    thread = threading.Thread(target=lambda: answers.extend(served.talk([stream], 4)))
    thread.start()
    signer.answer()
    signer.answer()
    thread.join(30)
    said = [(status, json.loads(body).get("endpoint")) for status, _, body in answers]
    assert said == [(200, "every-field"), (200, "address-alone"), (200, "every-field"), (401, None)]


def test_a_call_with_the_head_of_one_that_is_signed_waits_for_it(served: Served, signer: Signer) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        for _ in range(2):
            connection.sendall(ALIKE["good"])
            assert b"address-alone" in connection.recv(5000)
        connection.sendall(ALIKE["good, each signed"])
        asked = signer.asked.get(timeout=30)
        (here,) = served.server.connections
        connection.sendall(ALIKE["good"])
        for _ in range(1000):
            if here._queue:
                break
            time.sleep(0.01)
        signer.asked.put(asked)
        signer.answer()
        assert b"every-field" in connection.recv(5000)


def test_a_client_that_leaves_while_its_answer_is_signed_disturbs_nobody(served: Served, signer: Signer) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(SIGNED)
        asked = signer.asked.get(timeout=30)
    here = served.server.connections
    for _ in range(1000):
        if not here:
            break
        time.sleep(0.01)
    assert not here
    signer.asked.put(asked)
    signer.answer()
    assert served.talk([REQUESTS["good"]], 1)[0][0] == 200


@pytest.mark.parametrize("late", [False, True], ids=["at once", "later"])
def test_a_signature_that_fails_is_an_error_and_the_connection_goes_on(
    served: Served, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes, then: Then) -> None:
        if not late:
            raise OSError("no key")
        asyncio.get_running_loop().call_soon(then, OSError("no key"))

    monkeypatch.setattr(served.server.fast.router, "sign_beside", fail)
    failed, good = served.talk([SIGNED + REQUESTS["good"]], 2)
    assert (failed[0], json.loads(failed[2])) == (400, {"error": "the server could not answer this call"})
    assert good[0] == 200


def test_a_signed_reply_that_cannot_be_made_is_an_error(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    really = Router.reply

    def fail(self: Router, ask: RouteAsk, *rest: Any) -> RouteReply:
        if ask.endpoint == "every-field":
            raise ValueError("no grant")
        return really(self, ask, *rest)

    monkeypatch.setattr(Router, "reply", fail)
    failed, good = served.talk([SIGNED + REQUESTS["good"]], 2)
    assert (failed[0], json.loads(failed[2])) == (400, {"error": "the server could not answer this call"})
    assert good[0] == 200


@pytest.mark.parametrize("parting", [False, True], ids=["stop", "restart in place"])
def test_a_server_that_ends_sends_what_it_has_begun_to_sign(
    served: Served, signer: Signer, parting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As it was for the tests that follow.
    monkeypatch.setattr(served.server, "stop_listening", lambda: None)
    monkeypatch.setattr(served.server, "parting", False)
    monkeypatch.setattr(served.server, "closed", False)
    ending: list[asyncio.Task[None]] = []

    def end() -> None:
        if parting:
            served.server.parting = True
        else:
            ending.append(asyncio.ensure_future(served.server.close()))

    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(SIGNED)
        asked = signer.asked.get(timeout=30)
        asked[0].call_soon_threadsafe(end)
        while not served.server.parting:
            time.sleep(0.01)
        signer.asked.put(asked)
        signer.answer()
        said = b""
        while data := connection.recv(5000):
            said += data
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close\r\n" in said
    assert b'"signature":"signed"' in said
    while not all(task.done() for task in ending):
        time.sleep(0.01)


def test_every_answer_is_counted(served: Served) -> None:
    before = served.server.fast.answers["/route", 200], served.server.fast.answers["/route", 401]
    served.talk([REQUESTS["good"] + REQUESTS["waits"] + REQUESTS["wrong key"]], 3)
    after = served.server.fast.answers["/route", 200], served.server.fast.answers["/route", 401]
    assert after == (before[0] + 2, before[1] + 1)


def test_a_client_that_asks_for_it_is_asked_for_the_body(served: Served) -> None:
    head, _, body = request(ASK, "Expect: 100-continue").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(body)
        assert connection.recv(5000).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_is_closed_where_the_client_wants_it(served: Served, version: str) -> None:
    asked = request(ASK, "Connection: close").replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(asked)
        said = b""
        while data := connection.recv(5000):
            said += data
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in said


@pytest.mark.parametrize("long", ["path", "header", "headers"])
def test_a_head_without_end_is_refused(served: Served, long: str) -> None:
    endless = {
        "path": b"POST /route/?" + b"x" * 1_000_000,
        "header": b"POST /route/ HTTP/1.1\r\nX: " + b"x" * 1_000_000,
        "headers": b"POST /route/ HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
    }[long]
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(endless)
        said = b""
        with suppress(ConnectionResetError):  # what it did not read is lost with the connection
            while data := connection.recv(1000):
                said += data
        assert not said or said.startswith(b"HTTP/1.1 400 ")
    assert served.talk([REQUESTS["good"]], 1)
