"""Accounts, keys, users, sessions and secrets in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import case, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from posthouse.domain.endpoint import AccountId
from posthouse.keys import KeyRecord, KeyUse
from posthouse.ports import Account
from posthouse.store.checksums import fields_of, with_checksum
from posthouse.store.database import Database, missing, note_change, note_revision, to_change
from posthouse.store.schema import accounts, keys, secrets, sessions, users
from posthouse.users import SessionRecord, UserRecord


class SqlKeys(Database):
    """The `Keys` port."""

    async def accounts(self) -> Sequence[Account]:
        return await self._all(select(accounts).order_by(accounts.c.id), lambda row: Account(**fields_of(row)))

    async def add_account(self, account: Account) -> Account:
        return replace(account, id=AccountId(await self._add(accounts, asdict(account))))

    async def keys(self) -> Sequence[KeyRecord]:
        return await self._all(
            select(keys).order_by(keys.c.created_at, keys.c.id), lambda row: KeyRecord(**fields_of(row))
        )

    async def add_key(self, key: KeyRecord) -> None:
        await self._add(keys, asdict(key))

    async def revoke_key(self, key_id: str, revoked_at: float) -> None:
        first = case((keys.c.revoked_at > 0, keys.c.revoked_at), else_=revoked_at)
        async with self._transaction() as db:
            await self._change_noted(db, key_id, revoked_at=first)

    async def change_key(self, key: KeyRecord) -> None:
        row = with_checksum(keys, asdict(key))
        changed = {name: row[name] for name in ("name", *asdict(key.limits), "checksum")}
        async with self._transaction() as db:
            await self._change_noted(db, key.id, **changed)

    async def note_key_use(self, key_id: str, used_at: float, use: KeyUse | None = None) -> None:
        use = use or KeyUse()
        more = {
            "last_used_at": case((keys.c.last_used_at > used_at, keys.c.last_used_at), else_=used_at),
            "used_requests": keys.c.used_requests + use.requests,
            "used_work": keys.c.used_work + use.work,
            "refused_requests": keys.c.refused_requests + use.refused,
        }
        async with self._transaction() as db:
            await self._change(db, key_id, **more)

    async def _change_noted(self, db: AsyncConnection, key_id: str, **values: Any) -> None:
        before = await to_change(db, keys, keys.c.id == key_id)
        await self._change(db, key_id, **values)
        await note_change(db, keys, (before, await to_change(db, keys, keys.c.id == key_id)))

    async def _change(self, db: AsyncConnection, key_id: str, **values: Any) -> None:
        result = await db.execute(update(keys).where(keys.c.id == key_id).values(values))
        if not result.rowcount:
            raise missing(keys, key_id)

    async def users(self) -> Sequence[UserRecord]:
        return await self._all(select(users).order_by(users.c.id), lambda row: UserRecord(**fields_of(row)))

    async def add_user(self, user: UserRecord) -> UserRecord:
        return replace(user, id=await self._add(users, asdict(user)))

    async def change_user(self, user: UserRecord) -> None:
        row = with_checksum(users, asdict(user))
        async with self._transaction() as db:
            if (before := await to_change(db, users, users.c.id == user.id)) is None:
                raise missing(users, user.id)
            await db.execute(update(users).where(users.c.id == user.id).values(row))
            await note_change(db, users, (before, row))

    async def drop_user(self, user_id: int) -> None:
        await self._drop(users, user_id)

    async def sessions(self) -> Sequence[SessionRecord]:
        return await self._all(
            select(sessions).order_by(sessions.c.began_at), lambda row: SessionRecord(**row._mapping)
        )

    async def put_session(self, session: SessionRecord, ended: Collection[str]) -> None:
        async with self._transaction() as db:
            await db.execute(delete(sessions).where(sessions.c.digest.in_(ended)))
            await db.execute(insert(sessions).values(asdict(session)))
            await note_revision(db, sessions)

    async def drop_sessions(self, digests: Collection[str]) -> None:
        async with self._transaction() as db:
            await db.execute(delete(sessions).where(sessions.c.digest.in_(digests)))
            await note_revision(db, sessions)

    async def secrets(self) -> Mapping[AccountId, Mapping[str, str]]:
        found: dict[AccountId, dict[str, str]] = {}
        async with self._transaction() as db:
            for row in await db.execute(select(secrets).order_by(secrets.c.name)):
                found.setdefault(AccountId(row.account_id), {})[row.name] = row.sealed
        return found

    async def put_secret(self, account_id: AccountId, name: str, sealed: str) -> None:
        of_it = (secrets.c.account_id == account_id, secrets.c.name == name)
        async with self._transaction() as db:
            before = await to_change(db, secrets, *of_it)
            await db.execute(delete(secrets).where(*of_it))
            row = with_checksum(secrets, {"account_id": account_id, "name": name, "sealed": sealed})
            await db.execute(insert(secrets).values(row))
            await note_change(db, secrets, (before, row))

    async def drop_secret(self, account_id: AccountId, name: str) -> None:
        await self._drop(secrets, account_id, name)
