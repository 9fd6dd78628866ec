"""What a model server prints: followed in a file, looked through piece by piece, and kept within a bound."""

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

_POLL_S: Final = 0.1  # seconds between two looks at the file's end
_CHUNK_BYTES: Final = 2**18  # read at once; between two chunks the event loop does other things
_LINE_BYTES: Final = 2**16  # kept of a line that has not ended yet
_TAIL_BYTES: Final = 2**12  # kept to say how it ended
_LOG_BYTES: Final = 8 * 2**20  # at this size a log starts over, and the one before is kept
_SHOWN: Final = 300  # characters of the last lines that a message has room for
_TRACEBACK: Final = "Traceback (most recent call last):"
# Colours and other control sequences. Source: ECMA-48, 5.4 and 8.3.89.
_CONTROLS: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[^\t\n\r -~\xa0-\U0010ffff]")


class Printed:
    """What a model server has printed so far, as far as it matters."""

    def __init__(self) -> None:
        self._line = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> str:
        """Return what is new, each time from the beginning of its line on: a line may never end."""
        self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
        text = self._line + chunk
        line_at = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
        self._line = text[line_at:][-_LINE_BYTES:]
        return plain(text)

    def begin(self) -> None:
        """Note that another file, or another program, goes on from here."""
        self._line = b""

    @property
    def last_lines(self) -> str:
        """The last lines, as one for people, without the frames of a Python traceback: what was raised says more."""
        shown = ""
        for line in reversed(list(_without_frames(re.split(r"[\r\n]+", plain(self._tail))))):
            line = line.strip()
            if not line:
                continue
            joined = f"{line} | {shown}" if shown else line
            if shown and len(joined) > _SHOWN:
                break
            shown = joined[-_SHOWN:]
        return shown


def _without_frames(lines: Iterable[str]) -> Iterator[str]:
    traced = False
    for line in lines:
        if line.startswith(_TRACEBACK):
            traced = True
        elif not (traced and line[:1].isspace()):
            traced = False
            yield line


class Log:
    """A file that a model server's output is added to, within a bound. What cannot be written is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, chunk: bytes) -> None:
        with suppress(OSError), open(self._path, "ab", buffering=0, opener=_plain_file) as file:
            file.write(chunk)
            full = file.tell() >= _LOG_BYTES
        with suppress(OSError, UnboundLocalError):
            if full:
                os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))


def plain(text: bytes) -> str:
    """Return the text without control sequences."""
    return _CONTROLS.sub("", text.decode(errors="replace"))


async def chunks(path: Path) -> AsyncIterator[bytes]:
    """Yield what is in the file: from its start, then as it grows. Waits for it; follows it when it is rotated.

    An empty chunk says that another file follows.
    """
    file: BinaryIO | None = None
    try:
        while True:
            if chunk := file.read(_CHUNK_BYTES) if file else b"":
                yield chunk
                await asyncio.sleep(0)
                continue
            # Looked for at once, so that nothing is written to the old file between its end and the new one.
            current = _current(path, file)
            if current is file:
                await asyncio.sleep(_POLL_S)
            else:
                file = current
                yield b""
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
        new = open(path, "rb", opener=_plain_file)  # noqa: SIM115 - the caller closes it
    except OSError:  # not there yet, or just being replaced
        return file
    if file:
        file.close()
    return new


def _plain_file(path: str, flags: int) -> int:
    """An opener that waits for no pipe. Raises: OSError for what is no file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: is not a regular file")
    return descriptor
