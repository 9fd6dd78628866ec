"""The program on a box: `python -m posthouse.providers.ssh.remote`, the process provider behind stdin and stdout.

It ends with its connection; workers do not. Several may be there at once: their provider keeps them apart.
"""

import asyncio
import os
import select
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

import posthouse
from posthouse.errors import Busy, PosthouseError, Refused
from posthouse.providers.process import ProcessProvider, machine, users
from posthouse.providers.process.settings import WorkerSettings
from posthouse.providers.ssh.frames import BEGIN, CALLS, HEAD_BYTES, Answer, Call, Listing, Start, framed, length

IDLE_S: Final = 1800.0
"""It ends when it is asked nothing for so long: its server is gone, and the system has not noticed."""
FINISH_S: Final = 60.0
"""How long calls may still take once the connection is gone."""
DRAFT_S: Final = 86_400.0
"""The age at which what is only half there is thrown away."""


class Out:
    """Where answers go."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)  # what prints must not be taken for an answer
        self._alone = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Writes whole frames. Raises: OSError."""
        async with self._alone:
            await asyncio.to_thread(self._write, memoryview(data))

    def _write(self, data: memoryview) -> None:
        # Not as a pipe of the loop: some sshds give one socket for stdin and stdout, and the loop would take what
        # comes in for the end of what goes out.
        while data:
            if not select.select([], [self._descriptor], [], IDLE_S)[1]:
                raise TimeoutError("nobody takes answers")
            with suppress(BlockingIOError):
                data = data[os.write(self._descriptor, data) :]


async def main() -> None:
    """Serves calls until stdin ends."""
    out = Out()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await out.write(BEGIN)
    calls: set[asyncio.Task[None]] = set()
    provider: ProcessProvider | None = None
    try:
        while frame := await _frame(reader):
            if provider is None:
                try:
                    provider = opened(msgspec.msgpack.decode(frame, type=Start))
                except (PosthouseError, OSError) as error:
                    await out.write(framed(_failure(0, error)))
                    return
                await out.write(framed(Answer(0)))
            else:
                call = msgspec.msgpack.decode(frame, type=Call)
                task = asyncio.create_task(_answer(provider, call, out))
                calls.add(task)
                task.add_done_callback(calls.discard)
    finally:
        if calls:
            await asyncio.wait(calls, timeout=FINISH_S)
        if provider is not None:
            await provider.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame; empty at the end of stdin, and after too long a silence."""
    with suppress(asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(IDLE_S):
            size = int.from_bytes(await reader.readexactly(HEAD_BYTES), "big")
            return await reader.readexactly(length(size))
    return b""


def opened(start: Start) -> ProcessProvider:
    """The process provider of this box. Raises: Refused, OSError."""
    if start.version != posthouse.__version__:
        raise Refused(f"python: has posthouse {posthouse.__version__}; the server is {start.version}")
    root = Path(start.root)
    _tidy(root / "agents")
    wanted: Any = start.slots or None
    if start.gpus:
        ram_mb = int(start.gpu_ram_gb * 1000)
        gpu = machine.Slot(f"gpu {start.gpu_name} {ram_mb}", start.gpu_name, ram_mb, num_gpus=1)
        wanted = dict.fromkeys(range(start.gpus), gpu)
    workers = WorkerSettings.model_validate(start.workers)
    first, last = start.ports
    hidden = root / "workers"
    provider = ProcessProvider(
        hidden,
        start.installation,
        host=start.host,
        slots=wanted,
        bounds=workers.bounds(hidden if start.wall == "auto" else None),
        price=start.price,
        ports=range(first, last + 1),
        grace_s=workers.grace_s,
        name=start.name,
    )
    provider.users, _ = users.chosen(start.users, provider.wall or start.wall == "off", provider.root)
    return provider


async def _answer(provider: ProcessProvider, call: Call, out: Out) -> None:
    """Makes a call and tells what came of it."""
    try:
        given = msgspec.msgpack.decode(call.given, type=CALLS[call.name][0])
        value = await getattr(provider, call.name)(*given)
        if call.name == "instances":
            value = Listing(value, provider.obstacle)
        answer = Answer(call.id, msgspec.Raw(msgspec.msgpack.encode(value)))
    except Exception as error:  # noqa: BLE001 - the seam of a call: whatever it is, the server is told
        answer = _failure(call.id, error)
    with suppress(OSError):  # the connection is gone
        await out.write(framed(answer))


def _failure(call_id: int, error: Exception) -> Answer:
    retry_s = error.retry_after_s if isinstance(error, Busy) else 0.0
    text = str(error) if isinstance(error, PosthouseError) else repr(error)
    return Answer(call_id, error=type(error).__name__, text=text[:400], retry_s=retry_s)


def _tidy(agents: Path) -> None:
    """Removes what versions before left, unless something runs from there."""
    own = Path(sys.executable).parent.parent
    if own.parent != agents:
        return
    used = set()
    for link in Path("/proc").glob("[0-9]*/exe"):
        with suppress(OSError):
            used.add(Path(os.readlink(link)).parent.parent)
    for other in agents.iterdir():
        is_draft = other.name.startswith(".new-")
        old = not is_draft or other.stat().st_mtime < time.time() - DRAFT_S
        if other != own and other not in used and old:
            shutil.rmtree(other, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
