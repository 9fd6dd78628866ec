"""`POST /route/`: a client asks for a worker."""

from typing import Any

import msgspec

from posthouse.domain.errors import BadRequest
from posthouse.wire.body import decoded
from posthouse.wire.grant import Grant
from posthouse.wire.numbers import integer, number

DEFAULT_COST = 100.0
"""Work of a request that states none; the protocol's own default."""
MAX_NAME = 255
"""Longest endpoint name, in characters."""


class RouteBody(msgspec.Struct):
    """What clients of every age send. Other fields are ignored."""

    endpoint: Any = None
    api_key: Any = None
    api_token: Any = None
    cost: Any = DEFAULT_COST
    request_idx: Any = None
    """Absent: a client that does not poll. 0: a new request. Above 0: the same request again."""

    def key(self) -> str:
        """The key in the body, empty if there is none."""
        key = self.api_key or self.api_token
        return key if isinstance(key, str) else ""


class RouteAsk(msgspec.Struct, frozen=True):
    """A checked request for a worker."""

    endpoint: str
    cost: float
    request_idx: int
    polls: bool
    """The client will ask again with the same index."""


class RouteReply(msgspec.Struct, omit_defaults=True):
    """A ready worker. `request_idx` is left out (0) for the oldest workers, whose models would be sent it."""

    endpoint: str
    cost: int | float
    reqnum: int
    signature: str
    url: str
    request_idx: int = 0
    grant: Grant | None = None
    """For workers that run our agent."""


class WaitReply(msgspec.Struct, omit_defaults=True):
    """No ready worker yet. Clients take any reply without `url` as "ask again"."""

    endpoint: str
    status: str
    request_idx: int = 0


_body = msgspec.json.Decoder(RouteBody)
encode = msgspec.json.Encoder().encode


def decode_body(raw: bytes) -> RouteBody:
    """The body, not yet checked. Raises: BadRequest if it is not a JSON object."""
    return decoded(_body, raw)


def check(body: RouteBody) -> RouteAsk:
    """The request, checked. Raises: BadRequest naming the field."""
    name = body.endpoint
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadRequest(f"endpoint: must be the name of an endpoint, 1 to {MAX_NAME} characters")
    cost = DEFAULT_COST if body.cost is None else number(body.cost, "cost")
    idx = 0 if body.request_idx is None else integer(body.request_idx, "request_idx")
    return RouteAsk(name, cost, idx, polls=body.request_idx is not None)
