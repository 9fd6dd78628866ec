"""Rows of what people did, each chained to the one before, written in the transaction of what they tell of."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import Row, Table, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from posthouse.audit import Act, ActRecord, act_of, actor, texts
from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.store.schema import audit, audit_head, endpoints

KEEP: Final = 100_000
"""Rows that are kept; where there are more, the oldest go, `TRIMMED` at a time."""
TRIMMED: Final = 1_000
LOST: Final = "lost"
"""The base of a chain whose head was lost: where it begins, and whether it was cut at its end before, nobody knows."""


def one_of(table: Table) -> str:
    """What a row of the table is called."""
    return table.name.removesuffix("es" if table.name == "aliases" else "s")


async def note_rows(
    db: AsyncConnection, table: Table, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> None:
    """Notes that a row of the table became another one; None: there is none."""
    row = after or before
    assert row is not None
    subject = row["id"] if "id" in row else row["name"]
    account_id, endpoint_id = row.get("account_id", DEFAULT_ACCOUNT), row.get("endpoint_id", 0)
    if table is endpoints:
        endpoint_id = row["id"]
    elif endpoint_id:
        account_id = await db.scalar(select(endpoints.c.account_id).where(endpoints.c.id == endpoint_id))
    await note_act(db, act_of(one_of(table), subject, account_id, before or {}, after or {}, endpoint_id))


async def note_act(db: AsyncConnection, act: Act) -> None:
    """Appends a row, in the name of the current actor."""
    who = actor.get()
    head = (await db.execute(select(audit_head).with_for_update())).one_or_none() or await _new_head(db)
    record = ActRecord(
        id=head.last_id + 1,
        at=who.at or time.time(),
        account_id=act.account_id,
        via=who.via,
        key_id=who.key_id,
        key_name=who.key_name,
        call=who.call,
        request_id=who.request_id,
        action=act.action,
        subject=act.subject,
        name=act.name,
        endpoint_id=act.endpoint_id,
        before=texts(act.before),
        after=texts(act.after),
    )
    new = {"last_id": record.id, "hash": record.hash(head.hash)}
    await db.execute(insert(audit).values(**asdict(record), hash=new["hash"]))
    if record.id - head.first_id >= KEEP + TRIMMED:
        first_id = head.first_id + TRIMMED
        base = await db.scalar(select(audit.c.hash).where(audit.c.id == first_id - 1))
        await db.execute(delete(audit).where(audit.c.id < first_id))
        new |= {"first_id": first_id, "base": base or ""}
    await db.execute(update(audit_head).values(new))


async def _new_head(db: AsyncConnection) -> Row[Any]:
    """A head in place of one that somebody has deleted: nothing is refused for its sake, and `verify` tells of it."""
    last = (await db.execute(select(audit.c.id, audit.c.hash).order_by(audit.c.id.desc()).limit(1))).one_or_none()
    first_id = await db.scalar(select(func.min(audit.c.id))) or 1
    last_id, hash_ = (0, LOST) if last is None else (last.id, last.hash)
    await db.execute(insert(audit_head).values(id=1, first_id=first_id, base=LOST, last_id=last_id, hash=hash_))
    return (await db.execute(select(audit_head))).one()
