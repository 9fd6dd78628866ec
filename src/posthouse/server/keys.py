"""Our own calls about keys and accounts, under /v1."""

import asyncio
from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from posthouse.domain.account import DEFAULT_ACCOUNT, Account, AccountId
from posthouse.domain.errors import BadRequest, NotFound
from posthouse.engine.hub import Hub
from posthouse.ports import KeyRecord
from posthouse.server.auth import Keyring, Principal, Scope
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller

MAX_ACCOUNTS = 1_000
"""Most accounts of an installation: our choice."""


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=255)
    scope: Literal["route", "read", "operate", "admin"]
    account: str = Field(
        default="",
        max_length=255,
        description="Whose key it is, by name; only an admin of the installation may say so.",
    )


class KeyRow(BaseModel):
    id: str
    name: str
    scope: str
    account: str = Field(description="Whose key it is; `default` where there is one account.")
    created_at: float
    last_used_at: float | None
    revoked_at: float | None


class MintedKey(KeyRow):
    key: str = Field(description="The key itself. It is not stored and cannot be shown again.")


class NewAccount(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=255)


class AccountRow(BaseModel):
    id: int = Field(description="`user_id` in the protocol's words.")
    name: str
    created_at: float


def add_key_routes(app: FastAPI, hub: Hub, keyring: Keyring, max_keys: int) -> None:
    one_at_a_time = asyncio.Lock()

    @app.get("/v1/keys")
    async def list_keys(caller: Caller) -> list[KeyRow]:
        """Every key of the account, without the keys themselves. An admin of the installation sees every account's."""
        return [_key_row(hub, r) for r in keyring.records() if caller.may_see(r.account_id)]

    @app.post("/v1/keys", status_code=201)
    async def create_key(new: NewKey, caller: Caller) -> MintedKey:
        """Makes a key. It is in this answer and nowhere else."""
        async with one_at_a_time:
            if len(keyring.records()) >= max_keys:
                raise BadRequest(f"there are {max_keys} keys, revoked ones included: the server's limit")
            _check_name(new.name)
            account_id = _account_id(hub, new.account, caller)
            record, key = keyring.mint(new.name, Scope.named(new.scope), hub.clock.now(), account_id)
            await hub.store.add_key(record)
            keyring.put(record)
        return MintedKey(**_key_row(hub, record).model_dump(), key=key)

    @app.delete("/v1/keys/{key_id}")
    async def revoke_key(key_id: str, caller: Caller) -> KeyRow:
        """Revokes a key, at once and for good."""
        async with one_at_a_time:
            records = {r.id: r for r in keyring.records() if caller.may_see(r.account_id)}
            if key_id not in records:
                raise NotFound(f"there is no key {key_id[:64]!r}")
            if _is_last_admin(key_id, keyring):
                raise BadRequest("this is the last admin key: make another one before you revoke it")
            if not records[key_id].revoked_at:
                now = hub.clock.now()
                await hub.store.revoke_key(key_id, now)
                keyring.revoke(key_id, now)
        return _key_row(hub, keyring.record(key_id))

    @app.get("/v1/accounts")
    async def list_accounts(caller: Caller) -> list[AccountRow]:
        """Every account: the installation's own, `default`, and those that were made. For its admins."""
        _check_installation_admin(caller)
        return [_account_row(account) for account in hub.accounts.values()]

    @app.post("/v1/accounts", status_code=201)
    async def create_account(new: NewAccount, caller: Caller) -> AccountRow:
        """Makes an account, whose keys see its own endpoints, templates and secrets alone. For the same."""
        _check_installation_admin(caller)
        async with one_at_a_time:
            if len(hub.accounts) >= MAX_ACCOUNTS:
                raise BadRequest(f"there are {MAX_ACCOUNTS} accounts, which is the limit")
            _check_name(new.name)
            account = await hub.store.add_account(Account(AccountId(0), new.name, hub.clock.now()))
            hub.accounts[account.id] = account
        return _account_row(account)


def _check_name(name: str) -> None:
    if not name.isprintable() or name != name.strip():
        raise BadRequest("name: must have printable characters only, without blanks around them")


def _check_installation_admin(caller: Principal) -> None:
    if caller.sees is not None:
        raise Forbidden("accounts are for the installation's own admins: this key is of another account")


def _account_id(hub: Hub, name: str, caller: Principal) -> AccountId:
    """The account that a new key is for. Raises: BadRequest, Forbidden."""
    if not name:
        return caller.account_id
    account = next((a for a in hub.accounts.values() if a.name == name), None)
    if caller.sees is not None and (account is None or account.id != caller.account_id):
        raise Forbidden("account: this key may make keys for its own account alone")
    if account is None:
        raise BadRequest(f"account: there is no account {name!r}; `posthouse account list` shows those that there are")
    return account.id


def _is_last_admin(key_id: str, keyring: Keyring) -> bool:
    """True if without this key nobody is admin of the installation any more."""
    admins = [
        r.id for r in keyring.records() if r.scope == "admin" and not r.revoked_at and r.account_id == DEFAULT_ACCOUNT
    ]
    return admins == [key_id]


def _key_row(hub: Hub, record: KeyRecord) -> KeyRow:
    return KeyRow(
        id=record.id,
        name=record.name,
        scope=record.scope,
        account=hub.account_name(record.account_id),
        created_at=record.created_at,
        last_used_at=record.last_used_at or None,
        revoked_at=record.revoked_at or None,
    )


def _account_row(account: Account) -> AccountRow:
    return AccountRow(id=account.id, name=account.name, created_at=account.created_at)
