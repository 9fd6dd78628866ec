"""Who is signed in to the console: a session stands for a proof that was shown once.

The browser keeps a random token in a cookie that no script can read and no other site can send. Calls that change
something must also carry a second token, which only a page of this origin can learn.
"""

import hmac
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from starlette.requests import cookie_parser

from posthouse.engine.hub import Hub
from posthouse.errors import Unavailable
from posthouse.server.auth import Keyring, Principal, Scope
from posthouse.server.errors import Forbidden
from posthouse.users import SessionRecord

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


@dataclass(slots=True)
class Sessions:
    """Every session. They are in memory, and in the store for other servers and the next start."""

    hub: Hub
    keyring: Keyring
    cookie: str
    """Name of the cookie: another one for each installation, as browsers do not tell ports apart."""
    admits: str = ""
    """Whom the settings admit: no session outlives a change of that."""

    async def open(self, principal: Principal, now: float) -> tuple[str, Principal]:
        """What the browser of a new session shows from now on, and who calls then. Without the store it is a session
        at this server alone."""
        there = self.hub.sessions
        ended = [d for d, one in there.items() if now >= one.began_at + LASTS_S or not self._is_good(one)]
        left = {digest: one for digest, one in there.items() if digest not in ended}
        own = [digest for digest, one in left.items() if one.key_id == principal.key_id]
        if len(own) >= MAX_OF_A_KEY:
            ended.append(own[0])
        elif len(left) >= MAX_SESSIONS:
            ended.append(next(iter(left)))
        token = secrets.token_urlsafe(32)
        whose = principal.scope.name, principal.key_id, principal.account_id, principal.name
        session = SessionRecord(self._digest(token), *whose, now)
        with suppress(Unavailable):
            await self.hub.store.put_session(session, ended)
        for digest in ended:
            self.hub.sessions.pop(digest, None)
        self.hub.sessions[session.digest] = session
        return token, _principal(session)

    async def close(self, principal: Principal) -> None:
        """Ends the session under which somebody calls, if it is one. Raises: Unavailable; then it ends here alone."""
        if self.hub.sessions.pop(principal.session, None) is not None:
            await self.hub.store.drop_sessions([principal.session])

    async def leave(self, key_id: str) -> None:
        """Ends every session of a key or a user. Raises: Unavailable; then they end here alone."""
        own = [digest for digest, one in self.hub.sessions.items() if one.key_id == key_id]
        for digest in own:
            del self.hub.sessions[digest]
        if own:
            await self.hub.store.drop_sessions(own)

    def lasts(self, principal: Principal, now: float) -> bool:
        """Whether the key is still good that somebody calls with, and the session, if it is one."""
        if not principal.session:
            return self.keyring.is_good(principal.key_id)
        session = self.hub.sessions.get(principal.session)
        return session is not None and now < session.began_at + LASTS_S and self._is_good(session)

    def of(self, principal: Principal) -> SessionRecord | None:
        """The session under which somebody calls; None if it is a key."""
        return self.hub.sessions.get(principal.session) if principal.session else None

    def caller(self, method: str, headers: Mapping[str, str], now: float) -> Principal | None:
        """Who calls by a cookie; None if nobody is signed in. `headers` has lower-case names.

        Raises: Forbidden for a call that a page of another origin made, or may have made.
        """
        cookies = headers.get("cookie", "")
        token = cookie_parser(cookies).get(self.cookie, "") if len(cookies) <= MAX_COOKIES else ""
        session = self.hub.sessions.get(self._digest(token)) if token else None
        if session is None or not self.lasts(principal := _principal(session), now):
            return None
        if headers.get("sec-fetch-site", "none") not in OWN_SITES:
            raise Forbidden("this session is for pages of this server alone")
        shown = headers.get(CSRF_HEADER, "").encode("latin-1", "replace")
        if method not in SAFE and not hmac.compare_digest(shown, self.keyring.csrf(session.digest).encode()):
            raise Forbidden("the header X-CSRF-Token is missing or not this session's: load the page again")
        return principal

    def _digest(self, token: str) -> str:
        return self.keyring.session_id(f"{self.admits}|{token}")

    def _is_good(self, session: SessionRecord) -> bool:
        """Whether what it stands for is good: somebody with a name has shown no key."""
        return bool(session.name) or self.keyring.is_good(session.key_id)


def _principal(session: SessionRecord) -> Principal:
    scope = Scope.named(session.scope)
    return Principal(scope, None, session.key_id, session.account_id, session=session.digest, name=session.name)
