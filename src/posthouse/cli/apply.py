"""`posthouse apply`, `diff`, `export` and `delete`: endpoints and aliases as one file."""

import sys
from difflib import unified_diff
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.input import read_text
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, endpoint_names
from posthouse.cli.output import one_line, print_json, printable
from posthouse.domain.endpoint import PARAMETERS
from posthouse.errors import BadRequest, PosthouseError

if TYPE_CHECKING:
    from posthouse.cli.manifest import Change, Found, Manifest, Plan
    from posthouse.client import Client

File = Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="Manifests in YAML; - reads them from stdin.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

SIGNS = {"create": "+", "change": "~", "delete": "-"}
DONE = {"create": "created", "change": "changed", "delete": "deleted"}
SHOWN = 160
"""Characters of a value that are shown."""
OFFERS = 100
"""How many offers are looked at for what an endpoint costs at most."""


def apply(
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="Manifests in YAML; - reads them from stdin.")
    ] = None,
    yes: Yes = False,
    force: Force = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a manifest, for editors.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make endpoints and aliases as a file describes them. Shows first what would change.

    Applying the same file again changes nothing. What failed half-way continues
    then.

    Examples:
      posthouse apply -f chat.yaml
      posthouse apply -f chat.yaml --yes
      posthouse apply --schema > manifest.schema.json
    """
    from posthouse.cli import manifest as m

    if schema:
        print_json(m.schema())
        return
    if file is None:
        raise BadRequest("--file: is not given; --schema prints what one may have")
    wanted, aliases = m.whole(read_text(file), file, force)
    with connect(url, api_key) as client:
        found = m.Found.at(client, wanted)
        plans = m.plans(wanted, aliases, found)
        if not any(plan.changes for plan in plans):
            _nothing(plans, as_json)
            return
        costs = {f"endpoint {one.endpoint}": most_usd_h(client, found, one) for one in wanted}
        if not as_json:
            for plan in plans:
                show(plan)
                if plan.what in costs:
                    typer.echo(f"  at most: {costs[plan.what]}")
        _ask(yes, file, "Apply?")
        carry_out(client, plans, quiet=as_json)
    if as_json:
        print_json([_row(plan) | ({"usd_h_at_most": costs[plan.what]} if plan.what in costs else {}) for plan in plans])


def diff(file: File, force: Force = False, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show how what the server has differs from a file. Exit code 1 where it does.

    Example:
      posthouse diff -f chat.yaml
    """
    from posthouse.cli import manifest as m

    wanted = m.whole(read_text(file), file, force)
    with connect(url, api_key) as client:
        plans = m.plans(*wanted, m.Found.at(client, wanted[0]))
    if as_json:
        print_json([_row(plan) for plan in plans])
    else:
        for plan in plans:
            show(plan)
    if any(plan.changes for plan in plans):
        raise typer.Exit(1)


def export(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="ENDPOINT", help="Name or id of the endpoint.", show_default="all", autocompletion=endpoint_names
        ),
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Print endpoints and aliases as a file for `posthouse apply`. Templates are written out, variables too.

    Example:
      posthouse export chat > chat.yaml
    """
    from posthouse.cli import manifest as m

    with connect(url, api_key) as client:
        found = m.Found.at(client)
        rows = found.endpoints if name is None else [client.endpoint(name)]
    told = [m.described(found, row) for row in rows]
    if name is None:
        told += [m.described_alias(row) for row in found.aliases]
    if as_json:
        print_json(told)
    elif told:
        sys.stdout.write(m.dumped(told))


def delete(
    file: File, yes: Yes = False, force: Force = False, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete what a file describes: aliases, endpoints with their workers, templates that nothing else uses.

    Workers finish what they have first.

    Example:
      posthouse delete -f chat.yaml
    """
    from posthouse.cli import manifest as m

    wanted = m.whole(read_text(file), file, force)
    with connect(url, api_key) as client:
        plans = m.plans(*wanted, m.Found.at(client), delete=True)
        if not any(plan.changes for plan in plans):
            _nothing(plans, as_json)
            return
        if not as_json:
            for plan in plans:
                show(plan)
        _ask(yes, file, "Delete?")
        carry_out(client, plans, quiet=as_json)
    if as_json:
        print_json([_row(plan) for plan in plans])


def show(plan: "Plan") -> None:
    """Prints what would change."""
    if not plan.changes:
        typer.echo(f"{plan.what}: as it should be")
    for change in plan.changes:
        note = f" ({change.note})" if change.note else ""
        typer.echo(f"{SIGNS[change.how]} {change.what}{note}")
        for field, (before, after) in change.fields.items():
            if change.how == "create":
                typer.echo(f"    {field}: {_value(after)}")
            elif isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
                typer.echo(f"    {field}:")
                lines = list(unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[2:]
                typer.echo("\n".join(f"      {printable(line)}" for line in lines if not line.startswith("@@")))
            else:
                typer.echo(f"    {field}: {_value(before)} -> {_value(after)}")


def _value(value: object) -> str:
    """A value in one line."""
    if isinstance(value, str) and "\n" in value.strip():
        return f"{len(value.splitlines())} lines"
    text = "none" if value is None else repr(value) if isinstance(value, str) else f"{value:g}"
    return printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def carry_out(client: "Client", plans: "list[Plan]", quiet: bool = False) -> None:
    """Does what was planned, and tells each step. Raises: what a call raises, with what was done before."""
    done = 0

    def told(change: "Change") -> None:
        nonlocal done
        done += 1
        if not quiet:
            typer.echo(f"{change.what} {DONE[change.how]}")

    try:
        for plan in plans:
            plan.carry_out(client, told)
    except PosthouseError:
        if done:
            steps = sum(len(plan.changes) for plan in plans)
            sys.stderr.write(f"{done} of {steps} steps were done; the same command goes on with the others\n")
        raise


def most_usd_h(client: "Client", found: "Found", wanted: "Manifest") -> str:
    """What an endpoint comes to cost per hour at most, in words: its workers at the dearest offer, or its cap."""
    there = found.endpoint(wanted.endpoint)
    scaling = {
        name: wanted.scaling.get(name, getattr(there, name) if there else PARAMETERS[name].default)
        for name in ("max_workers", "max_usd_h")
    }
    prices: list[float] = []
    for group in wanted.groups:
        row = found.template(group.template)
        own = wanted.template if wanted.template and wanted.template["name"] == group.template else None
        filters = own["extra_filters"] if own else row.extra_filters if row else ""
        disk_gb = own["recommended_disk_space"] if own else row.recommended_disk_space if row else 0.0
        try:
            offers = client.offers(
                group.fields["search_params"] or filters,
                provider=group.fields["provider"],
                disk_gb=disk_gb,
                limit=OFFERS,
            )
        except PosthouseError as error:
            return f"not known, because offers cannot be listed: {one_line(str(error))}"
        prices += [offer.ready_usd_h for offer in offers]
    cap, most = scaling["max_usd_h"], int(scaling["max_workers"] or 0)
    workers = f"{most} worker{'s' * (most != 1)}"
    if not prices:
        return f"nothing is offered now that fits; {workers}" + (f", ${cap:g} an hour" if cap is not None else "")
    usd_h = most * max(prices)
    if cap is not None and cap < usd_h:
        return f"${cap:g} an hour, its max_usd_h"
    dearest = f"${max(prices):.4g}, the dearest of {len(prices)} offer{'s' * (len(prices) != 1)}"
    return f"${usd_h:.4g} an hour: {workers} at {dearest}"


def _ask(yes: bool, file: str, question: str) -> None:
    """Raises: BadRequest where nobody can be asked; Abort for a no."""
    if yes:
        return
    if file == "-" or not sys.stdin.isatty():
        raise BadRequest("--yes: is needed where nobody can be asked")
    typer.confirm(question, abort=True)


def _nothing(plans: "list[Plan]", as_json: bool) -> None:
    if as_json:
        print_json([_row(plan) for plan in plans])
    else:
        typer.echo("nothing to do")


def _row(plan: "Plan") -> dict[str, Any]:
    kind, _, name = plan.what.partition(" ")
    return {
        kind: name,
        "changes": [
            {
                "how": change.how,
                "what": change.what,
                "note": change.note,
                "fields": {name: {"before": a, "after": b} for name, (a, b) in change.fields.items()},
            }
            for change in plan.changes
        ],
    }
