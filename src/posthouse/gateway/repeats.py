"""Requests with an `Idempotency-Key`: a caller that lost the answer asks again and gets the same, worked out once."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from posthouse.gateway.errors import Refused

KEPT_S: Final = 3600.0
"""How long an answer is kept."""
MAX_ANSWER_BYTES: Final = 2**20
"""A longer one is not kept: asked for again, it is worked out again."""
MAX_BYTES: Final = 64 * 2**20
"""Of all answers; beyond it the oldest go."""
MAX_KEY: Final = 255
_BASE_BYTES: Final = 1024  # what one takes beside its body
_AGAIN_S: Final = 1.0


@dataclass(slots=True)
class Repeat:
    """A request with its key, and its answer once it is complete."""

    digest: bytes
    body: bytes
    """A digest of what was asked."""
    began_at: float
    status: int = 0
    """Of the answer; 0 while it is worked out."""
    content_type: bytes = b""
    answer: bytearray = field(default_factory=bytearray)
    too_large: bool = False

    def feed(self, data: bytes) -> None:
        """Note what passes of the answer."""
        self.too_large = self.too_large or len(self.answer) + len(data) > MAX_ANSWER_BYTES
        if self.too_large:
            self.answer.clear()
        else:
            self.answer += data


class Repeats:
    """The latest answers to requests with a key, in the memory of one gateway."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: OrderedDict[bytes, Repeat] = OrderedDict()
        self._bytes = 0

    def begin(self, api_key: str, key: str, path: str, body: bytes) -> Repeat:
        """The request that had this key before, with its answer; else a new one, whose `end` is to be told.

        Raises: Refused where it is still worked out, or was another one.
        """
        if not 0 < len(key) <= MAX_KEY:
            raise Refused(400, "invalid_idempotency_key", f"Idempotency-Key: must have 1 to {MAX_KEY} characters")
        now = self._clock()
        self._drop(now)
        digest = hashlib.sha256(f"{api_key}\n{key}".encode()).digest()
        asked = hashlib.sha256(path.encode() + b"\n" + body).digest()
        known = self._rows.get(digest)
        if known is None:
            known = self._rows[digest] = Repeat(digest, asked, now)
            self._bytes += _BASE_BYTES
        elif known.body != asked:
            raise Refused(422, "idempotency_key_reused", "Idempotency-Key: was used for another request")
        elif not known.status:
            text = "Idempotency-Key: the request that has it is still worked on; ask again"
            raise Refused(409, "idempotency_key_in_use", text, retry_s=_AGAIN_S)
        return known

    def end(self, repeat: Repeat, status: int, content_type: bytes) -> None:
        """The answer is complete, or there is none (0), and it is worked out again if it is asked for again."""
        if not 200 <= status < 400 or repeat.too_large:
            self._forget(repeat.digest)
            return
        repeat.status, repeat.content_type = status, content_type
        self._bytes += len(repeat.answer)

    def _drop(self, now: float) -> None:
        while self._rows:
            digest, oldest = next(iter(self._rows.items()))
            if self._bytes <= MAX_BYTES and now - oldest.began_at <= KEPT_S:
                return
            self._forget(digest)

    def _forget(self, digest: bytes) -> None:
        if (row := self._rows.pop(digest, None)) is not None:
            self._bytes -= _BASE_BYTES + (len(row.answer) if row.status else 0)
