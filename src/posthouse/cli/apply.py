"""`posthouse apply`, `diff`, `export` and `delete`: endpoints and aliases as one file."""

import sys
from dataclasses import asdict
from difflib import unified_diff
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.input import read_text
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, endpoint_names
from posthouse.cli.output import print_json, printable
from posthouse.errors import BadRequest

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.manifest import AliasManifest, Manifest
    from posthouse.wire.rows import ManifestStatus

File = Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="Manifests in YAML; - reads them from stdin.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

SIGNS = {"create": "+", "change": "~", "delete": "-"}
DONE = {"create": "created", "change": "changed", "delete": "deleted"}
SHOWN = 160
"""Characters of a value that are shown."""


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
    if schema:
        from posthouse.manifest.schema import schema as of_manifests

        print_json(of_manifests())
        return
    if file is None:
        raise BadRequest("--file: is not given; --schema prints what one may have")
    wanted = _read(file, force)
    with connect(url, api_key) as client:
        plans = [applied(client, one, dry_run=True) for one in wanted]
        if any(plan.changes for plan in plans):
            for one, plan in zip(wanted, plans, strict=True) if not as_json else ():
                show(one, plan)
                if plan.most:
                    typer.echo(f"  at most: {plan.most}")
            _ask(yes, file, "Apply?")
            for one, plan in zip(wanted, plans, strict=True):
                if plan.changes:
                    done = applied(client, one)
                    told(done, quiet=as_json)
        elif not as_json:
            typer.echo("nothing to do")
    if as_json:
        print_json([_row(one, plan) for one, plan in zip(wanted, plans, strict=True)])


def diff(file: File, force: Force = False, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show how what the server has differs from a file. Exit code 1 where it does.

    Example:
      posthouse diff -f chat.yaml
    """
    wanted = _read(file, force)
    with connect(url, api_key) as client:
        plans = [applied(client, one, dry_run=True) for one in wanted]
    for one, plan in zip(wanted, plans, strict=True) if not as_json else ():
        show(one, plan)
    if as_json:
        print_json([_row(one, plan) for one, plan in zip(wanted, plans, strict=True)])
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
    from posthouse.manifest.write import dumped

    with connect(url, api_key) as client:
        told = client.manifests()
        if name is not None:
            named = client.endpoint(name).endpoint_name
            told = [one for one in told if one.get("endpoint") == named]
    if as_json:
        print_json(told)
    elif told:
        sys.stdout.write(dumped(told))


def delete(
    file: File, yes: Yes = False, force: Force = False, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False
) -> None:
    """Delete what a file describes: aliases, endpoints with their workers, templates that nothing else uses.

    Workers finish what they have first.

    Example:
      posthouse delete -f chat.yaml
    """
    from posthouse.client import NotFound
    from posthouse.wire.rows import ManifestStatus

    wanted = _read(file, force)[::-1]
    with connect(url, api_key) as client:

        def deleted(one: "Manifest | AliasManifest", dry_run: bool) -> "ManifestStatus":
            try:
                return client.delete_manifest(one.name, dry_run)
            except NotFound:
                return ManifestStatus()

        plans = [deleted(one, True) for one in wanted]
        if any(plan.changes for plan in plans):
            for one, plan in zip(wanted, plans, strict=True) if not as_json else ():
                show(one, plan)
            _ask(yes, file, "Delete?")
            for one in wanted:
                told(deleted(one, False), quiet=as_json)
        elif not as_json:
            typer.echo("nothing to do")
    if as_json:
        print_json([_row(one, plan) for one, plan in zip(wanted, plans, strict=True)])


def _read(file: str, force: bool) -> "list[Manifest | AliasManifest]":
    """What a file says. Raises: BadRequest with the line and the field."""
    from posthouse.manifest import whole

    return whole(read_text(file), file, force)


def applied(client: "Client", one: "Manifest | AliasManifest", dry_run: bool = False) -> "ManifestStatus":
    """What the server makes of a manifest, or would. Raises: what the call raises, with the line of what is wrong."""
    from posthouse.client import BadRequest as Wrong

    try:
        return client.apply_manifest(one.name, one.document.bare(), dry_run)
    except Wrong as error:
        raise one.document.at(error.message) from None


def show(one: "Manifest | AliasManifest", plan: "ManifestStatus") -> None:
    """Prints what would change."""
    if not plan.changes:
        typer.echo(f"{_kind(one)} {one.name}: as it should be")
    for change in plan.changes:
        note = f" ({change.note})" if change.note else ""
        typer.echo(f"{SIGNS[change.how]} {change.what}{note}")
        for field, value in change.fields.items():
            before, after = value.before, value.after
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


def told(done: "ManifestStatus", quiet: bool = False) -> None:
    """Prints what has changed."""
    for change in done.changes if not quiet else ():
        typer.echo(f"{change.what} {DONE[change.how]}")


def _ask(yes: bool, file: str, question: str) -> None:
    """Raises: BadRequest where nobody can be asked; Abort for a no."""
    if yes:
        return
    if file == "-" or not sys.stdin.isatty():
        raise BadRequest("--yes: is needed where nobody can be asked")
    typer.confirm(question, abort=True)


def _kind(one: "Manifest | AliasManifest") -> str:
    return "alias" if "alias" in one.document.mapping() else "endpoint"


def _row(one: "Manifest | AliasManifest", plan: "ManifestStatus") -> dict[str, Any]:
    most = {"usd_h_at_most": plan.most} if plan.most else {}
    return {_kind(one): one.name, "changes": [asdict(change) for change in plan.changes], **most}
