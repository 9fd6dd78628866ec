"""Our own calls for the providers that workers are rented from, and for what they offer."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Annotated

from fastapi import FastAPI, Query

from posthouse.audit import Act
from posthouse.domain.offer import Offer
from posthouse.engine.hub import Hub, providers_named
from posthouse.engine.management import Management
from posthouse.engine.offers import Filters
from posthouse.errors import BadRequest, Busy, NotFound
from posthouse.policy.recruit import Candidate, ranked
from posthouse.ports import Provider
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.middleware import Caller
from posthouse.template import DEFAULT_DISK_GB
from posthouse.wire import rows
from posthouse.wire.search import parse_search

CHECK_S = 20.0
"""How long a provider may take for each thing that it is asked."""
CAN = {
    "stop": "stop a worker and keep its disk, for cold workers",
    "update": "update a worker in place",
    "logs": "show what a worker printed",
}
"""Capabilities in words."""


def add_provider_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    @app.get("/v1/providers")
    async def list_providers() -> list[rows.Provider]:
        """The providers that are in use, and whether they answer."""
        return [_row(hub, name) for name in sorted(hub.providers)]

    @app.post("/v1/providers/{name}/check")
    async def check_provider(name: str) -> list[rows.ProviderCheck]:
        """Asks the provider now, and says what works and what does not. Nothing is made or changed there."""
        if name not in hub.providers:
            raise NotFound(f"there is no provider {name[:64]!r}; there are: {', '.join(sorted(hub.providers))}")
        await hub.store.note(Act("provider.check", name))
        return await _checked(hub.providers[name])

    @app.get("/v1/offers")
    async def list_offers(
        caller: Caller,
        endpoint: str = "",
        search: str = "",
        provider: str = "",
        disk_gb: Annotated[float | None, Query(ge=0, le=1e6)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[rows.RankedOffer]:
        """What could be rented now: of what satisfies `search`, the cheapest first, each at its price with such a disk
        (default: a template's default); or with `endpoint` of what its workergroups may rent, the cheapest per unit of
        work."""
        if provider and provider not in hub.providers:
            raise BadRequest(
                f"provider: there is no provider {provider[:64]!r}; allowed: {', '.join(sorted(hub.providers))}"
            )
        names = [provider] if provider else list(hub.providers)
        if endpoint:
            if search or disk_gb is not None:
                raise BadRequest("search, disk_gb: leave them out with endpoint, whose workergroups have their own")
            fleet = hub.endpoints[find_endpoint(hub, caller, endpoint)].fleet
            found = [_ranked(*one) for one in ranked(fleet.snapshot(hub.clock.now()))]
        else:
            disk = DEFAULT_DISK_GB if disk_gb is None else disk_gb
            found = [_offer(offer) for offer in offered(hub, names, parse_search(search), disk)]
        return [row for row in found if provider in ("", row.provider)][:limit]


def _row(hub: Hub, name: str) -> rows.Provider:
    catalog, able = hub.offers.catalogs.get(name), hub.providers[name].capabilities
    return rows.Provider(
        name=name,
        type=hub.provider_types.get(name, name),
        default=name in providers_named(hub, ""),
        capabilities=[what for what in type(able).__slots__ if getattr(able, what)],
        answers=hub.listing.get(name, False) and catalog is not None and name not in hub.offers.failing,
        offers=None if catalog is None else sum(offer.available > 0 for offer in catalog.offers.values()),
        catalog_age_s=None if catalog is None else hub.clock.now() - catalog.at,
    )


async def _checked(provider: Provider) -> list[rows.ProviderCheck]:
    async def instances() -> str:
        return f"of this installation: {len(await provider.instances())}"

    async def catalog() -> str:
        offers = [offer for offer in await provider.catalog() if offer.available > 0]
        cheapest = min((offer.price.ready_usd_h for offer in offers), default=0.0)
        return f"{len(offers)}, the cheapest at {cheapest:g} $/h" if offers else "no offer has room for a worker"

    async def row(what: str, ask: Callable[[], Awaitable[str]]) -> rows.ProviderCheck:
        try:
            async with asyncio.timeout(CHECK_S):
                return rows.ProviderCheck(what=what, ok=True, text=await ask())
        except Exception as error:  # noqa: BLE001 - the seam of a look: a provider may raise anything
            slow = f"no answer within {CHECK_S:g} s"
            return rows.ProviderCheck(what=what, ok=False, text=(str(error) or slow)[:500])

    found = [await row("instances", instances), await row("offers", catalog)]
    found += [rows.ProviderCheck(what="trouble", ok=False, text=text) for text in provider.troubles()]
    can = [(what, getattr(provider.capabilities, field)) for field, what in CAN.items()]
    return found + [
        rows.ProviderCheck(what="can", ok=True, text=what if able else f"not: {what}") for what, able in can
    ]


def offered(hub: Hub, providers: Iterable[str], filters: Filters, disk_gb: float) -> list[Offer]:
    """What satisfies the filters there, the cheapest first. Raises: Busy where no provider has said what it offers."""
    found: list[Offer] = []
    silent: list[Busy] = []
    for name in sorted(providers):
        try:
            found += hub.offers.search(name, filters, disk_gb)
        except Busy as error:
            silent.append(error)
    if silent and not found:
        raise silent[0]
    return sorted(found, key=lambda offer: (offer.price.ready_usd_h, offer.provider, offer.id))


def _ranked(candidate: Candidate, obstacle: str) -> rows.RankedOffer:
    return replace(
        _offer(candidate.entry.offer),
        workergroup_id=candidate.entry.group_id,
        perf=candidate.perf if candidate.perf < math.inf else None,
        why=candidate.why(),
        obstacle=obstacle,
    )


def _offer(offer: Offer) -> rows.RankedOffer:
    return rows.RankedOffer(
        provider=offer.provider,
        id=offer.id,
        machine=offer.machine,
        zone=offer.zone,
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        gpu_ram_mb=offer.gpu_ram_mb,
        available=offer.available,
        reliability=offer.reliability,
        interruptible=offer.capabilities.interruptible,
        ready_usd_h=offer.price.ready_usd_h,
        stopped_usd_h=offer.price.stopped_usd_h if offer.capabilities.stop else None,
    )
