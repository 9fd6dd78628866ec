"""Words a refusal of the framework: the field, the problem and what is allowed, never its own text."""

from collections.abc import Iterator
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, StringConstraints
from pydantic.fields import FieldInfo

from posthouse.wire.checks import shown, unknown

MAX_TOLD = 10
"""Most wrong fields that one answer names."""


def worded(error: RequestValidationError, route: APIRoute | None) -> str:
    """What is wrong with a call, field by field."""
    found: dict[str, str] = {}
    extra: list[str] = []
    for wrong in error.errors():
        field, info, known = _place(route, wrong["loc"])
        if wrong["type"] == "extra_forbidden":  # the allowed names are listed once
            extra.append(field)
            field = extra[0]
        found.setdefault(field, _words(field, info, known, wrong))
    if len(extra) > 1:
        found[extra[0]] += f"; nor are there {', '.join(name[:64] for name in extra[1:MAX_TOLD])}"
    return "; ".join(list(found.values())[:MAX_TOLD])


def _words(field: str, info: FieldInfo | None, known: list[str], wrong: dict[str, Any]) -> str:
    kind, value = wrong["type"], wrong.get("input")
    if kind == "extra_forbidden":
        return str(unknown(field, known))
    if kind == "words":  # our own check
        return wrong["msg"] if ":" in wrong["msg"] else f"{field}: {wrong['msg']}"
    if field == "body":
        fields = f", with the fields {', '.join(known)}" if known else ""
        return f"body: must be a JSON object{fields}"
    allowed = f"must be {_allowed(info)}" if info is not None else "is not allowed"
    if kind == "missing":
        return f"{field}: is required; it {allowed}"
    secret = info is not None and not info.repr
    return f"{field}: {allowed}" if secret else f"{field}: {allowed}, not {shown(value)}"


def _place(route: APIRoute | None, loc: tuple[int | str, ...]) -> tuple[str, FieldInfo | None, list[str]]:
    """The name of the field at a place, what it may be, and the names beside it."""
    where, *path = loc
    if route is None:
        return str(path[0] if path else where), None, []
    if where != "body":
        params = {p.alias: p.field_info for p in (*route.dependant.path_params, *route.dependant.query_params)}
        return str(path[0]), params.get(str(path[0])), list(params)
    name, info, known = "body", route.body_field.field_info if route.body_field else None, list[str]()
    model = _model(info)
    known = list(model.model_fields) if model else []
    for step in path:
        if isinstance(step, int) and (entry := _entry(info)) is not None:
            name, info = f"{name}[{step}]", FieldInfo.from_annotation(entry)
        elif model is not None and isinstance(step, str):
            known = list(model.model_fields)
            name, info = (step if name == "body" else f"{name}.{step}"), model.model_fields.get(step)
        else:
            break
        model = _model(info)
    return name, info, known


def _entry(info: FieldInfo | None) -> Any:
    """What an entry of the list is that a field holds; None if it holds none."""
    kinds = [] if info is None else [kind for kind, _ in _kinds(info.annotation, ())]
    return next((get_args(kind)[0] for kind in kinds if get_origin(kind) is list), None)


def _model(info: FieldInfo | None) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    kinds = [] if info is None else [kind for kind, _ in _kinds(info.annotation, ())]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _allowed(info: FieldInfo) -> str:
    """The values that a field may have."""
    return " or ".join(
        dict.fromkeys(_described(kind, bounds) for kind, bounds in _kinds(info.annotation, info.metadata))
    )


def _kinds(annotation: Any, bounds: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The types of a union, but for None, each with its bounds."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(args[0], [*bounds, *args[1:]])
    elif origin in (Union, UnionType):
        for arg in args:
            yield from _kinds(arg, bounds)
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
