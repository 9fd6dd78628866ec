"""`POST /route/`: a client asks for a worker."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from posthouse.errors import BadRequest
from posthouse.wire.body import decoded
from posthouse.wire.checks import MAX_INTEGER, MAX_WORK, integer, number
from posthouse.wire.status import MAX_ADAPTER

DEFAULT_COST = 100.0
"""Work of a request that states none, until that is learned from what workers count; the protocol's own default."""
NOT_STATED = -1.0
"""The cost in a request that states none."""
MAX_NAME = 255
"""Longest endpoint name, in characters."""
MAX_KEY = 128
"""Longest key of requests that begin alike, in characters."""


class Prefer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which workers would be best for a request."""

    key: Annotated[str, Meta(max_length=MAX_KEY)] = ""
    """Requests with the same begin alike, so that what a worker keeps of one is of use to the next. Empty: none."""
    adapter: Annotated[str, Meta(max_length=MAX_ADAPTER)] = ""
    """It must go to a worker that holds this adapter. Empty: to any."""
    worker: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] = 0
    """It must go to this worker, which keeps something for it. 0: to any."""


class RouteAsk(msgspec.Struct, gc=False):
    """A request for a worker, as the usual clients send it. Other fields are ignored."""

    endpoint: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    cost: Annotated[float, Meta(ge=0.0, le=MAX_WORK)] = NOT_STATED
    request_idx: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    """Absent: a client that does not poll. 0: a new request. Above 0: the same request again."""
    api_key: str = ""
    api_token: str = ""
    estimate: bool = False
    """Posthouse's own clients: the reply is to say when a worker is expected."""
    prefer: Prefer | None = None
    """As above."""

    @property
    def polls(self) -> bool:
        """The client will ask again with the same index."""
        return self.request_idx is not None


class OddAsk(msgspec.Struct):
    """A body that is not quite a `RouteAsk`: numbers in quotes, nulls, or worse."""

    endpoint: Any = None
    cost: Any = None
    request_idx: Any = None
    api_key: Any = None
    api_token: Any = None
    prefer: Any = None


class RouteReply(msgspec.Struct, omit_defaults=True, gc=False):
    """A ready worker. `request_idx` is left out (0) for the oldest workers, whose models would be sent it."""

    endpoint: str
    cost: int | float
    reqnum: int
    signature: str
    """What the worker verifies: a signature of its generation, or a grant where it runs our agent."""
    url: str
    request_idx: int = 0
    limits: dict[str, str] | None = None
    """What is left of the limits of the caller's key, as headers of OpenAI's API; for who asks for an estimate."""
    model: str = ""
    """What the worker calls the adapter that was asked for."""


NO_ADAPTER: Final = "adapter: no worker"
"""How `/route/` begins to say that none which is ready holds the adapter."""
NO_WORKER: Final = "worker: there is none"
"""How it begins to say so of the worker that was asked for."""
TOO_MANY: Final = "too many "
"""How the status begins of a call that is put off because its key or address makes too many."""


class WaitReply(msgspec.Struct, omit_defaults=True, gc=False):
    """No ready worker yet. Clients take any reply without `url` as "ask again"."""

    endpoint: str
    status: str
    request_idx: int = 0
    ready_in_s: float = 0
    """When one is expected, in seconds from now; left out (0) where nobody can tell, and to who does not ask for it."""
    retry_after_s: float = 0
    """Where the caller's key is at its limits: when there is room."""
    limits: dict[str, str] | None = None
    """As in the other reply."""


_usual = msgspec.json.Decoder(RouteAsk)
_odd = msgspec.json.Decoder(OddAsk)
encode = msgspec.json.Encoder().encode


def decode(raw: bytes) -> RouteAsk | OddAsk:
    """The body; an `OddAsk` is yet to be checked. Raises: BadRequest if it is not a JSON object."""
    try:
        return _usual.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return decoded(_odd, raw)


def key_in(ask: RouteAsk | OddAsk) -> str:
    """The key in the body; empty if there is none, or two that differ."""
    key, token = ask.api_key, ask.api_token
    if key and token and key != token:
        return ""
    key = key or token
    return key if isinstance(key, str) else ""


def checked(ask: RouteAsk | OddAsk) -> RouteAsk:
    """The request, with numbers read from quotes and defaults for nulls. Raises: BadRequest naming the field."""
    if isinstance(ask, RouteAsk):
        return ask
    name = ask.endpoint
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise BadRequest(f"endpoint: must be the name of an endpoint, 1 to {MAX_NAME} characters")
    cost = NOT_STATED if ask.cost is None else number(ask.cost, "cost")
    try:
        prefer = msgspec.convert(ask.prefer, Prefer | None)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"prefer: must be an object with the texts `key` and `adapter` and the number `worker`; {error}"
        ) from None
    idx = None if ask.request_idx is None else integer(ask.request_idx, "request_idx")
    return RouteAsk(name, cost, idx, prefer=prefer)
