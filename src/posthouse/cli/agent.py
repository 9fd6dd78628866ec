"""`posthouse agent`, which has an option for every field of `AgentSettings`."""

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from posthouse import agent as agents
from posthouse.agent.settings import AgentSettings, Benchmark, Option
from posthouse.cli.input import read_json
from posthouse.domain.errors import BadRequest

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="Least level that is logged.", show_default="info")
]
BENCHMARK = "benchmark_"
"""What the options of a benchmark begin with."""


def agent(log_level: LogLevel = "info", **options: Any) -> None:
    """Run beside a model server on a worker: measure, report, verify, queue, proxy.

    SIGTERM drains and stops it. In a worker that Posthouse made, everything but
    the model server's address is in the environment.

    Examples:
      posthouse agent --upstream http://127.0.0.1:8000
      posthouse agent --upstream http://127.0.0.1:8000 --ready-log 'Model loaded' --workload constant:1
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    given = {name: value for name, value in given.items() if value not in (None, ())}
    benchmark: dict[str, Any] = {
        name.removeprefix(BENCHMARK): given.pop(name) for name in list(given) if name.startswith(BENCHMARK)
    }
    if "payload" in benchmark:
        benchmark["payload"] = read_json(benchmark["payload"], "--benchmark-payload")
    try:
        settings = AgentSettings.from_environment(
            os.environ, **given, benchmark=Benchmark(**benchmark) if benchmark else None
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(agents.run(settings))


def _parameters(group: type[Any], prefix: str = "") -> Iterator[Parameter]:
    """Yield a parameter of the command for each field of a dataclass whose type is annotated with an `Option`."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if hints[field.name] is Benchmark:
            yield from _parameters(Benchmark, BENCHMARK)
            continue
        hint, option = get_args(hints[field.name])
        name, kind = f"{prefix}{field.name}", _kind(hint)
        annotation: Any = Annotated[kind | None, _told(option, field.default, name, kind)]
        required = field.default is MISSING and field.default_factory is MISSING and not option.default
        default = Parameter.empty if required else None
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(hint: Any) -> Any:
    """Return the type of an option for a field of this type. A list is given piece by piece."""
    if get_origin(hint) is tuple:
        return list[str]
    if hint is Any:
        return str
    return next(iter(kind for kind in get_args(hint) if kind is not type(None)), hint)


def _told(option: Option, default: Any, name: str, kind: Any) -> Any:
    own = default if isinstance(default, int | float | str | Path) and not isinstance(default, bool) else ""
    shown = option.default or (f"{own:g}" if isinstance(own, float) else str(own))
    flag = name.replace("_", "-")
    names = option.name or (f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}")
    return typer.Option(names, help=option.help, show_default=shown or False, rich_help_panel=option.panel or None)


agent.__signature__ = Signature(  # type: ignore[attr-defined]  # read by Typer
    [*_parameters(AgentSettings), Parameter("log_level", Parameter.KEYWORD_ONLY, default="info", annotation=LogLevel)]
)
