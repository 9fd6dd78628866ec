"""Keys and accounts: made and revoked."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from posthouse.config import Limits
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import KeyChanges, NewAccount, NewKey
from posthouse.engine.management.shared import check_name
from posthouse.errors import BadRequest, NotFound
from posthouse.keys import KeyLimits, KeyRecord
from posthouse.ports import Account

MAX_ACCOUNTS = 1_000
"""Most accounts of an installation: our choice."""


class KeyStock(Protocol):
    """The keys of the installation, in memory."""

    def records(self) -> Sequence[KeyRecord]: ...

    def record(self, key_id: str) -> KeyRecord: ...

    def mint_key(self, name: str, scope: str, now: float, account_id: AccountId) -> tuple[KeyRecord, str]: ...

    def put(self, record: KeyRecord) -> None: ...

    def revoke(self, key_id: str, now: float) -> None: ...


@dataclass(slots=True)
class Keys:
    """The use cases of keys and accounts."""

    hub: Hub
    limits: Limits
    stock: KeyStock
    lock: asyncio.Lock

    def seen(self, sees: AccountId | None) -> list[KeyRecord]:
        """The keys of this account; of all, for None."""
        return [r for r in self.stock.records() if sees in (None, r.account_id)]

    async def create(self, new: NewKey, owner: AccountId) -> tuple[KeyRecord, str]:
        """The new key's record, and the key itself. Raises: BadRequest."""
        async with self.lock:
            if len(self.stock.records()) >= self.limits.keys:
                raise BadRequest(f"there are {self.limits.keys} keys, revoked ones included: the server's limit")
            check_name(new.name)
            record, key = self.stock.mint_key(new.name, new.scope, self.hub.clock.now(), owner)
            record = record.within(new.limits(KeyLimits()))
            await self.hub.store.add_key(record)
            self.stock.put(record)
            return record, key

    async def change(self, key_id: str, changes: KeyChanges, sees: AccountId | None) -> KeyRecord:
        """The record of the key with another name or other limits. Raises: BadRequest, NotFound."""
        async with self.lock:
            record = self._one(key_id, sees)
            if record.revoked_at:
                raise BadRequest(f"the key {key_id} is revoked")
            if changes.name is not None:
                check_name(changes.name)
                record = replace(record, name=changes.name)
            record = record.within(changes.limits(record.limits))
            await self.hub.store.change_key(record)
            self.stock.put(record)
            return self.stock.record(key_id)

    def _one(self, key_id: str, sees: AccountId | None) -> KeyRecord:
        """Raises: NotFound."""
        for record in self.seen(sees):
            if record.id == key_id:
                return record
        raise NotFound(f"there is no key {key_id[:64]!r}")

    async def revoke(self, key_id: str, sees: AccountId | None) -> KeyRecord:
        """The record of the key, which is worth nothing from now on. Raises: BadRequest, NotFound."""
        async with self.lock:
            record = self._one(key_id, sees)
            if self._is_last_admin(key_id):
                raise BadRequest("this is the last admin key: make another one before you revoke it")
            if not record.revoked_at:
                now = self.hub.clock.now()
                await self.hub.store.revoke_key(key_id, now)
                self.stock.revoke(key_id, now)
            return self.stock.record(key_id)

    async def create_account(self, new: NewAccount) -> Account:
        """The new account. Raises: BadRequest."""
        async with self.lock:
            if len(self.hub.accounts) >= MAX_ACCOUNTS:
                raise BadRequest(f"there are {MAX_ACCOUNTS} accounts, which is the limit")
            check_name(new.name)
            account = await self.hub.store.add_account(Account(AccountId(0), new.name, self.hub.clock.now()))
            self.hub.accounts[account.id] = account
            return account

    def _is_last_admin(self, key_id: str) -> bool:
        """True if without this key nobody is admin of the installation any more."""
        own = [r for r in self.stock.records() if r.account_id == DEFAULT_ACCOUNT]
        return [r.id for r in own if r.scope == "admin" and not r.revoked_at] == [key_id]
