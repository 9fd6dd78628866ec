"""Options that come from a table: many commands share some, and each is described once."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer

from posthouse.domain.endpoint import PARAMETERS, Parameter

Command = Callable[..., None]


def with_options(into: str, options: Mapping[str, Any]) -> Callable[[Command], Command]:
    """Gives a command these options, types by name. Its parameter `into` gets those that were given, by name."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            said = {name: kwargs.pop(name) for name in options}
            kwargs[into] = {name: value for name, value in said.items() if value is not None}
            command(*args, **kwargs)

        signature = inspect.signature(command, eval_str=True)
        shown: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name != into:
                shown.append(parameter)
                continue
            kind = inspect.Parameter.KEYWORD_ONLY
            shown += [inspect.Parameter(n, kind, default=None, annotation=t) for n, t in options.items()]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in shown]
        )
        run.__annotations__ = {p.name: p.annotation for p in shown}
        return run

    return decorate


def number_or_none(text: str) -> float | str:
    """A number, or the word "none", which takes an optional parameter back."""
    try:
        return text if text == "none" else float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor none") from None


def _option(parameter: Parameter) -> Any:
    """The type of the option of a scaling parameter."""
    kind: Any = int if parameter.whole else float
    more: dict[str, Any] = {}
    if parameter.choices:
        kind = Literal[parameter.choices]
    elif parameter.optional:
        kind, more = object, {"metavar": "NUMBER|none", "parser": number_or_none}
    unit = f" Unit: {parameter.unit}." if parameter.unit not in ("", "workers") else ""
    default = f"{'none' if parameter.optional else parameter.default} for a new endpoint"
    option = typer.Option(help=f"{parameter.meaning}{unit}", show_default=default, rich_help_panel="Scaling", **more)
    return Annotated[kind if parameter.optional else kind | None, option]


SCALING = {name: _option(parameter) for name, parameter in PARAMETERS.items()}
"""The scaling parameters."""
