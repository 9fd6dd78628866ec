"""Responses that a worker keeps: their ids say which worker that is, so that any gateway finds it again.

What follows the engine's own id is signed with the caller's key: whoever has another key has no such response.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from posthouse.gateway.counted import Passing, Usage

PATH: Final = "/v1/responses"
CALLS: Final = {"": ("GET", "DELETE"), "/cancel": ("POST",), "/input_items": ("GET",)}
"""What may follow an id, and the methods for it."""
_TAG_BYTES: Final = 9
_ID_BYTES: Final = 8
_HELD: Final = 264  # bytes held back, where the end of a piece may cut an id of 200 and its name
_IDS: Final = re.compile(rb'("(?:id|response_id|previous_response_id)"[ \t]*:[ \t]*")(resp_[0-9A-Za-z_-]{1,200})"')
_GIVEN: Final = re.compile(r"(resp_[0-9A-Za-z_-]{1,200})\.([0-9A-Za-z_-]{24,2100})")


class Home(NamedTuple):
    """Where a response is kept."""

    worker_id: int
    endpoint: str
    adapter: str = ""


def given(key: str, own: str, home: Home) -> str:
    """The id that a caller with this key gets for the engine's own."""
    place = home.worker_id.to_bytes(_ID_BYTES) + f"{home.endpoint}\0{home.adapter}".encode()
    return f"{own}.{base64.urlsafe_b64encode(_tag(key, own, place) + place).decode().rstrip('=')}"


def found(key: str, given_id: str) -> tuple[str, Home] | None:
    """The engine's own id, and where that is; None where this key was given no such id."""
    parts = _GIVEN.fullmatch(given_id)
    if parts is None:
        return None
    own, text = parts.groups()
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return None
    tag, place = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(key, own, place)):
        return None
    endpoint, _, adapter = place[_ID_BYTES:].decode().partition("\0")
    return own, Home(int.from_bytes(place[:_ID_BYTES]), endpoint, adapter)


def _tag(key: str, own: str, place: bytes) -> bytes:
    return hmac.digest(key.encode(), f"{own}.".encode() + place, "sha256")[:_TAG_BYTES]


class Renamed:
    """An answer whose ids become those that callers are given."""

    def __init__(self, passing: Passing, key: str, home: Callable[[], Home | None]) -> None:
        """`home`: None where it is not known; then they pass as they are."""
        self._passing, self._key, self._home = passing, key, home
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What passes now."""
        text = self._held + self._passing.feed(chunk)
        done = len(text) - _HELD
        for match in _IDS.finditer(text):
            done = max(done, match.end())
        done = max(done, text.rfind(b"\n") + 1)  # no name and its value have one between them
        self._held = text[done:]
        return self._renamed(text[:done])

    def rest(self) -> bytes:
        """What passes at the end."""
        return self._renamed(self._held + self._passing.rest())

    def _renamed(self, text: bytes) -> bytes:
        if (home := self._home()) is None:
            return text
        return _IDS.sub(lambda m: b'%s%s"' % (m[1], given(self._key, m[2].decode(), home).encode()), text)

    @property
    def is_stream(self) -> bool:
        return self._passing.is_stream

    @property
    def usage(self) -> Usage | None:
        return self._passing.usage

    @property
    def events(self) -> int:
        return self._passing.events

    @property
    def is_whole(self) -> bool:
        return self._passing.is_whole

    @property
    def is_done(self) -> bool:
        return self._passing.is_done
