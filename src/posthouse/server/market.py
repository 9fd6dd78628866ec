"""The protocol's marketplace calls, as far as `vastai run benchmarks` makes them: offers, and what a worker costs."""

from typing import Any

from fastapi import FastAPI

from posthouse.domain.errors import BadRequest
from posthouse.domain.offer import Offer, Price
from posthouse.engine.catalog import Catalog
from posthouse.server.middleware import Ask
from posthouse.wire.numbers import integer, number
from posthouse.wire.search import parse_search

NO_FILTERS = ("order", "type", "limit", "allocated_storage", "disable_bundling", "client_id", "api_key", "api_token")
"""What a search says beside its filters. `order` is ignored: the cheapest come first."""
ON_DEMAND = ("on-demand", "ondemand")
"""The one `type` of offer that is rented here, in the spellings of the command line and of the documentation."""
MAX_OFFERS = 1000
"""Most rows of an answer: our choice, far above what a search is read for."""
MAX_DISK_GB = 1e6
"""Largest disk to ask for: as in templates."""


def add_market_routes(app: FastAPI, catalog: Catalog) -> None:
    hub = catalog.hub

    async def search(said: dict[str, Any]) -> dict[str, Any]:
        kind = said.get("type")
        if kind is not None and kind not in ON_DEMAND:
            raise BadRequest(f"type: must be on-demand: workers are rented in no other way, not {str(kind)[:40]!r}")
        limit = said.get("limit")
        most = MAX_OFFERS if limit is None else integer(limit, "limit", 1, 2**31)
        disk_gb = number(said.get("allocated_storage") or 0, "allocated_storage", 0, MAX_DISK_GB)
        filters = parse_search({field: wanted for field, wanted in said.items() if field not in NO_FILTERS})
        offers = hub.offers.search(hub.default_provider, filters, disk_gb)
        return {"success": True, "offers": [_offer(offer) for offer in offers[: min(most, MAX_OFFERS)]]}

    @app.post("/api/v0/bundles")
    async def search_offers(ask: Ask) -> dict[str, Any]:
        """What the default provider would rent out now, cheapest first: by filters `{field: {op: value}}`, `limit`, and
        `allocated_storage` in GB."""
        return await search(ask)

    @app.put("/api/v0/search/asks")
    async def search_asks(ask: Ask) -> dict[str, Any]:
        """The same, with the search in `q`."""
        said = ask.get("q")
        if not isinstance(said, dict):
            raise BadRequest("q: must be an object of filters {field: {op: value}}")
        return await search(said)

    @app.get("/api/v0/benchmarks")
    async def list_benchmarks() -> dict[str, Any]:
        """No row: what a worker measured is shown with the worker, and not kept for others to reuse."""
        return {"success": True, "benchmarks_found": 0, "benchmarks": [], "next_token": None}

    @app.get("/api/v0/instances/{worker_id}")
    async def show_instance(worker_id: int) -> dict[str, Any]:
        """One worker as the marketplace shows an instance: what it is and what it costs."""
        _, worker = catalog.worker(worker_id)
        row = {
            "id": worker.id,
            "label": worker.label,
            "status_msg": worker.message,
            "machine_id": worker.machine,
            "gpu_name": worker.gpu_name,
            "num_gpus": worker.num_gpus,
            "start_date": worker.created_at,
            "extra_env": [],  # a worker's environment has secrets
            **_prices(worker.price),
        }
        return {"success": True, "instances": row}


def _offer(offer: Offer) -> dict[str, Any]:
    return {
        "id": offer.id,
        "machine_id": offer.machine,
        "gpu_name": offer.gpu_name,
        "num_gpus": offer.num_gpus,
        "gpu_ram": offer.gpu_ram_mb,
        "geolocation": offer.zone,
        "reliability": offer.reliability,
        **_prices(offer.price),
    }


def _prices(price: Price) -> dict[str, float]:
    """Dollars per hour while it serves: in all, and without its disk, which is what it costs when stopped."""
    return {"dph_total": price.ready_usd_h, "dph_base": price.ready_usd_h - price.stopped_usd_h}
