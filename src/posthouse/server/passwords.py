"""Passwords of the console's users: hashed by Argon2id, a few at a time, and never on the event loop."""

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from posthouse.errors import TooMany

if TYPE_CHECKING:
    from argon2 import PasswordHasher

T = TypeVar("T")

AT_ONCE: Final = 2
"""Hashes that are computed at a time: each takes 64 MiB and some hundredths of a second of up to four processors."""
MAX_WAITING: Final = 32
"""Most that wait for their turn; those beyond are put off."""


class Passwords:
    """Makes hashes and compares with them. Parameters are the library's: RFC 9106, for little memory."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._inside = 0
        self._nobodys = ""

    async def hash(self, password: str) -> str:
        """The hash, with its parameters and a salt. Raises: TooMany."""
        return await self._in_turn(self._hash, password)

    async def fits(self, hash_: str | None, password: str) -> bool:
        """Whether the hash is of this password. None: it is nobody's, which takes as long. Raises: TooMany."""
        if not self._nobodys:
            self._nobodys = await self.hash(secrets.token_urlsafe())
        return await self._in_turn(self._fits, hash_ or self._nobodys, password) and hash_ is not None

    async def _in_turn(self, compute: Callable[..., T], *texts: str) -> T:
        if self._inside >= AT_ONCE + MAX_WAITING:
            raise TooMany("too many passwords are being checked", 1.0)
        self._inside += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(compute, *texts)
        finally:
            self._inside -= 1

    def _hash(self, password: str) -> str:
        return str(hasher().hash(_normal(password)))

    def _fits(self, hash_: str, password: str) -> bool:
        from argon2.exceptions import InvalidHashError, VerificationError

        try:
            return bool(hasher().verify(hash_, _normal(password)))
        except (VerificationError, InvalidHashError):
            return False


@lru_cache(1)
def hasher() -> "PasswordHasher":
    """Loaded when the first password is used, which is never on many servers."""
    from argon2 import PasswordHasher

    return PasswordHasher()


def _normal(password: str) -> str:
    """The same whichever keyboard typed it."""
    return unicodedata.normalize("NFKC", password)
