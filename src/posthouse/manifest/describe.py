"""What a manifest says: an endpoint, how it scales, what its workers run, and where they are had."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from posthouse.domain.endpoint import PARAMETERS
from posthouse.errors import BadRequest, NotFound
from posthouse.manifest.value import Value
from posthouse.recipes import Parameter, recipe
from posthouse.wire.checks import unknown
from posthouse.wire.env import env_text, parse_env
from posthouse.wire.search import check_fields, parse_search

FIELDS: Final = {
    "endpoint": "Name of the endpoint.",
    "scaling": "How it scales; parameters that are not named are left as they are.",
    "recipe": "What its workers run: a recipe, with `parameters`.",
    "parameters": "Parameters of the recipe.",
    "template": "In place of a recipe: the fields of a template, or the name of one that there is.",
    "gpu_ram_gb": "Memory that each GPU must have, in GB, where the recipe leaves it to the model.",
    "workergroups": "Where workers are had; one with nothing said, if it is left out.",
    "keys": "Limits of keys that there are, by name, on all endpoints together; those that are not named stay.",
}
KEY: Final = {
    "requests_per_minute": "Most requests per minute; 0: no limit.",
    "work_per_minute": "Most work per minute, in the units of the endpoints; 0: no limit.",
    "at_once": "Most requests that wait or run at once; 0: no limit.",
}
MAX_LIMIT: Final = 10**12
"""As of the server."""
TEMPLATE: Final = {
    "image": "Container image, for providers that run containers.",
    "env": "Variables, as fields or as text like '-e NAME=VALUE -p 3000:3000'.",
    "ports": "Ports that clients must reach; the first is the agent's. 3000, if it is left out.",
    "onstart": "Shell script that a worker runs at every start.",
    "disk_gb": "Disk, in GB.",
    "search": "Offer filter, like 'gpu_ram>=24 num_gpus=1'.",
    "loading_timeout_s": "Longest time until a worker is ready; 0: as the server says.",
    "desc": "Description.",
}
GROUP: Final = {
    "provider": "Where to rent; the server's default, if it is left out.",
    "search": "Offer filter, in place of the template's.",
    "gpu": "Only machines with this GPU, like RTX_4090, beside the template's filter.",
    "gpu_ram": "Size of the model in GB: an estimate, not a filter.",
    "launch_args": "Further arguments, for providers that know them.",
    "signature_scheme": "Signature scheme of its workers: A4, A5, A5S or U.",
    "template": "Name of another template, for this workergroup alone.",
}
BLANK: Final[Mapping[str, Any]] = {
    "image": "",
    "env": "",
    "onstart": "",
    "recommended_disk_space": 10.0,
    "extra_filters": "",
    "desc": "",
    "loading_timeout_s": 0.0,
}
"""The fields of a template of which nothing is said, by the wire's names."""
_MAX_GROUPS: Final = 100


@dataclass(frozen=True, slots=True)
class Group:
    """A workergroup."""

    template: str
    """Name of its template."""
    fields: dict[str, Any]
    """What else is said, by the wire's names."""
    place: Value = field(compare=False)


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """What a key may have."""

    name: str
    limits: dict[str, int]
    place: Value = field(compare=False)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an endpoint should be."""

    name: str
    scaling: dict[str, Any]
    template: dict[str, Any] | None
    """The fields of the endpoint's own template by the wire's names; None if workers run templates that there are."""
    groups: tuple[Group, ...]
    document: Value = field(compare=False)
    keys: tuple[KeyLimit, ...] = ()


def manifest(document: Value, force: bool) -> Manifest:
    """What a document says of an endpoint. Raises: BadRequest with the line and the field."""
    fields = known(document, FIELDS)
    if "endpoint" not in fields:
        raise document.wrong("endpoint: is not given")
    name = checked(fields["endpoint"], lambda said: line(said, "a name of 1 to 128 characters"))
    template, template_name = _template(document, fields, name, force)
    what = fields.get("template") or fields["recipe"]
    nothing = [what.other({})]
    groups = fields["workergroups"].items() if "workergroups" in fields else nothing
    if not 1 <= len(groups) <= _MAX_GROUPS:
        raise fields["workergroups"].wrong(f"must be 1 to {_MAX_GROUPS} workergroups")
    filters = str((template or {}).get("extra_filters", ""))
    return Manifest(
        name=name,
        scaling=_scaling(fields["scaling"]) if "scaling" in fields else {},
        template=template,
        groups=tuple(_group(group, template_name, filters) for group in groups),
        document=document,
        keys=tuple(_key(name, one) for name, one in fields["keys"].mapping().items()) if "keys" in fields else (),
    )


def known(value: Value, allowed: Mapping[str, str]) -> dict[str, Value]:
    """The fields of a mapping. Raises: BadRequest for one that there is not."""
    fields = value.mapping()
    for name, one in fields.items():
        if name not in allowed:
            raise one.refused(f"{value.path + '.' if value.path else ''}{unknown(name, allowed)}")
    return {name: one for name, one in fields.items() if one.plain is not None}


def checked(value: Value, check: Callable[[str], Any]) -> Any:
    """What `check` makes of a text, which may raise BadRequest; that is told with the line."""
    try:
        return check(value.text())
    except (BadRequest, NotFound) as error:
        raise value.wrong(str(error)) from None


def _key(name: str, value: Value) -> KeyLimit:
    fields = known(value, KEY)
    for one in fields.values():
        if isinstance(one.plain, bool) or not (isinstance(one.plain, int) and 0 <= one.plain <= MAX_LIMIT):
            raise one.wrong(f"must be a whole number from 0 to {MAX_LIMIT}, not {one.shown}")
    return KeyLimit(name, {limit: one.plain for limit, one in fields.items()}, value)


def line(said: str, what: str) -> str:
    """The text, if it may be a name; `what` says what it must be. Raises: BadRequest."""
    if not (0 < len(said) <= 128 and said.isprintable()):
        raise BadRequest(f"must be {what}, not {said[:60]!r}")
    return said


def _scaling(value: Value) -> dict[str, Any]:
    found = {}
    for name, one in value.mapping().items():
        if name not in PARAMETERS:
            raise one.refused(f"scaling.{unknown(name, PARAMETERS, 'scaling parameter')}")
        if isinstance(one.plain, dict | list):
            raise one.wrong(f"must be {PARAMETERS[name].allowed}, not {one.shown}")
        try:
            found[name] = PARAMETERS[name].check(one.plain)
        except BadRequest as error:
            raise one.refused(f"scaling.{error}") from None
    return found


def _template(
    document: Value, fields: Mapping[str, Value], endpoint: str, force: bool
) -> tuple[dict[str, Any] | None, str]:
    """The fields of the endpoint's own template, None if it uses another, and the name of the one that is used."""
    if ("recipe" in fields) == ("template" in fields):
        raise document.wrong("recipe, template: one of them says what workers run, and not both")
    if "template" in fields:
        for name in ("parameters", "gpu_ram_gb"):
            if name in fields:
                raise fields[name].wrong("is of a recipe, and there is none")
        if not isinstance(fields["template"].plain, dict):
            return None, checked(fields["template"], lambda said: line(said, "the name of a template"))
        return {**BLANK, **_own_template(fields["template"]), "name": endpoint}, endpoint
    found = checked(fields["recipe"], recipe)
    given: dict[str, str] = {}
    for name, one in (fields["parameters"].mapping() if "parameters" in fields else {}).items():
        if name not in found.parameters:
            raise one.refused(f"parameters.{unknown(name, found.parameters, 'parameter')}")
        given[name] = one.text()
        checked(one, partial(_parameter, found.parameters[name], force))
    ram = fields["gpu_ram_gb"].number() if "gpu_ram_gb" in fields else 0.0
    made = checked(fields["recipe"], lambda _: found.template(given, force, endpoint, ram))
    return {**BLANK, **made, "name": endpoint}, endpoint


def _parameter(parameter: Parameter, force: bool, said: str) -> None:
    try:
        parameter.checked("", said, force)
    except BadRequest as error:
        raise BadRequest(str(error).removeprefix(": ")) from None


def _own_template(value: Value) -> dict[str, Any]:
    fields = known(value, TEMPLATE)
    made: dict[str, Any] = {name: fields[name].text() for name in ("image", "onstart", "desc") if name in fields}
    for name, wire in (("disk_gb", "recommended_disk_space"), ("loading_timeout_s", "loading_timeout_s")):
        if name in fields:
            made[wire] = fields[name].number()
            if made[wire] < 0:
                raise fields[name].wrong(f"must be 0 or more, not {made[wire]:g}")
    if "search" in fields:
        made["extra_filters"] = checked(fields["search"], _search)
    env = fields.get("env", value.other({}, "env"))
    if isinstance(env.plain, str):
        if "ports" in fields:
            raise fields["ports"].wrong("env is text, and names the ports itself")
        made["env"] = env.plain
    else:
        ports = [port.text() for port in fields["ports"].items()] if "ports" in fields else ["3000"]
        variables = {name: one.text() for name, one in env.mapping().items()}
        made["env"] = checked(
            env.other(""), lambda _: env_text({**{f"-p {port}:{port}": "1" for port in ports}, **variables})
        )
    checked(env.other(made["env"]), parse_env)
    return made


def _group(value: Value, template: str, filters: str) -> Group:
    fields = known(value, GROUP)
    made: dict[str, Any] = {
        name: fields[name].text() for name in ("provider", "launch_args", "signature_scheme") if name in fields
    }
    if "gpu_ram" in fields:
        made["gpu_ram"] = fields["gpu_ram"].number()
    search = checked(fields["search"], _search) if "search" in fields else ""
    if "gpu" in fields:
        gpu = checked(fields["gpu"], lambda said: _search(f"gpu_name={said}"))
        search = f"{search or filters} {gpu}".strip()
    if "template" in fields:
        template = checked(fields["template"], lambda said: line(said, "the name of a template"))
    return Group(template, {"provider": "", "search_params": search, **made}, value)


def _search(said: str) -> str:
    check_fields(parse_search(said))
    return said.strip()
