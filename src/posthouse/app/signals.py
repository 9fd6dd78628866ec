"""The signals that a running server answers."""

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posthouse.app.running import Running

RESTART = signal.SIGUSR2
"""Asks for a restart in place; nginx and gunicorn have the same for a new version."""
TAKE_DOWN = signal.SIGUSR1
"""Asks for a stop that takes the workers down."""


def handle(server: "Running") -> None:
    """Has the signals of this process stop the server, or restart it."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, server.stop)
    loop.add_signal_handler(signal.SIGTERM, server.stop)
    loop.add_signal_handler(TAKE_DOWN, partial(server.stop, take_down=True))
    loop.add_signal_handler(RESTART, server.restart)
