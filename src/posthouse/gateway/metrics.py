"""What a gateway counts, and Prometheus reads there. `docs/reference/metrics.md` is made from it."""

import hashlib
import time
from collections import Counter, defaultdict
from typing import Final

from posthouse.client.errors import ClientError
from posthouse.gateway.counted import Usage
from posthouse.gateway.errors import refusal
from posthouse.gateway.server import Server
from posthouse.measures import CALL_S, LONG_S, Families, Histogram, Page

GATEWAY: Final = Families()
REQUESTS = GATEWAY.counter(
    "posthouse_gateway_requests_total",
    "Requests by route and class of status; left: the caller went before there was an answer.",
    "route",
    "status",
)
TOOK = GATEWAY.histogram("posthouse_gateway_request_seconds", "From a request to the end of its answer.", "route")
FIRST_BYTE = GATEWAY.histogram(
    "posthouse_gateway_first_byte_seconds", "From a request to the first byte of a worker's answer.", "route"
)
WAIT = GATEWAY.histogram("posthouse_gateway_wait_seconds", "How long requests waited for a worker.", "route")
TOKENS = GATEWAY.counter(
    "posthouse_gateway_tokens_total", "Tokens, as workers count them: of prompts and of completions.", "route", "kind"
)
RETRIES = GATEWAY.counter("posthouse_gateway_retries_total", "Further tries of requests that failed.", "route")
GATEWAY.process("gateway")

READS_S: Final = 300.0
"""How long a key that may read is known here: so the page can be read while the server is away."""


class Measured:
    """Everything that one gateway counts."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._tokens: Counter[tuple[str, str]] = Counter()
        self._retries: Counter[str] = Counter()
        self._took: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_S))
        self._first_byte: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(CALL_S))
        self._wait: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LONG_S))
        self._reader, self._reads_until = b"", 0.0

    def answered(self, route: str, status: int, took_s: float) -> None:
        """A request is over; `status`: 0 where its caller left before."""
        self._requests[route, f"{status // 100}xx" if status else "left"] += 1
        self._took[route].add(took_s)

    def served(self, route: str, wait_s: float, first_byte_s: float, usage: Usage | None) -> None:
        """A worker has answered a request."""
        self._wait[route].add(wait_s)
        self._first_byte[route].add(first_byte_s)
        if usage is not None:
            self._tokens[route, "prompt"] += usage.prompt_tokens
            self._tokens[route, "completion"] += usage.completion_tokens

    def tried_again(self, route: str) -> None:
        """A request failed, and is tried once more."""
        self._retries[route] += 1

    def page(self) -> bytes:
        """The text that is scraped."""
        page = Page(GATEWAY)
        for (route, status), count in self._requests.items():
            page.add(REQUESTS, count, route, status)
        for (route, kind), count in self._tokens.items():
            page.add(TOKENS, count, route, kind)
        for route, count in self._retries.items():
            page.add(RETRIES, count, route)
        for family, times in ((TOOK, self._took), (FIRST_BYTE, self._first_byte), (WAIT, self._wait)):
            for route, found in times.items():
                page.add(family, found, route)
        page.add_process()
        return page.text()

    async def check_reader(self, server: Server, key: str) -> None:
        """Raises: Refused, unless the server lets the key read, or did a moment ago."""
        digest, now = hashlib.sha256(key.encode()).digest(), time.monotonic()
        if digest == self._reader and now < self._reads_until:
            return
        try:
            await server.with_key(key).reply("GET", "/api/v0/users/current/")
        except ClientError as error:
            raise refusal(error) from None
        self._reader, self._reads_until = digest, now + READS_S
