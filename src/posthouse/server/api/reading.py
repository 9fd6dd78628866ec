"""How bodies are read: as JSON, whatever their Content-Type says; none at all is an empty object."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

JSON = (b"content-type", b"application/json")


class _JsonRequest(Request):
    async def body(self) -> bytes:
        return (await super().body()).strip() or b"{}"

    async def json(self) -> Any:
        body = self.state.body  # as the middleware read it
        return {} if body is None else body


class JsonRoute(APIRoute):
    """A route for peers that send JSON under any Content-Type, or no body where all of its fields are optional."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            headers = [pair for pair in request.scope["headers"] if pair[0] != JSON[0]]
            return await handle(_JsonRequest({**request.scope, "headers": [*headers, JSON]}, request.receive))

        return read
