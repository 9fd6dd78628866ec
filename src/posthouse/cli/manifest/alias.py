"""What a manifest says of an alias: where the requests to a name of a model go."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from posthouse.cli.manifest.describe import checked, known, line
from posthouse.cli.manifest.plan import Change, Found, Plan
from posthouse.cli.manifest.read import Value
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
    place: Value = field(compare=False)


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
    return AliasManifest(_model(fields["alias"]), made, fields["alias"])


def alias_plan(wanted: AliasManifest, found: Found) -> Plan:
    """What has to be done for the alias to be as its manifest says."""
    there = next((row for row in found.aliases if row.name == wanted.name), None)
    before = {} if there is None else alias_fields(there)
    changed = {key: (before.get(key), value) for key, value in wanted.fields.items() if before.get(key) != value}
    what = f"alias {wanted.name}"
    change = Change(
        "create" if there is None else "change", what, _told(changed), do=lambda client, _: _put(client, wanted)
    )
    return Plan(what, (change,) if changed else (), {})


def alias_deletion(wanted: AliasManifest, found: Found) -> Plan:
    """What has to be done for the alias not to be."""
    what = f"alias {wanted.name}"
    gone = all(row.name != wanted.name for row in found.aliases)
    change = Change("delete", what, do=lambda client, _: client.delete_alias(wanted.name))
    return Plan(what, () if gone else (change,), {})


def alias_fields(row: Alias) -> dict[str, Any]:
    """The fields of an alias that a manifest may have, but for its name."""
    fields = asdict(row)
    return {name: fields[name] for name in ALIAS if name != "alias"}


def described_alias(row: Alias) -> dict[str, Any]:
    """The manifest of an alias as it is."""
    return {"alias": row.name, **{name: value for name, value in alias_fields(row).items() if value not in ([], None)}}


def _put(client: Any, wanted: AliasManifest) -> None:
    client.put_alias(wanted.name, **wanted.fields)


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


def _told(changed: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    return {name: (_words(before), _words(after)) for name, (before, after) in changed.items() if after or before}


def _words(value: Any) -> Any:
    """A list of targets or fallbacks in one line."""
    if not isinstance(value, list):
        return value
    return ", ".join(_word(one) for one in value)


def _word(one: Mapping[str, Any]) -> str:
    more: Iterable[str] = one["faults"] if "faults" in one else [f"{one['weight']:g}"]
    return f"{one['model']}={'+'.join(more)}"
