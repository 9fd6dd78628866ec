"""What the gateway answers: which models there are, and requests to them."""

import contextlib
import logging
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from posthouse.gate import TooLarge, TooSlow, counted, place_of
from posthouse.gateway.asked import read
from posthouse.gateway.errors import RETRY_S, Refused, unknown_model, wrong_key
from posthouse.gateway.exchange import REQUEST_ID, Exchange, Ways, reachable

log = logging.getLogger(__name__)

PASSED: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""Paths that are the same at workers."""

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
            ]
        )
        return app

    async def _alive(self, client: web.Request) -> web.Response:
        return _json({"alive": True})

    async def _models(self, client: web.Request) -> web.Response:
        return _json({"object": "list", "data": [_row(*found) for found in await self._reachable(client)]})

    async def _model(self, client: web.Request) -> web.Response:
        name, there = client.match_info["model"], dict(await self._reachable(client))
        if name not in there:
            raise unknown_model(name, list(there))
        return _json(_row(name, there[name]))

    async def _reachable(self, client: web.Request) -> list[tuple[str, float]]:
        found = await reachable(self._ways.server, _key_of(client))
        self._ways.gate.prove(client)
        return found

    async def _pass_on(self, client: web.Request) -> web.StreamResponse:
        key = _key_of(client)
        body = await self._body(client)
        with self._held(len(body)):
            return await Exchange(self._ways, client, key, client["id"], read(client.path, body)).run()

    async def _body(self, client: web.Request) -> bytes:
        """The body of a client of whose key nothing is known yet. Raises: Refused."""
        coding = client.headers.get("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise Refused(415, "unsupported_encoding", f"body: its Content-Encoding is {coding[:40]!r}; send it plain")
        with self._ways.gate.reading(client) as reader:
            try:
                return await reader.read()
            except TooLarge:
                most = self._ways.settings.max_body_bytes
                raise Refused(413, "request_too_large", f"body: must be at most {most} bytes") from None
            except TooSlow:
                place_of(client).give_up()
                text = "body: does not come in time, or needs the room of others; try again"
                raise Refused(408, "request_too_slow", text) from None

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
    key = key.strip()
    if scheme.lower() != "bearer" or not _WORD.fullmatch(key):
        raise wrong_key()
    return key


def _row(name: str, created_at: float) -> dict[str, Any]:
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
    return web.Response(body=refused.body, status=refused.status, headers=headers, content_type="application/json")
