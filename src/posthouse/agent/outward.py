"""The worker's address as clients see it: what the model server is told of it, and what it says of its own."""

import ipaddress
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDict

from posthouse import tracing
from posthouse.agent.settings import AgentSettings
from posthouse.hosts import in_url
from posthouse.relay import forwarded

_ADDRESSES: Final = ("Location", "Content-Location")
_REFRESH: Final = re.compile(r"(\s*\d+(?:\.\d*)?\s*[;,]\s*(?:url\s*=\s*)?['\"]?)(.*)", re.IGNORECASE | re.DOTALL)
_DOMAIN: Final = re.compile(r";\s*domain\s*=\s*\.?([^;]*)", re.IGNORECASE)
_COOKIE_PATH: Final = re.compile(r"(;\s*path\s*=\s*)(/[^;]*)", re.IGNORECASE)
_CORS: Final = "access-control-"


class Outward:
    """Translates between the model server's address and the worker's."""

    def __init__(self, settings: AgentSettings) -> None:
        self._upstream = urlsplit(settings.upstream)
        self._url = settings.url.rstrip("/")
        self._prefix = urlsplit(self._url).path
        self._scheme = urlsplit(self._url).scheme

    def told(self, client: web.Request) -> dict[str, str]:
        """Return the headers that tell the model server who asks, and for what address."""
        headers = forwarded(client) | {"X-Forwarded-Proto": self._scheme}
        if (span := tracing.inside()) is not None:
            headers[tracing.HEADER] = span.traceparent
        if self._prefix:
            headers["X-Forwarded-Prefix"] = self._prefix
        node = client.remote or "unknown"
        own = f'for="{in_url(node)}";host="{_quotable(client.host)}";proto={self._scheme}'
        before = client.headers.get("Forwarded")
        return headers | {"Forwarded": f"{before}, {own}" if before else own}

    def translate(self, headers: CIMultiDict[str]) -> None:
        """Put the worker's address where the model server speaks of its own."""
        for name in _ADDRESSES:
            if name in headers:
                headers[name] = self._outer(headers[name])
        if refresh := _REFRESH.fullmatch(headers.get("Refresh", "")):
            headers["Refresh"] = refresh[1] + self._outer(refresh[2])
        if cookies := headers.popall("Set-Cookie", []):
            for cookie in cookies:
                headers.add("Set-Cookie", self._cookie(cookie))

    def _outer(self, address: str) -> str:
        try:
            parts = urlsplit(address)
            own = not parts.netloc or self._is_own(parts.hostname or "", parts.port)
        except ValueError:
            return address
        if not own or (parts.scheme and parts.scheme not in {"http", "https"}):
            return address
        if not parts.netloc:
            return self._prefix + address if self._prefix and address.startswith("/") else address
        return self._url + address[address.index(parts.netloc) + len(parts.netloc) :]

    def _cookie(self, cookie: str) -> str:
        domain = _DOMAIN.search(cookie)
        if domain and self._is_own(domain[1].strip(), self._upstream.port):
            cookie = cookie[: domain.start()] + cookie[domain.end() :]
        return _COOKIE_PATH.sub(lambda path: path[1] + self._prefix + path[2], cookie) if self._prefix else cookie

    def _is_own(self, host: str, port: int | None) -> bool:
        """Return whether that is where the model server is, by any name of this machine."""
        if (port or 80) != (self._upstream.port or 80):
            return False
        inner = self._upstream.hostname or ""
        return host == inner or (is_here(host) and is_here(inner))


class Cors:
    """Which pages in browsers may call this worker. They bring a proof, like every client, and no cookie."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origins)

    def preflight(self, client: web.Request) -> web.Response | None:
        """Return the answer to a browser that asks whether its page may call; None where it asks for something else."""
        asked = client.headers.get("Access-Control-Request-Method")
        if client.method != "OPTIONS" or asked is None or self._allowed(client) is None:
            return None
        headers = {"Access-Control-Allow-Methods": asked, "Access-Control-Max-Age": "600"}
        if wanted := client.headers.get("Access-Control-Request-Headers"):
            headers["Access-Control-Allow-Headers"] = wanted
        return web.Response(status=204, headers=headers)

    async def allow(self, client: web.Request, response: web.StreamResponse) -> None:
        """Add to an answer, before it begins, that the page may read it; in place of what the model server allows."""
        if (origin := self._allowed(client)) is None:
            return
        own = response.status == 204 and client.method == "OPTIONS"
        for name in [name for name in response.headers if name.lower().startswith(_CORS)]:
            if not own:
                response.headers.popall(name, None)
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "*"
        if origin != "*":
            response.headers.add("Vary", "Origin")

    def _allowed(self, client: web.Request) -> str | None:
        origin = client.headers.get("Origin")
        if origin is None:
            return None
        return "*" if "*" in self._origins else origin if origin in self._origins else None


def is_here(host: str) -> bool:
    """Return whether that is this machine, as the machine itself names it."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return ip.is_loopback or ip.is_unspecified


def _quotable(text: str) -> str:
    return re.sub(r"[^\w.:\[\]-]", "", text, flags=re.ASCII)


@asynccontextmanager
async def traced(client: web.Request, request_idx: int) -> AsyncIterator[Callable[[int], None]]:
    """What the model does for a request, as a span; what it gives is to be told the status of the answer."""
    parent = client.headers.get(tracing.HEADER, "")
    with tracing.within("model", "SERVER", parent, request_idx=request_idx) as span:

        def told(status: int) -> None:
            if span is not None:
                span.end(f"status {status}" if status >= 500 else "", status=status)

        yield told
