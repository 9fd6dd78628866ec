"""`posthouse serve`"""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from posthouse import __version__
from posthouse.cli.options import ADMIN_KEY_FILE, ConfigFile
from posthouse.domain.errors import Refused
from posthouse.domain.lifecycle import State

if TYPE_CHECKING:
    from posthouse.config import Settings
    from posthouse.wiring import Running

TEXT_LOGGED = 10_000
"""Most characters of one text in a log line; a long traceback stays below."""
OVER = frozenset({State.WANTED, State.DESTROYING, State.DESTROYED})
"""States of workers of which there is nothing, or soon nothing will be."""
RESTART = signal.SIGUSR2
"""Asks for a restart in place; nginx and gunicorn have the same for a new version."""
TAKE_DOWN = signal.SIGUSR1
"""Asks for a stop that takes the workers down."""
LISTED = 20
"""Most workers that are listed at a stop."""
COLLECT_S = 60.0
"""Between two full collections."""
MAX_COLLECTION_S = 0.01
"""Where one takes longer it is the last: calls wait for it, and a server of so many objects can spare the 5 MB.
In a server of one busy endpoint, with 16,000 objects, it takes 1 to 3 ms of its processor."""


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
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
) -> None:
    """Run the server until SIGTERM or Ctrl-C. Workers outlive it.

    SIGUSR2 restarts it in place, without a refused call: for a new version or
    other settings. To take the workers down, too: posthouse shutdown --workers

    The first start prints an admin key, once, and keeps it in the file admin-key
    of its data directory, where commands on this machine find it. Every other
    setting comes from the file or the environment: posthouse config show --long

    Examples:
      posthouse serve
      posthouse serve --host 0.0.0.0 --public-url https://10.0.0.5:8080 --tls self --data-dir /var/lib/posthouse
    """
    with server_extra():
        import uvloop

        from posthouse.config import load_settings

        flags = {
            "server.host": host,
            "server.port": port,
            "data_dir": data_dir,
            "public_url": public_url,
            "server.tls": tls,
            "server.tls_names": tls_names,
            "server.tls_certificate": tls_certificate,
            "server.tls_key": tls_key,
            "server.log_level": log_level,
            "server.log_format": log_format,
        }
        settings, _ = load_settings(flags, config, os.environ)
        configure_logging(settings.server.log_level, settings.server.log_format)
        uvloop.run(_serve(settings, as_json))


async def _serve(settings: "Settings", as_json: bool) -> None:
    from posthouse.handover import inherited, tell_supervisor
    from posthouse.wiring import running

    async with running(settings, inherited(os.environ)) as server:
        loop = asyncio.get_running_loop()
        for number, answer in (
            (signal.SIGINT, server.stop),
            (signal.SIGTERM, server.stop),
            (RESTART, server.restart),
            (TAKE_DOWN, partial(server.stop, take_down=True)),
        ):
            loop.add_signal_handler(number, answer)
        data_dir = settings.data_dir.absolute()
        # What the start made stays. A full collection that walks through all of it stops the server for a tenth of a
        # second, and so Python makes one only once there is a quarter as much garbage.
        gc.freeze()
        collecting = asyncio.create_task(keep_collecting())
        _greet(server, data_dir, as_json)
        await server.until_stopped()
        collecting.cancel()
        if server.takes_down:
            await server.take_down(lambda text: typer.echo(text, err=True))
        if server.successor is None:
            sys.stderr.write(_farewell(server, data_dir))
    if server.successor is not None:
        tell_supervisor(server.successor.process.pid)
        sys.stderr.write(f"Handed over to process {server.successor.process.pid}.\n")


async def keep_collecting() -> None:
    """Makes a full collection every `COLLECT_S`, which nothing else does for hours.

    There is hardly any garbage, but only a full collection empties the lists in which Python keeps dead tuples for the
    next ones: 2,000 of each length up to 20, 5 MB in all. A tuple that is made of a generator is ten long at first and
    then cut to its length, so it comes from none of these lists and ends in one: they fill, by up to 3 MB an hour.
    """
    took_s = 0.0
    while took_s <= MAX_COLLECTION_S:
        await asyncio.sleep(COLLECT_S)
        began = time.thread_time()  # not what other programs take meanwhile
        gc.collect()
        took_s = time.thread_time() - began


def _greet(server: "Running", data_dir: Path, as_json: bool) -> None:
    facts = {"version": __version__, "url": server.url, "docs": f"{server.url}/docs", "data_dir": str(data_dir)}
    if server.admin_key:
        facts["admin_key"] = server.admin_key
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"Posthouse {__version__} is running; Ctrl-C stops it.")
    for name in ("url", "docs", "data_dir"):
        typer.echo(f"  {name.replace('_', ' '):<10} {facts[name]}")
    if server.admin_key:
        typer.echo(f"  {'admin key':<10} {server.admin_key}")
        typer.echo(f"  The admin key is shown this once. Commands on this machine find it in {ADMIN_KEY_FILE} there.")


def _farewell(server: "Running", data_dir: Path) -> str:
    left = [
        (managed.fleet.endpoint.name or "a deleted endpoint", worker)
        for managed in server.hub.endpoints.values()
        for worker in managed.fleet.workers.values()
        if worker.state not in OVER
    ]
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


def _short(_logger: object, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A log entry whose texts are at most `TEXT_LOGGED` long: some are of others' making."""
    for name, value in entry.items():
        if isinstance(value, str) and len(value) > TEXT_LOGGED:
            entry[name] = f"{value[:TEXT_LOGGED]}... and {len(value) - TEXT_LOGGED} more characters"
    return entry


def configure_logging(level: str, form: str) -> None:
    """Has every log line, ours and those of libraries, go to stderr in one form: `console` or `json`.

    At the level info, libraries are heard from warning on: they narrate.
    """
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if form == "json":
        last = [structlog.processors.format_exc_info, _short, structlog.processors.JSONRenderer()]
    else:
        # Without the values of variables, which may be keys.
        plain = structlog.dev.plain_traceback
        last = [_short, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=shared
        )
    )
    logging.basicConfig(handlers=[handler], level="WARNING" if level == "info" else level.upper())
    logging.getLogger("posthouse").setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
