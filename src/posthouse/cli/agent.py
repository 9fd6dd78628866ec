"""`posthouse agent`, which has an option for every field of `AgentSettings`."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from posthouse import agent as agents
from posthouse import logs
from posthouse.agent.settings import AgentSettings, Benchmark, Option
from posthouse.cli.input import read_json
from posthouse.errors import BadRequest
from posthouse.tracing import traced

Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="-- COMMAND", help="The model server, which the agent then starts and watches."),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="Least level that is logged.", show_default="info")
]
LogFormat = Annotated[Literal["console", "json"], typer.Option(help="How log lines look.", show_default="console")]
BENCHMARK = "benchmark_"
"""What the options of a benchmark begin with."""


def agent(
    command: Command = None, log_level: LogLevel = "info", log_format: LogFormat = "console", **options: Any
) -> None:
    """Start a model server on a worker and run in front of it: measure, report, verify, queue, proxy.

    When the model server ends, the worker ends with its last lines as message.
    SIGTERM drains and stops both. In a worker that Posthouse made, everything
    that is needed is in the environment. Without a COMMAND the agent watches a
    model server that something else has started.

    Examples:
      posthouse agent -- python server.py --port "$MODEL_PORT"
      posthouse agent --upstream http://127.0.0.1:8000 --ready-log 'Model loaded' --workload constant:1
    """
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    given = {name: value for name, value in given.items() if value not in (None, ())}
    benchmark: dict[str, Any] = {
        name.removeprefix(BENCHMARK): given.pop(name) for name in list(given) if name.startswith(BENCHMARK)
    }
    for name in benchmark.keys() & {"payload", "form"}:
        benchmark[name] = read_json(benchmark[name], f"--benchmark-{name}")
    try:
        settings = AgentSettings.from_environment(
            os.environ,
            **given,
            command=tuple(command or ()),
            benchmark=Benchmark(**benchmark) if benchmark else None,
        )
    except ValueError as error:
        raise BadRequest(str(error)) from None
    logs.configure(log_level, log_format)
    with traced("posthouse-agent"):
        how = asyncio.run(agents.run(settings))
    if how:  # the server knows
        sys.stderr.write(f"error: {how}\n")
        raise typer.Exit(1)


class Telling(TyperCommand):
    """Tells the server of a worker why its agent cannot begin: nobody looks there."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _failure_reported():
            return super().make_context(*args, **kwargs)

    def invoke(self, *args: Any) -> Any:
        with _failure_reported():
            return super().invoke(*args)


@contextmanager
def _failure_reported() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        agents.report_failure(os.environ, f"posthouse agent failed: {text}")
        raise


def _parameters(group: type[Any], prefix: str = "") -> Iterator[Parameter]:
    """Yield a parameter of the command for each field of a dataclass whose type is annotated with an `Option`."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if field.name == "command":
            continue
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
    if hint is Any or hint == dict[str, str] | None:
        return str
    return next(iter(kind for kind in get_args(hint) if kind is not type(None)), hint)


def _told(option: Option, default: Any, name: str, kind: Any) -> Any:
    own = default if isinstance(default, int | float | str | Path) and not isinstance(default, bool) else ""
    shown = option.default or (f"{own:g}" if isinstance(own, float) else str(own))
    flag = name.replace("_", "-")
    names = option.name or (f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}")
    return typer.Option(names, help=option.help, show_default=shown or False, rich_help_panel=option.panel or None)


agent.__signature__ = Signature(  # type: ignore[attr-defined]  # read by Typer
    [
        Parameter("command", Parameter.KEYWORD_ONLY, default=None, annotation=Command),
        *_parameters(AgentSettings),
        Parameter("log_level", Parameter.KEYWORD_ONLY, default="info", annotation=LogLevel),
        Parameter("log_format", Parameter.KEYWORD_ONLY, default="console", annotation=LogFormat),
    ]
)
