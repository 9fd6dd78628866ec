"""What people did, in the database."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from sqlalchemy import Row, Select, or_, select

from posthouse.audit import Act, ActCheck, ActFilter, ActRecord
from posthouse.store.acts import LOST, note_act
from posthouse.store.database import Database
from posthouse.store.schema import audit, audit_head

PAGE: Final = 500
"""Rows that are looked at in one transaction: some milliseconds, in which nobody else writes."""
MAX_PROBLEMS: Final = 20


class SqlAudit(Database):
    """The `Audit` port."""

    async def note(self, act: Act) -> None:
        async with self._transaction() as db:
            await note_act(db, act)

    async def acts(self, wanted: ActFilter) -> Sequence[ActRecord]:
        return await self._all(_query(wanted), _record)

    async def check_acts(self, witness: str = "") -> ActCheck:
        async with self._transaction() as db:
            head = (await db.execute(select(audit_head))).one_or_none()
        if head is None:
            return ActCheck(0, 0, "", ("the head of the chain is missing: somebody has deleted it",))
        walk = _Walk(head, *_split(witness))
        while rows := await self._all(
            select(audit).where(audit.c.id > walk.at).order_by(audit.c.id).limit(PAGE), lambda row: row
        ):
            for row in rows:
                walk.take(row)
            if walk.at >= head.last_id + PAGE:
                break
        async with self._transaction() as db:
            now = (await db.execute(select(audit_head))).one_or_none()
        walk.end(0 if now is None else now.last_id)
        return ActCheck(head.first_id, head.last_id, head.hash, tuple(walk.problems[:MAX_PROBLEMS]))


class _Walk:
    """A walk along the chain, and what it met. Rows that are written meanwhile are looked at, too."""

    def __init__(self, head: Row[Any], witness_id: int, witness: str) -> None:
        self.at = -(2**62)
        self.problems: list[str] = []
        self._head, self._witness_id, self._witness = head, witness_id, witness
        self._next, self._hash = head.first_id, head.base
        if head.base == LOST:
            self.problems.append("the head of the chain was deleted once: rows may have been removed at either end")
        if witness_id and not head.first_id <= witness_id <= head.last_id:
            self.problems.append(f"row {witness_id}, which was noted elsewhere, is not there")

    def take(self, row: Row[Any]) -> None:
        """Checks the next row."""
        self.at = row.id
        if row.id < self._next:
            self.problems.append(f"row {row.id} was added: the chain begins at {self._head.first_id}")
            return
        if row.id > self._next:
            self.problems.append(_gone(self._next, row.id - 1))
        elif row.hash != _record(row).hash(self._hash) and not (self._hash == LOST and row.id == self._head.first_id):
            self.problems.append(f"row {row.id} is not what was written, or the one before it is not")
        if row.id == self._head.last_id and row.hash != self._head.hash:
            self.problems.append(f"row {row.id} is not the one that the head of the chain names")
        if row.id == self._witness_id and row.hash != self._witness:
            self.problems.append(f"row {row.id} has another hash than the one that was noted elsewhere")
        self._next, self._hash = row.id + 1, row.hash

    def end(self, last_id: int) -> None:
        """Checks the end of the chain. `last_id`: of the last row by now."""
        if self._next <= self._head.last_id:
            self.problems.append(_gone(self._next, self._head.last_id))
        if self._next > last_id + 1:
            self.problems.append(f"rows after {last_id} were added: there the chain ends")


def _gone(first: int, last: int) -> str:
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"


def _split(witness: str) -> tuple[int, str]:
    """Id and hash of what was noted as ID:HASH."""
    number, _, hash_ = witness.partition(":")
    return (int(number), hash_) if witness else (0, "")


def _record(row: Row[Any]) -> ActRecord:
    return ActRecord(**{field.name: row._mapping[field.name] for field in fields(ActRecord)})


def _query(wanted: ActFilter) -> Select[Any]:
    query = select(audit).order_by(audit.c.id.desc()).limit(wanted.limit)
    if wanted.account_id is not None:
        query = query.where(audit.c.account_id == wanted.account_id)
    if wanted.before:
        query = query.where(audit.c.id < wanted.before)
    if wanted.action:
        begins = audit.c.action.startswith(f"{wanted.action}.", autoescape=True)
        query = query.where(or_(audit.c.action == wanted.action, begins))
    if wanted.key:
        query = query.where(or_(audit.c.key_id == wanted.key, audit.c.key_name == wanted.key))
    for column in (audit.c.subject, audit.c.endpoint_id, audit.c.request_id):
        if value := getattr(wanted, column.name):
            query = query.where(column == value)
    if wanted.since:
        query = query.where(audit.c.at >= wanted.since)
    if wanted.until:
        query = query.where(audit.c.at < wanted.until)
    return query
