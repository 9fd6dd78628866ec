"""The command line: parses, calls the client or the wiring, prints."""

import codecs
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from posthouse import __version__
from posthouse.cli import (
    account,
    advise,
    agent,
    alias,
    apply,
    audit,
    backup,
    bill,
    config,
    demo,
    endpoint,
    explain,
    gateway,
    init,
    key,
    logs,
    market,
    offers,
    orphans,
    provider,
    recipe,
    records,
    repeat,
    request,
    serve,
    service,
    shutdown,
    simulate,
    status,
    store,
    template,
    top,
    up,
    upgrade,
    user,
    worker,
    workergroup,
)
from posthouse.cli.options import AsJson
from posthouse.cli.output import one_line, print_json
from posthouse.wire.checks import shown

EXIT_CODES = """
Exit codes:
  0  done
  1  failed
  2  usage: the command line, a setting or the request is wrong
  3  unauthorized: the key is missing, wrong or not enough
  4  not found
  5  unreachable: the server gives no answer
  6  timed out
  7  busy: the server cannot do it now; try again later
  130  interrupted by Ctrl-C

Every command that calls a server takes --url URL (or POSTHOUSE_URL; default:
http://127.0.0.1:8080) and --api-key KEY (or POSTHOUSE_API_KEY). One on this
machine is also reached with the key in posthouse-data/admin-key. POSTHOUSE_CA:
a file with the root of the server's certificate, if that is its own.

Settings: flags > environment > file > default; `posthouse config show` tells where each value comes from.
"""

app = typer.Typer(
    help="Posthouse: a self-hosted serverless engine for GPU workers.",
    epilog=EXIT_CODES.strip(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init")(init.init)
app.command("serve")(serve.serve)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("shutdown")(shutdown.shutdown)
app.command("install-service")(service.install_service)
app.command("uninstall-service")(service.uninstall_service)
app.command()(store.migrate)
app.command("migrate-store")(store.migrate_store)
app.command()(backup.backup)
app.command()(backup.restore)
app.command("demo")(demo.demo)
app.command("market")(market.market)
app.command("agent", cls=agent.Telling, context_settings={"allow_interspersed_args": False})(agent.agent)
app.command("up")(up.up)
app.add_typer(recipe.app, name="recipe")
app.command("apply")(apply.apply)
app.command("diff")(apply.diff)
app.command("export")(apply.export)
app.command("delete")(apply.delete)
app.command("gateway")(gateway.gateway)
app.command("records")(records.records)
app.command("request")(request.request)
app.add_typer(endpoint.app, name="endpoint")
app.add_typer(workergroup.app, name="workergroup")
app.add_typer(template.app, name="template")
app.add_typer(alias.app, name="alias")
app.add_typer(worker.app, name="worker")
app.add_typer(provider.app, name="provider")
app.command("offers")(offers.offers)
app.add_typer(orphans.app, name="orphans")
app.add_typer(key.app, name="key")
app.add_typer(user.app, name="user")
app.add_typer(account.app, name="account")
app.add_typer(audit.app, name="audit")
app.command("logs")(logs.logs)
app.command("explain")(explain.explain)
app.command("bill")(bill.bill)
app.command("simulate")(simulate.simulate)
app.command("replay")(repeat.replay)
app.command()(upgrade.upgrade_check)
app.command("advise")(advise.advise)
app.add_typer(config.app, name="config")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version.

    Example:
      posthouse version --json
    """
    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(__version__)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Posthouse: a self-hosted serverless engine for GPU workers."""


def _widen() -> list[str]:
    """Has what comes in and goes out be UTF-8 also where the locale says ASCII; the arguments, read so."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name == "ascii":
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    return [os.fsencode(word).decode(errors="surrogateescape") for word in sys.argv[1:]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; an error is one line on stderr."""
    try:
        code = app(_widen() if argv is None else argv, prog_name="posthouse", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return 130
    except typer.TyperException as error:
        return _failed(_usage(error), error.exit_code)
    except typer.Abort:
        return 130
    except SystemExit as error:  # as Typer does for a closed pipe
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        return 0
    except Exception as error:  # the last seam: no traceback may reach a user
        if os.environ.get("POSTHOUSE_TRACEBACK"):
            raise
        return _explained(error)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the command line, also with which value."""
    text = error.format_message().replace("Value error, ", "")
    if "Input should be" not in text or error.__cause__ is None:
        return text
    [wrong, *_] = error.__cause__.errors()  # type: ignore[attr-defined]  # Pydantic's, with the value
    return f"{text.partition(', unable to')[0].replace('Input should be', 'must be')}, not {shown(wrong['input'])}"


def _explained(error: BaseException) -> int:
    """Says what went wrong, with what helps if it is known, and returns the exit code."""
    from posthouse import errors as domain
    from posthouse.client import errors as client  # here, because it takes its time

    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case domain.Unauthorized():
            where = "or run it where the server was started: posthouse-data/admin-key has one"
            return _failed(f"{error}; set --api-key or POSTHOUSE_API_KEY, {where}", 3)
        case domain.NotFound():
            return _failed(str(error), 4)
        case client.Busy():
            return _failed(str(error), 7)
        case client.Unreachable():
            return _failed(f"{error}; does `posthouse serve` run there?", 5)
        case client.TimedOut():
            return _failed(str(error), 6)
        case domain.BadRequest():
            return _failed(str(error), 2)
        case domain.PosthouseError() | OSError():
            return _failed(str(error), 1)
        case UnicodeEncodeError():
            why = "this locale has no such characters in names of files; set LC_ALL=C.UTF-8"
            return _failed(f"{error.object}: {why}", 1)
    text = f"{type(error).__name__}: {error}; this is a bug, and POSTHOUSE_TRACEBACK=1 shows where"
    return _failed(text, 1)


def _failed(text: str, code: int) -> int:
    if text:  # empty where help was printed instead
        sys.stderr.write(f"error: {one_line(text)}\n")
    return code
