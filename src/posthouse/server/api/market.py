"""The protocol's marketplace calls that change nothing: offers, and workers as instances."""

from dataclasses import asdict, fields
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from fastapi import FastAPI, Query, Request

from posthouse.domain.lifecycle import BILLED_AS, Billing, Goal
from posthouse.domain.offer import Offer, Price
from posthouse.domain.worker import Worker
from posthouse.engine.hub import providers_named
from posthouse.engine.management import Management
from posthouse.errors import BadRequest
from posthouse.server.api.bodies import OfferSearch, OfferSearchQuery
from posthouse.server.api.providers import offered
from posthouse.server.api.replies import Benchmarks, Offers, OneInstance, SeveralInstances
from posthouse.server.middleware import Caller, Sharing
from posthouse.wire import rows
from posthouse.wire.matching import matches
from posthouse.wire.search import parse_search

FIELDS = tuple(field.name for field in fields(rows.Instance))
"""What an instance shows."""
ACTUAL_STATUS = {
    Billing.READY: "running",
    Billing.LOADING: "loading",
    Billing.STOPPED: "stopped",
    Billing.NOTHING: "exited",
}
MAX_OFFERS = 1000
"""Most rows of an answer: our choice, far above what a search is read for."""


def add_market_routes(app: FastAPI, management: Management, sharing: Sharing) -> None:
    hub = management.hub

    async def search(wanted: OfferSearch) -> Offers:
        filters = parse_search(wanted.model_extra or {})
        offers = offered(hub, providers_named(hub, ""), filters, wanted.allocated_storage or 0.0)
        return Offers(offers=[_offer(offer) for offer in offers[: min(wanted.limit or MAX_OFFERS, MAX_OFFERS)]])

    @app.post("/api/v0/bundles")
    async def search_offers(wanted: OfferSearch) -> Offers:
        """What the default providers would rent out now, cheapest first: by filters `{field: {op: value}}`, `limit`,
        and `allocated_storage` in GB."""
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
        return OneInstance(instances=_instance(worker))

    @app.get("/api/v0/instances")
    @app.get("/api/v1/instances")
    async def list_instances(
        request: Request,
        caller: Caller,
        select_filters: str = "{}",
        order_by: str = "[]",
        limit: Annotated[int, Query(ge=1, le=MAX_OFFERS)] = MAX_OFFERS,
        after_token: Annotated[int, Query(ge=0)] = 0,
    ) -> SeveralInstances:
        """Workers in the same form: those that satisfy `select_filters`, a JSON object `{field: {op: value}}`, in the
        order of `order_by`, a JSON list of `{"col": field, "dir": "asc" or "desc"}`, `limit` at a time."""
        filters, order = parse_search(select_filters), _order(order_by)
        for name, named in (("select_filters", filters), ("order_by", [one.col for one in order])):
            if unknown := next((field for field in named if field not in FIELDS), None):
                raise BadRequest(f"{name}: unknown field {unknown[:64]!r}; allowed are {', '.join(FIELDS)}")
        owned = [home for home in hub.endpoints.values() if caller.may_see(home.fleet.endpoint.account_id)]
        seen = [_instance(worker) for home in owned for worker in home.fleet.workers.values()]
        for answer in await sharing.others(request, limit=MAX_OFFERS, after_token=0):
            seen += msgspec.convert(answer["instances"], list[rows.Instance])
        found = sorted((row for row in seen if matches(filters, asdict(row))), key=lambda row: row.id)
        for one in reversed(order):
            found.sort(key=attrgetter(one.col), reverse=one.dir == "desc")
        end = after_token + limit
        rest = str(end) if end < len(found) else None
        return SeveralInstances(instances=found[after_token:end], total_instances=len(found), next_token=rest)


class _By(msgspec.Struct):
    """A column to order by."""

    col: str
    dir: Literal["asc", "desc"] = "asc"


def _order(text: str) -> list[_By]:
    try:
        return msgspec.json.decode(text, type=list[_By])
    except msgspec.MsgspecError as error:
        raise BadRequest(f"order_by: {error}") from None


def _instance(worker: Worker) -> rows.Instance:
    is_now = ACTUAL_STATUS[BILLED_AS[worker.state]]
    address = min(worker.addresses, default="")
    return rows.Instance(
        id=worker.id,
        label=worker.label,
        status_msg=worker.message,
        machine_id=worker.machine,
        gpu_name=worker.gpu_name,
        num_gpus=worker.num_gpus,
        start_date=worker.created_at,
        extra_env=[],
        actual_status=is_now,
        intended_status="running" if worker.goal in (Goal.HOT, Goal.UPDATED) else "stopped",
        cur_state={"loading": "running", "exited": "unloaded"}.get(is_now, is_now),
        public_ipaddr=address.partition("://")[2].partition("/")[0] if "://" in address else address.rpartition(":")[0],
        **_prices(worker.price),
    )


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
