"""What the provider for Vast.ai does at a simulated market: the contract of every provider, and more."""

import asyncio
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from posthouse.config import load_settings
from posthouse.domain.lifecycle import Observation
from posthouse.errors import BadRequest, Busy, NotFound, OfferTaken, PosthouseError, Refused, Unavailable
from posthouse.market import rows as market_rows
from posthouse.market.model import MICRO, Launch
from posthouse.market.server import Api
from posthouse.market.world import Market
from posthouse.ports import Provider, RegistryLogin
from posthouse.providers.answers import NoAnswer
from posthouse.providers.plugin import Context
from posthouse.providers.vast import VastProvider, launch
from posthouse.providers.vast import provider as provider_module
from posthouse.providers.vast.settings import VastSettings
from posthouse.wire.matching import matches, values_of
from posthouse.wire.search import parse_search
from tests.kit.market import KEY, READ_KEY, go_wrong, market, provider_at
from tests.kit.provider_contract import ProviderContract, listed, rent, seen_as, spec, usd_h

FOREIGN = "posthouse-other-1"


class TestVastProvider(ProviderContract):
    update_keeps_disk = False

    @pytest.fixture
    async def provider(self, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
        directory: Path = tmp_path_factory.mktemp("market")
        async with market(directory) as api, provider_at(api) as provider:
            yield provider


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A market whose instances run nothing."""
    async with market() as api:
        yield api


@pytest.fixture
async def shop(api: Api) -> AsyncIterator[Provider]:
    async with provider_at(api) as provider:
        yield provider


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for long that the market does not do at all."""
    monkeypatch.setattr(provider_module, "SETTLE_S", 0.5)
    monkeypatch.setattr(provider_module, "SETTLE_AGAIN_S", 0.05)


# -- answers that do not come --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [{"lost": 1.0}, {"late": 1.0, "late_s": 30.0}, {"truncated": 1.0}], ids=["lost", "late", "truncated"]
)
async def test_a_rental_without_an_answer_is_found_by_its_label(api: Api, fault: dict[str, float]) -> None:
    async with provider_at(api, call_s=0.3) as shop:
        await shop.catalog()
        go_wrong(api, only="create", **fault)
        made = await rent(shop, spec(1))
        again = await rent(shop, spec(1))
        assert (made.label, again.id) == ("posthouse-test-1", made.id)
        assert len(api.market.rentals) == 1


async def test_a_rental_is_sent_once_whatever_becomes_of_its_connection(api: Api, shop: Provider) -> None:
    go_wrong(api, only="create", lost=1.0, lag_s=1000.0)
    with pytest.raises(NoAnswer):
        await rent(shop, spec(1))
    assert [number for (name, _), number in api.calls.items() if name == "create"] == [1]


async def test_nothing_is_rented_twice_while_the_market_does_not_show_it(api: Api, shop: Provider) -> None:
    go_wrong(api, only="create", lost=1.0, lag_s=1000.0)
    for _ in range(2):
        with pytest.raises(NoAnswer, match="posthouse-test-1"):
            await rent(shop, spec(1))
    assert len(api.market.rentals) == 1
    go_wrong(api, lag_s=0.0)
    made = await rent(shop, spec(1))
    assert list(api.market.rentals) == [int(made.id)]


async def test_a_rental_that_was_not_made_may_be_tried_again_after_a_while(
    api: Api, shop: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_wrong(api, only="create", error=1.0)
    with pytest.raises(NoAnswer):
        await rent(shop, spec(1))
    go_wrong(api, error=0.0)
    with pytest.raises(NoAnswer, match="rented for before"):
        await rent(shop, spec(1))
    monkeypatch.setattr(provider_module, "UNCLEAR_S", 0.0)
    assert (await rent(shop, spec(1))).label == "posthouse-test-1"


async def test_a_rental_that_is_cancelled_in_the_middle_is_not_made_again(api: Api, shop: Provider) -> None:
    await shop.catalog()
    go_wrong(api, only="create", late=1.0, late_s=30.0)
    renting = asyncio.create_task(rent(shop, spec(1)))
    while not api.market.rentals:
        await asyncio.sleep(0.01)
    renting.cancel()
    await asyncio.gather(renting, return_exceptions=True)
    made = await rent(shop, spec(1))
    assert list(api.market.rentals) == [int(made.id)]


@pytest.mark.parametrize("fault", ["error", "lost", "truncated"])
async def test_a_list_that_does_not_arrive_whole_is_no_list(api: Api, shop: Provider, fault: str) -> None:
    await rent(shop, spec(1))
    go_wrong(api, only="list", **{fault: 1.0})
    with pytest.raises(NoAnswer):
        await shop.instances()


async def test_orders_without_an_answer_may_be_given_again(api: Api, shop: Provider) -> None:
    made = await rent(shop, spec(1))
    await seen_as(shop, made.id, Observation.RUNNING)
    go_wrong(api, only="manage", lost=1.0)
    with pytest.raises(NoAnswer):
        await shop.stop(made.id)
    go_wrong(api, lost=0.0)
    await shop.stop(made.id)
    await seen_as(shop, made.id, Observation.HALTED)
    go_wrong(api, only="destroy", lost=1.0)
    with pytest.raises(NoAnswer):
        await shop.destroy(made.id)
    go_wrong(api, lost=0.0)
    await shop.destroy(made.id)
    assert list(await shop.instances()) == []


# -- every error told apart ----------------------------------------------------------------------------------------


async def test_a_wrong_key_is_told_and_never_shown(api: Api) -> None:
    async with provider_at(api, api_key="wrong-key") as shop:
        with pytest.raises(Refused, match="refuses the key") as told:
            await shop.catalog()
        assert "wrong-key" not in str(told.value)
        assert ["api_key" in trouble for trouble in shop.troubles()] == [True]


async def test_a_key_without_the_right_is_told(api: Api) -> None:
    async with provider_at(api, api_key=READ_KEY) as shop:
        with pytest.raises(Refused, match="more rights"):
            await rent(shop, spec(1))


async def test_an_account_without_credit_is_told_until_it_has_some(api: Api, shop: Provider) -> None:
    go_wrong(api, credit_usd=0.0)
    with pytest.raises(Refused, match="out of credit"):
        await rent(shop, spec(1))
    await shop.instances()  # lists cost nothing, so that they come proves nothing
    assert ["credit" in trouble for trouble in shop.troubles()] == [True]
    go_wrong(api, credit_usd=100.0)
    await rent(shop, spec(1))
    assert shop.troubles() == []


async def test_a_market_that_has_moved_is_not_followed_with_the_key(api: Api, shop: Provider) -> None:
    go_wrong(api, moved_to="http://elsewhere.invalid")
    with pytest.raises(Refused, match=r"moved to 'http://elsewhere.invalid.*set providers.market.url"):
        await shop.catalog()


async def test_an_offer_that_somebody_else_took_is_taken(api: Api, shop: Provider) -> None:
    go_wrong(api, taken=1.0)
    with pytest.raises(OfferTaken):
        await rent(shop, spec(1))
    assert not api.market.rentals


async def test_what_is_no_longer_offered_is_not_ordered(api: Api, shop: Provider) -> None:
    gone, *_ = await shop.catalog()
    next(m for m in api.market.machines.values() if str(m.ask_id) == gone.id).tenant = -1
    await shop.catalog()  # as it is looked at while the rental waits for its turn
    with pytest.raises(OfferTaken, match="not among the latest"):
        await shop.create(gone.id, spec(1), 100.0)
    assert "create" not in {name for name, _ in api.calls}


async def test_a_market_that_wants_fewer_calls_is_asked_later(api: Api, shop: Provider) -> None:
    go_wrong(api, limits=1.0)
    await shop.instances()
    with pytest.raises(Busy, match="too frequent") as told:
        await shop.instances()
    assert 1.0 <= told.value.retry_after_s < 60
    assert not isinstance(told.value, Unavailable)


async def test_searches_that_are_used_up_wait_for_the_next_day(api: Api, shop: Provider) -> None:
    go_wrong(api, searches_per_day=1)
    await shop.catalog()
    with pytest.raises(Unavailable, match=r"used up until .* UTC"):
        await shop.catalog()
    assert ["used up" in trouble for trouble in shop.troubles()] == [True]
    with pytest.raises(Unavailable):  # and the market is not asked
        await shop.catalog()
    assert api.calls["search", 429] == 1


async def test_a_market_that_breaks_leaves_the_outcome_open(api: Api, shop: Provider) -> None:
    go_wrong(api, error=1.0)
    with pytest.raises(NoAnswer, match="503"):
        await shop.catalog()


async def test_a_market_that_is_not_there_leaves_the_outcome_open(api: Api) -> None:
    async with provider_at(api, url="http://127.0.0.1:1") as shop:
        with pytest.raises(NoAnswer, match="no answer"):
            await shop.instances()


# -- money ---------------------------------------------------------------------------------------------------------


async def test_a_price_that_moved_since_the_catalogue_is_not_paid(api: Api, shop: Provider) -> None:
    [offer, *_] = await shop.catalog()
    [machine] = [m for m in api.market.machines.values() if str(m.ask_id) == offer.id]
    api.market.set_price(machine, 2 * machine.price, machine.min_bid)
    with pytest.raises(OfferTaken, match="by now"):
        await shop.create(offer.id, spec(1), usd_h(offer, spec(1)))
    assert not api.market.rentals


async def test_prices_are_by_billing_state(api: Api, shop: Provider) -> None:
    go_wrong(api, pull_s=1000.0)
    [offer, *_] = await shop.catalog()
    wanted = replace(spec(1), disk_gb=20.0)
    made = await shop.create(offer.id, wanted, usd_h(offer, wanted))
    pulling = await seen_as(shop, made.id, Observation.PULLING)
    disk = 20.0 * offer.disk_usd_gb_h
    assert pulling.price
    assert (pulling.price.ready_usd_h, pulling.price.loading_usd_h, pulling.price.stopped_usd_h) == pytest.approx(
        (offer.price.ready_usd_h + disk, disk, disk), abs=2e-6
    )


async def test_bids_have_a_ceiling_and_rest_while_they_are_outbid(api: Api) -> None:
    lowest = sorted(m.min_bid for m in api.market.machines.values())
    ceiling = lowest[-2] * 1.1 / MICRO
    async with provider_at(api, rent="both", bid_over=0.1, max_bid_usd_h=ceiling) as shop:
        offers = await shop.catalog()
        bids = [offer for offer in offers if offer.capabilities.interruptible]
        assert (len(offers), len(bids)) == (9, 4), "the dearest is above the ceiling"
        offer = max(bids, key=lambda bid: bid.price.ready_usd_h)
        made = await shop.create(offer.id, spec(1), usd_h(offer, spec(1)))
        rental = api.market.rentals[int(made.id)]
        assert (rental.is_bid, rental.price) == (True, round(offer.price.ready_usd_h * MICRO))
        await seen_as(shop, made.id, Observation.RUNNING)
        api.market.set_price(rental.machine, rental.machine.price, rental.price + 1)
        await seen_as(shop, made.id, Observation.HALTED)
        with pytest.raises(Busy, match="outbid"):
            await shop.start(made.id)
    async with provider_at(api, rent="bid", bid_over=0.1) as rich:
        assert rich.capabilities.interruptible
        await rich.start(made.id)
        await seen_as(rich, made.id, Observation.RUNNING)


async def test_a_bid_that_does_not_win_leaves_no_instance_that_rests(api: Api) -> None:
    async with provider_at(api, rent="bid", bid_over=0.1) as shop:
        [offer, *_] = await shop.catalog()
        [machine] = [m for m in api.market.machines.values() if f"bid-{m.ask_id}" == offer.id]
        api.market.set_price(machine, machine.price, 2 * machine.min_bid)
        with pytest.raises(OfferTaken, match="lowest winning bid"):
            await shop.create(offer.id, spec(1), usd_h(offer, spec(1)))
        assert not api.market.rentals
        assert len(api.market.gone) == 1, "the market makes one that rests"


# -- what is ours --------------------------------------------------------------------------------------------------


async def test_what_others_have_is_neither_listed_nor_touched(api: Api, shop: Provider) -> None:
    [offer, *_] = await shop.catalog()
    theirs = api.market.rent(int(offer.id), Launch("image", {}), FOREIGN, 10.0)
    calls: list[Callable[[str], Awaitable[object]]] = [shop.destroy, shop.stop]
    for call in calls:
        await call(str(theirs.id))
    assert await shop.logs(str(theirs.id), 5) == ""
    with pytest.raises(NotFound):
        await shop.start(str(theirs.id))
    with pytest.raises(NotFound):
        await shop.update(str(theirs.id), spec(1))
    assert list(await shop.instances()) == []
    assert (list(api.market.rentals), theirs.intended) == ([theirs.id], "running")


async def test_a_list_of_many_pages_is_complete_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async with market(offers=70) as api, provider_at(api) as shop:
        for n, machine in enumerate(list(api.market.offered())):
            api.market.rent(machine.ask_id, Launch("image", {}), f"posthouse-test-{n}", 10.0)
        assert len(await shop.instances()) == 70
        total = len(api.market.rentals)
        monkeypatch.setattr("posthouse.market.server.MAX_PAGE", 24)  # and the token skips what is between
        real = api.market.rentals.pop(min(api.market.rentals) + 30)
        assert len(await shop.instances()) == total - 1
        api.market.rentals[real.id] = real
        assert len(await shop.instances()) == total


async def test_a_machine_that_goes_away_has_exited(api: Api, shop: Provider) -> None:
    made = await rent(shop, spec(1))
    await seen_as(shop, made.id, Observation.RUNNING)
    api.market.go_offline(api.market.rentals[int(made.id)].machine)
    gone = await seen_as(shop, made.id, Observation.EXITED)
    assert "offline" in gone.message
    assert gone.away, "the market charges for its disk alone"


async def test_a_container_that_its_machine_cannot_make_has_ended(api: Api, shop: Provider) -> None:
    made = await rent(shop, spec(1))
    await seen_as(shop, made.id, Observation.RUNNING)
    why = "Error response from daemon: OCI runtime create failed: runc: no such device"
    api.market.rentals[int(made.id)].become("created", api.market.now, why)
    assert why in (await seen_as(shop, made.id, Observation.EXITED)).message


# -- what is rented ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("gpu_name=RTX_4090", {"RTX 4090"}),
        ('{"gpu_name": {"in": ["RTX 4090", "RTX 5090"]}}', {"RTX 4090", "RTX 5090"}),
        ("gpu_ram>=80 verified=true rented=false", {"A100 SXM4", "H100 SXM"}),
        ("driver_version>=999.1.1", set()),
    ],
)
async def test_the_catalogue_is_what_the_search_finds_in_both_its_forms(api: Api, search: str, found: set[str]) -> None:
    async with provider_at(api, search=search) as some, provider_at(api, search="") as all_of_them:
        assert {offer.gpu_name for offer in await some.catalog()} == found
        here = [o for o in await all_of_them.catalog() if matches(parse_search(search), values_of(o, 1.0))]
        assert {offer.gpu_name for offer in here} == found, "as a workergroup's own search does"


async def test_a_place_is_searched_by_its_country(shop: Provider) -> None:
    offers = await shop.catalog()
    for offer in offers:
        country = offer.zone[-2:]
        assert matches(parse_search(f"geolocation in [{country},XX]"), values_of(offer, 1.0))
        assert not matches(parse_search(f"geolocation notin [{country}]"), values_of(offer, 1.0))


@pytest.mark.parametrize("search", ["gpu_ram>>24", '{"gpu_ram": 24}'])
def test_a_search_that_cannot_be_read_is_refused_at_the_start(search: str) -> None:
    flags = {"providers.m.type": "vast", "providers.m.api_key": "secret-key", "providers.m.search": search}
    with pytest.raises(BadRequest, match=r"providers\.m\.search") as told:
        load_settings(flags, None, {})
    assert "secret-key" not in str(told.value)


def test_a_wrong_key_is_not_among_what_is_wrong_with_the_settings() -> None:
    flags = {"providers.m.type": "vast", "providers.m.api_key": "secret-key" * 100}
    with pytest.raises(BadRequest, match=r"providers\.m\.api_key") as told:
        load_settings(flags, None, {})
    assert "secret-key" not in str(told.value)


async def test_the_templates_of_the_market_come_after_our_own(api: Api) -> None:
    api.market.templates["abc123"] = {"image": "theirs/image", "env": "-e MORE=1 -p 9000:9000"}
    async with provider_at(api, image="") as shop:
        with pytest.raises(Refused, match="image"):
            await rent(shop, spec(1))
        made = await rent(shop, replace(spec(1), launch_args="--template_hash abc123 --disk 40"))
        again = await rent(shop, replace(spec(2), launch_args="--template_hash=abc123", image="our/image"))
        theirs, ours = (api.market.rentals[int(one.id)].launch for one in (made, again))
    assert (theirs.image, ours.image) == ("theirs/image", "our/image")
    assert theirs.env["MORE"] == "1"
    assert {"-p 9000:9000", "-p 3000:3000"} <= set(theirs.env)


async def test_a_private_image_is_rented_with_its_login(api: Api, shop: Provider) -> None:
    login = RegistryLogin("registry.example", "bob", "it's hush")
    body = launch.body(replace(spec(1), registry=login), VastSettings(api_key=KEY, image="a/b"), 0.0)
    assert body["image_login"] == """-u bob -p 'it'"'"'s hush' registry.example"""


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080/w/t", "http://worker:t@192.168.1.4", "https://localhost"])
async def test_a_server_that_the_market_cannot_reach_is_told_before_anything_is_rented(
    api: Api, shop: Provider, address: str
) -> None:
    wanted = spec(1, REPORT_ADDR=address)
    real = VastProvider(VastSettings(api_key=KEY, image="a/b"), Context("real", "test", Path(), report_url=address))
    with pytest.raises(Refused, match=r"public_url.*providers\.real\.public_url"):
        await real.create("1", wanted, 1.0)
    assert ["public_url" in trouble for trouble in real.troubles()] == [True]
    await rent(shop, wanted)  # this market is on this machine
    assert shop.troubles() == []


async def test_a_worker_that_is_too_large_to_send_is_refused_by_name(shop: Provider) -> None:
    noise = "".join(Random(1).choices(string.ascii_letters + string.digits, k=65_000))
    with pytest.raises(Refused, match="onstart"):
        await rent(shop, spec(1, ": " + noise, A=noise[::-1]))


# -- pace ----------------------------------------------------------------------------------------------------------


async def test_providers_with_one_key_keep_its_limits_together(api: Api) -> None:
    go_wrong(api, limits=0.02)
    async with provider_at(api, "one", pace=0.02) as one, provider_at(api, "two", pace=0.02) as two:
        await asyncio.gather(*(shop.instances() for shop in (one, two) for _ in range(5)), one.catalog(), two.catalog())
        offers = await one.catalog()
        await asyncio.gather(*(one.create(offer.id, spec(n), 1e3) for n, offer in enumerate(offers)))
    assert not [status for _, status in api.calls if status == 429]


async def test_whoever_would_wait_too_long_is_told_when_to_come_again(api: Api) -> None:
    async with provider_at(api, pace=100.0) as shop:
        await shop.instances()
        with pytest.raises(PosthouseError):
            await asyncio.wait_for(shop.instances(), 10)
        assert await listed_is_not_asked(api)


async def listed_is_not_asked(api: Api) -> bool:
    return api.calls["list", 200] == 1


def test_a_provider_named_in_the_settings_has_its_key_hidden() -> None:
    settings, _ = load_settings({"providers.m.type": "vast", "providers.m.api_key": "secret-key"}, None, {})
    assert "secret-key" not in repr(settings)


async def test_whoever_asks_for_a_list_meanwhile_shares_the_next_one(
    api: Api, shop: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_wrong(api, only="list", late=1.0, late_s=0.2)
    on_its_way = asyncio.Event()

    class Seen(market_rows.Shown):
        def __init__(self, market: Market) -> None:
            on_its_way.set()
            super().__init__(market)

    monkeypatch.setattr(market_rows, "Shown", Seen)
    first = asyncio.create_task(shop.instances())
    await on_its_way.wait()
    api.market.rent(api.market.offered()[0].ask_id, Launch("image", {}), "posthouse-test-1", 10.0)
    later = await asyncio.gather(*(shop.instances() for _ in range(5)))
    assert list(await first) == []
    assert [[instance.label for instance in found] for found in later] == [["posthouse-test-1"]] * 5
    assert api.calls["list", 200] == 2


async def test_what_ended_in_great_numbers_delays_no_list(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "LAST_WORDS_S", 0.05)
    async with provider_at(api) as shop:
        for n, offer in enumerate(await shop.catalog()):
            made = await shop.create(offer.id, spec(n), 1e3)
            await seen_as(shop, made.id, Observation.RUNNING)
            rental = api.market.rentals[int(made.id)]
            api.market.ended(rental, 3, rental.epoch)
        go_wrong(api, only="execute", late=1.0, late_s=30.0)
        found = await shop.instances()
        assert {instance.seen for instance in found} == {Observation.EXITED}
        assert all("code 3" in instance.message for instance in found)
        assert await listed(shop, found[0].id)
