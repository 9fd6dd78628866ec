"""The lines of a log file that another program writes."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

_POLL_S: Final = 0.1  # seconds between two looks at the file's end
_CHUNK_BYTES: Final = 2**18  # read at once; between two chunks the event loop does other things
_LINE_BYTES: Final = 2**16  # kept of a line that has not ended yet


async def lines(path: Path) -> AsyncIterator[str]:
    """Yield every line of the file: from its start, then as it grows. Waits for it; follows it when it is rotated."""
    file: BinaryIO | None = None
    rest = b""
    try:
        while True:
            chunk = file.read(_CHUNK_BYTES) if file else b""
            if not chunk:
                # Looked for at once, so that nothing is written to the old file between its end and the new one.
                current = _current(path, file)
                if current is file:
                    await asyncio.sleep(_POLL_S)
                else:
                    file, rest = current, b""
                continue
            *ended, rest = (rest + chunk).split(b"\n")
            rest = rest[-_LINE_BYTES:]
            for line in ended:
                yield line.decode(errors="replace")
            await asyncio.sleep(0)
    finally:
        if file:
            file.close()


def _current(path: Path, file: BinaryIO | None) -> BinaryIO | None:
    """Return `file`, or the one that has replaced it at `path`, or that was truncated there."""
    try:
        if file:
            now, then = path.stat(), os.fstat(file.fileno())
            if os.path.samestat(now, then) and now.st_size >= file.tell():
                return file
        new = path.open("rb")
    except OSError:  # not there yet, or just being replaced
        return file
    if file:
        file.close()
    return new
