"""One request: held until there is a worker, sent there, sent elsewhere if that fails, and its answer passed on."""

import asyncio
import base64
import io
import math
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from aiohttp import ClientError as HttpError
from aiohttp import ClientResponse, ClientSession, web
from multidict import CIMultiDict
from yarl import URL

from posthouse.client.answers import Routed, Waiting
from posthouse.client.errors import ClientError, NotFound, Unauthorized, WorkerFailed
from posthouse.client.http import MAX_ERROR_BYTES, Http, broken, failure, read
from posthouse.client.management import Management
from posthouse.client.requests import MAX_BEGUN, Job, Requests
from posthouse.gate import Gate
from posthouse.gateway.asked import Asked
from posthouse.gateway.counted import Document, Events
from posthouse.gateway.errors import RETRY_S, Refused, as_event, refusal, refused_by_agent, unknown_model
from posthouse.gateway.learned import Learned
from posthouse.gateway.records import Record, Records
from posthouse.gateway.repeats import Repeat, Repeats
from posthouse.gateway.retries import Retries
from posthouse.gateway.settings import GatewaySettings
from posthouse.gateway.upload import Upload
from posthouse.relay import Stalled, end_to_end, forwarded, in_time, sent_on
from posthouse.wire.grant import AUTH_HEADER
from posthouse.wire.route import TOO_MANY

REQUEST_ID: Final = "X-Request-Id"
ANTHROPIC_ID: Final = "Request-Id"
"""Where its clients look for it."""
_RETRIES: Final = 6  # further tries, some 10 s with their pauses; official clients try again themselves
_COMMENT: Final = ": waiting for a worker%s\n\n"
_RECORDED_PATH: Final = 200  # characters of it
_LEFT: Final = 499  # a status that nobody reads; nginx's
_EVENT_STREAM: Final = "text/event-stream"
_KEY_ID: Final = re.compile(r"ph_[0-9a-f]{8}|phe_\d+_\d+")
_OF_WORKER: Final = frozenset({"set-cookie"})  # its caller would show it to every model
# Keys, and codings that would hide what is counted.
_WITHHELD: Final = frozenset(
    {
        *("authorization", "x-api-key", "api-key", "cookie", AUTH_HEADER.lower()),
        *("accept-encoding", "content-encoding"),
    }
)


@dataclass(frozen=True, slots=True)
class Ways:
    """What every request uses."""

    settings: GatewaySettings
    server: Http
    workers: ClientSession
    """Made by `relay_session`."""
    gate: Gate
    records: Records
    retries: Retries = field(default_factory=Retries)
    repeats: Repeats = field(default_factory=Repeats)
    learned: Learned = field(default_factory=Learned)


def is_anthropic(client: web.Request) -> bool:
    """Whether the request is one of Anthropic's API; of two calls both have, its clients send this header."""
    return client.path.startswith("/v1/messages") or "anthropic-version" in client.headers


async def reachable(server: Http, key: str) -> list[tuple[str, float]]:
    """The endpoints that the key reaches: their names, and when they were made. Raises: Refused."""
    try:
        return [(row.name, row.created_at) for row in await Management(server.with_key(key)).reachable()]
    except ClientError as error:
        raise refusal(error) from None


class Exchange:
    """A request that may be sent, on its way to a worker and back."""

    def __init__(
        self, ways: Ways, client: web.Request, key: str, request_id: str, asked: Asked, repeat: Repeat | None = None
    ) -> None:
        """`repeat`: gets the answer, too."""
        self._ways = ways
        self._client = client
        self._key = key
        self._request_id = request_id
        self._asked = asked
        self._anthropic = is_anthropic(client)
        key_id = _KEY_ID.match(key)
        self._key_id = key_id[0] if key_id else "unknown"
        self._kind = (self._key_id, asked.model, asked.path)
        self._work = ways.learned.work(self._kind) if asked.cost is None else asked.cost
        self._began_at, self._came_at = time.monotonic(), time.time()
        self._status = 0  # where there is no answer of a worker
        self._response: web.StreamResponse | None = None
        self._passing: Document | Events = Document()
        self._repeat = repeat
        self._worker = "none"
        self._begun = 0  # how often a worker may have begun it, and failed
        self._ready_at = 0.0  # when a worker is expected; 0: nobody knows
        self._limits: dict[str, str] = {}  # headers that say what is left of the limits of the key
        self._wait_s = self._first_byte_s = 0.0
        self._outcome = "client left"

    @property
    def is_complete(self) -> bool:
        """All of a worker's answer has been passed on."""
        return self._outcome == "complete"

    async def run(self) -> web.StreamResponse:
        """The answer once all of it has been passed on. Raises: Refused while none has begun."""
        self._ways.retries.began()
        beginning = asyncio.create_task(self._begin())
        try:
            try:
                if self._asked.stream:
                    await self._keep_alive(beginning)
                await self._pass_on(*await beginning)
            except Refused as refused:
                self._outcome, self._status = refused.code, refused.status
                if self._response is None:
                    raise
                await self._end_with(refused.event(self._anthropic))
        except Stalled:
            if client_side := self._client.transport:
                client_side.abort()  # so that the client, if it is there, sees that the answer is not complete
        finally:
            if not beginning.cancel() and not beginning.cancelled() and not beginning.exception():
                beginning.result()[0].close()  # before its end: the worker stops
            self._tell()
        return self._response or web.Response(status=_LEFT)

    # -- to a worker -----------------------------------------------------------------------------------------------

    async def _keep_alive(self, beginning: "asyncio.Task[tuple[ClientResponse, bytes]]") -> None:
        """Wait for the beginning, and meanwhile show the caller and what is between that the request lives."""
        while not (await asyncio.wait({beginning}, timeout=self._ways.settings.keep_alive_s))[0]:
            if self._response is None:
                headers = {"Content-Type": _EVENT_STREAM, "Cache-Control": "no-cache", REQUEST_ID: self._request_id}
                if self._anthropic:
                    headers[ANTHROPIC_ID] = self._request_id
                await self._prepare(web.StreamResponse(headers=headers))
                self._passing = Events(self._asked.hides_usage)
            left_s = self._ready_at - time.monotonic()
            when = f", ready in about {math.ceil(left_s)} s" if left_s > 0 else ""
            await self._given(self._sending.write((_COMMENT % when).encode()))

    async def _begin(self) -> tuple[ClientResponse, bytes]:
        """The answer of a worker, with the first of its body. Raises: Refused."""
        asked, settings = self._asked, self._ways.settings
        limit_s = settings.hold_s + settings.silence_s
        job = Job(asked.model, asked.path, lambda _: asked.body, self._work, limit_s, _RETRIES, self._waits)
        try:
            server = self._ways.server.with_key(self._key)
            begun = await Requests(server, limit_s, estimate=True).begin_with(job, self._ask)
        except (Unauthorized, NotFound):  # also for an endpoint's key that names another one
            names = [name for name, _ in await reachable(self._ways.server, self._key)]
            raise unknown_model(asked.model, names) from None
        except ClientError as error:
            raise refusal(error) from None
        self._wait_s = begun.wait_s
        self._first_byte_s = time.monotonic() - self._began_at
        return begun.answer

    def _waits(self, waiting: Waiting) -> None:
        if not waiting.request_idx:  # the server has not taken it in, and may not even have looked at the key
            limited = waiting.status.startswith(TOO_MANY)
            status, code = (429, "rate_limit_exceeded") if limited else (503, "busy")
            text, retry_s = f"the server puts this off: {waiting.status}", waiting.retry_after_s or RETRY_S
            raise Refused(status, code, text, retry_s=retry_s, limits=waiting.limits)
        self._ways.gate.prove(self._client)
        self._ready_at = time.monotonic() + waiting.ready_in_s if waiting.ready_in_s else 0.0
        if self._hold_left_s() < 0:
            text = f"no worker of {self._asked.model!r} was free within {self._ways.settings.hold_s:g} s"
            when = f"; the next is ready in about {math.ceil(waiting.ready_in_s)} s" if waiting.ready_in_s else ""
            text = f"{text}: {waiting.status}{when}"
            raise Refused(503, "no_worker", text, retry_s=waiting.ready_in_s or RETRY_S)

    def _hold_left_s(self) -> float:
        return self._began_at + self._ways.settings.hold_s - time.monotonic()

    async def _ask(self, routed: Routed) -> tuple[ClientResponse, bytes]:
        """The worker's answer, once the first of its body is there. Raises: WorkerFailed, ClientError."""
        self._ways.gate.prove(self._client)
        self._worker, self._ready_at, self._limits = routed.url, 0.0, routed.limits or {}
        asked, url = self._asked, routed.url.rstrip("/") + self._asked.path
        body = asked.body.pieces() if isinstance(asked.body, Upload) else asked.body and io.BytesIO(asked.body)
        answer = None
        try:
            if url.startswith("https://"):
                await self._ways.server.trust_workers()
            answer = await self._ways.workers.request(
                asked.method,
                URL(url, encoded=True),
                data=body,
                headers=self._headers(routed),
                allow_redirects=False,
            )
            if failed := await failure(answer, routed.url):
                raise self._retried(failed)
            if 300 <= answer.status < 400:  # the official clients would follow it
                raise ClientError(f"worker {routed.url} answers with a redirect", answer.status)
            if answer.status < 400:
                return answer, await answer.content.readany()
            text = await read(answer, MAX_ERROR_BYTES)
            if refused := refused_by_agent(answer.status, text, asked.opaque):
                raise refused
            return answer, text
        except BaseException as error:
            if answer is not None:
                answer.close()
            if isinstance(asked.body, Upload) and asked.body.refused:
                raise asked.body.refused from None
            if isinstance(error, HttpError | OSError | ValueError):
                raise self._retried(broken(error, routed.url)) from None
            raise

    def _retried(self, failed: WorkerFailed) -> WorkerFailed | Refused:
        """The failure, where the request may be tried again; else what the caller is told."""
        self._begun += failed.begun
        if failed.retry_after_s > self._hold_left_s():
            return refusal(failed)
        if self._begun >= MAX_BEGUN or self._ways.retries.take():
            return failed
        said = f"{failed.message}; it is not tried again, because many others are"
        status = 429 if failed.status == 429 else 503
        return Refused(status, "too_many_retries", said, retry_s=failed.retry_after_s or RETRY_S)

    def _headers(self, routed: Routed) -> CIMultiDict[str]:
        proof = base64.b64encode(msgspec.json.encode(routed.auth_data)).decode()
        own = {AUTH_HEADER: proof, REQUEST_ID: self._request_id}
        if isinstance(self._asked.body, bytes):
            own["Content-Type"] = "application/json"
        elif isinstance(self._asked.body, Upload) and self._asked.body.size is not None:
            own["Content-Length"] = str(self._asked.body.size)
        headers = sent_on(self._client.headers, _WITHHELD)
        headers.update(forwarded(self._client) | own)
        return headers

    # -- and back --------------------------------------------------------------------------------------------------

    async def _pass_on(self, answer: ClientResponse, first: bytes) -> None:
        is_stream = answer.content_type == _EVENT_STREAM
        if self._response is None:
            headers = end_to_end(answer.headers, _OF_WORKER | ({"content-length"} if is_stream else set()))
            headers.setdefault(REQUEST_ID, self._request_id)
            if self._anthropic:
                headers.setdefault(ANTHROPIC_ID, headers[REQUEST_ID])
            headers.update(self._limits)
            await self._prepare(web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers))
            self._passing = Events(self._asked.hides_usage) if is_stream else Document()
        try:
            if not is_stream and isinstance(self._passing, Events):  # a comment has promised a stream
                self._outcome = f"status {answer.status}"
                said = first + await read(answer, MAX_ERROR_BYTES)
                await self._end_with(as_event(answer.status, said, self._anthropic))
                return
            chunk = first
            while chunk:
                await self._write(self._passing.feed(chunk))
                chunk = await answer.content.readany()
        except (HttpError, OSError, ValueError) as error:
            self._outcome = "broken"
            if not self._passing.is_whole:  # nothing more can be said
                raise Stalled from error
            failed = Refused(502, "worker_failed", str(broken(error, self._worker)), final=True)
            await self._end_with(failed.event(self._anthropic))
            return
        await self._end_with(self._passing.rest())
        self._outcome = "complete"

    async def _prepare(self, response: web.StreamResponse) -> None:
        self._response = response
        await self._given(response.prepare(self._client))

    @property
    def _sending(self) -> web.StreamResponse:
        """The answer to the caller, which has begun."""
        assert self._response is not None
        return self._response

    async def _write(self, data: bytes) -> None:
        if data:
            if self._repeat is not None:
                self._repeat.feed(data)
            await self._given(self._sending.write(data))

    async def _end_with(self, data: bytes) -> None:
        await self._write(data)
        await self._given(self._sending.write_eof())

    async def _given(self, step: Awaitable[object]) -> None:
        """Wait for the client. Raises: Stalled if it takes nothing, or has left."""
        try:
            await in_time(step, self._ways.settings.stall_s)
        except (HttpError, OSError):
            raise Stalled from None

    def _tell(self) -> None:
        """Write down what became of it."""
        usage = self._passing.usage
        if usage is not None and self._asked.cost is None and self.is_complete:
            self._ways.learned.counted(self._kind, usage)
        self._ways.records.add(
            Record(
                at=self._came_at,
                id=self._request_id,
                key=self._key_id,
                model=self._asked.model,
                path=self._client.path[:_RECORDED_PATH],
                worker=self._worker,
                status=self._response.status if self._response is not None else self._status,
                outcome=self._outcome,
                begun=self._begun,
                wait_s=round(self._wait_s, 3),
                first_byte_s=round(self._first_byte_s, 3),
                took_s=round(time.monotonic() - self._began_at, 3),
                work=self._work,
                prompt_tokens=usage.prompt_tokens if usage else None,
                completion_tokens=usage.completion_tokens if usage else None,
                events=self._passing.events,
            )
        )
