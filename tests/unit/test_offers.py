"""What workergroups may rent: one catalogue of each provider, filtered here."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from posthouse.domain.endpoint import EndpointId, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.engine.hub import Hub
from posthouse.engine.observer import Observer
from posthouse.engine.offers import MAX_AGE_S, MAX_OF_A_KIND, Offers
from posthouse.errors import Busy
from posthouse.ports import Provider, Store
from posthouse.template import Template, TemplateId, Workergroup
from tests.kit.shop import LARGE, SMALL, Clock, Shop

TEMPLATE = Template(TemplateId(1), "hash", "name", disk_gb=100.0)


def group(number: int = 1, search: str = "") -> Workergroup:
    return Workergroup(WorkergroupId(number), EndpointId(1), TemplateId(1), search_params=search)


async def stocked(*offers: Offer) -> tuple[Offers, Shop, Clock]:
    clock = Clock()
    shelf, shop = Offers(clock), Shop(*offers)
    await shelf.refresh(shop)
    return shelf, shop, clock


def ids(shelf: Offers, wanted: Workergroup, template: Template = TEMPLATE) -> list[str]:
    return [o.offer.id for o in shelf.for_group(wanted, "shop", template)]


async def test_a_hundred_workergroups_cost_one_call() -> None:
    shelf, shop, _ = await stocked(SMALL, LARGE)
    found = [ids(shelf, group(n, "gpu_ram>=40" if n % 2 else "dph<1")) for n in range(100)]
    assert found == [["small"], ["large"]] * 50
    assert shop.asked == 1


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", ["small", "large"]),
        ("gpu_name=RTX_4090 verified=true", ["small"]),
        ("gpu_total_ram>=600", ["large"]),
        ("geolocation in [Berlin,Paris]", ["large"]),  # its own is `Berlin, DE`; the other one states none
        ("dph<0.4", []),
        ("dph<=0.4", ["small"]),
        ("num_gpus=9", []),
        ("num_gpus", []),  # no search at all
    ],
)
async def test_a_search_chooses_among_what_is_offered(search: str, found: list[str]) -> None:
    shelf, _, _ = await stocked(LARGE, SMALL)
    assert ids(shelf, group(search=search)) == found


async def test_what_a_workergroup_may_rent_follows_it_its_template_and_the_catalogue() -> None:
    shelf, shop, _ = await stocked(SMALL, LARGE)
    before = shelf.for_group(group(), "shop", TEMPLATE)
    assert shelf.for_group(group(), "shop", TEMPLATE) is before
    assert ids(shelf, group(search="num_gpus=8")) == ["large"]
    other = replace(TEMPLATE, hash_id="other", extra_filters={"num_gpus": {"eq": 1}})
    assert ids(shelf, group(), other) == ["small"]
    shop.window = [LARGE]
    await shelf.refresh(shop)
    assert ids(shelf, group()) == ["large"]
    assert shelf.for_group(group(), "shop", None) == ()
    assert shelf.for_group(group(), "elsewhere", TEMPLATE) == ()


async def test_a_disk_is_part_of_the_price_and_must_fit() -> None:
    priced = replace(SMALL, disk_usd_gb_h=0.001, max_disk_gb=100.0)
    shelf, _, _ = await stocked(priced)
    [offer] = shelf.for_group(group(), "shop", TEMPLATE)
    price = offer.offer.price
    assert [price.ready_usd_h, price.loading_usd_h, price.stopped_usd_h] == pytest.approx([0.5, 0.4, 0.1])
    assert ids(shelf, group(search="dph<0.5")) == []
    assert ids(shelf, group(), replace(TEMPLATE, hash_id="large", disk_gb=101.0)) == []


async def test_an_offer_that_is_being_rented_is_not_counted_on() -> None:
    shelf, shop, _ = await stocked(SMALL, LARGE)
    shelf.take("shop", "small")
    shelf.take("shop", "large")
    assert [(o.offer.id, o.offer.available) for o in shelf.for_group(group(), "shop", TEMPLATE)] == [("large", 1)]
    shelf.take("shop", "unknown")
    shelf.take("elsewhere", "large")
    await shelf.refresh(shop)
    assert ids(shelf, group()) == ["small", "large"]


async def test_an_offer_that_ends_and_a_catalogue_that_is_old_are_not_rented_from() -> None:
    shelf, _, clock = await stocked(replace(SMALL, expires_at=6010.0), LARGE)
    assert ids(shelf, group()) == ["small", "large"]
    clock.at += 10.0
    assert ids(shelf, group()) == ["large"]
    clock.at += MAX_AGE_S
    assert ids(shelf, group()) == []
    with pytest.raises(Busy, match="not known yet"):
        shelf.search("shop", {}, 1.0)


async def test_of_each_kind_the_cheapest_are_looked_at() -> None:
    many = [replace(SMALL, id=f"{n:03}", price=Price(1.0 + n)) for n in range(MAX_OF_A_KIND + 50)]
    shelf, _, _ = await stocked(*reversed(many), LARGE)
    found = shelf.for_group(group(), "shop", TEMPLATE)
    assert len(found) == MAX_OF_A_KIND + 1
    assert max(o.offer.price.ready_usd_h for o in found) == float(MAX_OF_A_KIND)
    assert all(o.offer.attributes == {} for o in found)


async def test_a_provider_whose_catalogue_fails_is_told_and_what_it_offered_stays() -> None:
    shelf, shop, _ = await stocked(SMALL)

    async def broken() -> Sequence[Offer]:
        raise OSError("no route to host")

    shop.catalog = broken  # type: ignore[method-assign]
    task = asyncio.create_task(shelf.run(shop, 60.0))
    while not shelf.failing:
        await asyncio.sleep(0)
    task.cancel()
    assert shelf.troubles() == ["provider shop does not say what it offers"]
    assert ids(shelf, group()) == ["small"]


async def test_nothing_is_rented_of_a_provider_whose_latest_list_did_not_come() -> None:
    shop, clock = Shop(SMALL), Clock()
    hub = Hub(cast(Store, None), clock, {"shop": shop}, "shop", "here", 0.0)
    hub.templates[TEMPLATE.id] = TEMPLATE
    hub.put_group(group())
    await hub.offers.refresh(shop)
    for listed, found in ((True, ["small"]), (False, []), (True, ["small"])):
        hub.listing["shop"] = listed
        assert [o.offer.id for o in hub.offers_for(EndpointId(1))] == found


def test_a_small_provider_says_that_it_cannot_do_more() -> None:
    assert Shop().capabilities == Capabilities(stop=False, update=False, logs=False)


async def test_a_slow_catalogue_delays_no_list() -> None:
    shop, clock = Shop(SMALL), Clock()
    begun = asyncio.Event()

    async def never() -> Sequence[Offer]:
        begun.set()
        await asyncio.sleep(1e6)
        raise AssertionError

    shop.catalog = never  # type: ignore[method-assign]
    hub = Hub(cast(Store, None), clock, {"shop": shop}, "shop", "here", 0.0)
    observer, lists = Observer(hub), 0

    async def listed(provider: Provider, instances: Sequence[Instance]) -> None:
        nonlocal lists
        lists += 1

    tasks = [asyncio.create_task(work) for work in (hub.offers.run(shop, 0.001), observer.run(shop, 0.001, listed))]
    await begun.wait()
    while lists < 20:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert hub.listing == {"shop": True}
