"""What an answer says was used: found while it passes, whether it is one JSON document or a stream of events."""

import json
import re
from typing import Final, Protocol

import msgspec
from msgspec import Raw, Struct

MAX_EVENT_BYTES: Final = 16_384
"""An event up to this length passes in one piece. What says what was used is far shorter."""
END_BYTES: Final = 16_384
"""In so much of its end a document says what was used."""

_ENDS: Final = (b"\n\n", b"\n\r\n")
_EVENT: Final = re.compile(rb".*?\n\r?\n", re.DOTALL)
_DATA: Final = re.compile(rb"^data:", re.MULTILINE)
_KEPT_BACK: Final = 2  # of a long event: what may be the beginning of its end


class Usage(Struct, frozen=True):
    """Tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Said(Struct):
    """What was used, in OpenAI's words for a chat, or in those of its responses and of Anthropic's messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def with_more(self, known: Usage | None) -> Usage:
        """Together with what was said before: Anthropic's streams say the one at the beginning, the other later."""
        known = known or Usage()
        prompt = self.prompt_tokens if self.prompt_tokens is not None else self.input_tokens
        completion = self.completion_tokens if self.completion_tokens is not None else self.output_tokens
        return Usage(
            known.prompt_tokens if prompt is None else prompt,
            known.completion_tokens if completion is None else completion,
        )


class _Around(Struct):
    usage: _Said | None = None


class _Part(Struct):
    choices: list[Raw] | None = None
    usage: _Said | None = None
    message: _Around | None = None
    """Anthropic's, at the beginning."""
    response: _Around | None = None
    """Of OpenAI's responses, at the end."""

    @property
    def said(self) -> _Said | None:
        around = self.message or self.response
        return self.usage or (around.usage if around else None)


_part = msgspec.json.Decoder(_Part)
_json = json.JSONDecoder()
_DONE = (b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n', b'data: {"type": "message_stop"}\n\n')
"""How the last event of OpenAI's and of Anthropic's streams ends."""


def _read(text: bytes) -> _Part:
    try:
        return _part.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Part()


class Passing(Protocol):
    """An answer while it passes."""

    @property
    def is_stream(self) -> bool: ...
    @property
    def is_whole(self) -> bool:
        """Whether what has passed could be followed by an event."""

    @property
    def is_done(self) -> bool:
        """Whether its last event has passed."""

    @property
    def events(self) -> int:
        """How many have passed: about the tokens of an answer that broke off."""

    @property
    def usage(self) -> Usage | None:
        """What it says was used, as far as it has said."""

    def feed(self, chunk: bytes) -> bytes:
        """What passes now."""

    def rest(self) -> bytes:
        """What passes at the end."""


class Document:
    """An answer in one piece."""

    is_stream = is_whole = is_done = False
    events = 0

    def __init__(self) -> None:
        self._end = b""

    def feed(self, chunk: bytes) -> bytes:
        """What passes now."""
        self._end = (self._end + chunk)[-END_BYTES:]
        return chunk

    def rest(self) -> bytes:
        """What passes at the end."""
        return b""

    @property
    def usage(self) -> Usage | None:
        """Of the last field of that name: in a text its quotes would have been escaped."""
        if (whole := _read(self._end)).said is not None:
            return whole.said.with_more(None)
        _, name, said = self._end.rpartition(b'"usage"')
        try:
            value, _ = _json.raw_decode(said.decode(errors="replace").lstrip(" \t\r\n:"))
            return msgspec.convert(value, _Said).with_more(None) if name else None
        except (ValueError, RecursionError):  # a MsgspecError is a ValueError
            return None


class Events:
    """A stream of server-sent events."""

    is_stream = True

    def __init__(self, hides_usage: bool) -> None:
        """`hides_usage`: the event that says nothing else does not pass."""
        self.usage: Usage | None = None
        self.events = 0
        self.is_whole, self.is_done = True, False
        self._hides_usage = hides_usage
        self._begun = b""

    def feed(self, chunk: bytes) -> bytes:
        """What passes now: events that have come in full, and long ones as they come."""
        if not self._begun and chunk.endswith(b"\n\n") and b'"usage"' not in chunk:  # most of all pieces
            is_one = chunk.startswith(b"data:") and chunk.count(b"data:") == 1
            self.events += 1 if is_one else len(_DATA.findall(chunk))
            self.is_whole, self.is_done = True, chunk.endswith(_DONE)
            return chunk
        text = self._begun + chunk
        ends = [at + len(mark) for mark in _ENDS if (at := text.rfind(mark)) >= 0]
        end = max(ends, default=0)
        passes, self._begun = text[:end], text[end:]
        if b'"usage"' in passes:
            passes = b"".join(event for event in _EVENT.findall(passes) if self._may_pass(event))
        self.events += len(_DATA.findall(passes))
        self.is_whole = self.is_whole or end > 0
        if len(self._begun) > MAX_EVENT_BYTES:
            passes += self._begun[:-_KEPT_BACK]
            self._begun = self._begun[-_KEPT_BACK:]
            self.is_whole = False
        self.is_done = passes.endswith(_DONE)
        return passes

    def rest(self) -> bytes:
        """What passes at the end: some servers leave out the last empty line."""
        rest, self._begun = self._begun, b""
        return rest if not rest.strip() or self._may_pass(rest) else b""

    def _may_pass(self, event: bytes) -> bool:
        found = _DATA.search(event)
        if found is None:
            return True
        part = _read(event[found.end() :])
        if part.said is not None:
            self.usage = part.said.with_more(self.usage)
        return not (self._hides_usage and part.usage is not None and part.choices == [])
