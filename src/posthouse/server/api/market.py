"""The protocol's marketplace calls, as far as `vastai run benchmarks` makes them: offers, and what a worker costs."""

from fastapi import FastAPI

from posthouse.domain.offer import Offer, Price
from posthouse.engine.management import Management
from posthouse.server.api.bodies import OfferSearch, OfferSearchQuery
from posthouse.server.api.replies import Benchmarks, Offers, OneInstance
from posthouse.server.middleware import Caller
from posthouse.wire import rows
from posthouse.wire.search import parse_search

MAX_OFFERS = 1000
"""Most rows of an answer: our choice, far above what a search is read for."""


def add_market_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    async def search(wanted: OfferSearch) -> Offers:
        filters = parse_search(wanted.model_extra or {})
        offers = hub.offers.search(hub.default_provider, filters, wanted.allocated_storage or 0.0)
        return Offers(offers=[_offer(offer) for offer in offers[: min(wanted.limit or MAX_OFFERS, MAX_OFFERS)]])

    @app.post("/api/v0/bundles")
    async def search_offers(wanted: OfferSearch) -> Offers:
        """What the default provider would rent out now, cheapest first: by filters `{field: {op: value}}`, `limit`, and
        `allocated_storage` in GB."""
        return await search(wanted)

    @app.put("/api/v0/search/asks")
    async def search_asks(wanted: OfferSearchQuery) -> Offers:
        """The same, with the search in `q`."""
        return await search(wanted.q)

    @app.get("/api/v0/benchmarks")
    async def list_benchmarks() -> Benchmarks:
        """No row: what a worker measured is shown with the worker, and not kept for others to reuse."""
        return Benchmarks()

    @app.get("/api/v0/instances/{worker_id}")
    async def show_instance(worker_id: int, caller: Caller) -> OneInstance:
        """One worker as the marketplace shows an instance: what it is and what it costs."""
        _, worker = management.workers.get(worker_id, caller.sees)
        row = rows.Instance(
            id=worker.id,
            label=worker.label,
            status_msg=worker.message,
            machine_id=worker.machine,
            gpu_name=worker.gpu_name,
            num_gpus=worker.num_gpus,
            start_date=worker.created_at,
            extra_env=[],
            **_prices(worker.price),
        )
        return OneInstance(instances=row)


def _offer(offer: Offer) -> rows.Offer:
    return rows.Offer(
        id=offer.id,
        machine_id=offer.machine,
        gpu_name=offer.gpu_name,
        num_gpus=offer.num_gpus,
        gpu_ram=offer.gpu_ram_mb,
        geolocation=offer.zone,
        reliability=offer.reliability,
        **_prices(offer.price),
    )


def _prices(price: Price) -> dict[str, float]:
    """Dollars per hour while it serves: in all, and without its disk, which is what it costs when stopped."""
    return {"dph_total": price.ready_usd_h, "dph_base": price.ready_usd_h - price.stopped_usd_h}
