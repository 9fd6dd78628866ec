"""What the provider for Vast.ai does at a simulated market: the contract of every provider, and more."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.ports import Provider
from tests.kit.market import market, provider_at
from tests.kit.provider_contract import ProviderContract


class TestVastProvider(ProviderContract):
    update_keeps_disk = False

    @pytest.fixture
    async def provider(self, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
        directory: Path = tmp_path_factory.mktemp("market")
        async with market(directory) as api, provider_at(api) as provider:
            yield provider
