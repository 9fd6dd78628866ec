"""The whole road over a simulated market with real workers: offer, rent, boot, report, route, answer, destroy."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.domain.endpoint import EndpointId
from posthouse.market.model import MICRO
from posthouse.market.server import Api
from tests.kit.live import AGENT, add_endpoint, live_server, ready, until, worker_processes
from tests.kit.market import KEY, MarketProcess, go_wrong, market, market_process
from tests.kit.site import Site
from tests.kit.site import until as until_site

TEMPLATE = """
exec "$PYTHON" -m posthouse agent --parallel 4 --perf 2000 \\
  -- "$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 500 --slots 4 --load-s 0
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[MarketProcess]:
    with market_process(tmp_path / "machines") as found:
        yield found


@pytest.fixture
def site(tmp_path: Path, elsewhere: MarketProcess) -> Iterator[Site]:
    made = Site(tmp_path)
    (tmp_path / "posthouse.toml").write_text(f"""
default_provider = "vast"

[engine]
tick_s = 0.2
stabilization_s = 1
orphan_after_s = 1

[providers.vast]
url = "{elsewhere.url}"
image = "demo/image"
pace = 0.02
poll_s = 0.5
catalog_s = 0.5
""")
    made.environ["POSTHOUSE_PROVIDERS__VAST__API_KEY"] = elsewhere.api_key
    yield made
    made.clear()


def test_a_request_is_answered_by_a_worker_that_was_rented_for_it(
    site: Site, elsewhere: MarketProcess, tmp_path: Path
) -> None:
    site.start()
    assert elsewhere.api_key not in site.run("config", "show").stdout
    (site.directory / "onstart.sh").write_text(TEMPLATE)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    site.json("endpoint", "create", "llm", "--min-load", "0", "--cold-workers", "0", "--cold-mult", "1")
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm", "--search", "gpu_name=RTX_4090")
    answered = site.run("request", "llm", "What is Deep Learning?")
    assert answered.stdout.strip(), answered.stderr
    [worker] = site.json("worker", "list")
    assert (worker["gpu_name"], worker["provider"], worker["state"]) == ("RTX 4090", "vast", "idle")
    assert "public key: fetched" in site.run("worker", "logs", str(worker["id"])).stdout
    assert [row["answers"] for row in site.json("provider", "list") if row["name"] == "vast"] == [True]
    site.run("endpoint", "delete", "llm", "--wait")
    until_site(lambda: not worker_processes(tmp_path / "machines"))


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with market(tmp_path / "machines", offers=10, pull_s=0.3, stop_s=0.1) as api:
        yield api


@pytest.fixture
async def server(api: Api, tmp_path: Path) -> AsyncIterator[Running]:
    table: dict[str, Any] = {"url": api.url, "api_key": KEY, "image": "demo/image", "pace": 0.0}
    table |= {"poll_s": 0.2, "catalog_s": 0.2, "call_s": 2.0}
    flags = {f"providers.vast.{name}": value for name, value in table.items()}
    async with live_server(tmp_path / "data", default_provider="vast", **flags) as server:
        yield server


async def test_workers_rest_on_the_market_and_come_back(server: Running, api: Api) -> None:
    async with AsyncClient(server.url, server.admin_key) as owner:
        await add_endpoint(owner, "llm", min_load=0, cold_workers=1, max_workers=1, inactivity_timeout=1)
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        # It is idle for a moment only: the timeout has passed when it becomes so.
        await until(lambda: any(w.loaded_at > 0 for w in fleet.workers.values()), "it was ready")
        await until(lambda: [r.actual for r in api.market.rentals.values()] == ["exited"], "it rests")
        [before] = api.market.rentals
        assert await owner.generate("llm", "Hello", max_new_tokens=5)
        assert list(api.market.rentals) == [before]
        assert api.market.bills()[before].gpu > 0


@pytest.mark.long
async def test_a_market_on_which_much_goes_wrong_still_serves_and_nothing_is_left(
    server: Running, api: Api, tmp_path: Path
) -> None:
    go_wrong(api, lost=0.1, truncated=0.05, taken=0.3, lag_s=0.5, slow=0.3, slow_factor=3.0)
    async with AsyncClient(server.url, server.admin_key) as owner:
        endpoint_id = await add_endpoint(owner, "llm", min_load=1, max_workers=2)
        await ready(server, "llm")
        assert await owner.generate("llm", "Hello", max_new_tokens=5)
        fleet = server.hub.fleet_named("llm")
        assert fleet is not None
        serving = {worker.instance_id for worker in fleet.workers.values() if worker.state == "idle"}
        lost = next(r for r in api.market.rentals.values() if str(r.id) in serving)
        api.market.go_offline(lost.machine)
        await until(lambda: lost.id not in api.market.rentals, "what went offline is destroyed")
        await ready(server, "llm")
        assert await owner.generate("llm", "Hello", max_new_tokens=5)
        assert len(api.market.rentals) <= 2
        await owner.delete_endpoint(endpoint_id)
        await until(lambda: not api.market.rentals, "nothing is left")
    await until(lambda: not worker_processes(tmp_path / "machines"), "no process is left")


async def test_an_endpoint_over_two_markets_settles_on_the_cheaper_and_moves_when_its_price_doubles(
    tmp_path: Path,
) -> None:
    async with (
        market(tmp_path / "left", offers=1, seed=1, pull_s=0.3) as left,
        market(tmp_path / "right", offers=1, seed=1, pull_s=0.3) as right,
    ):
        price_at(left, 0.30)
        price_at(right, 0.40)
        table: dict[str, Any] = {"type": "vast", "api_key": KEY, "image": "demo/image", "pace": 0.0}
        table |= {"poll_s": 0.2, "catalog_s": 0.2}
        flags = {f"providers.{name}.{key}": value for name in ("left", "right") for key, value in table.items()}
        flags |= {"providers.left.url": left.url, "providers.right.url": right.url, "default_provider": "left"}
        async with (
            live_server(tmp_path / "data", **flags) as server,
            AsyncClient(server.url, server.admin_key) as owner,
        ):
            template = await owner.create_template(name="llm", env="-p 3000:3000", onstart=AGENT)
            endpoint_id = await owner.create_endpoint("llm", min_load=0, cold_workers=0, cold_mult=1, max_workers=2)
            for name in ("right", "left"):
                await owner.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id, provider=name)
            await until(lambda: len(server.hub.offers_for(EndpointId(endpoint_id))) == 2, "both markets are known")
            await owner.update_endpoint(endpoint_id, min_load=1)
            await ready(server, "llm")
            assert [len(api.market.rentals) for api in (left, right)] == [1, 0]
            price_at(left, 0.60)
            [worker] = await owner.workers()
            await owner.delete_worker(worker.id)
            await until(lambda: len(right.market.rentals) == 1, "the next one is on the other market")
            await ready(server, "llm")
            assert await owner.generate("llm", "Hello", max_new_tokens=5)
            await owner.delete_endpoint(endpoint_id)
            await until(lambda: not left.market.rentals and not right.market.rentals, "nothing is left")


def price_at(api: Api, usd_h: float) -> None:
    """What the one machine of a market costs from now on."""
    [machine] = api.market.machines.values()
    api.market.set_price(machine, round(usd_h * MICRO), machine.min_bid)
