"""Bodies: JSON objects, or refused in words."""

import codecs
from typing import Any, TypeVar

import msgspec

from posthouse.errors import BadRequest
from posthouse.wire.checks import integer

T = TypeVar("T")


class Sender(msgspec.Struct):
    """What a worker's message says of who sent it; `id` and `worker_id` are the two calls' words for one thing."""

    id: Any = None
    worker_id: Any = None
    mtoken: Any = None


_sender = msgspec.json.Decoder(Sender)


def sender(raw: bytes) -> tuple[int, str]:
    """The worker and its token as a message states them, which is soon found however long it is. Raises: BadRequest."""
    said = decoded(_sender, raw)
    worker_id = integer(said.worker_id if said.id is None else said.id, "id")
    return worker_id, said.mtoken if isinstance(said.mtoken, str) else ""


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """The body as the decoder's type. Raises: BadRequest if it is no JSON object, or one too deep to read."""
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise BadRequest("body: is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if raw.startswith(codecs.BOM_UTF8):  # RFC 8259, 8.1: a reader may ignore it
            return decoded(decoder, raw.removeprefix(codecs.BOM_UTF8))
        raise BadRequest(f"body: must be a JSON object; {error}") from None
