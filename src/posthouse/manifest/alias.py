"""What a manifest says of an alias: where the requests to a name of a model go."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from posthouse.manifest.describe import checked, known, line
from posthouse.manifest.value import Value
from posthouse.wire.checks import unknown
from posthouse.wire.fallback import FAULTS
from posthouse.wire.rows.aliases import Alias

ALIAS: Final = {
    "alias": "Name that callers give as the model.",
    "targets": "Where its requests go; one is drawn for each.",
    "fallbacks": "Where requests go that failed before their first byte, in this order.",
    "wait_s": "Longest wait for a worker before a fallback, in seconds; the gateway's own, if it is left out.",
}
TARGET: Final = {
    "model": "An endpoint, or another alias.",
    "weight": "Its share of the requests, beside the weights of the others; 1, if it is left out.",
}
FALLBACK: Final = {
    "model": "An endpoint, another alias, or as the last one external:NAME, which gateways know.",
    "faults": f"For which classes of errors; {', '.join(FAULTS[:3])}, if it is left out.",
}


@dataclass(frozen=True, slots=True)
class AliasManifest:
    """What an alias should be."""

    name: str
    fields: dict[str, Any]
    """By the names of the API."""
    document: Value = field(compare=False)


def alias_manifest(document: Value) -> AliasManifest:
    """Raises: BadRequest with the line and the field."""
    fields = known(document, ALIAS)
    for name in ("alias", "targets"):
        if name not in fields:
            raise document.wrong(f"{name}: is not given")
    made: dict[str, Any] = {
        "targets": [_target(one) for one in fields["targets"].items()],
        "fallbacks": [_fallback(one) for one in fields["fallbacks"].items()] if "fallbacks" in fields else [],
        "wait_s": float(fields["wait_s"].number()) if "wait_s" in fields else None,
    }
    return AliasManifest(_model(fields["alias"]), made, document)


def alias_fields(row: Alias) -> dict[str, Any]:
    """The fields of an alias that a manifest may have, but for its name."""
    fields = asdict(row)
    return {name: fields[name] for name in ALIAS if name != "alias"}


def described_alias(row: Alias) -> dict[str, Any]:
    """The manifest of an alias as it is."""
    return {"alias": row.name, **{name: value for name, value in alias_fields(row).items() if value not in ([], None)}}


def _target(value: Value) -> dict[str, Any]:
    fields = _with_model(value, TARGET)
    weight = float(fields["weight"].number()) if "weight" in fields else 1.0
    if weight < 0:
        raise fields["weight"].wrong(f"must be 0 or more, not {weight:g}")
    return {"model": _model(fields["model"]), "weight": weight}


def _fallback(value: Value) -> dict[str, Any]:
    fields = _with_model(value, FALLBACK)
    faults = [_fault(one) for one in fields["faults"].items()] if "faults" in fields else FAULTS[:3]
    return {"model": _model(fields["model"]), "faults": list(faults)}


def _fault(value: Value) -> str:
    if value.text() not in FAULTS:
        raise value.wrong(str(unknown(value.text(), FAULTS, "class of errors")))
    return value.text()


def _with_model(value: Value, allowed: Mapping[str, str]) -> dict[str, Value]:
    fields = known(value, allowed)
    if "model" not in fields:
        raise value.wrong("model: is not given")
    return fields


def _model(value: Value) -> str:
    name: str = checked(value, lambda said: line(said, "the name of a model, 1 to 128 characters"))
    return name
