"""The data directory: one server acts on it, only its owner sees it, and what is broken in it is named."""

import asyncio
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from posthouse.app.datadir import LOCK_FILE, owner
from posthouse.errors import Refused
from tests.kit.live import live_server, until


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def refusal(data_dir: Path, **flags: object) -> str:
    """Why a server does not start there."""
    with pytest.raises(Refused) as refused:
        async with live_server(data_dir, **flags):
            pass
    return str(refused.value)


async def test_whatever_is_removed_there_is_one_server(data_dir: Path) -> None:
    async with live_server(data_dir):
        assert owner(data_dir)
        (data_dir / LOCK_FILE).unlink()
        assert await refusal(data_dir) == f"data_dir: another server is running on {data_dir}"
        with pytest.raises(Refused, match="does not tell its process"):
            owner(data_dir)
        data_dir.rename(data_dir.with_name("moved"))
        assert "another server is running" in await refusal(data_dir.with_name("moved"))
    assert owner(data_dir.with_name("moved")) == 0


async def test_a_server_whose_directory_was_exchanged_decides_nothing_more_and_says_so(data_dir: Path) -> None:
    async with live_server(data_dir) as server, aiohttp.ClientSession() as http:
        data_dir.rename(data_dir.with_name("moved"))
        data_dir.mkdir()
        async with http.get(f"{server.url}/readyz") as answer:
            assert "the data directory was moved, removed or replaced" in await answer.text()
        data_dir.rmdir()
        data_dir.with_name("moved").rename(data_dir)
        rounds = server.loop.counts["rounds"]
        await until(lambda: server.loop.counts["rounds"] > rounds, "it goes on")
        async with http.get(f"{server.url}/readyz") as answer:
            assert "data directory" not in await answer.text()


async def test_only_its_owner_sees_the_directory_and_what_is_in_it(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o755)
    (data_dir / LOCK_FILE).touch(mode=0o644)
    async with live_server(data_dir):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.iterdir() if path.is_file()}
        assert set(modes.values()) == {0o600}
        assert LOCK_FILE in modes
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


async def test_a_taken_port_leaves_no_directory_behind(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = await refusal(data_dir, **{"server.port": taken.getsockname()[1]})
    assert refused.startswith("server.port: cannot listen on")
    assert not data_dir.exists()


def _is_garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff not what was written")


def _is_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _is_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("breaks", [_is_garbage, _is_cut, Path.touch, _is_a_directory])
@pytest.mark.parametrize("name", ["secret", "signing.pem", "authority.pem", "authority.cer", "posthouse.db"])
async def test_a_broken_file_is_named_with_what_helps(
    name: str, breaks: Callable[[Path], None], made: Path, data_dir: Path
) -> None:
    data_dir.mkdir()
    for file in (file for file in made.iterdir() if file.is_file()):
        (data_dir / file.name).write_bytes(file.read_bytes())
    path = data_dir / name
    if breaks is Path.touch:
        path.unlink()
    breaks(path)
    said = await refusal(data_dir)
    assert str(path) in said
    assert "from a backup" in said or "restore a backup" in said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an installation."""
    data_dir = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with live_server(data_dir):
            pass

    asyncio.run(make())
    return data_dir


async def test_without_its_database_an_installation_does_not_begin_anew(data_dir: Path) -> None:
    async with live_server(data_dir):
        pass
    for file in data_dir.glob("posthouse.db*"):
        file.unlink()
    assert "posthouse.db is missing, empty or no file" in await refusal(data_dir)
    assert not (data_dir / "posthouse.db").exists()
