"""One request: held until there is a worker, sent there, sent elsewhere if that fails, and its answer passed on."""

import asyncio
import math
import re
import time
from typing import Final

import msgspec

from posthouse.client.answers import Routed, Waiting
from posthouse.client.errors import NO_ADAPTER, ClientError, NotFound, Unauthorized, WorkerFailed
from posthouse.client.http import MAX_ERROR_BYTES, worker_failed
from posthouse.client.management import Management
from posthouse.client.requests import MAX_BEGUN, Job
from posthouse.gateway.aliases import Step, first_good
from posthouse.gateway.asked import Asked, for_model
from posthouse.gateway.counted import Document, Events, Passing
from posthouse.gateway.errors import (
    Refused,
    as_event,
    is_put_off,
    no_worker,
    refusal,
    refused_by_agent,
    too_many_retries,
    unknown_model,
)
from posthouse.gateway.externals import Spending
from posthouse.gateway.inward import Request
from posthouse.gateway.outward import REQUEST_ID, as_sent
from posthouse.gateway.records import Record
from posthouse.gateway.repeats import Repeat
from posthouse.gateway.server import Routes, Server
from posthouse.gateway.ways import Ways
from posthouse.http1.messages import Headers, end_to_end, value_of
from posthouse.http1.reply import Lost, Reply
from posthouse.http1.upstream import place_of
from posthouse.wire.fallback import EXTERNAL

ANTHROPIC_ID: Final = b"request-id"
"""Where its clients look for it."""
_RETRIES: Final = 6  # further tries, some 10 s with their pauses; official clients try again themselves
_OWNERLESS_S: Final = 10.0  # until servers have found out which of them has an endpoint: three seconds as a rule
_COMMENT: Final = ": waiting for a worker%s\n\n"
_RECORDED_PATH: Final = 200  # characters of it
_EVENT_STREAM: Final = b"text/event-stream"
_KEY_ID: Final = re.compile(r"ph_[0-9a-f]{8}|phe_\d+_\d+")
# Its caller would show a cookie to every model.
_DROPPED: Final = {False: frozenset({b"set-cookie"}), True: frozenset({b"set-cookie", b"content-length"})}


def is_anthropic(client: Request) -> bool:
    """Whether the request is one of Anthropic's API; of two calls both have, its clients send this header."""
    return client.path.startswith("/v1/messages") or bool(client.header(b"anthropic-version"))


async def reachable(server: Server, key: str) -> list[tuple[str, float]]:
    """The endpoints that the key reaches, also with each adapter, and when they were made. Raises: Refused."""
    try:
        found = await Management(server.with_key(key)).reachable()
    except ClientError as error:
        raise refusal(error) from None
    names = [(row, [row.name, *(f"{row.name}:{adapter}" for adapter in row.adapters)]) for row in found]
    return [(name, row.created_at) for row, models in names for name in models]


class Exchange:
    """A request that may be sent, on its way to a worker and back."""

    _changes = False
    """Its answer does not pass as it is."""

    def __init__(self, ways: Ways, client: Request, key: str, asked: Asked, repeat: Repeat | None = None) -> None:
        """`repeat`: gets the answer, too."""
        self._ways, self._client, self._key, self._asked = ways, client, key, asked
        self._named = asked.model
        self._anthropic = is_anthropic(client)
        self._key_id = found[0] if (found := _KEY_ID.match(key)) else "unknown"
        self._kind = (self._key_id, asked.model, asked.path)
        self._work = ways.learned.work(self._kind) if asked.cost is None else asked.cost
        self._began_at, self._came_at = time.monotonic(), time.time()
        self.status = 0
        """That the caller got; 0 where it left before."""
        self.content_type = b""
        """Of the answer, as its header says."""
        self._passing: Passing = Document()
        self._repeat = repeat
        self._comments: asyncio.TimerHandle | None = None
        self._begun = self._begun_before = 0  # how often a worker may have begun it, and failed; at other endpoints
        self._hold_until = self._began_at + ways.settings.hold_s
        self._ready_at = 0.0  # when a worker is expected; 0: nobody knows
        self._limits: dict[str, str] = {}  # headers that say what is left of the limits of the key
        self._wait_s = self._first_byte_s = 0.0
        self._worker, self._outcome = "none", "client left"
        self._spending: Spending | None = None

    @property
    def is_complete(self) -> bool:
        """All of a worker's answer has been passed on: clients leave once they have the last event."""
        return self._outcome == "complete" or (self._outcome == "client left" and self._passing.is_done)

    def note(self, outcome: str, status: int) -> None:
        """Write down what became of it, for which no worker was needed."""
        self._outcome, self.status = outcome, status
        self._tell()

    async def run(self) -> None:
        """Pass on the answer. Raises: Refused while none has begun."""
        self._ways.retries.began()
        reply: Reply | None = None
        try:
            try:
                if self._asked.stream:
                    self._comment_later()
                reply, first = await self._begin()
                self._begin_no_more_comments()
                await self._pass_on(reply, first)
            except Refused as refused:
                self._outcome = refused.code
                if not self._client.started:
                    self.status = refused.status
                    raise
                if self._passing.is_stream:
                    self._end_with(refused.event(self._anthropic))
                else:
                    self._client.abort()
        finally:
            self._begin_no_more_comments()
            if reply is not None:
                reply.close()  # before its end: the worker stops
            if self._spending is not None:
                self._spending.end(self._passing.usage)
            self._tell()

    # -- while it waits --------------------------------------------------------------------------------------------

    def _comment_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._comments = loop.call_later(self._ways.settings.keep_alive_s, self._comment)

    def _comment(self) -> None:
        """Show the caller and what is between that the request lives."""
        if not self._client.started:
            self._start(200, [(b"content-type", _EVENT_STREAM), (b"cache-control", b"no-cache")])
            self._passing = self._passes(True)
        left_s = self._ready_at - time.monotonic()
        when = f", ready in about {math.ceil(left_s)} s" if left_s > 0 else ""
        self._write((_COMMENT % when).encode())
        self._comment_later()

    def _begin_no_more_comments(self) -> None:
        if self._comments is not None:
            self._comments.cancel()

    # -- to a worker -----------------------------------------------------------------------------------------------

    async def _begin(self) -> tuple[Reply, bytes]:
        """The answer of a worker, with the first of its body. Raises: Refused."""
        aliases, named = self._ways.aliases, self._asked.model
        try:
            if not aliases.adapted(self._key, named):
                return await self._begin_as(named)
        except (Unauthorized, NotFound):  # also for an endpoint's key that names another one
            pass
        model, _, adapter = named.rpartition(":")
        try:
            if not (model and adapter):
                raise NotFound(named)
            self._asked = msgspec.structs.replace(self._asked, adapter=adapter)
            found = await self._begin_as(model)
        except (Unauthorized, NotFound):
            there = [name for name, _ in await reachable(self._ways.server, self._key)]
            raise unknown_model(named, [*there, *await aliases.all(self._ways.server, self._key)]) from None
        aliases.adapted(self._key, named, found=True)
        return found

    async def _begin_as(self, model: str) -> tuple[Reply, bytes]:
        """The same of an endpoint or an alias. Raises: Refused; Unauthorized, NotFound where it is neither."""
        if not (steps := self._ways.aliases.known(self._key, model)):
            try:
                return await self._begin_at(Step(model))
            except (Unauthorized, NotFound):
                if not (steps := await self._ways.aliases.find(self._ways.server, self._key, model)):
                    raise
        return await first_good(steps, self._begin_at)

    async def _begin_at(self, step: Step) -> tuple[Reply, bytes]:
        """The answer of a worker of this endpoint. Raises: Refused, Unauthorized, NotFound."""
        if step.faults and step.model.startswith(EXTERNAL):  # none but an alias names it
            return await self._begin_outside(step)
        self._asked = asked = for_model(self._asked, step.model)
        settings = self._ways.settings
        self._begun_before = self._begun
        self._hold_until = self._began_at + settings.hold_s
        if step.wait_s is not None:
            self._hold_until = min(self._hold_until, time.monotonic() + step.wait_s)
        model, path, prefer, waits = asked.model, asked.path, asked.prefer, self._waits
        # No time in all: `_waits` bounds what it waits, and the connection how long a worker may be silent.
        job = Job(model, path, lambda _: asked.body, self._work, None, _RETRIES, waits, prefer=prefer)
        try:
            self._client.trace("queue", endpoint=asked.model)
            part = self._client.part
            server = self._ways.server.with_key(self._key, part.traceparent if part else "")
            begun = await Routes(server, settings.silence_s, estimate=True).tried(job, self._ask)
        except ClientError as error:
            if isinstance(error, Unauthorized | NotFound) and not error.message.startswith(NO_ADAPTER):
                raise
            raise refusal(error) from None
        self._wait_s = begun.wait_s
        self._first_byte_s = time.monotonic() - self._began_at
        return begun.answer

    async def _begin_outside(self, step: Step) -> tuple[Reply, bytes]:
        """The same of a server that is not ours. Raises: Refused."""
        self._asked, self._worker = msgspec.structs.replace(self._asked, model=step.model), step.model
        self._wait_s = time.monotonic() - self._began_at
        reply, first, self._spending = await self._ways.externals.ask(self._client, self._asked, self._key_id)
        self._first_byte_s = time.monotonic() - self._began_at
        return reply, first

    def _waits(self, waiting: Waiting) -> None:
        if not waiting.request_idx and is_put_off(waiting, min(self._began_at + _OWNERLESS_S, self._hold_until)):
            return  # the server has not taken it in, and may not even have looked at the key
        self._client.prove()
        self._ready_at = time.monotonic() + waiting.ready_in_s if waiting.ready_in_s else 0.0
        if self._hold_left_s() < 0:
            raise no_worker(self._asked.model, self._hold_until - self._began_at, waiting)

    def _hold_left_s(self) -> float:
        return self._hold_until - time.monotonic()

    async def _ask(self, routed: Routed) -> tuple[Reply, bytes]:
        """The worker's answer, once the first of its body is there. Raises: WorkerFailed, ClientError."""
        self._client.prove()
        self._worker, self._ready_at, self._limits = routed.url, 0.0, routed.limits or {}
        self._client.trace("worker", worker=routed.url)
        reply, asked = None, for_model(self._asked, routed.model) if routed.model else self._asked
        try:
            origin, host, prefix = place_of(routed.url)
            if origin.tls:
                await self._ways.server.trust_workers()
            reply = await self._ways.server.workers.ask(origin, *as_sent(self._client, asked, routed, host, prefix))
            first = await reply.begin()
            if 300 <= reply.status < 400:  # the official clients would follow it
                raise ClientError(f"worker {routed.url} answers with a redirect", reply.status)
            if reply.status < 400:
                return reply, first
            said = await reply.read(MAX_ERROR_BYTES, first)
            if failed := worker_failed(reply.status, said, value_of(reply.headers, b"retry-after"), routed.url):
                raise self._retried(failed)
            if refused := refused_by_agent(reply.status, said, asked.opaque):
                raise refused
            return reply, said
        except BaseException as error:
            if reply is not None:
                reply.close()
            if self._client.part is not None:
                self._client.part.end(error=type(error).__name__)
            if isinstance(error, Lost):
                raise self._retried(WorkerFailed(f"worker {routed.url}: {error}", begun=error.begun)) from None
            raise

    def _retried(self, failed: WorkerFailed) -> WorkerFailed | Refused:
        """The failure, where the request may be tried again; else what the caller is told."""
        self._begun += failed.begun
        if failed.retry_after_s > self._hold_left_s():
            return refusal(failed)
        if self._begun - self._begun_before >= MAX_BEGUN:
            return failed
        if self._ways.retries.take():
            self._ways.measured.tried_again(self._client.route)
            return failed
        return too_many_retries(failed)

    # -- and back --------------------------------------------------------------------------------------------------

    async def _pass_on(self, reply: Reply, first: bytes) -> None:
        client = self._client
        is_stream = value_of(reply.headers, b"content-type").partition(";")[0].strip().lower() == "text/event-stream"
        if not client.started:
            limits = [(name.lower().encode(), value.encode()) for name, value in self._limits.items()]
            dropped = _DROPPED[is_stream or self._changes] | {name for name, _ in limits}
            self._start(reply.status, end_to_end(reply.headers, dropped) + limits, reply.reason)
            self._passing = self._passes(is_stream)
        try:
            if not is_stream and self._passing.is_stream:  # a comment has promised a stream
                self._outcome = f"status {reply.status}"
                said = await reply.read(MAX_ERROR_BYTES, first)
                self._end_with(as_event(reply.status, said, self._anthropic))
                return
            if reply.whole:
                self._outcome = "complete"
                self._end_with(self._passing.feed(first) + self._passing.rest())
                return
            self._pour(first)
            await reply.pour(self._pour, client.connection.writable)
        except (Lost, ValueError) as error:
            self._outcome = "broken"
            if not self._passing.is_whole:  # nothing more can be said
                client.abort()
                return
            failed = Refused(502, "worker_failed", f"worker {self._worker}: {error}", final=True)
            self._end_with(failed.event(self._anthropic))
            return
        self._outcome = "complete"
        self._end_with(self._passing.rest())

    def _passes(self, is_stream: bool) -> Passing:
        return Events(self._asked.hides_usage) if is_stream else Document()

    def _start(self, status: int, headers: Headers, reason: bytes = b"") -> None:
        said = self._client.id.encode()
        for name in (REQUEST_ID, ANTHROPIC_ID) if self._anthropic else (REQUEST_ID,):
            if named := value_of(headers, name):
                said = named.encode("latin-1")
            else:
                headers.append((name, said))
        self.status, self.content_type = status, value_of(headers, b"content-type").encode("latin-1")
        self._client.start(status, headers, reason)

    def _pour(self, data: bytes) -> None:
        if passes := self._passing.feed(data):
            self._write(passes)

    def _write(self, data: bytes) -> None:
        if self._repeat is not None:
            self._repeat.feed(data)
        self._client.write(data)

    def _end_with(self, data: bytes) -> None:
        if self._repeat is not None:
            self._repeat.feed(data)
        self._client.write(data, more=False)

    def _tell(self) -> None:
        """Write down what became of it."""
        learns = self._asked.cost is None and self.is_complete
        usage = self._passing.usage
        if self._first_byte_s:
            self._ways.measured.served(self._client.route, self._wait_s, self._first_byte_s, usage)
        if usage is not None and learns:
            self._ways.learned.counted(self._kind, usage)
        if not self._ways.records.wanted:
            return
        self._ways.records.add(
            Record(
                at=self._came_at,
                id=self._client.id,
                key=self._key_id,
                model=self._named,
                endpoint=self._asked.model,
                path=self._client.path[:_RECORDED_PATH],
                worker=self._worker,
                status=self.status,
                outcome="complete" if self.is_complete else self._outcome,
                begun=self._begun,
                wait_s=round(self._wait_s, 3),
                first_byte_s=round(self._first_byte_s, 3),
                took_s=round(time.monotonic() - self._began_at, 3),
                work=self._work,
                prompt_tokens=usage.prompt_tokens if usage else None,
                completion_tokens=usage.completion_tokens if usage else None,
                events=self._passing.events,
                usd=self._spending.usd if self._spending else None,
            )
        )
