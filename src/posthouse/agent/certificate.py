"""The worker's certificate: requested from the server, shown to clients, renewed in time."""

import asyncio
import logging
import ssl
import tempfile
from pathlib import Path
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout

from posthouse.agent.settings import AgentSettings, origin
from posthouse.signing.authority import RENEWED_AFTER, new_request

log = logging.getLogger(__name__)

_PATIENCE: Final = ClientTimeout(total=40)  # the server waits for up to 20 s to know where this worker is
_RETRY_S: Final = 5.0  # between two attempts to get the first certificate
_RENEWAL_RETRY_S: Final = 3600.0  # there is a month for these
_SHOWN: Final = 300  # characters of a refusal that are logged


class Certificate:
    """The certificate that `context`, of the listening socket, shows. Without one no client can connect."""

    def __init__(self, session: ClientSession, settings: AgentSettings) -> None:
        self._session = session
        self._settings = settings
        self.context: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def get(self, retry_s: float = _RETRY_S) -> None:
        """Show a new certificate, for a new key, however long it takes to get it."""
        shown = await self._ask()
        while not shown:
            await asyncio.sleep(retry_s)
            shown = await self._ask()

    async def renew(self) -> None:
        """Run until cancelled: replace the certificate at two thirds of its life. Open connections go on."""
        while True:
            await asyncio.sleep(RENEWED_AFTER.total_seconds())
            await self.get(_RENEWAL_RETRY_S)

    async def _ask(self) -> bool:
        key, request = new_request()
        for address in self._settings.report_addrs:
            url = f"{address.rstrip('/')}/sign_cert/?instance_id={self._settings.worker_id}"
            try:
                async with self._session.post(
                    url,
                    data=request,
                    headers={"Content-Type": "application/octet-stream"},
                    allow_redirects=False,
                    timeout=_PATIENCE,
                ) as answer:
                    body = await answer.read()
                if answer.status != 200:
                    log.warning("certificate: %s: status %d: %s", origin(url), answer.status, body[:_SHOWN])
                    continue
                self._show(key + body)
            except (ClientError, OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
                log.warning("certificate: %s: %s", origin(url), type(error).__name__)
                continue
            log.info("certificate: from %s", origin(url))
            return True
        return False

    def _show(self, pem: bytes) -> None:
        """Raises: ssl.SSLError when it is not a certificate of its key."""
        with tempfile.TemporaryDirectory() as directory:  # readable by its owner only; ssl reads nothing but files
            file = Path(directory, "certificate.pem")
            file.write_bytes(pem)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file)  # half a success would leave nothing usable
            self.context.load_cert_chain(file)
