"""Who is signed in to the console: a session stands for a proof that was shown once, and is in memory alone.

The browser keeps a random token in a cookie that no script can read and no other site can send. Calls that change
something must also carry a second token, which only a page of this origin can learn.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from starlette.requests import cookie_parser

from posthouse.server.auth import Keyring, Principal
from posthouse.server.errors import Forbidden

LASTS_S: Final = 43_200.0
"""How long a session lasts: a working day."""
MAX_SESSIONS: Final = 1000
MAX_OF_A_KEY: Final = 50
"""Sessions of one key or user; the oldest goes for a new one."""
MAX_COOKIES: Final = 8192
"""Longest header Cookie that is read, in characters."""
CSRF_HEADER: Final = "x-csrf-token"
OWN_SITES: Final = ("same-origin", "none")
"""What browsers say of a call that comes from a page of ours, or from the address bar."""
SAFE: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session."""

    principal: Principal
    csrf: str
    began_at: float

    @property
    def expires_at(self) -> float:
        return self.began_at + LASTS_S


@dataclass(slots=True)
class Sessions:
    """Every session, the oldest first."""

    keyring: Keyring
    cookie: str
    """Name of the cookie: another one for each installation, as browsers do not tell ports apart."""
    _by_digest: dict[str, SignedIn] = field(default_factory=dict)

    def open(self, principal: Principal, now: float) -> tuple[str, SignedIn]:
        """A new session, and what its browser shows from now on."""
        self._expire(now)
        own = [digest for digest, one in self._by_digest.items() if one.principal.key_id == principal.key_id]
        if len(own) >= MAX_OF_A_KEY:
            del self._by_digest[own[0]]
        elif len(self._by_digest) >= MAX_SESSIONS:
            del self._by_digest[next(iter(self._by_digest))]
        token = secrets.token_urlsafe(32)
        digest = _digest(token)
        session = SignedIn(replace(principal, session=digest), secrets.token_urlsafe(32), now)
        self._by_digest[digest] = session
        return token, session

    def close(self, principal: Principal) -> None:
        """Ends the session under which somebody calls, if it is one."""
        self._by_digest.pop(principal.session, None)

    def leave(self, key_id: str) -> None:
        """Ends every session of a key or a user."""
        self._by_digest = {d: one for d, one in self._by_digest.items() if one.principal.key_id != key_id}

    def lasts(self, principal: Principal, now: float) -> bool:
        """Whether the key is still good that somebody calls with, and the session, if it is one."""
        session = self._by_digest.get(principal.session) if principal.session else None
        fresh = not principal.session or (session is not None and now < session.expires_at)
        return fresh and (bool(principal.name) or self.keyring.is_good(principal.key_id))

    def of(self, principal: Principal) -> SignedIn | None:
        """The session under which somebody calls; None if it is a key."""
        return self._by_digest.get(principal.session) if principal.session else None

    def caller(self, method: str, headers: Mapping[str, str], now: float) -> Principal | None:
        """Who calls by a cookie; None if nobody is signed in. `headers` has lower-case names.

        Raises: Forbidden for a call that a page of another origin made, or may have made.
        """
        cookies = headers.get("cookie", "")
        token = cookie_parser(cookies).get(self.cookie, "") if len(cookies) <= MAX_COOKIES else ""
        session = self._by_digest.get(_digest(token)) if token else None
        if session is None or not self.lasts(session.principal, now):
            return None
        if headers.get("sec-fetch-site", "none") not in OWN_SITES:
            raise Forbidden("this session is for pages of this server alone")
        shown = headers.get(CSRF_HEADER, "").encode("latin-1", "replace")
        if method not in SAFE and not hmac.compare_digest(shown, session.csrf.encode()):
            raise Forbidden("the header X-CSRF-Token is missing or not this session's: load the page again")
        return session.principal

    def _expire(self, now: float) -> None:
        self._by_digest = {d: one for d, one in self._by_digest.items() if self.lasts(one.principal, now)}


def _digest(token: str) -> str:
    """What of a token is kept: who reads the memory of this process learns no token."""
    return hashlib.sha256(token.encode()).hexdigest()
