"""The keys by which the server signs grants, as the agent knows them, and the server's clock."""

import asyncio
import contextlib
import logging
import time
from email.utils import parsedate_to_datetime
from typing import Final

from aiohttp import ClientError, ClientSession

from posthouse.agent.settings import AgentSettings, place
from posthouse.signing.ed25519 import Verify, verifiers
from posthouse.wire.grant import TIME_HEADER

log = logging.getLogger(__name__)

_PATH: Final = "/.well-known/jwks.json"
_REFRESH_S: Final = 3600.0  # a key that the server no longer offers is believed for at most this long
_GAP_S: Final = 5.0  # least time between two looks for a key that is not known
_RETRY_S: Final = 2.0  # between two attempts to get the first keys


class ServerKeys:
    """What is known of the server's keys."""

    def __init__(self, session: ClientSession, settings: AgentSettings) -> None:
        self._session = session
        self._settings = settings
        self._keys: dict[str, Verify] = {}
        self._ahead_s = time.time() - time.monotonic()  # of this machine's clock that no one sets
        self._looked_at = 0.0
        self._looking = asyncio.Lock()
        self.began_at = 0.0
        """When this agent had its first keys, by the server's clock: no grant for it is older."""

    @property
    def required(self) -> bool:
        """Whether a request must bring a grant: as the settings say, else whether the server gives any."""
        said = self._settings.require_grant
        return bool(self._keys) if said is None else said

    def now(self) -> float:
        """Return the time by the server's clock, so that a wrong one here refuses nobody. Units: epoch seconds."""
        return time.monotonic() + self._ahead_s

    async def start(self) -> None:
        """Get the first keys, however long it takes; or the word that there are none, unless grants are required."""
        if self._settings.require_grant is False:
            return
        answered = await self._look()
        while not answered:
            await asyncio.sleep(_RETRY_S)
            answered = await self._look()
        self.began_at = self.now()

    async def refresh(self) -> None:
        """Look again now and then, for ever."""
        while self._settings.require_grant is not False:
            await asyncio.sleep(_REFRESH_S)
            await self._look()

    async def find(self, kid: str) -> Verify | None:
        """Return the check of signatures by this key; None if the server does not offer it, or was asked just now."""
        if kid not in self._keys:
            async with self._looking:
                if kid not in self._keys and time.monotonic() - self._looked_at >= _GAP_S:
                    await self._look()
        return self._keys.get(kid)

    async def set_clock(self) -> None:
        """Ask the server for its time, unless that was done just now: one of the two clocks may have stood still."""
        async with self._looking:
            if time.monotonic() - self._looked_at >= _GAP_S:
                await self._look()

    async def _look(self) -> bool:
        """Ask the server, and return whether that was answered. Keys that are known stay until there are others."""
        self._looked_at = time.monotonic()
        answered = False
        for address in self._settings.report_addrs:
            url = f"{address.rstrip('/')}{_PATH}"
            try:
                async with self._session.get(url) as answer:
                    if 400 <= answer.status < 500:  # a server of this protocol that gives no grants
                        answered = not self._settings.require_grant
                        continue
                    answer.raise_for_status()
                    self._keys = verifiers(await answer.read()) or self._keys
                    sent_at, told_s = answer.headers.get("Date", ""), answer.headers.get(TIME_HEADER, "")
            except (ClientError, OSError, TimeoutError, ValueError) as error:
                log.warning("grant keys: %s: %s", place(url), type(error).__name__)
                continue
            log.info("grant keys: %d, from %s", len(self._keys), place(url))
            with contextlib.suppress(ValueError):
                if told_s or sent_at:
                    server_s = float(told_s) if told_s else parsedate_to_datetime(sent_at).timestamp()
                    self._ahead_s = server_s - time.monotonic()
            return True
        return answered
