"""The client: sends requests to endpoints and manages them, from a program, sync or async."""

from posthouse.client.answers import Answer, Routed, Waiting
from posthouse.client.asynchronous import AsyncClient
from posthouse.client.errors import (
    BadRequest,
    Busy,
    ClientError,
    NotFound,
    TimedOut,
    Unauthorized,
    Unreachable,
    WorkerFailed,
)
from posthouse.client.events import ServerEvent
from posthouse.client.sessions import AsyncSession
from posthouse.client.synchronous import Client, Session

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncSession",
    "BadRequest",
    "Busy",
    "Client",
    "ClientError",
    "NotFound",
    "Routed",
    "ServerEvent",
    "Session",
    "TimedOut",
    "Unauthorized",
    "Unreachable",
    "Waiting",
    "WorkerFailed",
]
