"""Following a log file that another program writes, cuts and rotates."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.agent import logfile


@pytest.fixture
async def seen(tmp_path: Path) -> AsyncIterator[asyncio.Queue[str]]:
    """What is read from `model.log`, line by line."""
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async for line in logfile.lines(tmp_path / "model.log"):
            queue.put_nowait(line)

    task = asyncio.create_task(follow())
    yield queue
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def next_line(seen: asyncio.Queue[str]) -> str:
    return await asyncio.wait_for(seen.get(), 20)


async def test_lines_are_read_from_the_start_and_as_they_end(seen: asyncio.Queue[str], tmp_path: Path) -> None:
    with (tmp_path / "model.log").open("wb", buffering=0) as file:
        file.write(b"one\ntwo\nthr")
        assert [await next_line(seen), await next_line(seen)] == ["one", "two"]
        file.write("ee, schön".encode() + b"\xff\n")
        assert await next_line(seen) == "three, schön�"


async def test_a_rotated_file_is_read_to_its_end_and_then_its_follower(
    seen: asyncio.Queue[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.log"
    path.write_text("old\n")
    assert await next_line(seen) == "old"
    with path.open("a") as file:
        path.rename(tmp_path / "model.log.1")
        file.write("last of the old\n")
    path.write_text("new\n")
    assert [await next_line(seen), await next_line(seen)] == ["last of the old", "new"]


async def test_a_file_that_was_cut_is_read_anew(seen: asyncio.Queue[str], tmp_path: Path) -> None:
    path = tmp_path / "model.log"
    path.write_text("a long first line\n")
    assert await next_line(seen) == "a long first line"
    path.write_text("short\n")
    assert await next_line(seen) == "short"


async def test_a_line_without_an_end_does_not_fill_the_memory(
    seen: asyncio.Queue[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "_CHUNK_BYTES", 8)
    monkeypatch.setattr(logfile, "_LINE_BYTES", 4)
    (tmp_path / "model.log").write_text("x" * 100 + "end\n")
    assert len(await next_line(seen)) <= 4 + 8
