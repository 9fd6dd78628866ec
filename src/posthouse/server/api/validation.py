"""Words a refusal of the framework: the field, the problem and what is allowed, never its own text."""

from typing import Any, get_args, get_origin

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from posthouse.engine.management.wording import allowed, kinds
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
    must = f"must be {allowed(info)}" if info is not None else "is not allowed"
    if kind == "missing":
        return f"{field}: is required; it {must}"
    secret = info is not None and not info.repr
    return f"{field}: {must}" if secret else f"{field}: {must}, not {shown(value)}"


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
    found = [] if info is None else [kind for kind, _ in kinds(info.annotation, ())]
    return next((get_args(kind)[0] for kind in found if get_origin(kind) is list), None)


def _model(info: FieldInfo | None) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    found = [] if info is None else [kind for kind, _ in kinds(info.annotation, ())]
    return next((k for k in found if isinstance(k, type) and issubclass(k, BaseModel)), None)
