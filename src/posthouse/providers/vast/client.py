"""Calls of the market: when each may be made, how long it may take, and what each error means."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar

from posthouse.errors import Busy, NotFound, OfferTaken, PosthouseError, Refused, Unavailable
from posthouse.providers.answers import NoAnswer, read
from posthouse.providers.vast.pace import Call, Pace, pace_of
from posthouse.providers.vast.settings import VastSettings

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Largest answer: 20,000 offers of 3 kB."""
MAX_LOG_BYTES: Final = 4 * 2**20
CONNECT_S: Final = 10.0
RESULT_S, RESULT_TRIES = 0.3, 30
"""How often the file with a log is asked for, and how many times: as the market's own command line does."""
MAX_RETRY_S: Final = 600.0
DAY_S: Final = 86_400.0
GONE: Final = ("no_such_instance", "not_found", "invalid_instance_id")
TAKEN: Final = ("no_such_ask", "ask_not_available", "already_rented", "invalid_price")
"""Of an order: another offer may do."""


class HalfMade(OfferTaken):
    """Refused, and there is an instance nevertheless, which rests: where a bid does not win."""

    def __init__(self, told: str, instance_id: int) -> None:
        super().__init__(told)
        self.instance_id = str(instance_id)


class Client:
    """The market's API with one key."""

    def __init__(self, name: str, settings: VastSettings, servers: Callable[[], int] = lambda: 1) -> None:
        """`name`: of the provider, for messages. `servers`: how many have the same key now."""
        self._name, self._settings, self._servers = name, settings, servers
        self._pace: Pace = pace_of(settings.url, settings.api_key)
        self._session: ClientSession | None = None
        self._troubles: dict[str, tuple[Call, str]] = {}
        """By kind, each with the call that showed it."""

    @property
    def troubles(self) -> list[str]:
        """What an operator should mend."""
        return [text for _, text in self._troubles.values()]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        call: Call,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The answer's object. Raises: Refused, Busy, NotFound, OfferTaken; NoAnswer where the outcome is unknown."""
        what = f"provider {self._name}: {method} {path}"
        async with self._pace.turn(call, self._settings.pace * self._servers()):
            try:
                status, headers, text = await self._exchange(method, path, body, query)
            except (ClientError, OSError, TimeoutError) as error:
                raise NoAnswer(f"{what}: no answer: {error!r}"[:300]) from error
        answer = _object(text)
        if status == 200 and answer is not None and answer.get("success") is not False:
            self._troubles = {kind: shown for kind, shown in self._troubles.items() if shown[0] is not call}
            return answer
        meaning = self._meaning(call, what, status, headers, answer, text)
        if isinstance(meaning, Busy) and not isinstance(meaning, Unavailable):
            self._pace.put_off(call, meaning.retry_after_s)
        raise meaning

    async def text(self, url: str) -> str:
        """A file of the market, once it is there. No key is sent: it may lie elsewhere."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise NoAnswer(f"provider {self._name}: the market has its log at no web address: {url[:100]!r}")
        for _ in range(RESULT_TRIES):
            try:
                async with self._open().get(url, allow_redirects=False) as response:
                    if response.status == 200:
                        return (await read(response, MAX_LOG_BYTES)).decode(errors="replace")
            except (ClientError, OSError, TimeoutError) as error:
                raise NoAnswer(f"provider {self._name}: no log: {error!r}"[:300]) from error
            await asyncio.sleep(RESULT_S)
        return ""

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the market's answer. Raises: ClientError, OSError, TimeoutError, NoAnswer."""
        async with self._open().request(
            method,
            self._settings.url + path,
            data=None if body is None else msgspec.json.encode(body),
            params=query,
            headers={"Authorization": f"Bearer {self._settings.api_key}", "Content-Type": "application/json"},
            allow_redirects=False,
        ) as response:
            return response.status, response.headers, await read(response, MAX_ANSWER_BYTES)

    def _open(self) -> ClientSession:
        """The session, made within the loop that uses it."""
        if self._session is None:
            timeout = ClientTimeout(total=self._settings.call_s, connect=CONNECT_S)
            self._session = ClientSession(timeout=timeout, cookie_jar=DummyCookieJar())
            # Else a PUT whose connection breaks is sent again: two machines for one order. There is no public way.
            self._session._retry_connection = False
        return self._session

    def _meaning(
        self,
        call: Call,
        what: str,
        status: int,
        headers: Mapping[str, str],
        answer: dict[str, Any] | None,
        text: bytes,
    ) -> Exception:
        """What an answer means that is no success."""
        code = str((answer or {}).get("error") or "")
        said = (answer or {}).get("msg") or (answer or {}).get("message") or text[:200].decode(errors="replace")
        told = " ".join(f"{what}: {status} {code} {said}".split())[:300]
        if status == 429:
            return self._too_often(call, told, code, headers)
        if 300 <= status < 400:
            place = headers.get("Location", "")[:200]
            return self._trouble(
                call, "moved", f"the market has moved to {place!r}; set providers.{self._name}.url", told
            )
        if status >= 500 or (status == 200 and answer is None):
            return NoAnswer(told)
        if "credit" in f"{code} {said}".lower():
            return self._trouble(call, "credit", "the account is out of credit; add some at the market", told)
        if status == 401:
            return self._trouble(call, "key", f"the market refuses the key; set providers.{self._name}.api_key", told)
        if isinstance(made := (answer or {}).get("new_contract"), int):
            return HalfMade(told, made)
        if call is Call.CREATE and (code in TAKEN or status in (404, 410)):
            return OfferTaken(told)
        if code in GONE or status == 404:
            return NotFound(told)
        if status == 403:
            return self._trouble(call, "right", "the key may not do that; give it more rights at the market", told)
        return Refused(told)

    def _too_often(self, call: Call, told: str, code: str, headers: Mapping[str, str]) -> PosthouseError:
        now = time.time()
        if code == "search_quota_exceeded":
            reset = headers.get("X-RateLimit-Reset", "")
            until = float(reset) if re.fullmatch(r"\d{1,12}", reset) else (now // DAY_S + 1) * DAY_S
            left_s = min(max(1.0, until - now), DAY_S)
            self._pace.put_off(Call.SEARCH, left_s)
            at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now + left_s))
            text = f"provider {self._name}: the day's searches are used up until {at} UTC; set catalog_s higher"
            self._troubles["quota"] = call, text
            return Unavailable(text, left_s)
        wait = re.search(r"threshold=(\d{1,4}(?:\.\d{1,6})?)", told)
        after = headers.get("Retry-After", "")
        wait_s = float(after) if re.fullmatch(r"\d{1,6}(\.\d+)?", after) else float(wait[1]) if wait else 0.0
        return Busy(told, min(MAX_RETRY_S, max(2 * call.interval_s * self._settings.pace, wait_s)))

    def _trouble(self, call: Call, kind: str, why: str, told: str) -> Refused:
        self._troubles[kind] = call, f"provider {self._name}: {why}"
        return Refused(f"{why} ({told})"[:400])


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
