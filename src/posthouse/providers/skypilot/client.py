"""SkyPilot's API server: a call is a request with an id, and its outcome is asked for by that id."""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar

from posthouse.errors import Busy, NotFound, OfferTaken, PosthouseError, Refused
from posthouse.providers.answers import NoAnswer, read
from posthouse.providers.skypilot.settings import SkypilotSettings

REQUEST_ID: Final = "X-SkyPilot-Request-ID"
MAX_ANSWER_BYTES: Final = 64 * 2**20
MAX_LOG_BYTES: Final = 4 * 2**20
CONNECT_S: Final = 10.0
RETRY_S: Final = 15.0
"""After which a server that is busy is asked again."""
ERRORS: Final[Mapping[str, type[PosthouseError]]] = {
    "ClusterDoesNotExist": NotFound,
    "ResourcesUnavailableError": OfferTaken,
    "ResourcesMismatchError": OfferTaken,
    "NotSupportedError": Refused,
    "NoCloudAccessError": Refused,
    "InvalidClusterNameError": Refused,
    "InvalidSkyPilotConfigError": Refused,
    "ClusterOwnerIdentityMismatchError": Refused,
    "PermissionDeniedError": Refused,
}
"""By SkyPilot's own names; with any other, what was done is not known."""
TROUBLES: Final = {
    "NoCloudAccessError": "no cloud is set up for its server; `sky check` there says what is missing",
    "PermissionDeniedError": "its token may not do that",
}


class RequestFailed(NoAnswer):
    """A request is over, without success; what it did before is not known."""


class Client:
    """The API with one token."""

    def __init__(self, name: str, settings: SkypilotSettings, installation: str) -> None:
        self._name, self._settings = name, settings
        user = hashlib.sha256(installation.encode()).hexdigest()[:8]
        self._own = {"env_vars": {"SKYPILOT_USER_ID": user, "SKYPILOT_USER": "posthouse"}}
        self._session: ClientSession | None = None
        self.troubles: dict[str, str] = {}
        """What an operator should mend, by kind."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, path: str, body: Mapping[str, Any]) -> Any:
        """What a call comes to. Raises: NoAnswer, Refused, Busy, NotFound, OfferTaken."""
        return await self.outcome(await self.send(path, body))

    async def send(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        """Makes a call; the id of its request. With no body it is one that only asks."""
        headers, _ = await self._exchange("GET" if body is None else "POST", path, body)
        request_id = headers.get(REQUEST_ID, "")
        if not request_id:
            raise NoAnswer(f"provider {self._name}: {path}: the server gives no request id")
        return request_id

    async def outcome(self, request_id: str, wait_s: float | None = None) -> Any:
        """What a request came to, once it is over. Raises: TimeoutError if it is not within `wait_s`."""
        async with asyncio.timeout(wait_s):
            _, text = await self._exchange("GET", "/api/get", query={"request_id": request_id})
        shown = _object(text)
        if shown is None or shown.get("status") != "SUCCEEDED":
            raise RequestFailed(f"provider {self._name}: request {request_id} is {(shown or {}).get('status')!r}")
        return _json(shown.get("return_value"))

    async def get(self, path: str, query: Mapping[str, str]) -> Any:
        """What a call without a request says."""
        _, text = await self._exchange("GET", path, query=query)
        return _json(text.decode(errors="replace"))

    async def text(self, path: str, body: Mapping[str, Any]) -> str:
        """The text that a call streams, its first bytes."""
        _, text = await self._exchange("POST", path, body, most_bytes=MAX_LOG_BYTES)
        return text.decode(errors="replace")

    async def _exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        most_bytes: int = MAX_ANSWER_BYTES,
    ) -> tuple[Mapping[str, str], bytes]:
        settings, what = self._settings, f"provider {self._name}: {path}"
        try:
            async with self._open().request(
                method,
                settings.url + path,
                json=None if body is None else {**self._own, **body},
                params=query,
                headers={"Authorization": f"Bearer {settings.token}"} if settings.token else {},
                allow_redirects=False,
            ) as response:
                text = await read(response, most_bytes)
        except (ClientError, OSError, TimeoutError) as error:
            raise NoAnswer(f"{what}: no answer: {error!r}"[:300]) from error
        if response.status == 200:
            if path != "/api/get":
                self.troubles.pop("key", None)
            return response.headers, text
        raise self._meaning(what, response.status, text)

    def _meaning(self, what: str, status: int, text: bytes) -> Exception:
        """What an answer means that is no success."""
        detail = (_object(text) or {}).get("detail")
        failed = _object(detail.get("error")) if isinstance(detail, dict) else None
        if failed is not None:  # the object beside these two is pickled: nobody reads it
            kind, said = str(failed.get("type", ""))[:100], _plain(failed.get("message"))
            if kind in TROUBLES:
                self.troubles[kind] = f"provider {self._name}: {TROUBLES[kind]}"
            error = ERRORS.get(kind)
            told = f"{what}: {kind}: {said}"[:400]
            return RequestFailed(told) if error is None else error(told)
        told = f"{what}: {status} {detail if isinstance(detail, str) else text[:200].decode(errors='replace')}"[:300]
        if status in (401, 403):
            self.troubles["key"] = (
                f"provider {self._name}: its server refuses the token; set providers.{self._name}.token"
            )
            return Refused(told)
        if status in (429, 503):
            return Busy(told, RETRY_S)
        if 300 <= status < 400:
            return Refused(f"{told}; set providers.{self._name}.url to where its server is")
        return NoAnswer(told) if status >= 500 else NotFound(told) if status == 404 else Refused(told)

    def _open(self) -> ClientSession:
        """The session, made within the loop that uses it."""
        if self._session is None:
            timeout = ClientTimeout(total=self._settings.call_s, connect=CONNECT_S)
            self._session = ClientSession(timeout=timeout, cookie_jar=DummyCookieJar())
        return self._session


def _plain(text: Any) -> str:
    """A message without its colours, in one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(text or "")).split())


def _json(text: Any) -> Any:
    """What a JSON text says, NaN too; None for what is none."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def _object(text: Any) -> dict[str, Any] | None:
    found = _json(text)
    return found if isinstance(found, dict) else None
