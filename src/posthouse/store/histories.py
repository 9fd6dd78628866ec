"""What endpoints were, in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select

from posthouse.domain.endpoint import EndpointId
from posthouse.recording.history import HistoryChunk
from posthouse.store.database import Database
from posthouse.store.schema import history


class SqlHistories(Database):
    """The `Histories` port."""

    async def put_history(self, chunks: Sequence[HistoryChunk]) -> None:
        self._need_room()
        latest = {(c.endpoint_id, c.scale, c.slot): c for c in sorted(chunks, key=lambda chunk: chunk.number)}
        rows = [asdict(chunk) for chunk in latest.values()]
        keys = [{f"of_{name}": row[name] for name in ("endpoint_id", "scale", "slot")} for row in rows]
        place = [history.c[name] == bindparam(f"of_{name}") for name in ("endpoint_id", "scale", "slot")]
        async with self._transaction() as db:
            await db.execute(delete(history).where(*place), keys)
            await db.execute(insert(history), rows)

    async def history(self, endpoint_id: EndpointId, scale: int, first: int) -> Sequence[HistoryChunk]:
        of_it = (history.c.endpoint_id == endpoint_id, history.c.scale == scale, history.c.number >= first)
        return await self._all(select(history).where(*of_it).order_by(history.c.number), _chunk)

    async def latest_history(self, endpoint_id: EndpointId) -> Sequence[HistoryChunk]:
        of_it = history.c.endpoint_id == endpoint_id
        newest = select(history.c.scale, func.max(history.c.number).label("number")).where(of_it)
        found = newest.group_by(history.c.scale).subquery()
        same = (history.c.scale == found.c.scale) & (history.c.number == found.c.number)
        return await self._all(select(history).join(found, same).where(of_it), _chunk)


def _chunk(row: Row[Any]) -> HistoryChunk:
    return HistoryChunk(**row._mapping)
