"""The JSON schema of a manifest, for editors."""

from typing import Any

from posthouse.domain.endpoint import PARAMETERS, Parameter
from posthouse.manifest.alias import ALIAS, FALLBACK, TARGET
from posthouse.manifest.describe import FIELDS, GROUP, KEY, MAX_LIMIT, TEMPLATE
from posthouse.recipes import names
from posthouse.wire.fallback import FAULTS

_NUMBERS = {"weight", "wait_s", "gpu_ram_gb", "disk_gb", "loading_timeout_s", "gpu_ram"}
_SCALAR = {"type": ["string", "number", "boolean"]}


def schema() -> dict[str, Any]:
    """The schema of one document."""
    fields = _fields(FIELDS)
    fields["scaling"] |= _object({name: _scaling(parameter) for name, parameter in PARAMETERS.items()})
    fields["recipe"]["enum"] = names()
    fields["parameters"] = {"type": "object", "additionalProperties": _SCALAR, "description": FIELDS["parameters"]}
    template = _fields(TEMPLATE)
    template["env"] = {
        "description": TEMPLATE["env"],
        "anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": ["string", "number"]}}],
    }
    template["ports"] = {"type": "array", "items": {"type": ["string", "number"]}, "description": TEMPLATE["ports"]}
    fields["template"] = {"description": FIELDS["template"], "anyOf": [{"type": "string"}, _object(template)]}
    fields["workergroups"] = {
        "description": FIELDS["workergroups"],
        "type": "array",
        "minItems": 1,
        "items": _object(_fields(GROUP)),
    }
    limits = {
        name: {"type": "integer", "minimum": 0, "maximum": MAX_LIMIT, "description": text} for name, text in KEY.items()
    }
    fields["keys"] = {"type": "object", "additionalProperties": _object(limits), "description": FIELDS["keys"]}
    endpoint = {
        **_object(fields),
        "required": ["endpoint"],
        "oneOf": [{"required": ["recipe"]}, {"required": ["template"]}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Posthouse manifest",
        "description": "An endpoint or an alias, for `posthouse apply -f FILE`.",
        "if": {"required": ["alias"]},
        "then": _alias(),
        "else": endpoint,
    }


def properties() -> dict[str, Any]:
    """The schemas of all fields, of endpoints and of aliases, by name."""
    whole = schema()
    return {**whole["else"]["properties"], **whole["then"]["properties"]}


def _alias() -> dict[str, Any]:
    fields, target, fallback = _fields(ALIAS), _fields(TARGET), _fields(FALLBACK)
    fallback["faults"] |= {"type": "array", "minItems": 1, "items": {"enum": list(FAULTS)}}
    for name, one in (("targets", target), ("fallbacks", fallback)):
        fields[name] |= {"type": "array", "items": {**_object(one), "required": ["model"]}}
    fields["targets"]["minItems"] = 1
    return {**_object(fields), "required": ["alias", "targets"]}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _fields(described: dict[str, str]) -> dict[str, Any]:
    return {
        name: {"description": text} | ({"type": "number"} if name in _NUMBERS else {"type": "string"})
        for name, text in described.items()
        if name != "scaling"
    } | ({"scaling": {"description": described["scaling"]}} if "scaling" in described else {})


def _scaling(parameter: Parameter) -> dict[str, Any]:
    unit = f" Unit: {parameter.unit}." if parameter.unit else ""
    told: dict[str, Any] = {"description": parameter.meaning + unit}
    if parameter.choices:
        return told | {"enum": list(parameter.choices)}
    number = {
        "type": "integer" if parameter.whole else "number",
        "minimum": parameter.low,
        "maximum": parameter.high,
    }
    return told | ({"anyOf": [number, {"type": "null"}, {"const": "none"}]} if parameter.optional else number)
