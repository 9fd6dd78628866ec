"""The agent's view of its server: the public key, the time by the server's clock, whether it gives grants."""

import asyncio
import logging
import math
import time
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar

from posthouse.agent.settings import AgentSettings, origin
from posthouse.signing.rsa import Verify, verifier
from posthouse.wire.grant import TIME_HEADER

log = logging.getLogger(__name__)

_PATH: Final = "/pubkey/"
_REFRESH_S: Final = 3600.0  # clocks drift apart by a second a day and more
_GAP_S: Final = 5.0  # at least, between two looks at the server's clock that requests cause
_MAX_BACK_OFF_S: Final = 10.0


def server_session() -> ClientSession:
    """Return a session for short calls to the server."""
    return ClientSession(timeout=ClientTimeout(total=10), cookie_jar=DummyCookieJar())


class Server:
    """The server's answers so far."""

    def __init__(self, session: ClientSession, settings: AgentSettings) -> None:
        self._session = session
        self._settings = settings
        self._gives_grants = False
        self._ahead_s = time.time() - time.monotonic()  # of this machine's clock that no one sets
        self._looked_at = 0.0
        self._looking = asyncio.Lock()
        self.verify: Verify | None = None
        """Checks a signature by the server's key; None until the key is there."""
        self.began_at = 0.0
        """When this agent first reached the server, by the server's clock: it takes no older grant."""

    @property
    def requires_grant(self) -> bool:
        """Whether a request must bring a grant: as the settings say, else whether the server gives any."""
        required = self._settings.require_grant
        return self._gives_grants and bool(self._settings.mtoken) if required is None else required

    @property
    def is_ours(self) -> bool:
        """Whether the server is known to be a Posthouse."""
        return self._gives_grants

    def now(self) -> float:
        """Return the time by the server's clock, so a wrong clock here refuses no request. Units: epoch seconds."""
        return time.monotonic() + self._ahead_s

    async def start(self) -> None:
        """Wait until the server answers, and gives grants where the settings require them, however long it takes."""
        attempt = 0
        while not await self._look() or (self._settings.require_grant and not self._gives_grants):
            await asyncio.sleep(back_off_s(attempt))
            attempt += 1
        self.began_at = self.now()

    async def refresh(self) -> None:
        """Run until cancelled: ask for the server's time every hour."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self._look()

    async def set_clock(self) -> None:
        """Ask the server for its time, unless that was done just now: one of the two clocks may have stood still."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= _GAP_S:
                await self._look()

    async def _look(self) -> bool:
        """Ask the server, and return whether it has answered. Its key is taken once: workers keep it for life."""
        self._looked_at = time.monotonic()
        for address in self._settings.report_addrs:
            url = f"{address.rstrip('/')}{_PATH}"
            try:
                async with self._session.get(url, raise_for_status=True) as answer:
                    key = await answer.text()
                    self.verify = self.verify or verifier(key)
                    told_s = float(answer.headers.get(TIME_HEADER, "nan"))
            except (ClientError, OSError, TimeoutError, ValueError) as error:
                log.warning("public key: %s: %s", origin(url), type(error).__name__)
                continue
            if math.isfinite(told_s):
                self._gives_grants = True
                self._ahead_s = told_s - time.monotonic()
            log.info("public key: fetched from %s; grants: %s", origin(url), "yes" if self._gives_grants else "no")
            return True
        return False


def back_off_s(attempt: int) -> float:
    """Return 0.5, 1, 2, 4, 8, 10, 10, ... seconds."""
    return min(0.5 * 2.0 ** min(attempt, 8), _MAX_BACK_OFF_S)
