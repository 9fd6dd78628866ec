"""The model server as a program that the agent starts: its output is kept, its end is told, it may start again."""

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from posthouse.agent.logfile import Log, Printed
from posthouse.agent.settings import AgentSettings

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 2**16
_STOP_S: Final = 10.0  # for the model server to end after SIGTERM
_OUTPUT_S: Final = 0.5  # for its last output to arrive once it has ended
_BACK_OFF_S: Final = (1.0, 60.0)  # before it is started again: doubled each time, and at most
_SOUND_S: Final = 600.0  # one that ran for so long had no fault of its start
_SECRET: Final = frozenset({"MASTER_TOKEN", "REPORT_ADDR"})  # the model has no business with them
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)


class ModelServer:
    """The program `settings.command`. `on_output` is given what it prints, piece by piece."""

    def __init__(self, settings: AgentSettings, printed: Printed, on_output: Callable[[str], None]) -> None:
        self._settings = settings
        self._printed = printed
        self._on_output = on_output
        self._log = Log(settings.log_file) if settings.log_file else None
        self._process: asyncio.subprocess.Process | None = None
        self._failures = 0

    async def run(self) -> str:
        """Run it until it ends, and return how, with the last that it printed."""
        began_at = time.monotonic()
        self._failures += 1
        self._printed.begin()
        command = self._settings.command
        output, inlet = os.pipe()  # of our own: asyncio's is waited for until all that inherited it have ended
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=inlet,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in os.environ.items() if name not in _SECRET},
                process_group=0,
                preexec_fn=_end_with_its_parent,
            )
        except OSError as error:
            os.close(output)
            return f"the model server cannot be started: {command[0]}: {error.strerror}"
        finally:
            os.close(inlet)
        self._process = process
        log.info("model server: started as process %d", process.pid)
        reading = asyncio.create_task(self._read(output))
        try:
            status = await process.wait()
            await asyncio.wait([reading], timeout=_OUTPUT_S)
        finally:
            self._signal(signal.SIGKILL)  # what it left behind would hold the GPU and the port
            self._process = None
            reading.cancel()
            with suppress(TimeoutError):  # one that a driver holds ends later
                await asyncio.wait_for(process.wait(), _OUTPUT_S)
            await asyncio.wait([reading])
        ran_s = time.monotonic() - began_at
        if ran_s >= _SOUND_S:
            self._failures = 1
        last = self._printed.last_lines
        return f"the model server {_how(status)} after {ran_s:.0f} s{f': {last}' if last else ', and printed nothing'}"

    def restart_in_s(self) -> float | None:
        """Return after how long it is to be started again; None where that is not asked for, or did not help."""
        if self._failures > self._settings.restarts:
            return None
        first_s, most_s = _BACK_OFF_S
        return min(first_s * 2.0 ** (self._failures - 1), most_s)

    async def stop(self) -> None:
        """End it and what it has started: SIGTERM, and SIGKILL for what is left after a while."""
        if (process := self._process) is None:
            return
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def _read(self, output: int) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb"))
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                if self._log is not None:
                    self._log.write(chunk)
                else:
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.flush()
                self._on_output(self._printed.feed(chunk))
        finally:
            pipe.close()


def _how(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def _end_with_its_parent() -> None:
    """Run in the new process: without its agent nobody would check who uses the model."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
