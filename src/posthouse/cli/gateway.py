"""`posthouse gateway`"""

import json
import socket
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from posthouse import logs
from posthouse.cli.options import Url, own_root
from posthouse.cli.serve import server_extra
from posthouse.errors import BadRequest
from posthouse.gateway import GatewaySettings
from posthouse.tracing import traced

MIB = 2**20
DEFAULT = GatewaySettings()


def gateway(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = f"{DEFAULT.listen_host}:{DEFAULT.listen_port}",
    url: Url = None,
    hold_s: Annotated[
        float, typer.Option(min=0, max=86_400, help="Longest wait for a worker, in seconds; then 503.")
    ] = DEFAULT.hold_s,
    keep_alive_s: Annotated[
        float,
        typer.Option(min=0.1, max=3600, help="Silence after which a streamed answer gets a comment, in seconds."),
    ] = DEFAULT.keep_alive_s,
    silence_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Longest time without a byte of a worker, in seconds.")
    ] = DEFAULT.silence_s,
    stall_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="Longest time in which a caller takes nothing, in seconds.")
    ] = DEFAULT.stall_s,
    drain_s: Annotated[
        float, typer.Option(min=0, max=86_400, help="How long requests may go on at a stop, in seconds.")
    ] = DEFAULT.drain_s,
    max_body_mib: Annotated[int, typer.Option(min=1, max=4096, help="Largest body of a request, in MiB.")] = (
        DEFAULT.max_body_bytes // MIB
    ),
    max_held_mib: Annotated[
        int, typer.Option(min=1, max=2**20, help="All bodies of requests that run or wait, in MiB; beyond it 503.")
    ] = DEFAULT.max_held_bytes // MIB,
    max_connections: Annotated[
        int,
        typer.Option(min=16, max=1_000_000, help="Most connections; also bounded by how many files may be open."),
    ] = DEFAULT.max_connections,
    records: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write what became of each request; see posthouse records."),
    ] = None,
    max_records_mib: Annotated[
        int, typer.Option(min=1, max=2**20, help="Size of that and one older file together; then the oldest go.")
    ] = DEFAULT.max_records_bytes // MIB,
    externals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML with servers of OpenAI's API that aliases may fall back on, and what they may cost.",
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least level that is logged.")
    ] = "info",
    log_format: Annotated[Literal["console", "json"], typer.Option(help="How log lines look.")] = "console",
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
    from_server: Annotated[str | None, typer.Option(hidden=True, help="Descriptors that a server passes on.")] = None,
) -> None:
    """Answer OpenAI's API for the endpoints of a server, until SIGTERM or Ctrl-C.

    The name of an endpoint is the name of a model. Callers show their key of
    Posthouse as `Authorization: Bearer KEY`; the gateway has none of its own.
    While an endpoint has no worker, requests wait.

    Examples:
      posthouse gateway
      posthouse gateway --listen 0.0.0.0:8081 --url https://posthouse.example:8080
    """
    with server_extra():
        import uvloop

        from posthouse.app import garbage, systemd
        from posthouse.gateway.service import run  # here, because it takes its time

    host, port = _listen(listen)
    root = own_root(url)
    settings = GatewaySettings(
        listen_host=host,
        listen_port=port,
        url=url,
        ca=str(root) if root else None,
        hold_s=hold_s,
        keep_alive_s=keep_alive_s,
        silence_s=silence_s,
        stall_s=stall_s,
        drain_s=drain_s,
        max_body_bytes=max_body_mib * MIB,
        max_held_bytes=max_held_mib * MIB,
        max_connections=max_connections,
        records=str(records) if records else None,
        max_records_bytes=max_records_mib * MIB,
        externals=str(externals) if externals else None,
    )
    logs.configure(log_level, log_format)

    def listens(address: str) -> None:
        base = f"{address}/v1"
        typer.echo(json.dumps({"url": base}) if as_json else f"The gateway is at {base}; Ctrl-C stops it.")
        systemd.tell(systemd.READY)

    async def watched() -> None:
        async with nullcontext() if own else systemd.watched():
            await run(settings, listens, own)

    own = _sockets(from_server) if from_server else None
    garbage.settle(garbage.OF_STREAMS)
    with traced("posthouse-gateway"):
        uvloop.run(watched())


def _listen(text: str) -> tuple[str, int]:
    """The host and the port. Raises: BadRequest."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise BadRequest(f"--listen is {text!r}; it must be HOST:PORT, such as 127.0.0.1:8081 or [::1]:8081")
    return host, int(port)


def _sockets(numbers: str) -> tuple[socket.socket, socket.socket]:
    """What a server passes on: where to listen, and the connection to it."""
    listener, line = (socket.socket(fileno=int(number)) for number in numbers.split(","))
    for own in (listener, line):
        own.setblocking(False)
    return listener, line
