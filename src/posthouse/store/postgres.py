"""A database on a server of PostgreSQL."""

from importlib.util import find_spec
from typing import Any

from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from posthouse.errors import BadRequest
from posthouse.store.integrity import Damaged, damaged
from posthouse.store.schema import VERSION

DRIVER = "postgresql+asyncpg"
POOL_SIZE = 5
"""Connections at rest, and half of the most."""
QUEUE_S = 15.0
"""How long a call waits for a connection."""
ANSWER_S = 10.0
"""How long a statement may take: less than what waits for its end."""
SESSION = {
    # A server that stands still, or is cut off, in a transaction must not keep what it has locked from its successor.
    "idle_in_transaction_session_timeout": "2000",  # ms: as long as a lease
    # And the database must not keep the connections of one that is cut off.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",  # ms
}
"""What every connection asks of the database."""
OPENING = 0x706F7374
"""The advisory lock held while the tables are made or migrated."""


class PostgresServer:
    """The `Backend` that is a server. Its own locks and checks are relied on."""

    def __init__(self, url: URL) -> None:
        if not url.database:
            raise BadRequest("the store's URL must name a database: postgresql://USER:PASSWORD@HOST/DATABASE")
        if find_spec("asyncpg") is None:
            raise BadRequest("a store on PostgreSQL needs a driver: pip install 'posthouse[postgres]'")
        self.name = f"{url.database} at {url.host or 'the local socket'}"
        self.engine = create_async_engine(
            url.set(drivername=DRIVER),
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,
            pool_timeout=QUEUE_S,
            pool_pre_ping=True,  # a server that was restarted has closed what is in the pool
            hide_parameters=True,
            connect_args={"timeout": ANSWER_S, "command_timeout": ANSWER_S, "server_settings": SESSION},
        )
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def connect(self, answer_s: float) -> Any:
        """A connection of the driver's own, beside the pool. `answer_s`: how long a statement may take."""
        import asyncpg

        named = {**SESSION, "application_name": VERSION}  # what `servers.schema` is by default
        return await asyncpg.connect(self._dsn, timeout=answer_s, command_timeout=answer_s, server_settings=named)

    async def open(self) -> None:
        return None

    def check(self) -> None:
        return None

    def wrote(self) -> None:
        return None

    def low_mb(self) -> float | None:
        return None

    def begin_opening(self, connection: Connection) -> None:
        take_time(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": OPENING})

    def advice(self, error: BaseException) -> str:
        return damaged("database") if isinstance(error, Damaged | ValueError | TypeError) else ""

    async def close(self) -> None:
        await self.engine.dispose()


def take_time(connection: Connection) -> None:
    """Lets a transaction stand still for as long as it likes, where the database is one of PostgreSQL."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
