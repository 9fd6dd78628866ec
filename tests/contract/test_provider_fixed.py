"""The example of a provider: a table of its own, and the contract of every provider."""

import re
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import aiohttp
import pytest

from posthouse import plugins
from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.config import load_settings
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened
from tests.kit.live import WORKER_ENV, add_endpoint, live_server, states, until
from tests.kit.provider_contract import ProviderContract, opened_provider

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "provider-fixed"
MAX_LINES = 120


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example, as it is once it has been installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    found = [EntryPoint("fixed", "posthouse_fixed:FixedProvider", plugins.PROVIDERS)]
    found += [point for point in entry_points(group=plugins.PROVIDERS) if point.name != "fixed"]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()
    sys.modules.pop("posthouse_fixed", None)


@pytest.fixture
async def fixed(tmp_path: Path) -> AsyncIterator[Provider]:
    table = {"type": "fixed", "root": str(tmp_path / "there"), "first_port": 18_300, "usd_h": 0.3}
    async with opened_provider("garage", table, tmp_path) as provider:
        yield provider
        for instance in await provider.instances():
            await provider.destroy(instance.id)


class TestFixedProvider(ProviderContract):
    @pytest.fixture
    def provider(self, fixed: Provider) -> Provider:
        return fixed


def test_it_is_as_small_as_the_guide_says() -> None:
    assert len((EXAMPLE / "posthouse_fixed.py").read_text().splitlines()) <= MAX_LINES


async def test_a_server_rents_it_and_replaces_what_it_can_neither_update_nor_put_to_rest(tmp_path: Path) -> None:
    table = {"type": "fixed", "root": str(tmp_path / "there"), "first_port": 18_330, "usd_h": 0.3, "catalog_s": 0.2}
    flags = {f"providers.garage.{name}": value for name, value in (table | {"poll_s": 0.2}).items()}
    async with (
        live_server(tmp_path / "data", default_provider="garage", **flags) as server,
        AsyncClient(server.url, server.admin_key) as client,
    ):
        garage = server.hub.providers["garage"]
        try:
            env = f"{WORKER_ENV} -e PYTHON={sys.executable}"
            endpoint_id = await add_endpoint(client, "llm", env=env, cold_workers=2, max_workers=2)
            await until(lambda: states(server, "llm") == ["idle"], "its machine serves")
            [first] = worker_ids(server)
            [template] = await client.templates()
            await client.update_template(template.id, env=f"{env} -e VERSION=2")
            await until(lambda: worker_ids(server) != [first] and states(server, "llm") == ["idle"], "it is replaced")
            assert len(await garage.instances()) == 1
            headers = {"Authorization": server.admin_key}
            async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{server.url}/metrics") as answer:
                page = await answer.text()
            calls = re.findall(r'_seconds_count{provider="garage",call="(create|destroy)",outcome="(\w+)"} (\d+)', page)
            told = [line.text for managed in server.hub.endpoints.values() for line in managed.history.lines()]
            assert ("create", "ok", "2") in calls, (calls, told)
            assert ("destroy", "ok") in {(call, outcome) for call, outcome, _ in calls}
            await client.update_endpoint(endpoint_id, endpoint_state="stopped")
            await until(lambda: not states(server, "llm"), "nothing rests there")
            assert list(await garage.instances()) == []
        finally:
            for instance in await garage.instances():
                await garage.destroy(instance.id)


def worker_ids(server: Running) -> list[int]:
    fleet = server.hub.fleet_named("llm")
    return [] if fleet is None else sorted(fleet.workers)


async def test_a_machine_that_cannot_be_reached_is_no_empty_list(tmp_path: Path) -> None:
    settings, _ = load_settings({"providers.fixed.shell": "false"}, None, {})
    provider, meter = await opened(settings.providers["fixed"], Context("fixed", "test", tmp_path))
    with pytest.raises(OSError, match="fixed"):
        await provider.instances()
    assert {key: times.count for key, times in meter.took.items()} == {("instances", "unclear"): 1}
