"""Fixtures of the contract tests. A module that needs another server has a fixture of the same name."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.signing.rsa import RsaKey
from tests.kit.live import live_server
from tests.kit.peer_worker import PeerWorker, ready_peer_worker


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(tmp_path / "data") as server:
        yield server


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, server.admin_key) as client:
        yield client


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> RsaKey:
    return RsaKey.load_or_create(tmp_path_factory.mktemp("key") / "rsa.pem")


@pytest.fixture(scope="module")
def peer_worker(key: RsaKey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeerWorker]:
    with ready_peer_worker(key, tmp_path_factory.mktemp("peer")) as worker:
        yield worker
