"""Our own calls about keys, users and accounts, under /v1."""

from typing import Any

from fastapi import FastAPI, Request

from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.engine.management.inputs import KEY_LIMITS, KeyChanges, NewAccount, NewKey, NewUser, UserChanges
from posthouse.engine.management.users import Users
from posthouse.errors import BadRequest
from posthouse.keys import KeyRecord
from posthouse.ports import Account
from posthouse.server.api.costs import usd_month
from posthouse.server.auth import Principal
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller, Sharing, check_installation_admin, is_passed
from posthouse.users import UserRecord
from posthouse.wire import rows


def add_key_routes(app: FastAPI, management: Management, users: Users, sharing: Sharing) -> None:
    hub, keys = management.hub, management.keys

    @app.get("/v1/keys")
    async def list_keys(request: Request, caller: Caller) -> list[rows.Key]:
        """Every key of the account, without the keys themselves. An admin of the installation sees every account's."""
        usd = await usd_month(hub, caller, is_passed(request))
        for other in await sharing.others(request):
            for row in other:
                usd[row["id"]] += row["usd_month"]
        return [
            rows.Key(**_key_fields(hub, record), usd_month=usd.get(record.id, 0.0)) for record in keys.seen(caller.sees)
        ]

    @app.post("/v1/keys", status_code=201)
    async def create_key(new: NewKey, caller: Caller) -> rows.MintedKey:
        """Makes a key. It is in this answer and nowhere else."""
        record, key = await keys.create(new, _account_id(hub, new.account, caller))
        return rows.MintedKey(**_key_fields(hub, record), key=key)

    @app.put("/v1/keys/{key_id}")
    async def change_key(key_id: str, changes: KeyChanges, caller: Caller) -> rows.Key:
        """Gives a key other limits, or another name. The key itself, and what it has used, stay."""
        return rows.Key(**_key_fields(hub, await keys.change(key_id, changes, caller.sees)))

    @app.delete("/v1/keys/{key_id}")
    async def revoke_key(key_id: str, caller: Caller) -> rows.Key:
        """Revokes a key, at once and for good."""
        return rows.Key(**_key_fields(hub, await keys.revoke(key_id, caller.sees)))

    @app.get("/v1/users")
    async def list_users(caller: Caller) -> list[rows.ConsoleUser]:
        """Who may sign in to the console with a password. An admin of the installation sees every account's."""
        return [_user_row(hub, user) for user in users.seen(caller.sees)]

    @app.post("/v1/users", status_code=201)
    async def create_user(new: NewUser, caller: Caller) -> rows.ConsoleUser:
        """Lets somebody sign in to the console with a name and a password, of which a hash is kept."""
        return _user_row(hub, await users.create(new, _account_id(hub, new.account, caller)))

    @app.put("/v1/users/{name}")
    async def change_user(name: str, changes: UserChanges, caller: Caller) -> rows.ConsoleUser:
        """Gives a user another password or scope. The user's sessions end."""
        return _user_row(hub, await users.change(name, changes, caller.sees))

    @app.delete("/v1/users/{name}")
    async def delete_user(name: str, caller: Caller) -> rows.ConsoleUser:
        """Deletes a user, whose sessions end."""
        return _user_row(hub, await users.delete(name, caller.sees))

    @app.get("/v1/accounts")
    async def list_accounts(caller: Caller) -> list[rows.Account]:
        """Every account: the installation's own, `default`, and those that were made. For its admins."""
        check_installation_admin(caller, "accounts")
        return [_account_row(account) for account in hub.accounts.values()]

    @app.post("/v1/accounts", status_code=201)
    async def create_account(new: NewAccount, caller: Caller) -> rows.Account:
        """Makes an account, whose keys see its own endpoints, templates and secrets alone. For the same."""
        check_installation_admin(caller, "accounts")
        return _account_row(await keys.create_account(new))


def _account_id(hub: Hub, name: str, caller: Principal) -> AccountId:
    """The account that a new key or user is for. Raises: BadRequest, Forbidden."""
    if not name:
        return caller.account_id
    account = next((a for a in hub.accounts.values() if a.name == name), None)
    if caller.sees is not None and (account is None or account.id != caller.account_id):
        raise Forbidden("account: this key may make keys and users for its own account alone")
    if account is None:
        raise BadRequest(f"account: there is no account {name!r}; `posthouse account list` shows those that there are")
    return account.id


def _key_fields(hub: Hub, record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "scope": record.scope,
        "account": hub.account_name(record.account_id),
        "created_at": record.created_at,
        "last_used_at": record.last_used_at or None,
        "revoked_at": record.revoked_at or None,
        **{name: getattr(record, name) or None for name in KEY_LIMITS},
        "used_requests": record.used_requests,
        "used_work": record.used_work,
        "refused_requests": record.refused_requests,
    }


def _user_row(hub: Hub, user: UserRecord) -> rows.ConsoleUser:
    account = hub.account_name(user.account_id)
    return rows.ConsoleUser(name=user.name, scope=user.scope, account=account, created_at=user.created_at)


def _account_row(account: Account) -> rows.Account:
    return rows.Account(id=account.id, name=account.name, created_at=account.created_at)
