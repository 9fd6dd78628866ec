"""Our own call about what an endpoint cost, under /v1."""

from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, Query

from posthouse.engine.hub import Hub
from posthouse.engine.recorder import bill_of
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.middleware import Caller
from posthouse.sim.bill import Day
from posthouse.wire import rows


def add_bill_route(app: FastAPI, hub: Hub) -> None:
    @app.get("/v1/endpoints/{endpoint:path}/bill")
    async def show_bill(
        endpoint: str,
        caller: Caller,
        days: Annotated[int, Query(ge=0, le=366)] = 13,
        wait_s: Annotated[float | None, Query(ge=0, le=86_400)] = None,
    ) -> rows.Bill:
        """What the endpoint cost today and in `days` whole days before (UTC), the least that the same work could have
        cost, and what lies between, from its recorded traffic. `wait_s`: how long a request may wait; by default as its
        `target_queue_time` says."""
        endpoint_id = find_endpoint(hub, caller, endpoint)
        name = hub.find(endpoint_id).name
        found = await bill_of(hub, endpoint_id, days, wait_s)
        return rows.Bill(
            endpoint=name,
            wait_s=found.wait_s,
            total=_row(found.total),
            days=[_row(day) for day in found.days],
            what_if=dict(found.what_if),
            changes={part: dict(change) for part, change in found.changes.items()},
            notes=list(found.notes),
        )


def _row(day: Day) -> rows.BillDay:
    plain = asdict(day)
    return rows.BillDay(**plain.pop("parts"), **plain)
