"""Servers that share a database of PostgreSQL: which are alive, and which endpoint each of them owns.

A server is alive as long as its row exists. It renews its lease in one statement for all that it owns; any other server
may delete a row whose lease has expired. A fleet is free when the server in its row is not alive. The statement that
gives it a new owner raises its epoch, so that commits of the former owner are refused from then on.

All statements use one connection of their own, which waits for no other transaction and receives notifications.
"""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, EndpointId
from posthouse.errors import Unavailable
from posthouse.sharing import LiveServer
from posthouse.store.checksums import with_checksum
from posthouse.store.database import CHANNEL, RETRY_S
from posthouse.store.fleets import new_fleet
from posthouse.store.postgres import PostgresServer
from posthouse.store.schema import fleets

NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
FREE: Final = "NOT EXISTS (SELECT FROM servers s WHERE s.name = f.server)"
"""Of a fleet `f`."""
WANTED: Final = (
    "(EXISTS (SELECT FROM endpoints e WHERE e.id = f.endpoint_id) OR EXISTS "
    "(SELECT FROM workers w WHERE w.endpoint_id = f.endpoint_id AND w.state <> 'destroyed'))"
)
"""Of a fleet `f`: that there is something to be done about it."""
LIVES: Final = "EXISTS (SELECT FROM servers WHERE name = $1)"
TOLD: Final = f"SELECT pg_notify('{CHANNEL}', 'owners')"

REGISTER: Final = f"INSERT INTO servers (name, url, until) VALUES ($1, $2, {NOW} + $3)"  # noqa: S608
RENEW: Final = f"""
    WITH own AS (UPDATE servers SET until = {NOW} + $2 WHERE name = $1 RETURNING name)
    SELECT name, url, until < {NOW} AS expired, {NOW} AS now, EXISTS (SELECT FROM own) AS alive
    FROM servers ORDER BY name
"""  # noqa: S608
EVICT_EXPIRED: Final = f"DELETE FROM servers WHERE name <> $1 AND until < {NOW} RETURNING name"  # noqa: S608
OWNERS: Final = f"""
    SELECT endpoint_id, CASE WHEN {FREE} THEN '' ELSE server END AS server FROM fleets f WHERE {WANTED}
"""  # noqa: S608
# PostgreSQL locks a row as it is now, but checks what a condition says of other tables as they were when the statement
# began: only the epoch that was seen then says that nobody has taken it meanwhile.
CLAIM: Final = f"""
    WITH seen AS MATERIALIZED (SELECT endpoint_id, epoch FROM fleets f WHERE {FREE} AND {WANTED}),
    chosen AS (
        SELECT f.endpoint_id FROM fleets f JOIN seen USING (endpoint_id, epoch)
        ORDER BY f.endpoint_id LIMIT $2 FOR UPDATE OF f SKIP LOCKED)
    UPDATE fleets SET server = $1, epoch = epoch + 1
    WHERE endpoint_id IN (SELECT endpoint_id FROM chosen) AND {LIVES} RETURNING endpoint_id, epoch
"""  # noqa: S608
ACQUIRE: Final = f"""
    WITH seen AS MATERIALIZED (SELECT epoch FROM fleets f WHERE endpoint_id = $2 AND (server = $1 OR {FREE}))
    UPDATE fleets f SET server = $1, epoch = f.epoch + 1 FROM seen
    WHERE endpoint_id = $2 AND f.epoch = seen.epoch AND {LIVES} RETURNING f.epoch
"""  # noqa: S608
MISSING: Final = """
    SELECT id, account_id FROM endpoints e WHERE NOT EXISTS (SELECT FROM fleets f WHERE f.endpoint_id = e.id)
"""
ADD: Final = """
    INSERT INTO fleets (endpoint_id, account_id, epoch, version, spent_usd, checksum)
    VALUES ($1, $2, 0, 0, 0, $3) ON CONFLICT DO NOTHING
"""


class PostgresServers:
    """The `Servers` port. Raises: Unavailable from every call while the database cannot be used."""

    def __init__(self, backend: PostgresServer, answer_s: float) -> None:
        """`answer_s`: how long a statement may take: less than a lease."""
        self._backend = backend
        self._answer_s = answer_s
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self.on_notice: Callable[[str], None] = lambda topic: None

    async def register(self, server: str, url: str, lease_s: float) -> None:
        await self._run("DELETE FROM servers WHERE split_part(name, '-', 1) = $1", server.partition("-")[0])
        await self._run(REGISTER, server, url, lease_s)
        await self._run(TOLD)

    async def renew(self, server: str, lease_s: float) -> tuple[Sequence[LiveServer], float] | None:
        rows = await self._run(RENEW, server, lease_s)
        if not rows or not rows[0]["alive"]:
            return None
        living = [LiveServer(row["name"], row["url"], row["expired"] and row["name"] != server) for row in rows]
        return living, float(rows[0]["now"])

    async def evict_expired(self, server: str) -> Sequence[str]:
        return [row["name"] for row in await self._run(EVICT_EXPIRED, server)]

    async def withdraw(self, server: str) -> None:
        await self._run("UPDATE servers SET url = '' WHERE name = $1", server)

    async def deregister(self, server: str) -> None:
        if await self._run("DELETE FROM servers WHERE name = $1 RETURNING name", server):
            await self._run(TOLD)

    async def owners(self) -> Mapping[EndpointId, str]:
        await self._add_missing()
        return {EndpointId(row["endpoint_id"]): row["server"] for row in await self._run(OWNERS)}

    async def claim(self, server: str, most: int) -> Mapping[EndpointId, int]:
        claimed = {EndpointId(row["endpoint_id"]): row["epoch"] for row in await self._run(CLAIM, server, most)}
        if claimed:
            await self._run(TOLD)
        return claimed

    async def acquire(self, server: str, endpoint_id: EndpointId) -> int | None:
        for _ in range(2):
            if taken := await self._run(ACQUIRE, server, endpoint_id):
                await self._run(TOLD)
                return int(taken[0]["epoch"])
            await self._add_missing()
            await self._add(endpoint_id, DEFAULT_ACCOUNT)  # of endpoints that were deleted
        return None

    async def release(self, server: str, endpoint_id: EndpointId) -> None:
        freed = "UPDATE fleets SET server = '-' WHERE endpoint_id = $2 AND server = $1"
        await self._run(freed, server, endpoint_id)
        await self._run(TOLD)

    async def shared_file(self, name: str) -> bytes | None:
        rows = await self._run("SELECT body FROM shared_files WHERE name = $1", name)
        return base64.b64decode(rows[0]["body"]) if rows else None

    async def put_shared_file(self, name: str, body: bytes, replace: bool = False) -> bytes:
        conflict = "UPDATE SET body = excluded.body" if replace else "NOTHING"
        insert = f"INSERT INTO shared_files (name, body) VALUES ($1, $2) ON CONFLICT (name) DO {conflict}"  # noqa: S608
        await self._run(insert, name, base64.b64encode(body).decode())
        return await self.shared_file(name) or body

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                await connection.close(timeout=1.0)

    async def _add_missing(self) -> None:
        """Adds the fleets of endpoints that no server has had yet."""
        for row in await self._run(MISSING):
            await self._add(row["id"], row["account_id"])

    async def _add(self, endpoint_id: int, account_id: int) -> None:
        """Adds a fleet, unless it is there."""
        fleet = with_checksum(fleets, new_fleet(endpoint_id, account_id, 0))
        await self._run(ADD, endpoint_id, account_id, fleet["checksum"])

    async def _run(self, statement: str, *values: object) -> list[Any]:
        async with self._turn:
            try:
                async with asyncio.timeout(self._answer_s):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await self._backend.connect(self._answer_s)
                        await self._connection.add_listener(CHANNEL, self._heard)
                    found: list[Any] = await self._connection.fetch(statement, *values)
                    return found
            except Exception as error:  # whatever the driver raises, the connection is worth nothing now
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                raise Unavailable(f"the database cannot be used now: {error!r}"[:300], RETRY_S) from error

    def _heard(self, connection: object, process: int, channel: str, topic: object) -> None:
        self.on_notice(str(topic))
