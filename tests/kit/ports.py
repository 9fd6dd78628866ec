"""Ports for what a test starts by itself."""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST, END = 10_000, 18_000
"""Apart from those that the system gives to outgoing connections, and from those that providers and tests name."""


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nothing listens on and that no other test of this machine was given lately.

    One that the system picks may be an outgoing connection's by the time that it is listened on.
    """
    with Path(tempfile.gettempdir(), f"posthouse-tests-port-{os.getuid()}").open("a+") as last:
        fcntl.flock(last, fcntl.LOCK_EX)
        last.seek(0)
        port = int(last.read() or FIRST)
        for _ in range(FIRST, END):
            port = port + 1 if port + 1 < END else FIRST
            with socket.socket() as probe:
                try:
                    probe.bind((address, port))
                except OSError:
                    continue
            last.truncate(0)
            last.write(str(port))
            return port
    raise OSError(f"no port of {FIRST} to {END} is free")
