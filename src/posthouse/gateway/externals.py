"""Servers of OpenAI's API that are not ours: the last fallback of an alias, paid by the token, up to a cap a day.

What a request may come to at most is counted as spent before it is sent, in a file that several gateways may share, and
what it did come to when it has ended.
"""

import contextlib
import datetime
import fcntl
import math
import os
import ssl
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from posthouse.errors import BadRequest
from posthouse.gateway.asked import GENERATING, Asked, Fields, number_in
from posthouse.gateway.counted import Usage
from posthouse.gateway.errors import RETRY_S, Refused
from posthouse.gateway.inward import Request
from posthouse.gateway.outward import REQUEST_ID
from posthouse.http1.messages import JSON, head, value_of
from posthouse.http1.reply import Lost, Reply
from posthouse.http1.upstream import Upstreams, place_of
from posthouse.wire import spent
from posthouse.wire.fallback import EXTERNAL

PATHS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""What is passed on. Responses are kept where they were made, and would be out of reach here."""
_MAX_FILE: Final = 65_536
_MAX_SAID: Final = 65_536
_LIMIT: Final = {"/v1/chat/completions": "max_completion_tokens", "/v1/completions": "max_tokens"}
_Price = Annotated[float, Meta(ge=0, le=1e6)]


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


class External(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them, as a table of the file says it."""

    url: str
    model: Annotated[str, Meta(min_length=1, max_length=255)]
    """As it is called there."""
    usd_per_million_input: _Price
    usd_per_million_output: _Price
    max_usd_day: _Price
    """Most that is spent in a day, UTC."""
    key_env: str = ""
    key_file: str = ""
    """Where its API key is: one of both."""
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """Of a request that does not say how many it wants; it is told to the server."""

    def usd(self, usage: Usage) -> float:
        return (
            usage.prompt_tokens * self.usd_per_million_input + usage.completion_tokens * self.usd_per_million_output
        ) / 1e6


class Spending:
    """Money of one request, which is reserved."""

    def __init__(self, externals: "Externals", name: str, day: str, key: str, usd: float) -> None:
        self._externals, self._name, self._day, self._key = externals, name, day, key
        self.usd = usd
        """What it came to, as far as that is known."""
        self._open = True

    def end(self, usage: Usage | None) -> None:
        """Counts what was used in place of it, the first time; None: nobody knows, so that all of it stays spent."""
        if self._open and usage is not None:
            external, _ = self._externals.known[self._name]
            reserved, self.usd = self.usd, external.usd(usage)
            with contextlib.suppress(Refused):  # then more is taken for spent than was
                self._externals.add(self._name, self._day, self._key, self.usd - reserved)
        self._open = False


class Externals:
    """All that a gateway may use."""

    def __init__(self, path: Path | None = None, silence_s: float = 600.0, today: Callable[[], str] = _today) -> None:
        """Those of a file in TOML. Raises: BadRequest naming the table and the field."""
        self._today = today
        self.known: dict[str, tuple[External, str]] = {}
        """Each with its key."""
        self._upstreams = Upstreams(ssl.create_default_context(), silence_s)
        if path is None:
            return
        self._spent = spent.file_of(path)
        try:
            tables = tomllib.loads(_text_of(path))
        except ValueError as error:
            raise BadRequest(f"{path}: not TOML: {error}") from None
        self.known = {name: _external(path, name, table) for name, table in tables.items()}
        for name in self.known:
            try:
                self.add(name, self._today(), "", 0.0)  # so that it is told before anything is spent
            except Refused as error:
                raise BadRequest(f"{self._spent}: {error}") from None

    def close(self) -> None:
        self._upstreams.close()

    def every_second(self) -> None:
        self._upstreams.every_second()

    async def ask(self, client: Request, asked: Asked, key_id: str) -> tuple[Reply, bytes, Spending]:
        """The beginning of a good answer, or of a refusal that is the caller's to read. `key_id`: of the caller's key.

        Raises: Refused.
        """
        name = asked.model.removeprefix(EXTERNAL)
        if name not in self.known:
            raise Refused(503, "no_worker", f"this gateway has no external {name!r}", retry_s=RETRY_S)
        external, key = self.known[name]
        if asked.path not in PATHS or not isinstance(asked.body, bytes) or asked.adapter:
            raise Refused(503, "no_worker", f"the external {name!r} takes no {asked.path[:100]}", retry_s=RETRY_S)
        body, most_usd = _bounded(external, asked.path, asked.body)
        spending = self._reserve(name, external, key_id, most_usd)
        try:
            try:
                reply, first = await self._send(client, asked.path, external, key, body)
            except Lost as lost:
                if not lost.stale:
                    raise
                reply, first = await self._send(client, asked.path, external, key, body)
        except Refused:
            spending.end(Usage())
            raise
        except Lost as lost:
            spending.end(None if lost.begun else Usage())
            raise Refused(502, "external_failed", f"the external server: {lost}", final=True) from None
        except BaseException:  # its caller has left: nobody knows what was begun
            spending.end(None)
            raise
        if reply.status >= 400:
            spending.end(Usage())
        return reply, first, spending

    async def _send(self, client: Request, path: str, external: External, key: str, body: bytes) -> tuple[Reply, bytes]:
        """Raises: Refused, Lost."""
        origin, host, prefix = place_of(external.url)
        line = b"POST %s%s HTTP/1.1\r\n" % (prefix, path.removeprefix("/v1").encode())
        headers = [(b"host", host), (b"authorization", b"Bearer " + key.encode()), (b"content-type", JSON)]
        headers += [(REQUEST_ID, client.id.encode()), (b"content-length", b"%d" % len(body))]
        reply: Reply | None = None
        try:
            reply = await self._upstreams.ask(origin, head(line, headers) + b"\r\n", body)
            first = await reply.begin()
            if reply.status < 300:
                return reply, first
            said = await reply.read(_MAX_SAID, first)
            if reply.status in (400, 413, 422):
                return reply, said
            raise _refusal(reply)
        except BaseException:
            if reply is not None:
                reply.close()
            raise

    # -- money -----------------------------------------------------------------------------------------------------

    def _reserve(self, name: str, external: External, key_id: str, usd: float) -> Spending:
        day = self._today()
        if not self.add(name, day, key_id, usd, external.max_usd_day):
            text = (
                f"the fallback {name!r} may cost ${external.max_usd_day:g} a day (UTC), which this request would pass"
            )
            raise Refused(429, "insufficient_quota", text, final=True)
        return Spending(self, name, day, key_id, usd)

    def add(self, name: str, day: str, key_id: str, usd: float, most_usd: float = math.inf) -> bool:
        """Counts money as spent on that day, if that is not over; not where it would be more than `most_usd`.

        Raises: Refused where that cannot be written down.
        """
        try:
            with open(os.open(self._spent, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # of gateways that share it; it ends with the file
                rows = spent.read(file)
                row = rows.get(name, spent.Spent(day))
                if row.day > day:
                    return True
                if row.day < day:
                    row = spent.Spent(day)
                if row.usd + usd > most_usd:
                    return False
                row.max_usd_day = self.known[name][0].max_usd_day
                row.add(key_id, usd)
                rows[name] = row
                spent.write(file, rows)
                return True
        except (OSError, ValueError) as error:
            raise Refused(503, "unavailable", f"what was spent cannot be kept: {type(error).__name__}") from None


def _bounded(external: External, path: str, body: bytes) -> tuple[bytes, float]:
    """The body as it is sent, which bounds its answer, and what it may come to: no token is shorter than a byte."""
    fields = Fields.decode(body)
    fields["model"] = Raw(msgspec.json.encode(external.model))
    output = 0.0
    if path in GENERATING:
        wanted = [n for name in ("max_completion_tokens", "max_tokens") if (n := number_in(fields, name)) is not None]
        if not wanted:
            wanted = [external.max_output_tokens]
            fields[_LIMIT[path]] = Raw(msgspec.json.encode(external.max_output_tokens))
        output = max(wanted) * max(1.0, number_in(fields, "n") or 1.0, number_in(fields, "best_of") or 1.0)
    sent = msgspec.json.encode(fields)
    return sent, external.usd(Usage(len(sent), math.ceil(max(0.0, min(output, 1e9)))))


def _refusal(reply: Reply) -> Refused:
    """Its words may name what only its owner should read, so they are left out."""
    after = value_of(reply.headers, b"retry-after")
    said = f"the external server answers {reply.status}"
    if reply.status == 429:
        return Refused(429, "rate_limit_exceeded", said, retry_s=float(after) if after.isdecimal() else RETRY_S)
    return Refused(502, "external_failed", said, final=True)


def _external(path: Path, name: str, table: object) -> tuple[External, str]:
    """Raises: BadRequest."""
    try:
        external = msgspec.convert(table, External)
        origin, _, _ = place_of(external.url)
    except (msgspec.ValidationError, Lost) as error:
        raise BadRequest(f"{path}: [{name}]: {error}") from None
    if not origin.tls and origin.host not in ("127.0.0.1", "::1", "localhost"):
        raise BadRequest(f"{path}: [{name}]: url: must begin with https://, for it gets a key")
    if bool(external.key_env) == bool(external.key_file):
        raise BadRequest(f"{path}: [{name}]: key_env, key_file: one of both must say where the key is")
    key = os.environ.get(external.key_env, "") if external.key_env else _text_of(Path(external.key_file))
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise BadRequest(f"{path}: [{name}]: there is no key in {external.key_env or external.key_file}")
    return external, key


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
