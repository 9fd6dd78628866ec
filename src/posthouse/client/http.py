"""HTTP as the client speaks it: calls of the server, and requests to workers."""

import io
import os
import ssl
from typing import Any, TypeVar

import aiohttp
import msgspec

from posthouse.client.errors import BadRequest, ClientError, Unreachable, WorkerFailed, refusal

T = TypeVar("T")

URL = "http://127.0.0.1:8080"  # where `posthouse serve` listens by default
CALL_TIMEOUT_S = 30.0  # for one call of the server, which holds `/route/` open for less than 4 s
CONNECT_TIMEOUT_S = 10.0  # until a worker that does not even accept a connection counts as failed
KEEP_ALIVE_S = 4.0  # below the 5 s of the server, so that it never closes a connection just as it is used
MAX_CONNECTIONS = 1000
_NEVER_BEGUN = (408, 429, 503)  # what a worker answers in place of working on a request
MAX_ANSWER_BYTES = 256 * 2**20
MAX_ERROR_BYTES = 2**20  # of an answer that only says what is wrong


class Http:
    """Connections to one server and to its workers."""

    def __init__(self, url: str | None, api_key: str | None, ca: str | os.PathLike[str] | None) -> None:
        self.url = (url or os.environ.get("POSTHOUSE_URL") or URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise BadRequest(f"url is {self.url!r}; it must begin with http:// or https://")
        self._api_key = (api_key or os.environ.get("POSTHOUSE_API_KEY") or "").strip()
        self._session: aiohttp.ClientSession | None = None
        self.context = _context(ca or os.environ.get("POSTHOUSE_CA") or None)
        """What servers and workers are checked with."""
        self._workers_trusted = False

    async def close(self) -> None:
        """Closes every connection. It may be used again."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def call(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: object = None,
        key: str = "",
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> T:
        """The answer of the server as a `kind`; of an object with the field `key`, that field.

        Raises: what the server's error means.
        """
        reply = await self.reply(method, path, body, timeout_s)
        try:
            return msgspec.convert(reply[key] if key and isinstance(reply, dict) else reply, kind)
        except (KeyError, msgspec.ValidationError) as error:
            raise ClientError(f"{self.url}{path} gave an answer of another protocol: {error}", 200) from error

    async def reply(self, method: str, path: str, body: object = None, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        """The decoded answer of the server. Raises: what its error means."""
        return self.decoded(f"{method} {path}", await self.raw(method, path, body, timeout_s))

    async def raw(self, method: str, path: str, body: object = None, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """The good answer of the server. Raises: what another one means."""
        status, raw = await self._send(method, path, None if body is None else msgspec.json.encode(body), timeout_s)
        if status >= 300:
            raise refusal(status, raw, "")
        return raw

    @staticmethod
    def decoded(call: str, raw: bytes) -> Any:
        """A good answer. Raises: ClientError where it is no JSON, or says after all that the call failed."""
        try:
            reply = msgspec.json.decode(raw) if raw.strip() else {}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ClientError(f"{call}: the answer is not JSON: {error}", 200) from error
        if isinstance(reply, dict) and reply.get("success") is False:
            raise refusal(400, raw, "")
        return reply

    async def _send(
        self, method: str, path: str, body: bytes | None, timeout_s: float = CALL_TIMEOUT_S
    ) -> tuple[int, bytes]:
        """The status and the body of what the server answers. Raises: Unreachable."""
        headers = {"Content-Type": "application/json"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        try:
            async with self._connections().request(
                method,
                self.url + path,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                return response.status, await read(response)
        except (aiohttp.ClientError, ConnectionError, TimeoutError, ValueError) as error:
            raise Unreachable(f"{self.url} did not answer: {reason(error)}") from error

    async def ask_worker(
        self, url: str, body: object, silence_s: float, whole: bool
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The good answer of a worker: all of it if `whole`, else at its beginning.

        Raises: WorkerFailed if another worker may do better, else what the worker's error means.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)
        data = io.BytesIO(msgspec.json.encode(body))  # aiohttp warns of bytes when they are many
        headers = {"Content-Type": "application/json"}
        try:
            if url.startswith("https://"):
                await self.trust_workers()
            # The API key is for the server: no worker gets it.
            response = await self._connections().post(
                url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            )
            try:
                if response.status < 300:
                    return response, (await read(response) if whole else b"")
                said, after = await read(response, MAX_ERROR_BYTES), response.headers.get("Retry-After", "")
                failed = worker_failed(response.status, said, after, url)
                raise failed or refusal(response.status, said, f"worker {url}")
            except BaseException:
                response.close()
                raise
        except (aiohttp.ClientError, ConnectionError, ssl.SSLError, ValueError) as error:
            raise broken(error, url) from error

    async def trust_workers(self) -> None:
        """Trusts the root of workers' certificates. The server says where workers are, so its word is as good here."""
        if self._workers_trusted:
            return
        status, root = await self._send("GET", "/static/jvastai_root.cer", None)
        if status == 200:  # a server without one has workers that every machine trusts
            self.context.load_verify_locations(cadata=root.decode("ascii"))
        self._workers_trusted = True

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S, ssl=self.context)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def worker_failed(status: int, body: bytes, retry_after: str, url: str) -> WorkerFailed | None:
    """What the answer of the worker at `url` means, if another one may do better; else None.

    `body`: MAX_ERROR_BYTES of it suffice. `retry_after`: its header of that name.
    """
    if (status < 500 and status not in (408, 429)) or status == 501:  # 501: its model has no such call, nor have others
        return None
    error = refusal(status, body, f"worker {url}")
    return WorkerFailed(error.message, error.status, error.code, status not in _NEVER_BEGUN, _seconds(retry_after))


def broken(error: Exception, url: str) -> WorkerFailed:
    """What it means that there is no whole answer of the worker at `url`."""
    return WorkerFailed(f"worker {url}: {reason(error)}", begun=not isinstance(error, aiohttp.ClientConnectorError))


async def read(response: aiohttp.ClientResponse, most_bytes: int = MAX_ANSWER_BYTES) -> bytes:
    """The body. Raises: ValueError if it is longer than `most_bytes`, and what its connection raises."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise ValueError(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)


def reason(error: Exception) -> str:
    """What went wrong with a connection, in words."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted here, {error.certificate_error}; POSTHOUSE_CA can name its root"
    if isinstance(error, aiohttp.ClientConnectorError):
        why = os.strerror(error.os_error.errno) if error.os_error.errno else error.os_error.strerror or str(error)
        return why[:1].lower() + why[1:]
    return str(error) or type(error).__name__


def _seconds(retry_after: str) -> float:
    """What the header Retry-After asks for; 0 where it is a date, which no worker is known to send."""
    return float(retry_after) if retry_after.isdecimal() and len(retry_after) < 8 else 0.0


def _context(ca: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """What servers and workers are checked with. Raises: BadRequest."""
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # ssl.SSLError is one
            raise BadRequest(f"ca is {os.fspath(ca)!r}; it must be a file of certificates in PEM: {error}") from None
    return context
