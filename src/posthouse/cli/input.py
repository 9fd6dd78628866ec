"""What commands read: files, JSON, and the names of things."""

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from posthouse.errors import BadRequest

MAX_FILE = 32 * 2**20
"""Longest text that is read, in characters: what an agent takes as a body by default."""


class Identified(Protocol):
    """A row with an id."""

    @property
    def id(self) -> int | str: ...


T = TypeVar("T", bound=Identified)


def read_text(path: str) -> str:
    """What a file says; of `-`, what comes in. Raises: BadRequest if it cannot be read, is too long or not text."""
    try:
        with nullcontext(sys.stdin) if path == "-" else Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is not text in UTF-8") from None
    if len(text) > MAX_FILE:
        raise BadRequest(f"{path} has more than {MAX_FILE} characters")
    return text


def read_json(text: str, name: str) -> Any:
    """The value of a JSON text. Raises: BadRequest, which calls the text `name`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{name} is not JSON: {error}") from None
    except RecursionError:
        raise BadRequest(f"{name} is not JSON that can be read: it is nested too deep") from None


def named_value(text: str, option: str) -> tuple[str, str]:
    """The name and the value of `NAME=VALUE`. Raises: BadRequest, which names the option."""
    name, said, value = text.partition("=")
    if not said:
        raise BadRequest(f"{option}: {text[:80]!r} must be NAME=VALUE")
    return name, value


def check_search(search: object, field: str) -> None:
    """Raises: BadRequest where an offer search asks for a field that offers of the protocol have not."""
    from posthouse.wire.search import check_fields, parse_search  # here, because it takes its time

    filters = parse_search(search) if isinstance(search, str | dict) else {}
    try:
        check_fields(filters)
    except BadRequest as error:
        raise BadRequest(f"{field}: {error}; --force sends it all the same") from None


def find(rows: Sequence[T], what: str, said: str | int, keys: Iterable[str] = ("id",)) -> T:
    """The row of which one of `keys`, the first that fits, is what was said.

    Raises: NotFound; BadRequest if it fits several. Both call the rows `what`.
    """
    from posthouse.client import NotFound  # here, because it takes its time

    for key in keys:
        found = [row for row in rows if str(getattr(row, key)) == str(said)]
        if len(found) > 1:
            ids = ", ".join(str(row.id) for row in found[:10])
            raise BadRequest(f"several {what}s have the {key} {said!r}: say which by its id, one of {ids}")
        if found:
            return found[0]
    raise NotFound(f"there is no {what} {said!r}")
