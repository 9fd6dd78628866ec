"""Users: people who sign in to the console with a name and a password."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import NewUser, UserChanges
from posthouse.engine.management.shared import check_name
from posthouse.errors import BadRequest, NotFound
from posthouse.users import UserRecord

MAX_USERS = 1_000
"""Most users of an installation: our choice."""


class Hasher(Protocol):
    """Makes what is stored of a password."""

    async def hash(self, password: str) -> str: ...


@dataclass(slots=True)
class Users:
    """The use cases of users."""

    hub: Hub
    hasher: Hasher
    leave: Callable[[UserRecord], Awaitable[None]]
    """Ends the sessions of a user."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def seen(self, sees: AccountId | None) -> list[UserRecord]:
        """The users of this account; of all, for None."""
        return [user for user in self.hub.users.values() if sees in (None, user.account_id)]

    async def create(self, new: NewUser, owner: AccountId) -> UserRecord:
        """The new user. Raises: BadRequest."""
        check_name(new.name)
        async with self.lock:
            if len(self.hub.users) >= MAX_USERS:
                raise BadRequest(f"there are {MAX_USERS} users, which is the limit")
            hash_, now = await self.hasher.hash(new.password), self.hub.clock.now()
            user = await self.hub.store.add_user(UserRecord(0, new.name, new.scope, hash_, now, owner))
            self.hub.users[user.name] = user
            return user

    async def change(self, name: str, changes: UserChanges, sees: AccountId | None) -> UserRecord:
        """The user with another password or scope, whose sessions end. Raises: NotFound."""
        async with self.lock:
            user = self._one(name, sees)
            if changes.scope is not None:
                user = replace(user, scope=changes.scope)
            if changes.password is not None:
                user = replace(user, password=await self.hasher.hash(changes.password))
            await self.hub.store.change_user(user)
            self.hub.users[name] = user
            await self.leave(user)
            return user

    async def delete(self, name: str, sees: AccountId | None) -> UserRecord:
        """The user, who may sign in no more, and whose sessions end. Raises: NotFound."""
        async with self.lock:
            user = self._one(name, sees)
            await self.hub.store.drop_user(user.id)
            del self.hub.users[name]
            await self.leave(user)
            return user

    def _one(self, name: str, sees: AccountId | None) -> UserRecord:
        """Raises: NotFound."""
        user = self.hub.users.get(name)
        if user is None or sees not in (None, user.account_id):
            raise NotFound(f"there is no user {name[:64]!r}")
        return user
