"""What endpoints were, in the database."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, func, insert, select

from posthouse.domain.endpoint import EndpointId
from posthouse.recording.history import DeletedEndpoint, HistoryChunk
from posthouse.store.database import Database
from posthouse.store.schema import deleted_endpoints, history


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

    async def history(self, endpoint_ids: Collection[EndpointId], scale: int, first: int) -> Sequence[HistoryChunk]:
        of_them = history.c.endpoint_id.in_(endpoint_ids), history.c.scale == scale, history.c.number >= first
        return await self._all(select(history).where(*of_them).order_by(history.c.number), _chunk)

    async def latest_history(
        self, endpoint_ids: Collection[EndpointId], scale: int | None = None
    ) -> Sequence[HistoryChunk]:
        place = history.c.endpoint_id, history.c.scale
        newest = select(*place, func.max(history.c.number).label("number")).group_by(*place)
        newest = newest.where(place[0].in_(endpoint_ids), *([] if scale is None else [place[1] == scale]))
        found = newest.subquery()
        same = [history.c[column.name] == column for column in found.c]
        return await self._all(select(history).join(found, and_(*same)), _chunk)

    async def deleted_endpoints(self) -> Sequence[DeletedEndpoint]:
        return await self._all(select(deleted_endpoints), lambda row: DeletedEndpoint(**row._mapping))


def _chunk(row: Row[Any]) -> HistoryChunk:
    return HistoryChunk(**row._mapping)
