"""What the gateway answers: which models there are, and requests to them."""

import contextlib
import logging
import math
import re
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from posthouse.gate import TooLarge, TooSlow, counted, place_of
from posthouse.gateway.asked import Asked, named, read
from posthouse.gateway.errors import RETRY_S, Refused, unknown_model, wrong_key
from posthouse.gateway.exchange import ANTHROPIC_ID, REQUEST_ID, Exchange, Ways, is_anthropic, reachable
from posthouse.gateway.upload import FORM, Field, Upload
from posthouse.wire.checks import MAX_WORK

log = logging.getLogger(__name__)

PASSED: Final = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses"),
    *("/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/moderations"),
    *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    *("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"),
    *("/v1/messages", "/v1/messages/count_tokens"),
)
"""Paths that are the same at workers. The body is JSON or a form, and names the model."""
OF_ONE: Final = "/v1/x/"
"""What follows is an endpoint, and any path of its workers."""

COST_HEADER: Final = "X-Posthouse-Cost"
"""What the request's work is, in the units of its endpoint, where the caller knows better."""

_WORD: Final = re.compile(r"[\x21-\x7e]{1,128}")  # what a key or a request's id may be


class Gateway:
    """The routes."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._held_bytes = 0

    def application(self) -> web.Application:
        """The HTTP application. Run it with `handler_cancellation`."""
        app = web.Application(middlewares=[counted, _errors_as_json])
        app.add_routes([web.post(path, self._pass_on) for path in PASSED])
        app.add_routes(
            [
                web.get("/healthz", self._alive),
                web.get("/v1/models", self._models),
                web.get("/v1/models/{model:.+}", self._model),
                web.route("*", OF_ONE + "{endpoint}/{path:.*}", self._pass_on_to),
            ]
        )
        return app

    async def _alive(self, client: web.Request) -> web.Response:
        return _json({"alive": True})

    async def _models(self, client: web.Request) -> web.Response:
        anthropic = is_anthropic(client)
        rows = [_row(*found, anthropic) for found in await self._reachable(client)]
        if not anthropic:
            return _json({"object": "list", "data": rows})
        ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {"first_id": None, "last_id": None}
        return _json({"data": rows, "has_more": False, **ends})

    async def _model(self, client: web.Request) -> web.Response:
        name, there = client.match_info["model"], dict(await self._reachable(client))
        if name not in there:
            raise unknown_model(name, list(there))
        return _json(_row(name, there[name], is_anthropic(client)))

    async def _reachable(self, client: web.Request) -> list[tuple[str, float]]:
        found = await reachable(self._ways.server, _key_of(client))
        self._ways.gate.prove(client)
        return found

    async def _pass_on(self, client: web.Request) -> web.StreamResponse:
        key = _key_of(client)
        if client.content_type == FORM:
            field = Field("model", client.headers["Content-Type"])
            begun = await self._body(client, field.found)
            body = self._upload(client, begun)
            asked = Asked(named(field.value, field.value is not None), client.path, body)
        else:
            asked = read(client.path, await self._body(client))
        return await self._run(client, key, asked)

    async def _pass_on_to(self, client: web.Request) -> web.StreamResponse:
        """Whatever an endpoint's workers have at the path that follows its name."""
        key = _key_of(client)
        _refuse_codings(client)
        name, _, path = client.rel_url.raw_path.removeprefix(OF_ONE).partition("/")
        path += f"?{client.rel_url.raw_query_string}" if client.rel_url.raw_query_string else ""
        body = self._upload(client, b"") if client.body_exists else None
        asked = Asked(named(unquote(name), True), f"/{path}", body, method=client.method, opaque=True)
        return await self._run(client, key, asked)

    async def _run(self, client: web.Request, key: str, asked: Asked) -> web.StreamResponse:
        if cost := client.headers.get(COST_HEADER):
            asked = msgspec.structs.replace(asked, cost=_cost(cost))
        size = len(asked.body) if isinstance(asked.body, bytes) else 0
        if isinstance(asked.body, Upload):
            size = self._ways.settings.max_body_bytes if asked.body.size is None else asked.body.size
        with self._held(size):
            if (once := client.headers.get("Idempotency-Key")) and isinstance(asked.body, bytes):
                return await self._once(client, key, asked, asked.body, once)
            return await Exchange(self._ways, client, key, client["id"], asked).run()

    async def _once(
        self, client: web.Request, key: str, asked: Asked, body: bytes, once: str
    ) -> web.StreamResponse | web.Response:
        """The answer to a request that is to be worked on once. Raises: Refused."""
        repeats = self._ways.repeats
        repeat = repeats.begin(key, once, asked.path, body)
        if repeat.status:
            await self._reachable(client)  # the key is good still
            headers = {**repeat.headers, REQUEST_ID: client["id"], "Idempotent-Replayed": "true"}
            return web.Response(body=bytes(repeat.answer), status=repeat.status, headers=headers)
        exchange, status, headers = Exchange(self._ways, client, key, client["id"], asked, repeat), 0, {}
        try:
            response = await exchange.run()
            if exchange.is_complete:
                status, headers = response.status, {"Content-Type": response.headers.get("Content-Type", "")}
            return response
        finally:
            repeats.end(repeat, status, headers)

    def _upload(self, client: web.Request, begun: bytes) -> Upload:
        """The body of which that has come. Raises: Refused if it is too large by its head."""
        settings = self._ways.settings
        if (client.content_length or 0) > settings.max_body_bytes:
            raise self._too_large()
        return Upload(client, begun, settings.max_body_bytes, settings.stall_s)

    async def _body(self, client: web.Request, enough: Callable[[bytearray], bool] = lambda body: False) -> bytes:
        """The body, or `enough` of it, of a client of whose key nothing is known yet. Raises: Refused."""
        _refuse_codings(client)
        with self._ways.gate.reading(client) as reader:
            try:
                return await reader.read(enough)
            except TooLarge:
                raise self._too_large() from None
            except TooSlow:
                place_of(client).give_up()
                text = "body: does not come in time, or needs the room of others; try again"
                raise Refused(408, "request_too_slow", text) from None

    def _too_large(self) -> Refused:
        most = self._ways.settings.max_body_bytes
        return Refused(413, "request_too_large", f"body: must be at most {most} bytes")

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[None]:
        """Counts a body that may have to be sent again. Raises: Refused."""
        if self._held_bytes + size > self._ways.settings.max_held_bytes:
            raise Refused(503, "busy", "the gateway holds too many bodies; try again", retry_s=RETRY_S)
        self._held_bytes += size
        try:
            yield
        finally:
            self._held_bytes -= size


def _key_of(client: web.Request) -> str:
    """The key that the client shows. Raises: Refused."""
    scheme, _, key = client.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = client.headers.get("X-Api-Key", "")
    key = key.strip()
    if not _WORD.fullmatch(key):
        raise wrong_key()
    return key


def _refuse_codings(client: web.Request) -> None:
    """Raises: Refused."""
    coding = client.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise Refused(415, "unsupported_encoding", f"body: its Content-Encoding is {coding[:40]!r}; send it plain")


def _cost(text: str) -> float:
    """The work that a caller announces. Raises: Refused."""
    try:
        cost = float(text)
    except ValueError:
        cost = math.nan
    if not 0 <= cost <= MAX_WORK:
        raise Refused(400, "invalid_cost", f"{COST_HEADER}: must be a number from 0 to {MAX_WORK:g}, not {text[:40]!r}")
    return cost


def _row(name: str, created_at: float, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        created = datetime.fromtimestamp(created_at, UTC).isoformat(timespec="seconds")
        return {"type": "model", "id": name, "display_name": name, "created_at": created.replace("+00:00", "Z")}
    return {"id": name, "object": "model", "created": int(created_at), "owned_by": "posthouse"}


def _json(reply: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), content_type="application/json")


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    shown = request.headers.get(REQUEST_ID, "")
    request["id"] = shown if _WORD.fullmatch(shown) else f"req_{secrets.token_hex(12)}"
    try:
        return await handler(request)
    except Refused as error:
        refused = error
    except web.HTTPException as error:
        text = f"{request.method} {request.path[:200]}: {error.reason}; see the models at GET /v1/models"
        refused = Refused(error.status, "unknown_url", text)
    except Exception:  # the seam of a request: our own bug must not show its traceback to a request
        log.exception("request: unexpected error")
        refused = Refused(500, "internal_error", "internal error of the gateway")
    headers = {**refused.headers, REQUEST_ID: request["id"]}
    if anthropic := is_anthropic(request):
        headers[ANTHROPIC_ID] = request["id"]
    body = refused.body(anthropic)
    return web.Response(body=body, status=refused.status, headers=headers, content_type="application/json")
