"""What the provider for SkyPilot does at a double of its API server: the contract of every provider, and more."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.domain.lifecycle import Observation
from posthouse.errors import NotFound, OfferTaken, Refused
from posthouse.ports import Provider
from posthouse.providers.answers import NoAnswer
from posthouse.providers.skypilot import listing
from tests.kit.provider_contract import ProviderContract, eventually, listed, rent, seen_as, spec
from tests.kit.skypilot import SkyServer, provider_at, sky_server


class TestSkypilotProvider(ProviderContract):
    @pytest.fixture
    async def provider(self, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
        async with (
            sky_server(tmp_path_factory.mktemp("sky")) as server,
            provider_at(server.url, clouds="aws", room=3) as provider,
        ):
            yield provider


@pytest.fixture
async def sky(tmp_path: Path) -> AsyncIterator[SkyServer]:
    async with sky_server(tmp_path / "sky") as server:
        yield server


async def test_each_offer_says_what_its_cloud_can_do(sky: SkyServer) -> None:
    async with provider_at(sky.url, spot=True) as shop:
        found = {offer.id: offer for offer in await shop.catalog()}
    assert {
        name: (o.capabilities.stop, o.capabilities.interruptible, o.price.ready_usd_h) for name, o in found.items()
    } == {
        "aws/us-east-1/g6.xlarge/L4:1": (True, False, 0.8),
        "aws/us-east-1/g6.xlarge/L4:1/spot": (False, True, 0.3),
        "runpod/CA/1x_A100_SECURE/A100:1": (False, False, 1.6),
        "lambda/us-east-1/gpu_1x_a100/A100:1": (False, False, 1.29),
    }
    assert {o.zone for o in found.values()} == {"us-east-1", "CA"}


async def test_a_launch_under_way_is_the_same_worker_for_whoever_asks_again(sky: SkyServer) -> None:
    sky.launch_s = 1.0
    async with provider_at(sky.url, launch_s=0.05) as shop, provider_at(sky.url) as later:
        first = await rent(shop, spec(1))
        assert first.seen is Observation.PROVISIONING
        again = await rent(later, spec(1))  # a server that started over
        assert (again.id, sky.calls["/launch"]) == (first.id, 1)
        await seen_as(later, first.id, Observation.RUNNING)
        await later.destroy(first.id)
        assert await listed(shop, first.id) is None


async def test_a_launch_whose_answer_is_lost_is_found_by_its_name(sky: SkyServer) -> None:
    sky.lost.add("/launch")
    async with provider_at(sky.url) as shop:
        with pytest.raises(NoAnswer):
            await rent(shop, spec(1))
        sky.lost.clear()
        assert (await rent(shop, spec(1))).label == "posthouse-test-1"
        assert (sky.calls["/launch"], len(sky.clusters)) == (1, 1)


async def test_a_launch_can_be_ended_while_it_is_under_way(sky: SkyServer) -> None:
    sky.launch_s = 600.0
    async with provider_at(sky.url, launch_s=0.05) as shop:
        made = await rent(shop, spec(1))
        await shop.destroy(made.id)
        assert (await listed(shop, made.id), sky.clusters) == (None, {})


@pytest.mark.parametrize(
    ("kind", "error"),
    [("ResourcesUnavailableError", OfferTaken), ("NoCloudAccessError", Refused), ("NotSupportedError", Refused)],
)
async def test_what_a_launch_fails_of_is_told_apart(sky: SkyServer, kind: str, error: type[Exception]) -> None:
    sky.fails["/launch"] = kind, "no capacity in us-east-1"
    async with provider_at(sky.url) as shop:
        with pytest.raises(error, match=f"{kind}: no capacity in us-east-1"):
            await rent(shop, spec(1))
        assert [text.partition(": ")[0] for text in shop.troubles()] == (
            ["provider skypilot"] if kind == "NoCloudAccessError" else []
        )
        assert await listed(shop, "posthouse-test-1") is None


async def test_a_launch_that_fails_later_is_shown_until_it_is_destroyed(sky: SkyServer) -> None:
    sky.launch_s = 0.3
    async with provider_at(sky.url, launch_s=0.05) as shop:
        made = await rent(shop, spec(1))
        sky.requests[next(n for n, r in sky.requests.items() if r["name"] == "sky.launch")]["status"] = "RUNNING"
        for task in sky._tasks.values():
            task.cancel()

        async def over() -> bool:
            found = await listed(shop, made.id)
            return found is not None and found.seen is Observation.EXITED

        await eventually(over)
        await shop.destroy(made.id)
        assert await listed(shop, made.id) is None


async def test_a_launch_whose_outcome_is_not_told_has_not_failed(sky: SkyServer) -> None:
    sky.launch_s = 0.1
    async with provider_at(sky.url, launch_s=0.02) as shop:
        made = await rent(shop, spec(1))
        sky.busy |= {number for number, row in sky.requests.items() if row["name"] == "sky.launch"}
        await seen_as(shop, made.id, Observation.RUNNING)
        for job in sky.clusters.pop(made.id).jobs:
            job.end()
        assert (await seen_as(shop, made.id, Observation.PROVISIONING)).message == ""
        sky.busy.clear()

        async def gone() -> bool:
            return await listed(shop, made.id) is None

        await eventually(gone)


async def test_a_machine_that_is_taken_away_has_exited(sky: SkyServer) -> None:
    async with provider_at(sky.url) as shop:
        made = await rent(shop, spec(1))
        await seen_as(shop, made.id, Observation.RUNNING)
        sky.clusters[made.id].status, sky.clusters[made.id].init_kind = "INIT", "unhealthy"
        assert "taken away" in (await seen_as(shop, made.id, Observation.EXITED)).message


async def test_another_installation_s_clusters_are_never_touched(sky: SkyServer) -> None:
    async with provider_at(sky.url) as shop:
        made = await rent(shop, spec(1))
        sky.clusters["posthouse-other-1"] = sky.clusters.pop(made.id)
        sky.clusters["posthouse-other-1"].name = "posthouse-other-1"
        assert await shop.instances() == []
        await shop.destroy("posthouse-other-1")
        await shop.stop("posthouse-other-1")
        with pytest.raises(NotFound):
            await shop.start("posthouse-other-1")
        assert list(sky.clusters) == ["posthouse-other-1"]


def test_what_cannot_be_read_is_left_out() -> None:
    given = {"3000": "192.0.2.1:80", "5": "http://h:99", "x": "192.0.2.1:1", "4": "a b:1", "6": None, "7": "h:x"}
    assert listing.places(given) == {3000: "192.0.2.1:80", 5: "h:99"}
    good = ["AWS", "g6.xlarge", "L4", 1.0, 4.0, 24.0, 16.0, 0.8, None, "us-east-1"]
    bad = [None, [], "row", ["AWS"] * 10, [*good[:3], 0.5, *good[4:]], [*good[:7], float("nan"), *good[8:]]]
    bad.append([*good[:7], 10**400, *good[8:]])
    found = listing.offers({"L4": [*bad, good], "A100": None}, frozenset({"aws"}), "skypilot", 1, 0.1, with_spot=True)
    assert [offer.id for offer, _ in found] == ["aws/us-east-1/g6.xlarge/L4:1"]
    assert (listing.places([]), list(listing.offers([], frozenset(), "", 1, 0, with_spot=False))) == ({}, [])
    unreadable: list[object] = [None, {}, [None], [{"status": "UP"}]]
    for broken in unreadable:
        with pytest.raises(ValueError, match="cannot be read"):
            listing.clusters(broken)


async def test_a_wrong_token_is_said_so(sky: SkyServer) -> None:
    async with provider_at(sky.url, token="wrong") as shop:
        with pytest.raises(Refused, match="401 Service account authentication disabled"):
            await shop.instances()
        assert shop.troubles() == ["provider skypilot: its server refuses the token; set providers.skypilot.token"]
