"""Where settings come from: flags beat the environment, that beats the file, that the default."""

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from posthouse.config.models import (
    ENV_PREFIX,
    LEAVES,
    ProviderSettings,
    Settings,
    allowed,
    env_name,
    is_list,
    known_settings,
    shown,
)
from posthouse.errors import BadRequest
from posthouse.plugins import PROVIDERS, installed

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

FILE_NAME = "posthouse.toml"
"""Read from the working directory where no other file is named."""

PROVIDER_NAME = "[a-z][a-z0-9]*(_[a-z0-9]+)*"
"""Of a table `[providers.NAME]`: so that the environment can name it too."""
MAX_PROVIDER_NAME = 32

VALUE_SHOWN = 60
"""Characters of a wrong value that an error repeats."""

Given = tuple[str, Any, str]
"""A setting's dotted name, its value, and where that comes from."""


def load_settings(
    flags: Mapping[str, Any], config_file: Path | None, environ: Mapping[str, str]
) -> tuple[Settings, dict[str, str]]:
    """The settings, and for each by its dotted name where its value comes from.

    `flags` has dotted names; None means not given. Raises: BadRequest that lists everything wrong at once.
    """
    given = [*_from_file(config_file), *_from_environment(environ), *_from_flags(flags)]
    models, problems = _provider_models(given)
    known = known_settings({name: model for name, (_, model) in models.items()})
    origins = dict.fromkeys(known, "default")
    values: dict[str, Any] = {}
    for leaf, value, origin in given:
        if leaf in known:
            if is_list(known[leaf]) and isinstance(value, str):
                value = [part.strip() for part in value.split(",") if part.strip()]
            values[leaf], origins[leaf] = value, origin
        elif any(other.startswith(f"{leaf}.") for other in known):
            if value != {}:
                problems.append(f"{leaf} ({origin}) is a table and not a value")
        elif _provider_of(leaf) in {*models, ""}:  # what is wrong with another's table is said already
            problems.append(f"{leaf} ({origin}) is unknown; the nearest known is {_nearest(leaf, known)}")

    def checked(model: type[BaseModel], table: Mapping[str, Any], prefix: str = "") -> Any:
        try:
            return model.model_validate(table)
        except ValidationError as error:
            problems.extend(_problem(wrong, prefix, known, origins) for wrong in error.errors() if _is_own(wrong))

    tree = _nested(values)
    tables = tree.pop("providers", {})
    settings: Settings | None = checked(Settings, tree)
    providers = {
        name: checked(model, {**tables.get(name, {}), "type": type_name}, f"providers.{name}.")
        for name, (type_name, model) in models.items()
    }
    if problems or settings is None:
        raise BadRequest("wrong settings:\n" + "\n".join(f"  {problem}" for problem in problems))
    return settings.model_copy(update={"providers": providers}), origins


def _is_own(wrong: "ErrorDetails") -> bool:
    """Whether an error is not only what follows from another, which is listed."""
    return wrong["type"] != "default_factory_not_called"


def _problem(wrong: "ErrorDetails", prefix: str, known: Mapping[str, FieldInfo], origins: Mapping[str, str]) -> str:
    """What is wrong with a setting, or with one element of it, or with several together, in words."""
    leaf = setting = (prefix + ".".join(map(str, wrong["loc"]))).rstrip(".")
    while setting and setting not in known:
        setting = setting.rpartition(".")[0]
    message = wrong["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    if not setting:
        return f"{leaf}: {message}"
    if wrong["type"] == "missing":
        return f"{leaf} is not given; allowed: {allowed(known[setting])}"
    value = shown(known[setting], repr(wrong["input"])[:VALUE_SHOWN])
    return f"{leaf} = {value} ({origins[setting]}) {message}; allowed: {allowed(known[setting])}"


def _from_file(path: Path | None) -> list[Given]:
    if path is None and Path(FILE_NAME).is_file():
        path = Path(FILE_NAME)
    return [] if path is None else [(leaf, value, f"file {path}") for leaf, value in _flat(_read(path))]


def _from_environment(environ: Mapping[str, str]) -> list[Given]:
    """Other programs may have variables with our prefix; one with the sign of nesting can only be meant for us."""
    names = ((name, name.removeprefix(ENV_PREFIX).replace("__", ".").lower()) for name in environ)
    return [
        (leaf, environ[name], f"environment {name}")
        for name, leaf in names
        if name == env_name(leaf) and (leaf in LEAVES or "." in leaf)
    ]


def _from_flags(flags: Mapping[str, Any]) -> list[Given]:
    return [
        (leaf, value, f"flag --{leaf.rpartition('.')[2].replace('_', '-')}")
        for leaf, value in flags.items()
        if value is not None
    ]


def _provider_of(leaf: str) -> str:
    """The provider that a setting is of; empty if it is of none."""
    section, _, rest = leaf.partition(".")
    return rest.partition(".")[0] if section == "providers" else ""


def _provider_models(given: Iterable[Given]) -> tuple[dict[str, tuple[str, type[ProviderSettings]]], list[str]]:
    """The type of each provider and the model of its table, and what is wrong with them.

    There is a provider for each table, and one that needs none: the default, if it has the name of a type.
    """
    last = {leaf: (value, origin) for leaf, value, origin in given}
    default, _ = last.get("default_provider", (Settings.model_fields["default_provider"].default, ""))
    types = installed(PROVIDERS)
    models: dict[str, tuple[str, type[ProviderSettings]]] = {}
    problems = []
    for name in sorted(
        {_provider_of(leaf) for leaf in last} - {""} | {name for name in str(default).split(",") if name in types}
    ):
        given_kind, origin = last.get(f"providers.{name}.type", ("", ""))
        kind = given_kind or name
        if not re.fullmatch(PROVIDER_NAME, name) or len(name) > MAX_PROVIDER_NAME:
            problems.append(f"providers.{name}: a name has small letters, digits and single _ between them, at most 32")
        elif kind not in types:
            where = (
                f"providers.{name}.type = {kind!r} ({origin})" if origin else f"providers.{name}.type is not given, and"
            )
            rest = "is no" if origin else f"{name!r} is no"
            problems.append(f"{where} {rest} installed provider; allowed: {' or '.join(types)}")
        else:
            models[name] = kind, types[kind].load().Settings
    return models, problems


def _nearest(unknown: str, known: Iterable[str]) -> str:
    """The setting whose name is most like this one, in whole and in its last part."""

    def likeness(leaf: str) -> float:
        pairs = (unknown, leaf), (unknown.rpartition(".")[2], leaf.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    return max(known, key=likeness)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRequest(f"the configuration file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise BadRequest(f"the configuration file {path} is not TOML: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, with dotted names; of an empty table, itself."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that `_flat` would give as `values`."""
    tree: dict[str, Any] = {}
    for leaf, value in values.items():
        *sections, name = leaf.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    return tree
