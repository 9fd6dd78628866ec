"""A transport for OpenAI's Python client that goes to workers directly: answers do not pass the gateway.

    client = OpenAI(base_url=..., api_key=..., http_client=httpx2.Client(transport=Direct()))

Of a request the gateway gets only its model and how many tokens it may have.
"""

import json
from typing import Any, Final

import httpx2

_PASSED: Final = ("model", "max_completion_tokens", "max_tokens", "max_output_tokens")
_WITHHELD: Final = ("authorization", "x-api-key", "host", "content-length", "cookie")  # of workers


class Direct(httpx2.BaseTransport):
    """Sends requests with a JSON body to a worker directly, and all others, such as forms, through the gateway."""

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        """`transport`: what calls the gateway and workers; it must trust the root of workers that serve HTTPS."""
        self._transport = transport or httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        if (asking := _asking(request)) is None:
            return self._transport.handle_request(request)
        answer = self._transport.handle_request(asking)
        if answer.status_code != 307:
            return answer
        answer.read()
        return self._transport.handle_request(_onward(request, answer))

    def close(self) -> None:
        self._transport.close()


class AsyncDirect(httpx2.AsyncBaseTransport):
    """The same for `AsyncOpenAI` and `httpx2.AsyncClient`."""

    def __init__(self, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._transport = transport or httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        if (asking := _asking(request)) is None:
            return await self._transport.handle_async_request(request)
        answer = await self._transport.handle_async_request(asking)
        if answer.status_code != 307:
            return answer
        await answer.aread()
        return await self._transport.handle_async_request(_onward(request, answer))

    async def aclose(self) -> None:
        await self._transport.aclose()


def _asking(request: httpx2.Request) -> httpx2.Request | None:
    """What the gateway is asked in place of the request; None where that has to go there itself."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        asked: Any = json.loads(request.content)
    except ValueError:
        return None  # the gateway says what is wrong with it
    if not isinstance(asked, dict):
        return None
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
    return httpx2.Request(
        request.method,
        request.url,
        headers=[*headers, ("X-Posthouse-Direct", "1")],
        content=json.dumps({name: asked[name] for name in _PASSED if name in asked}),
        extensions=request.extensions,
    )


def _onward(request: httpx2.Request, answer: httpx2.Response) -> httpx2.Request:
    """The request as the worker gets it that the gateway's answer names."""
    content, model = request.content, answer.headers["x-posthouse-model"]
    asked: dict[str, Any] = json.loads(content)
    if asked["model"] != model:
        content = json.dumps({**asked, "model": model}).encode()
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() not in _WITHHELD]
    proof = ("X-Posthouse-Auth", answer.headers["x-posthouse-auth"])
    return httpx2.Request(
        request.method,
        answer.headers["location"],
        headers=[*headers, proof],
        content=content,
        extensions=request.extensions,
    )
