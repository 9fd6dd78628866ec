"""What a model server prints: followed, looked through, kept within a bound."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.agent import logfile
from posthouse.agent.logfile import Log, Printed


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[asyncio.Queue[bytes]]:
    """What is read from `model.log`, piece by piece."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def follow() -> None:
        async for chunk in logfile.chunks(tmp_path / "model.log"):
            queue.put_nowait(chunk)

    task = asyncio.create_task(follow())
    yield queue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def read(seen: asyncio.Queue[bytes], text: bytes) -> None:
    """Wait until as much has been read as `text` is long, and compare."""
    got = b""
    while len(got) < len(text):
        got += await asyncio.wait_for(seen.get(), 20)
    assert got == text


async def test_a_file_is_read_from_its_start_and_as_it_grows(seen: asyncio.Queue[bytes], tmp_path: Path) -> None:
    with (tmp_path / "model.log").open("wb", buffering=0) as file:
        file.write(b"one\ntwo")
        await read(seen, b"one\ntwo")
        file.write(b" three")
        await read(seen, b" three")


async def test_a_rotated_file_is_read_to_its_end_and_then_its_follower(
    seen: asyncio.Queue[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "model.log"
    path.write_text("old\n")
    await read(seen, b"old\n")
    with path.open("a") as file:
        path.rename(tmp_path / "model.log.1")
        file.write("last of the old\n")
    path.write_text("new\n")
    await read(seen, b"last of the old\nnew\n")


async def test_a_file_that_was_cut_is_read_anew(seen: asyncio.Queue[bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    path.write_text("a long first line\n")
    await read(seen, b"a long first line\n")
    path.write_text("short\n")
    await read(seen, b"short\n")


async def test_a_pipe_in_place_of_a_log_is_not_waited_for(seen: asyncio.Queue[bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    os.mkfifo(path)
    Log(path).write(b"nobody reads this")
    await asyncio.sleep(0.2)
    path.unlink()
    path.write_text("a file\n")
    await read(seen, b"a file\n")


@pytest.mark.parametrize(
    "pieces",
    [
        [b"Model READY"],
        [b"load 99%\rModel READY\r"],
        [b"Model RE", b"ADY"],
        [b"Model READY" + b"x" * 300_000],
        [b"x" * 300_000, b"Model READY"],
        [b"\x1b[32mModel\x1b[0m \x1b[1mREADY\x1b[0m\n"],
    ],
    ids=["no end", "carriage return", "in two pieces", "before a long rest", "after a long line", "colours"],
)
def test_a_text_is_found_however_its_line_comes(pieces: list[bytes]) -> None:
    printed = Printed()
    assert "Model READY" in "".join(printed.feed(piece) for piece in pieces)[-400_000:]


def test_a_line_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "_LINE_BYTES", 4)
    printed = Printed()
    for _ in range(100):
        assert len(printed.feed(b"x" * 8)) <= 4 + 8


def test_the_last_lines_are_one_of_plain_text_and_bounded() -> None:
    printed = Printed()
    printed.feed(
        b"\x1b]0;title\x07Traceback:\n  10%\r  20%\r\n\x1b[31mRuntimeError: CUDA out of \xc2\x9bmemory\x00\n\n"
    )
    assert printed.last_lines == "Traceback: | 10% | 20% | RuntimeError: CUDA out of memory"
    printed.feed(
        b"Traceback (most recent call last):\n"
        b'  File "model.py", line 3, in load\n    weights = read()\nValueError: no weights\n'
    )
    assert printed.last_lines.endswith("CUDA out of memory | ValueError: no weights")
    printed.feed(b"y" * 10_000 + b"\n")
    assert printed.last_lines == "y" * 300


def test_a_log_keeps_to_its_bound_and_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "_LOG_BYTES", 1000)
    path = tmp_path / "model.log"
    log = Log(path)
    for _ in range(100):
        log.write(b"z" * 99 + b"\n")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2 * 1100
    assert all(file.stat().st_mode & 0o77 == 0 for file in tmp_path.iterdir())
