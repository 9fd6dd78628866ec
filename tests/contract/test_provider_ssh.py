"""What the ssh provider does with a real sshd: the contract of every provider, and what it promises beyond that."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from posthouse.config import load_settings
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened
from tests.kit.provider_contract import ProviderContract, eventually
from tests.kit.ssh_server import SshServer, ssh_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box's directory for all of ours: the agent is put there once for all tests."""
    return tmp_path_factory.mktemp("box")


@asynccontextmanager
async def provider_of(data_dir: Path, *hosts: dict[str, Any], **table: Any) -> AsyncIterator[Provider]:
    """As a server opens it, behind its wrappers. At the end its workers stay."""
    given = {"type": "ssh", "grace_s": 0.5, "hosts": list(hosts)} | table
    settings, _ = load_settings({f"providers.boxes.{key}": value for key, value in given.items()}, None, {})
    provider, _ = await opened(settings.providers["boxes"], Context("boxes", "test", data_dir))
    try:
        yield provider
    finally:
        await provider.close()


async def ready(provider: Provider) -> None:
    """Returns once every box can be worked with: the first time the agent has to be copied."""

    async def check() -> bool:
        try:
            await provider.instances()
        except Exception:
            await asyncio.sleep(0.2)
            return False
        return not provider.troubles()

    await eventually(check)


@pytest.fixture
async def box(server: SshServer, home: Path, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider_of(tmp_path, server.host(dir=str(home))) as provider:
        await ready(provider)
        yield provider
        for instance in await provider.instances():
            await provider.destroy(instance.id)


class TestSshProvider(ProviderContract):
    @pytest.fixture
    def provider(self, box: Provider) -> Provider:
        return box
