"""`posthouse serve`"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from posthouse import __version__
from posthouse.cli.options import ADMIN_KEY_FILE, ConfigFile
from posthouse.errors import Refused
from posthouse.tracing import traced

if TYPE_CHECKING:
    from posthouse.app.running import Running
    from posthouse.config import Settings

KEEP_EVENTS_MB = 100.0
"""How much of each endpoint's events is kept where `--keep-events` says so."""
LISTED = 20
"""Most workers that are listed at a stop."""


@contextmanager
def server_extra() -> Iterator[None]:
    """Around imports of what only the extra `server` installs. Raises: Refused that tells how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "posthouse":
            raise
        raise Refused("this command needs the server: pip install 'posthouse[server]'") from error


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8080")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of database, secrets and workers.", show_default="posthouse-data"),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="URL at which workers reach the server.", show_default="host and port"),
    ] = None,
    gateway: Annotated[
        bool | None,
        typer.Option("--gateway/--no-gateway", help="Keep a gateway, too: OpenAI's API.", show_default="no"),
    ] = None,
    tls: Annotated[
        Literal["off", "self", "files"] | None,
        typer.Option(help="HTTPS, with a certificate of our own authority or from files.", show_default="off"),
    ] = None,
    tls_names: Annotated[
        str | None,
        typer.Option(help="Further names for our own certificate, with commas between.", show_default="none"),
    ] = None,
    tls_certificate: Annotated[str | None, typer.Option(help="File of the certificate chain, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="File of its key, PEM.")] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least level that is logged.", show_default="info"),
    ] = None,
    log_format: Annotated[
        Literal["console", "json"] | None, typer.Option(help="How log lines look.", show_default="console")
    ] = None,
    keep_events: Annotated[
        Path | None,
        typer.Option(help="Directory for the events of each endpoint's controller, for `posthouse replay`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
) -> None:
    """Run the server until SIGTERM or Ctrl-C. Workers outlive it.

    SIGUSR2 restarts it in place, without a refused call: for a new version or
    other settings. To take the workers down, too: posthouse shutdown --workers

    The first start makes an admin key, shows it once where that is a terminal,
    and keeps it in the file admin-key of its data directory, where commands on
    this machine find it. Every other setting comes from the file or the
    environment: posthouse config show --long

    Examples:
      posthouse serve
      posthouse serve --gateway
      posthouse serve --host 0.0.0.0 --public-url https://10.0.0.5:8080 --tls self --data-dir /var/lib/posthouse
    """
    with server_extra():
        import uvloop

        from posthouse.app.logs import configure_logging
        from posthouse.config import load_settings

        flags = {
            "server.host": host,
            "server.port": port,
            "data_dir": data_dir,
            "public_url": public_url,
            "gateway.enabled": gateway,
            "server.tls": tls,
            "server.tls_names": tls_names,
            "server.tls_certificate": tls_certificate,
            "server.tls_key": tls_key,
            "server.log_level": log_level,
            "server.log_format": log_format,
            "engine.events_dir": keep_events,
            "engine.keep_events_mb": None if keep_events is None else KEEP_EVENTS_MB,
        }
        settings, _ = load_settings(flags, config, os.environ)
        configure_logging(settings.server.log_level, settings.server.log_format)
        with traced("posthouse"):
            uvloop.run(_serve(settings, as_json))


async def _serve(settings: "Settings", as_json: bool) -> None:
    from posthouse.app import garbage, signals, systemd
    from posthouse.app.handover import inherited
    from posthouse.app.wiring import running

    async with running(settings, inherited(os.environ)) as server, systemd.watched():
        signals.handle(server)
        data_dir = settings.data_dir.absolute()
        garbage.settle()
        _greet(server, data_dir, as_json)
        systemd.tell(systemd.READY)
        await server.until_stopped()
        if server.takes_down:
            await server.take_down(lambda text: typer.echo(text, err=True))
        if server.successor is None:
            systemd.tell(systemd.STOPPING)
            sys.stderr.write(_farewell(server, data_dir))
    if server.successor is not None:
        systemd.main_process(server.successor.process.pid)
        sys.stderr.write(f"Handed over to process {server.successor.process.pid}.\n")


def _greet(server: "Running", data_dir: Path, as_json: bool) -> None:
    facts = {"version": __version__, "url": server.url, "docs": f"{server.url}/docs", "data_dir": str(data_dir)}
    if server.gateway is not None:
        facts["gateway"] = server.gateway.url
    if server.admin_key:  # the key itself would stay in whatever keeps this line
        facts["admin_key_file"] = str(data_dir / ADMIN_KEY_FILE)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"Posthouse {__version__} is running; Ctrl-C stops it.")
    for name in ("url", "docs", "gateway", "data_dir"):
        if name in facts:
            typer.echo(f"  {name.replace('_', ' '):<10} {facts[name]}")
    if server.admin_key:
        if sys.stdout.isatty():  # else it would stay in a log
            typer.echo(f"  {'admin key':<10} {server.admin_key}")
        typer.echo(f"  The admin key is in the file {ADMIN_KEY_FILE} there, where commands on this machine find it.")


def _farewell(server: "Running", data_dir: Path) -> str:
    left = server.workers_left()
    if not left:
        return "Stopping; no worker is left.\n"
    usd_h = sum(worker.usd_h() for _, worker in left)
    lines = [
        f"Stopping; {'1 worker stays' if len(left) == 1 else f'{len(left)} workers stay'}, at ${usd_h:.2f} an hour:"
    ]
    lines += [
        f"  worker {worker.id} of {name}: {worker.state}, ${worker.usd_h():.2f} an hour, "
        f"{worker.label} at {worker.provider}"
        for name, worker in left[:LISTED]
    ]
    lines += [f"  and {len(left) - LISTED} more"] if len(left) > LISTED else []
    again = f"`posthouse serve --data-dir {data_dir}`"
    lines.append(f"The next {again} finds them again; `posthouse shutdown --workers` then takes them down.")
    return "\n".join(lines) + "\n"
