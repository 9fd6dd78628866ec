"""Notices to systemd, where it started this process. Source: sd_notify(3)."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"


def tell(text: str) -> None:
    """Tells it, where it listens; that it does not is no reason to end."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(text.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


def main_process(pid: int) -> None:
    """Tells it which process is the service now."""
    tell(f"MAINPID={pid}")


@asynccontextmanager
async def watched() -> AsyncIterator[None]:
    """Shows it for as long as the context lasts that the event loop lives, where it looks."""
    every = os.environ.get("WATCHDOG_USEC", "")
    if not (os.environ.get("NOTIFY_SOCKET") and every.isascii() and every.isdigit()):
        yield
        return

    async def alive() -> None:
        while True:
            tell(ALIVE)
            await asyncio.sleep(int(every) / 1e6 / 3)

    task = asyncio.create_task(alive(), name="watchdog")
    try:
        yield
    finally:
        task.cancel()
