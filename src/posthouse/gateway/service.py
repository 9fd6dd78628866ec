"""One gateway, from its start to its stop."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from posthouse.client.http import Http
from posthouse.gate import Gate, listening
from posthouse.gateway.application import Gateway
from posthouse.gateway.exchange import Ways
from posthouse.gateway.records import Records
from posthouse.gateway.settings import GatewaySettings
from posthouse.hosts import in_url
from posthouse.relay import relay_session

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
        server = Http(settings.url, None, settings.ca)
        stack.push_async_callback(server.close)
        workers = await stack.enter_async_context(relay_session(settings.silence_s, server.context))
        gate = Gate(settings.max_connections, settings.max_body_bytes)
        records = Records(Path(settings.records) if settings.records else None, settings.max_records_bytes)
        stack.callback(records.close)
        app = Gateway(Ways(settings, server, workers, gate, records)).application()
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=settings.drain_s)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        assert runner.server is not None  # it has been set up
        if own is None:
            listener = stack.enter_context(listening(settings.listen_host, settings.listen_port))
        else:
            listener, line = own
            stack.callback(line.close)
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(gate.run(runner.server, listener, None))
            if own is None:
                listens(f"http://{in_url(settings.listen_host)}:{listener.getsockname()[1]}")
            else:
                loop.add_reader(line, stop.set)  # the server says nothing by it but its end
                stack.callback(loop.remove_reader, line)
                line.send(b"r")
            await stop.wait()
            accepting.cancel()
            await asyncio.wait([accepting])
            listener.close()  # who comes now is refused, or waits for the next one
            log.info("gateway: stopping")
            await runner.cleanup()
