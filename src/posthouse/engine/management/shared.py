"""What several use cases need."""

from collections.abc import Mapping

import msgspec

from posthouse.errors import BadRequest
from posthouse.wire import search


def check_room(count: int, most: int, what: str) -> None:
    """Raises: BadRequest if there are as many as this server's limit."""
    if count >= most:
        raise BadRequest(
            f"there are {count} {what}, and this server's limit is {most}: delete some, or raise the limit"
        )


def check_name(name: str) -> None:
    """Raises: BadRequest for the name of somebody or something with blanks around it."""
    if name != name.strip():
        raise BadRequest("name: must have printable characters only, without blanks around them")


def filters(said: str | Mapping[str, object], field: str) -> dict[str, object]:
    """An offer filter as `{field: {op: value}}`. Raises: BadRequest."""
    if not isinstance(said, str) and len(msgspec.json.encode(said)) > search.MAX_TEXT:
        raise BadRequest(f"{field}: has more than {search.MAX_TEXT} bytes as JSON")
    try:
        return {**search.parse_search(said)}
    except BadRequest as error:
        raise BadRequest(f"{field}: {error}") from None
