"""The world of an agent, small and real: a model server, a control plane that records, and signed grants."""

import asyncio
import base64
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, WSMsgType, web
from aiohttp.typedefs import Handler

from posthouse.agent import AgentSettings, run
from posthouse.signing.rsa import RsaKey
from posthouse.wire.grant import TIME_HEADER, Grant, grant_key, issued, read
from posthouse.wire.signed import Scheme, signed_text
from tests.kit.ports import free_port

TIMEOUT_S = 120.0  # a test that waits longer has failed
MTOKEN = "mtoken-of-worker-7"


def token_of(worker_id: int) -> str:
    return f"mtoken-of-worker-{worker_id}"


def granted(auth_data: dict[str, Any]) -> Grant:
    """The grant in what `/route/` answered."""
    grant = read(auth_data["signature"])
    assert grant is not None
    return grant


async def until(condition: Callable[[], Any]) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        await asyncio.sleep(0.01)
    return value


@contextlib.asynccontextmanager
async def listening(app: web.Application, port: int, **more: Any) -> AsyncIterator[None]:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1, **more)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield
    finally:
        await runner.cleanup()


class Model:
    """A model server whose every step a test can hold back and see."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.healthy = True
        self.hangs = False
        self.delay_s = 0.0
        self.seen: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.working = 0
        self.most_working = 0
        self.cancelled = 0
        self.redirects_to = ""
        self.answers: dict[str, str] = {}
        """Headers of the answers of `/echo`."""
        self.closed_with: int | None = None
        self.go_on = asyncio.Semaphore(0)
        """Released once for each step of `/stream` and each answer of `/hold`."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._watch], client_max_size=2**26)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/moved", self._moved),
                web.post("/generate", self._generate),
                web.post("/status/{status}", self._status),
                web.post("/hold", self._hold),
                web.post("/stream", self._stream),
                web.post("/broken", self._broken),
                web.post("/redirect", self._redirect),
                web.get("/ws", self._ws),
                web.route("*", "/echo", self._echo),
            ]
        )
        return app

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "POST":
            return await handler(request)
        self.bodies.append(await request.read())
        self.seen.append(request)
        self.working += 1
        self.most_working = max(self.most_working, self.working)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= 1

    async def _health(self, request: web.Request) -> web.Response:
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=200 if self.healthy else 503)

    async def _moved(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("/health")

    async def _generate(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.delay_s)
        reply = web.json_response({"generated_text": "so it was"}, headers={"X-Model": "horse"})
        reply.set_cookie("seen", "this client")
        return reply

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"said": "no"}, status=int(request.match_info["status"]))

    async def _hold(self, request: web.Request) -> web.Response:
        await self.go_on.acquire()
        return web.json_response(json.loads(await request.read()))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(f"data: {number}\n\n".encode())
            await self.go_on.acquire()
        return response

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half an ans")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.text()
        seen = {"method": request.method, "query": request.query_string, "headers": dict(request.headers), "body": body}
        return web.json_response(seen, headers=self.answers)

    async def _ws(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        async for message in socket:
            if message.data == "close":
                await socket.close(code=4001)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            else:
                await socket.send_str(f"echo {message.data}")
        self.closed_with = socket.close_code
        return socket

    async def _redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(self.redirects_to)


class ControlPlane:
    """The server's side of the wire: hands out its key, records what workers tell."""

    def __init__(self, key: RsaKey) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = key
        self.gives_grants = False
        self.clock_ahead_s = 0.0
        self.date_ahead_s = 0.0
        """How far its machine's clock is ahead of the server's own."""
        self.looks = 0
        """How often it was asked for its key and its time."""
        self.refuses = False
        self.statuses: list[dict[str, Any]] = []
        self.deletes: list[dict[str, Any]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/pubkey/", self._pubkey),
                web.post("/worker_status/", self._status),
                web.post("/delete_requests/", self._delete),
            ]
        )
        return app

    @property
    def ended(self) -> list[dict[str, Any]]:
        return [request for body in self.deletes for request in body["requests"]]

    def ready(self) -> dict[str, Any] | None:
        """Return the last report, if it is that of a ready worker."""
        last = self.statuses[-1] if self.statuses else None
        return last if last and last["max_perf"] > 0 and not last["error_msg"] else None

    async def _pubkey(self, request: web.Request) -> web.Response:
        self.looks += 1
        told_s = time.time() + self.clock_ahead_s
        headers = {"Date": formatdate(told_s + self.date_ahead_s, usegmt=True)}
        if self.gives_grants:
            headers[TIME_HEADER] = str(told_s)
        return web.Response(text=self.key.public_pem, headers=headers)

    async def _status(self, request: web.Request) -> web.Response:
        return await self._take(request, self.statuses)

    async def _delete(self, request: web.Request) -> web.Response:
        return await self._take(request, self.deletes)

    async def _take(self, request: web.Request, into: list[dict[str, Any]]) -> web.Response:
        if self.refuses:
            return web.Response(status=500)
        into.append(await request.json())
        return web.json_response({})


class World:
    """A model, a control plane and an agent between them, with a client to call it."""

    def __init__(self, key: RsaKey, directory: Path) -> None:
        self.key = key
        self.directory = directory
        self.model = Model()
        self.control = ControlPlane(key)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client: ClientSession
        self._numbers = itertools.count(1)

    def settings(self, **changes: Any) -> AgentSettings:
        values: dict[str, Any] = {
            "upstream": self.model.url,
            "worker_id": 7,
            "mtoken": MTOKEN,
            "report_addrs": (self.control.url,),
            "url": self.url,
            "listen_host": "127.0.0.1",
            "listen_port": self.port,
            "perf": 1000.0,
            "directory": self.directory,
        }
        return AgentSettings(**(values | changes))

    def auth_data(self, at: float | None = None, agent: bool = True, **changes: Any) -> dict[str, Any]:
        """Return what `/route/` answers, `at` this time if not now, for this worker (or for the changed url).

        `agent`: the worker runs our agent. One that does not, or whose server gives no grants, verifies a signature.
        """
        number = next(self._numbers)
        reply: dict[str, Any] = {
            "cost": 16,
            "endpoint": "stable",
            "reqnum": number,
            "request_idx": 100 + number,
            "url": self.url,
        }
        worker_id = changes.pop("worker_id", 7)
        reply |= changes
        fields = {k: reply[k] for k in ("cost", "endpoint", "reqnum", "request_idx", "url")}
        if agent and self.control.gives_grants:
            now, key = time.time() if at is None else at, grant_key(token_of(worker_id))
            signature = issued(key, worker_id=worker_id, perf=1.0, now=now, **fields)
        else:
            signature = self.key.sign(signed_text(Scheme.U, **fields))
        return {"signature": signature, "__request_id": "6f1c", **reply}

    def header(self, **changes: Any) -> dict[str, str]:
        """Return the header that carries what `/route/` answers."""
        return {"X-Posthouse-Auth": base64.b64encode(json.dumps(self.auth_data(**changes)).encode()).decode()}

    def wrapped(self, payload: Any, **changes: Any) -> dict[str, Any]:
        return {"auth_data": self.auth_data(**changes), "payload": payload, "session_id": None}

    @contextlib.asynccontextmanager
    async def agent(self, wait: bool = True, **changes: Any) -> AsyncIterator[None]:
        """Run an agent; if `wait`, until the control plane knows that it is ready."""
        task = asyncio.create_task(run(self.settings(**changes)))
        try:
            if wait:
                await until(lambda: self.control.ready() or task.done())
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def a_world(key: RsaKey, directory: Path) -> AsyncIterator[World]:
    world = World(key, directory)
    async with (
        listening(world.model.app(), world.model.port, max_field_size=16_000),
        listening(world.control.app(), world.control.port),
        ClientSession() as world.client,
    ):
        yield world
