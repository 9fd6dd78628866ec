"""Bodies: JSON objects, or refused in words."""

from typing import TypeVar

import msgspec

from posthouse.domain.errors import BadRequest

T = TypeVar("T")


def decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    """The body as the decoder's type. Raises: BadRequest if it is no JSON object, or one too deep to read."""
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise BadRequest("body: is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"body: must be a JSON object; {error}") from None
