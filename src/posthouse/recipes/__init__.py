"""Recipes: what a worker runs for an engine, worked out once. A template is made of one and its parameters.

Each is a file in TOML beside this one; the examples with a template are recipes, too.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct, field

import posthouse
from posthouse.errors import BadRequest, NotFound
from posthouse.recipes.parameter import Parameter
from posthouse.wire.checks import unknown
from posthouse.wire.env import env_text, parse_env

__all__ = ["Parameter", "Recipe", "examples", "names", "recipe"]

_SUFFIX: Final = ".toml"
_PORT: Final = "-p 3000:3000"  # the agent's, see `WORKER_PORT`
_ENDPOINT: Final = "{endpoint}"
"""As a default: the name of the endpoint."""
_TEMPLATE: Final = "template.json"
_STRAY_DOLLAR: Final = re.compile(r"\$(?![A-Z_{])")

Value = str | int | float


class Recipe(Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker runs."""

    desc: str
    parameters: dict[str, Parameter]
    command: str = ""
    """The model server, in words of the shell: one line for each group of them."""
    agent: dict[str, Value | list[str] | dict[str, Any]] = field(default_factory=dict)
    """Options of `posthouse agent` by name. `$NAME` in a text is a parameter, or a variable of the worker."""
    setup: str = ""
    """Lines of the shell before it."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of the engine."""
    onstart: str = ""
    """The whole script, in place of `command`, `agent` and `setup`."""
    image: str = ""
    """For providers of containers. Empty: it runs in the Python of the worker's Posthouse."""
    disk_gb: float = 10.0
    loading_timeout_s: float = 0.0
    """Longest time until a worker is ready, with the download of its model; 0: as the server says."""
    gpus: str = ""
    """The parameter that says on how many GPUs of a machine a worker runs, or that number. Empty: on none."""
    gpu_ram_gb: float = 0.0
    """Memory that each GPU must have, where it does not follow from the model."""
    memory: Literal["", "transformers", "gguf"] = ""
    """How that is worked out: of a configuration for one request of `max_model_len`, the least with which the engine
    starts; or of a file in GGUF for all of `parallel` requests, which the engine takes at its start."""
    search: str = ""
    """What else an offer must satisfy."""

    def template(
        self, given: Mapping[str, str], force: bool = False, endpoint: str = "model", gpu_ram_gb: float = 0.0
    ) -> dict[str, Any]:
        """The fields of a template but its name. Raises: BadRequest naming the parameter.

        `force`: files need not be here. `endpoint`: whose workers run it. `gpu_ram_gb`: memory that each GPU must have.
        """
        values = self.values(given, force, endpoint)
        env: dict[str, object] = {_PORT: "1", **self.env}
        # Some engines read variables of their own, and take an empty one for a wrong value.
        env |= {name.upper(): value for name, value in values.items() if value != ""}
        fields: dict[str, Any] = {
            "desc": self.desc,
            "image": self.image,
            "env": env_text(env),
            "onstart": self.script(),
            "recommended_disk_space": self.disk_gb,
            "loading_timeout_s": self.loading_timeout_s,
            "extra_filters": self.filters(values, gpu_ram_gb),
        }
        return {name: value for name, value in fields.items() if value}

    def values(self, given: Mapping[str, str], force: bool, endpoint: str) -> dict[str, str]:
        """Every parameter as the environment has it. Raises: BadRequest naming the parameter."""
        for name in given:
            if name not in self.parameters:
                raise unknown(name, self.parameters, "parameter")
        found = {}
        for name, parameter in self.parameters.items():
            said = given.get(name, parameter.default)
            if said is None:
                raise BadRequest(f"{name}: is not given; {parameter.help}")
            if name not in given and parameter.kind == "file":
                found[name] = str(said)
            else:
                found[name] = parameter.checked(name, endpoint if said == _ENDPOINT else str(said), force)
        return found

    def filters(self, values: Mapping[str, str], gpu_ram_gb: float = 0.0) -> str:
        """The search for machines that fit, of `values`; empty: any does."""
        if not self.gpus:
            return self.search
        ram = gpu_ram_gb or self.gpu_ram_gb
        words = [f"num_gpus={values.get(self.gpus, self.gpus)}", f"gpu_ram>={ram:g}" if ram else "", self.search]
        return " ".join(filter(None, words))

    def script(self) -> str:
        """What a worker runs at every start."""
        if self.onstart:
            return self.onstart
        words = ['exec "$PYTHON" -m posthouse agent']
        for name, value in self.agent.items():
            each = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')} {_quoted(one)}" for one in each]
        words.append("-- " + " \\\n  ".join(self.command.strip().splitlines()))
        return "".join([self.setup.lstrip(), " \\\n  ".join(words), "\n"])


def _quoted(value: Value | dict[str, Any]) -> str:
    """The value as one word of the shell, in which `$NAME` is replaced."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False) if isinstance(value, dict) else f"{value}"
    if "$" not in text:
        return shlex.quote(text)
    escaped = _STRAY_DOLLAR.sub(r"\\$", re.sub(r'(["\\`])', r"\\\1", text))
    return f'"{escaped}"'


def examples() -> dict[str, Path]:
    """The folders of the examples that have a template, by name: those of the wheel, or of the checkout."""
    package = Path(posthouse.__file__).parent
    for folder in (package / "examples", package.parents[1] / "examples"):
        if folder.is_dir():
            return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{_TEMPLATE}"))}
    return {}


def names() -> list[str]:
    """The recipes that there are."""
    own = (f.name.removesuffix(_SUFFIX) for f in files(__name__).iterdir() if f.name.endswith(_SUFFIX))
    return sorted({*own, *examples()})


@cache
def recipe(name: str) -> Recipe:
    """Raises: NotFound."""
    if name not in names():
        raise NotFound(f"there is no recipe {name[:80]!r}; there are: {', '.join(names())}")
    if folder := examples().get(name):
        return _of_example(folder)
    text = files(__name__).joinpath(name + _SUFFIX).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), Recipe)


def _of_example(folder: Path) -> Recipe:
    """An example's template, with its variables as parameters."""
    template = json.loads((folder / _TEMPLATE).read_text(encoding="utf-8"))
    # One that needs its own files says where they are in an image: here they are in the folder.
    env = template["env"].replace(f"/opt/posthouse/examples/{folder.name}", shlex.quote(str(folder)))
    variables, _ = parse_env(env)
    return Recipe(
        desc=template["desc"],
        parameters={
            name.lower(): Parameter(help="a variable of the example's template", kind="word", default=value)
            for name, value in variables.items()
        },
        onstart=template["onstart"],
        image=template["image"],
        disk_gb=template["recommended_disk_space"],
    )
