"""Our own calls for the providers that workers are rented from, and for what they offer."""

import math
from typing import Annotated

from fastapi import FastAPI, Query

from posthouse.domain.errors import BadRequest, Busy
from posthouse.domain.offer import Offer
from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.policy.recruit import Candidate, ranked
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.middleware import Caller
from posthouse.wire import rows
from posthouse.wire.search import parse_search


def add_provider_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    @app.get("/v1/providers")
    async def list_providers() -> list[rows.Provider]:
        """The providers that are in use, and whether they answer."""
        return [_row(hub, name) for name in sorted(hub.providers)]

    @app.get("/v1/offers")
    async def list_offers(
        caller: Caller,
        endpoint: str = "",
        search: str = "",
        provider: str = "",
        disk_gb: Annotated[float, Query(ge=0, le=1e6)] = 0.0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[rows.RankedOffer]:
        """What could be rented now: of what satisfies `search`, the cheapest first; or with `endpoint` of what its
        workergroups may rent, the cheapest per unit of work."""
        if provider and provider not in hub.providers:
            raise BadRequest(
                f"provider: there is no provider {provider[:64]!r}; allowed: {', '.join(sorted(hub.providers))}"
            )
        if endpoint:
            if search or disk_gb:
                raise BadRequest("search, disk_gb: leave them out with endpoint, whose workergroups have their own")
            fleet = hub.endpoints[find_endpoint(hub, caller, endpoint)].fleet
            found = [_ranked(*one) for one in ranked(fleet.snapshot(hub.clock.now()))]
        else:
            found = [_offer(offer) for offer in _search(hub, provider, search, disk_gb)]
        return [row for row in found if provider in ("", row.provider)][:limit]


def _row(hub: Hub, name: str) -> rows.Provider:
    catalog, able = hub.offers.catalogs.get(name), hub.providers[name].capabilities
    return rows.Provider(
        name=name,
        type=hub.provider_types.get(name, name),
        default=name == hub.default_provider,
        capabilities=[what for what in type(able).__slots__ if getattr(able, what)],
        answers=hub.listing.get(name, False) and catalog is not None and name not in hub.offers.failing,
        offers=None if catalog is None else sum(offer.available > 0 for offer in catalog.offers.values()),
        catalog_age_s=None if catalog is None else hub.clock.now() - catalog.at,
    )


def _search(hub: Hub, provider: str, search: str, disk_gb: float) -> list[Offer]:
    """What satisfies the search at each provider, or that one. Raises: Busy where none has said what it offers."""
    filters = parse_search(search)
    found: list[Offer] = []
    silent: list[Busy] = []
    for name in [provider] if provider else sorted(hub.providers):
        try:
            found += hub.offers.search(name, filters, disk_gb)
        except Busy as error:
            silent.append(error)
    if silent and not found:
        raise silent[0]
    return sorted(found, key=lambda offer: (offer.price.ready_usd_h, offer.provider, offer.id))


def _ranked(candidate: Candidate, obstacle: str) -> rows.RankedOffer:
    perf = candidate.perf if candidate.perf < math.inf else None
    entry = candidate.entry
    return _offer(entry.offer, workergroup_id=entry.group_id, perf=perf, why=candidate.why(), obstacle=obstacle)


def _offer(
    offer: Offer, workergroup_id: int | None = None, perf: float | None = None, why: str = "", obstacle: str = ""
) -> rows.RankedOffer:
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
        workergroup_id=workergroup_id,
        perf=perf,
        why=why,
        obstacle=obstacle,
    )
