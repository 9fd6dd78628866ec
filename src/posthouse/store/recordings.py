"""Recorded traffic in the database."""

import json
from collections.abc import Sequence
from dataclasses import fields

from sqlalchemy import delete, func, insert, select

from posthouse.domain.endpoint import EndpointId
from posthouse.recording.segment import Segment
from posthouse.store.database import Database
from posthouse.store.schema import segments

ROW_BYTES = 100
"""What a segment takes in the database beside what is in it, about."""


class SqlRecordings(Database):
    """The `Recordings` port."""

    async def add_segment(self, endpoint_id: EndpointId, segment: Segment, keep_bytes: int) -> None:
        self._need_room()
        row = {field.name: getattr(segment, field.name) for field in fields(Segment)}
        size = ROW_BYTES + len(segment.asked) + len(segment.waited) + len(json.dumps(segment.figures))
        newest = segments.c.id.desc()
        sums = select(segments.c.id, func.sum(segments.c.size).over(order_by=newest).label("bytes"))
        of_it = sums.where(segments.c.endpoint_id == endpoint_id).subquery()
        beyond = select(of_it.c.id).where(of_it.c.bytes > keep_bytes)
        async with self._transaction() as db:
            await db.execute(insert(segments).values(**row, endpoint_id=endpoint_id, size=size))
            await db.execute(delete(segments).where(segments.c.id.in_(beyond)))

    async def segments(self, endpoint_id: EndpointId, after: float = 0.0) -> Sequence[Segment]:
        of_it = (segments.c.endpoint_id == endpoint_id, segments.c.until > after)
        wanted = select(*(segments.c[field.name] for field in fields(Segment))).where(*of_it).order_by(segments.c.id)
        return await self._all(wanted, lambda row: Segment(**row._mapping))
