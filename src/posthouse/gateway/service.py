"""One gateway, from its start to its stop."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from posthouse.gate import listening
from posthouse.gateway.application import Gateway
from posthouse.gateway.externals import Externals
from posthouse.gateway.inward import Inward
from posthouse.gateway.records import Records
from posthouse.gateway.server import Server
from posthouse.gateway.settings import GatewaySettings
from posthouse.gateway.ways import Ways
from posthouse.hosts import in_url

log = logging.getLogger(__name__)


async def run(
    settings: GatewaySettings, listens: Callable[[str], None], own: tuple[socket.socket, socket.socket] | None = None
) -> None:
    """Run until SIGTERM or SIGINT, then let running requests end; or until it is cancelled.

    `listens` is called with its address once it can be called. `own`: the socket on which to listen, and a connection
    to the server that keeps this gateway; the end of that is the end of this.

    Raises: OSError when it cannot listen, BadRequest.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        server = Server(settings.url, settings.ca, settings.silence_s)
        stack.push_async_callback(server.close)
        records = Records(Path(settings.records) if settings.records else None, settings.max_records_bytes)
        stack.callback(records.close)
        externals = Externals(Path(settings.externals) if settings.externals else None, settings.silence_s)
        stack.callback(externals.close)
        gateway = Gateway(Ways(settings, server, records, externals=externals))
        inward = Inward(gateway.answer, settings.max_connections, settings.max_body_bytes, settings.stall_s)
        if own is None:
            listener = stack.enter_context(listening(settings.listen_host, settings.listen_port))
        else:
            listener, line = own
            stack.callback(line.close)
        await inward.start(listener)
        stack.push_async_callback(inward.close, 0.0)
        if own is None:
            listens(f"http://{in_url(settings.listen_host)}:{listener.getsockname()[1]}")
        else:
            loop.add_reader(line, stop.set)  # the server says nothing by it but its end
            stack.callback(loop.remove_reader, line)
            line.send(b"r")
        keeping = loop.create_task(_keep(inward, server, externals))
        stack.callback(keeping.cancel)
        await stop.wait()
        log.info("gateway: stopping")
        await inward.close(settings.drain_s)


async def _keep(inward: Inward, server: Server, externals: Externals) -> None:
    """Close what is late, forever."""
    while True:
        await asyncio.sleep(1.0)
        inward.every_second()
        server.every_second()
        externals.every_second()
