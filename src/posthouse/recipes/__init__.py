"""Recipes: what a worker runs for an engine, worked out once. `up` makes a template of one and its parameters."""

import os
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.wire.checks import unknown
from posthouse.wire.env import env_text

_SUFFIX: Final = ".toml"
_PORT: Final = "-p 3000:3000"  # the agent's, see `WORKER_PORT`


class Parameter(Struct, frozen=True, forbid_unknown_fields=True):
    """What a recipe may be told. A worker finds it in its environment, by its name in capitals."""

    help: str
    kind: Literal["file", "whole"]
    """`file`: the path of a file where the workers are."""
    default: str | int | None = None
    """None: it must be given."""
    least: int = 1
    most: int = 2**31

    def checked(self, name: str, said: str, force: bool) -> str:
        """The value as the environment has it. Raises: BadRequest."""
        if self.kind == "whole":
            if not (said.isascii() and said.isdigit() and len(said) < 20 and self.least <= int(said) <= self.most):
                raise BadRequest(f"{name}: must be a whole number from {self.least} to {self.most}, not {said[:80]!r}")
            return said
        path = os.path.abspath(said)
        if not said or not (force or os.path.isfile(path)):
            raise BadRequest(f"{name}: there is no file {said[:255]!r}; --force takes it as a path at the workers")
        return path


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker runs."""

    desc: str
    onstart: str
    parameters: dict[str, Parameter]
    disk_gb: float = 10.0
    image: str = ""

    def template(self, given: Mapping[str, str], force: bool) -> dict[str, Any]:
        """The fields of a template but its name. Raises: BadRequest naming the parameter.

        `force`: files need not be here.
        """
        for name in given:
            if name not in self.parameters:
                raise unknown(name, self.parameters, "parameter")
        env: dict[str, object] = {_PORT: "1"}
        for name, parameter in self.parameters.items():
            if name in given:
                env[name.upper()] = parameter.checked(name, given[name], force)
            elif parameter.default is None:
                raise BadRequest(f"{name}: is not given; {parameter.help}")
            else:
                env[name.upper()] = str(parameter.default)
        more = {"image": self.image} if self.image else {}
        return {
            "desc": self.desc,
            "env": env_text(env),
            "onstart": self.onstart,
            "recommended_disk_space": self.disk_gb,
            **more,
        }


def names() -> list[str]:
    """The recipes that there are."""
    return sorted(f.name.removesuffix(_SUFFIX) for f in files(__name__).iterdir() if f.name.endswith(_SUFFIX))


def recipe(name: str) -> Recipe:
    """Raises: NotFound."""
    if name not in names():
        raise NotFound(f"there is no recipe {name[:80]!r}; there are: {', '.join(names())}")
    text = files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Recipe)
