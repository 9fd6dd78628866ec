"""What a field may hold, in words: for refusals that name the field, the problem and what is allowed."""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic.fields import FieldInfo

from posthouse.errors import BadRequest
from posthouse.wire.checks import shown

Body = TypeVar("Body", bound=BaseModel)


def made(kind: type[Body], fields: Mapping[str, Any], wrong: Callable[[str, str], BadRequest]) -> Body:
    """The body that these fields make. Raises: what `wrong` makes of the name of a field and what is wrong with it."""
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        info = kind.model_fields.get(name)
        if first["type"] == "words" or info is None:
            raise wrong(name, first["msg"]) from None
        raise wrong(name, f"must be {allowed(info)}, not {shown(first['input'])}") from None


def allowed(info: FieldInfo) -> str:
    """The values that a field may have."""
    return " or ".join(
        dict.fromkeys(_described(kind, bounds) for kind, bounds in kinds(info.annotation, info.metadata))
    )


def kinds(annotation: Any, bounds: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The types of a union, but for None, each with its bounds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from kinds(args[0], [*bounds, *args[1:]])
    elif origin in (Union, UnionType):
        for arg in args:
            yield from kinds(arg, bounds)
    elif annotation is not type(None):
        yield annotation, _flat(bounds)


def _flat(bounds: Any) -> list[Any]:
    """Bounds, with those inside of groups."""
    flat: list[Any] = []
    for bound in bounds:
        flat += [bound] if isinstance(bound, Ge | Gt | Le | MinLen | MaxLen) else []
        if isinstance(bound, FieldInfo):
            flat += _flat(bound.metadata)
        elif isinstance(bound, StringConstraints):
            flat += _flat(bound)
    return flat


def _described(kind: Any, bounds: list[Any]) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(str(word) or '(empty)' for word in get_args(kind))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member) for member in kind)}"
    if kind in (int, float):
        low = [f"from {b.ge:.16g}" for b in bounds if isinstance(b, Ge)]
        low += [f"above {b.gt:.16g}" for b in bounds if isinstance(b, Gt)]
        high = [f"to {b.le:.16g}" for b in bounds if isinstance(b, Le)]
        return " ".join(["a whole number" if kind is int else "a number", *low, *high])
    if kind is bool:
        return "true or false"
    if kind is str:
        least = next((b.min_length for b in bounds if isinstance(b, MinLen)), 0)
        most = next((b.max_length for b in bounds if isinstance(b, MaxLen)), None)
        return "text" if most is None else f"text of {f'{least} to' if least else 'at most'} {most} characters"
    if get_origin(kind) in (list, tuple):
        least = next((b.min_length for b in bounds if isinstance(b, MinLen)), 0)
        most = next((b.max_length for b in bounds if isinstance(b, MaxLen)), None)
        return "a list" if most is None else f"a list of {least} to {most}"
    return "an object"
