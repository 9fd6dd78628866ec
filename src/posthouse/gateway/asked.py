"""What a request asks: the few fields that the gateway reads, and the body as the worker gets it."""

import hashlib
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from posthouse.gateway.errors import Refused, unknown_response
from posthouse.gateway.stored import Home, found
from posthouse.gateway.upload import Upload
from posthouse.wire.route import MAX_NAME

T = TypeVar("T")
Decoder = msgspec.json.Decoder

SMALL: Final = 1.0
"""Work of a request that generates nothing, in tokens."""
_WITH_USAGE: Final = ("/v1/chat/completions", "/v1/completions")  # whose streams say what was used if they are asked to
_TOKENS: Final = {
    **dict.fromkeys(_WITH_USAGE, ("max_completion_tokens", "max_tokens")),
    "/v1/responses": ("max_output_tokens",),
    "/v1/messages": ("max_tokens",),
}
GENERATING: Final = frozenset(_TOKENS)
"""Paths whose work is the tokens of the answer."""
_SMALL: Final = ("/v1/messages/count_tokens",)
PROMPT_BYTES: Final = 4096
"""Prompts whose first so many bytes are the same begin alike; of a shorter one little would be saved."""
_SAME: Final = ("prompt_cache_key", "user")
_PROMPT: Final = ("system", "instructions", "prompt", "messages", "input")
_MAX_COST: Final = 1e9  # the most that the server takes

Fields: Final = Decoder(dict[str, Raw])
"""Of a body; their values keep every byte."""
_text, _number, _flag = Decoder(str), Decoder(float), Decoder(bool)


class Asked(Struct, frozen=True):
    """A request that may be sent."""

    model: str
    path: str
    """At the worker, as it is written, with its query."""
    body: bytes | Upload | None
    cost: float | None = None
    """Its work, in tokens; None where it does not say."""
    method: str = "POST"
    opaque: bool = False
    """Nothing is known of it, and of its answer."""
    stream: bool = False
    adapter: str = ""
    """It must go to a worker of the model that holds this; empty: to any."""
    home: Home | None = None
    """Where what it goes on from is kept; it must go there."""
    key: str = ""
    """Requests with the same begin alike, so that the same worker is best for them; empty: nobody knows."""
    hides_usage: bool = False
    """The caller did not ask for what was used: it is counted, and not passed on."""

    @property
    def prefer(self) -> Mapping[str, object] | None:
        """Which workers would be best for it, as `/route/` takes it."""
        if not (self.key or self.adapter or self.home):
            return None
        wanted = {"key": self.key, "adapter": self.adapter, "worker": self.home.worker_id if self.home else 0}
        return {name: said for name, said in wanted.items() if said}


def read(path: str, body: bytes) -> Asked:
    """What the body for this path asks. Values that are passed on keep every byte. Raises: Refused."""
    try:
        fields = Fields.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, "invalid_body", f"body: must be a JSON object; {error}") from None
    model = named(_value(fields, "model", _text), "model" in fields)
    names = _TOKENS.get(path, ())
    cost = next((tokens for name in names if (tokens := _value(fields, name, _number)) is not None), None)
    if cost is not None and not 0 < cost <= _MAX_COST:
        cost = None  # the model says what is wrong with it
    stream = _value(fields, "stream", _flag) or False
    hides_usage = stream and path in _WITH_USAGE and _ask_for_usage(fields)
    if hides_usage:
        body = msgspec.json.encode(fields)
    cost = SMALL if path in _SMALL else cost
    return Asked(model, path, body, cost, stream=stream, key=_key(path, fields), hides_usage=hides_usage)


def for_model(asked: Asked, model: str) -> Asked:
    """The same request of another model."""
    body = asked.body
    if model == asked.model:
        return asked
    if isinstance(body, Upload):
        body.model = model
    elif body is not None and not asked.opaque:
        body = msgspec.json.encode(Fields.decode(body) | {"model": Raw(msgspec.json.encode(model))})
    return msgspec.structs.replace(asked, model=model, body=body)


def named(model: str | None, said: bool) -> str:
    """The name of a model that a request may ask for. `said`: it has such a field. Raises: Refused."""
    if model is None or not 0 < len(model) <= MAX_NAME:
        wrong = "must be the name of an endpoint" if said else "is missing"
        raise Refused(400, "invalid_model", f"model: {wrong}; a text of 1 to {MAX_NAME} characters", "model")
    return model


def going_on(asked: Asked, body: bytes, key: str) -> Asked:
    """The same where its `body` goes on from a response that a worker keeps. `key`: the caller's. Raises: Refused."""
    fields = Fields.decode(body)
    if (before := _value(fields, "previous_response_id", _text)) is None:
        return asked
    if (known := found(key, before)) is None:
        raise unknown_response(goes_on=True)
    fields["previous_response_id"] = Raw(msgspec.json.encode(known[0]))
    return msgspec.structs.replace(asked, body=msgspec.json.encode(fields), home=known[1])


def affinity(said: str | bytes) -> str:
    """The key that stands for what a caller says: nobody reads a user's name out of it by looking."""
    return hashlib.blake2b(said.encode() if isinstance(said, str) else said, digest_size=8).hexdigest()


def _key(path: str, fields: dict[str, Raw]) -> str:
    """The key of requests that a model sees begin alike, by what they say; empty for what generates nothing."""
    if path not in GENERATING:
        return ""
    for name in _SAME:
        if name in fields and (said := _value(fields, name, _text)):
            return affinity(said)
    if "metadata" in fields and (said := _value(_value(fields, "metadata", Fields) or {}, "user_id", _text)):
        return affinity(said)  # Anthropic's
    prompt = b"".join([bytes(fields[name]) for name in _PROMPT if name in fields])
    return affinity(prompt[:PROMPT_BYTES]) if len(prompt) >= PROMPT_BYTES else ""


def number_in(fields: dict[str, Raw], name: str) -> float | None:
    """None where there is no such number."""
    return _value(fields, name, _number)


def _value(fields: dict[str, Raw], name: str, kind: Decoder[T]) -> T | None:
    """The field; None where it is absent or of another kind."""
    try:
        return kind.decode(fields[name]) if name in fields else None
    except (msgspec.MsgspecError, RecursionError):
        return None


def _ask_for_usage(fields: dict[str, Raw]) -> bool:
    """Makes the request ask for what was used. Returns whether it did not already, and could."""
    options = _value(fields, "stream_options", Fields) or {}
    if _value(options, "include_usage", _flag):
        return False
    if "stream_options" in fields and not options and bytes(fields["stream_options"]) not in (b"null", b"{}"):
        return False  # no object: the model says so
    options["include_usage"] = Raw(b"true")
    fields["stream_options"] = Raw(msgspec.json.encode(options))
    return True
