"""What a call of the fast path is: its row in the table, its request, its answer."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posthouse.http1.messages import Answer, Headers
from posthouse.server.auth import key_in_header
from posthouse.server.errors import Problem
from posthouse.wire import route

if TYPE_CHECKING:
    from posthouse.server.fastpath import FastPath


@dataclass(frozen=True, slots=True)
class Access:
    """Who may make a call, and what finds out who does."""

    name: str
    admit: "Callable[[FastPath, Call, Any], Any]"
    """Who makes a call that says this. Raises: Unauthorized, TooMany."""


Respond = Callable[[Answer], None]
Leave = Callable[[], None]
"""To be called when the client goes before it has been answered."""


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table."""

    method: str
    path: str
    access: Access
    decode: Callable[[bytes], Any]
    """What its body says. Raises: BadRequest."""
    handle: "Callable[[FastPath, Call, Any, Any, Respond], Leave | None]"
    """Answers a call, what it says, and who makes it: now, or later, and then returns what to do if the client leaves
    before. Raises: any error of `posthouse.errors`; nothing has been done then."""
    word: Callable[[Problem], bytes] = lambda problem: route.encode({"error": problem.text})
    """The body of an error."""
    max_bytes: int = 1 << 30
    """Longest body, where `server.max_body_bytes` allows more."""


@dataclass(slots=True)
class Call:
    """A request of the fast path."""

    route: Route
    token: str
    """A worker's, from its path."""
    query: bytes
    headers: Headers
    address: str
    """Where it comes from; empty where that is no address."""
    last: bool = False
    """Its connection ends with the answer."""
    is_head: bool = False
    """The answer is sent without its body."""
    body: bytes = b""
    now: float = 0.0
    """When it is answered, by the server's clock."""
    authorization: str = ""
    """The header of that name; empty if there is none."""
    shown: str = ""
    """The key in it; empty if there is none."""
    proven: bool = False
    """It shows a key, or a worker's token, that is good."""
    counted: bool = False
    """It has been counted as a message of its worker."""
    at_once: bool = True
    """It is answered as soon as it is read, or was."""

    def __post_init__(self) -> None:
        self.authorization = authorization(self.headers)
        self.shown = key_in_header(self.authorization)


def authorization(headers: Headers) -> str:
    """The header of that name; empty if there is none."""
    return next((value for name, value in headers if name == b"authorization"), b"").decode("latin-1")


def begun(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> Leave:
    """Begins what answers a call later; `tasks` keeps it until it is over. Returns what is to be called if the client
    leaves before."""
    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)

    def leave() -> None:
        task.cancel()

    return leave
