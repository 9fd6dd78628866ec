"""`posthouse alias ...`"""

from typing import Annotated

import typer

from posthouse.cli.options import ApiKey, AsJson, Url, connect, names
from posthouse.cli.output import print_json, print_record, print_rows
from posthouse.errors import BadRequest, NotFound
from posthouse.wire.fallback import FAULTS

app = typer.Typer(help="Aliases: names of models that stand for endpoints.", no_args_is_help=True)

alias_names = names(lambda client: client.aliases(), "name")
Name = Annotated[str, typer.Argument(metavar="ALIAS", help="Name of the alias.", autocompletion=alias_names)]


@app.command("list")
def list_aliases(url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List every alias.

    Example:
      posthouse alias list
    """
    with connect(url, api_key) as client:
        rows = client.aliases()
    if as_json:
        print_json(rows)
        return
    shown = [
        {
            "name": row.name,
            "targets": ", ".join(f"{one.model}={one.weight:g}" for one in row.targets),
            "fallbacks": ", ".join(f"{one.model}={'+'.join(one.faults)}" for one in row.fallbacks),
            "wait_s": row.wait_s,
        }
        for row in rows
    ]
    print_rows(shown, ("name", "targets", "fallbacks", "wait_s"), "no aliases")


@app.command()
def show(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show one alias.

    Example:
      posthouse alias show chat
    """
    with connect(url, api_key) as client:
        row = next((row for row in client.aliases() if row.name == name), None)
    if row is None:
        raise NotFound(f"there is no alias {name!r}")
    (print_json if as_json else print_record)(row)


@app.command("set")
def put(
    name: Name,
    to: Annotated[
        list[str],
        typer.Option(metavar="MODEL[=WEIGHT]", help="An endpoint or alias that gets a share of the requests."),
    ],
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL[=FAULT+...]",
            help=f"Where requests go that failed before their first byte; the last may be external:NAME. "
            f"Faults: {', '.join(FAULTS)}; {'+'.join(FAULTS[:3])}, if none is named.",
        ),
    ] = None,
    wait_s: Annotated[
        float | None,
        typer.Option(min=0, help="Longest wait for a worker before a fallback.", show_default="the gateway's"),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make an alias, or replace it.

    Examples:
      posthouse alias set chat --to chat-v1=95 --to chat-v2=5
      posthouse alias set chat --to large --fallback small=no_worker --wait-s 20
    """
    targets = [_target(text) for text in to]
    fallbacks = [_fallback(text) for text in fallback or []]
    with connect(url, api_key) as client:
        row = client.put_alias(name, targets=targets, fallbacks=fallbacks, wait_s=wait_s)
    if as_json:
        print_json(row)
    else:
        typer.echo(f"alias {row.name} set")


@app.command()
def delete(name: Name, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Delete an alias that no other one names.

    Example:
      posthouse alias delete chat
    """
    with connect(url, api_key) as client:
        client.delete_alias(name)
    if as_json:
        print_json({"name": name})
    else:
        typer.echo(f"alias {name} deleted")


def _target(text: str) -> dict[str, object]:
    model, equals, weight = text.partition("=")
    try:
        return {"model": model} | ({"weight": float(weight)} if equals else {})
    except ValueError:
        raise BadRequest(f"--to: the weight in {text!r} must be a number of at least 0, like {model}=5") from None


def _fallback(text: str) -> dict[str, object]:
    model, equals, faults = text.partition("=")
    return {"model": model} | ({"faults": faults.split("+")} if equals else {})
