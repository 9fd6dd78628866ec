"""What the gateway answers: which models there are, and requests to them."""

import itertools
import logging
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from posthouse import logs, tracing
from posthouse.gateway.asked import Asked, affinity, named, read
from posthouse.gateway.direct import DIRECT_HEADER, DirectExchange
from posthouse.gateway.errors import RETRY_S, Refused, unknown_model, wrong_key
from posthouse.gateway.exchange import ANTHROPIC_ID, Exchange, is_anthropic, reachable
from posthouse.gateway.inward import Request
from posthouse.gateway.outward import REQUEST_ID
from posthouse.gateway.repeats import Repeat
from posthouse.gateway.responses import ResponseExchange, of_response
from posthouse.gateway.stored import PATH
from posthouse.gateway.upload import FORM, Field, Upload
from posthouse.gateway.ways import Ways
from posthouse.http1.messages import JSON, Headers
from posthouse.measures import CONTENT_TYPE
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
OF_ONE: Final = b"/v1/x/"
"""What follows is an endpoint, and any path of its workers."""

COST_HEADER: Final = b"x-posthouse-cost"
"""What the request's work is, in the units of its endpoint, where the caller knows better."""
AFFINITY_HEADER: Final = b"x-posthouse-affinity"
"""Requests with the same value go to the same worker while that is not too busy."""

_OURS: Final = secrets.token_hex(6)
_numbers = itertools.count()  # with the above the id of a request
_OF_MODEL: Final = "/v1/models/"
_WORD: Final = re.compile(r"[\x21-\x7e]{1,128}")  # what a key or a request's id may be


class Gateway:
    """The routes."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._held_bytes = 0
        self._routes = dict.fromkeys(PASSED, ("POST", self._pass_on))
        self._routes |= {"/v1/models": ("GET", self._models), "/healthz": ("GET", self._alive)}
        self._routes["/metrics"] = ("GET", self._metrics)

    async def answer(self, client: Request) -> None:
        """Answer one request, whatever it asks."""
        began_at = time.monotonic()
        client.route = self._route_of(client)
        if tracing.on:
            parent = client.header(tracing.HEADER.encode())
            client.span = tracing.begin(f"{client.method} {client.route}", parent, "SERVER")
        try:
            await self._answer(client)
        finally:
            failed = "" if 0 < client.status < 500 else f"status {client.status}"
            for span in filter(None, (client.part, client.span)):
                span.end(failed, request_id=client.id, status=client.status)
            self._ways.measured.answered(client.route, client.status, time.monotonic() - began_at)

    async def _answer(self, client: Request) -> None:
        shown = client.header(REQUEST_ID)
        client.id = shown if shown and _WORD.fullmatch(shown) else f"req_{_OURS}{next(_numbers):012x}"
        logs.request_id.set(client.id)
        try:
            try:
                await self._handler(client)(client)
                return
            except Refused as error:
                refused = error
            except Exception:  # the seam of a request: our own bug must not show its traceback to a request
                log.exception("request: unexpected error")
                refused = Refused(500, "internal_error", "internal error of the gateway")
            if client.started:
                client.abort()
                return
            anthropic = is_anthropic(client)
            told = [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
            headers = [*told, (b"content-type", JSON), *_named(client, anthropic)]
            client.answer(refused.status, refused.body(anthropic), headers)
        except ConnectionError:  # its caller has left
            client.abort()

    def _route_of(self, client: Request) -> str:
        """The path, of those that there are; a label of metrics, of which nobody can make more."""
        if client.path in self._routes:
            return client.path
        if client.head.raw_path.startswith(OF_ONE):
            return OF_ONE.decode().rstrip("/")
        return "/v1/models" if client.path.startswith(_OF_MODEL) else "other"

    def _handler(self, client: Request) -> Callable[[Request], Awaitable[None]]:
        """What answers it. Raises: Refused."""
        path, method = client.path, client.method
        if client.head.raw_path.startswith(OF_ONE) and client.head.raw_path.count(b"/") >= 4:
            return self._pass_on_to
        if path in self._routes:
            wanted, found = self._routes[path]
        elif path.startswith(f"{PATH}/"):
            return self._of_response
        elif path.startswith(_OF_MODEL) and path != _OF_MODEL:
            wanted, found = "GET", self._model
        else:
            raise _no_route(client, 404, "Not Found")
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            raise _no_route(client, 405, "Method Not Allowed")
        return found

    async def _alive(self, client: Request) -> None:
        _json(client, {"alive": True})

    async def _metrics(self, client: Request) -> None:
        await self._ways.measured.check_reader(self._ways.server, _key_of(client))
        client.prove()
        client.answer(200, self._ways.measured.page(), [(b"content-type", CONTENT_TYPE)])

    async def _models(self, client: Request) -> None:
        anthropic = is_anthropic(client)
        rows = [_row(*found, anthropic) for found in (await self._there(client)).items()]
        if not anthropic:
            _json(client, {"object": "list", "data": rows})
            return
        ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {"first_id": None, "last_id": None}
        _json(client, {"data": rows, "has_more": False, **ends})

    async def _model(self, client: Request) -> None:
        name, there = client.path.removeprefix(_OF_MODEL), await self._there(client)
        if name not in there:
            raise unknown_model(name, list(there))
        _json(client, _row(name, there[name], is_anthropic(client)))

    async def _there(self, client: Request) -> dict[str, float]:
        """The models that the client's key reaches, and when they were made. Raises: Refused."""
        endpoints = dict(await self._reachable(client))
        aliases = await self._ways.aliases.all(self._ways.server, _key_of(client))
        return endpoints | {name: alias.created_at for name, alias in aliases.items()}

    async def _reachable(self, client: Request) -> list[tuple[str, float]]:
        found = await reachable(self._ways.server, _key_of(client))
        client.prove()
        return found

    async def _pass_on(self, client: Request) -> None:
        key = _key_of(client)
        if client.content_type == FORM:
            field = Field("model", client.header(b"content-type"))
            begun = await self._body(client, field.found)
            body = self._upload(client, begun, field)
            asked = Asked(named(field.value, field.value is not None), client.path, body)
        else:
            asked = read(client.path, await self._body(client))
        await self._run(client, key, asked)

    async def _pass_on_to(self, client: Request) -> None:
        """Whatever an endpoint's workers have at the path that follows its name."""
        key = _key_of(client)
        _refuse_codings(client)
        name, _, path = client.head.raw_path.removeprefix(OF_ONE).decode("ascii").partition("/")
        path += f"?{client.head.query.decode('latin-1')}" if client.head.query else ""
        body = self._upload(client, b"") if client.has_body else None
        asked = Asked(named(unquote(name), True), f"/{path}", body, method=client.method, opaque=True)
        await self._run(client, key, asked)

    async def _of_response(self, client: Request) -> None:
        """A response that was made before."""
        key = _key_of(client)
        await self._run(client, key, of_response(client, key))

    async def _run(self, client: Request, key: str, asked: Asked) -> None:
        if cost := client.header(COST_HEADER):
            asked = msgspec.structs.replace(asked, cost=_cost(cost))
        if said := client.header(AFFINITY_HEADER):
            asked = msgspec.structs.replace(asked, key=affinity(said))
        size = len(asked.body) if isinstance(asked.body, bytes) else 0
        if isinstance(asked.body, Upload):
            size = self._ways.settings.max_body_bytes if asked.body.size is None else asked.body.size
        self._hold(size)
        try:
            if client.header(DIRECT_HEADER):
                await DirectExchange(self._ways, client, key, asked).run()
            elif (once := client.header(b"idempotency-key")) and isinstance(asked.body, bytes):
                await self._once(client, key, asked, asked.body, once)
            else:
                await self._exchange(client, key, asked).run()
        finally:
            self._held_bytes -= size

    def _exchange(self, client: Request, key: str, asked: Asked, repeat: Repeat | None = None) -> Exchange:
        kind = ResponseExchange if client.path.startswith(PATH) else Exchange
        return kind(self._ways, client, key, asked, repeat)

    async def _once(self, client: Request, key: str, asked: Asked, body: bytes, once: str) -> None:
        """Answer a request that is to be worked on once. Raises: Refused."""
        repeats = self._ways.repeats
        try:
            repeat = repeats.begin(key, once, asked.path, body)
        except Refused as refused:
            Exchange(self._ways, client, key, asked).note(refused.code, refused.status)
            raise
        if repeat.status:
            await self._reachable(client)  # the key is good still
            again = [(b"content-type", repeat.content_type), (b"idempotent-replayed", b"true"), *_named(client)]
            client.answer(repeat.status, bytes(repeat.answer), again)
            Exchange(self._ways, client, key, asked).note("repeated", repeat.status)
            return
        exchange = self._exchange(client, key, asked, repeat)
        try:
            await exchange.run()
        finally:
            repeats.end(repeat, exchange.status if exchange.is_complete else 0, exchange.content_type)

    def _upload(self, client: Request, begun: bytes, field: Field | None = None) -> Upload:
        """The body of which that has come. Raises: Refused if it is too large by its head."""
        settings = self._ways.settings
        if (client.length or 0) > settings.max_body_bytes:
            raise self._too_large()
        return Upload(client, begun, settings.max_body_bytes, settings.stall_s, field)

    async def _body(self, client: Request, enough: Callable[[bytearray], bool] | None = None) -> bytes:
        """The body, or `enough` of it. Raises: Refused."""
        _refuse_codings(client)
        most = self._ways.settings.max_body_bytes
        if (client.length or 0) > most:
            raise self._too_large()
        body = await client.read()
        if enough is None and len(body) == client.length:
            return body
        come = bytearray(body)
        while body and not (enough and enough(come)):
            body = await client.read()
            come += body
            if len(come) > most:
                raise self._too_large()
        return bytes(come)

    def _too_large(self) -> Refused:
        most = self._ways.settings.max_body_bytes
        return Refused(413, "request_too_large", f"body: must be at most {most} bytes")

    def _hold(self, size: int) -> None:
        """Counts a body that may have to be sent again. Raises: Refused."""
        if self._held_bytes + size > self._ways.settings.max_held_bytes:
            raise Refused(503, "busy", "the gateway holds too many bodies; try again", retry_s=RETRY_S)
        self._held_bytes += size


def _key_of(client: Request) -> str:
    """The key that the client shows. Raises: Refused."""
    scheme, _, key = client.header(b"authorization").partition(" ")
    if scheme.lower() != "bearer":
        key = client.header(b"x-api-key")
    key = key.strip()
    if not _WORD.fullmatch(key):
        raise wrong_key()
    return key


def _refuse_codings(client: Request) -> None:
    """Raises: Refused."""
    coding = client.header(b"content-encoding")
    if coding and coding.lower() != "identity":
        raise Refused(415, "unsupported_encoding", f"body: its Content-Encoding is {coding[:40]!r}; send it plain")


def _cost(text: str) -> float:
    """The work that a caller announces. Raises: Refused."""
    try:
        cost = float(text)
    except ValueError:
        cost = math.nan
    if not 0 <= cost <= MAX_WORK:
        raise Refused(
            400, "invalid_cost", f"X-Posthouse-Cost: must be a number from 0 to {MAX_WORK:g}, not {text[:40]!r}"
        )
    return cost


def _row(name: str, created_at: float, anthropic: bool) -> dict[str, Any]:
    if anthropic:
        created = datetime.fromtimestamp(created_at, UTC).isoformat(timespec="seconds")
        return {"type": "model", "id": name, "display_name": name, "created_at": created.replace("+00:00", "Z")}
    return {"id": name, "object": "model", "created": int(created_at), "owned_by": "posthouse"}


def _json(client: Request, reply: object) -> None:
    client.answer(200, msgspec.json.encode(reply), [(b"content-type", JSON)])


def _named(client: Request, anthropic: bool = False) -> Headers:
    """The headers that say what the request is called."""
    said = client.id.encode()
    return [(REQUEST_ID, said), (ANTHROPIC_ID, said)] if anthropic else [(REQUEST_ID, said)]


def _no_route(client: Request, status: int, reason: str) -> Refused:
    text = f"{client.method} {client.path[:200]}: {reason}; see the models at GET /v1/models"
    return Refused(status, "unknown_url", text)
