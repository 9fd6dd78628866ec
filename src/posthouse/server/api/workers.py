"""Our own calls about workers: what they are and were, what they printed, and what people want of them."""

import asyncio
from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import FastAPI, Query, Request, Response

from posthouse.domain.worker import Worker
from posthouse.engine.figures import look
from posthouse.engine.hub import Hub
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.management import Management
from posthouse.engine.management.workers import Workers
from posthouse.engine.standing import update_of
from posthouse.errors import Busy, NotFound
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.middleware import Caller, Sharing
from posthouse.wire import rows

LOGS_WAIT_S = 20.0
"""How long a provider may take to hand over the logs of a worker."""
MAX_LOGS = 16_000_000
"""Most characters of logs in one answer; the latest are kept."""


def add_worker_routes(app: FastAPI, management: Management, sharing: Sharing) -> None:
    hub, workers = management.hub, management.workers
    _add_act_routes(app, hub, workers)

    @app.get("/v1/workers")
    async def list_workers(
        request: Request, caller: Caller, endpoint: str = "", gone: bool = False
    ) -> list[rows.Worker]:
        """Every worker, or those of one endpoint, by its name or id; also those of endpoints that were deleted.

        `gone`: also those that were destroyed within a day, with what they said last.
        """
        now = hub.clock.now()
        wanted = find_endpoint(hub, caller, endpoint) if endpoint else None
        found = [m for i, m in hub.endpoints.items() if wanted in (None, i)]
        seen = [m for m in found if caller.may_see(m.fleet.endpoint.account_id)]
        there = [_worker_row(m, w, now) for m in seen for w in m.fleet.workers.values()]
        there += [_worker_row(m, w, now, at) for m in seen for at, w in m.recently_gone(now) if gone]
        for answer in await sharing.others(request):
            there = sorted([*there, *msgspec.convert(answer, list[rows.Worker])], key=lambda row: row.id)
        return there

    @app.get("/v1/workers/{worker_id}")
    async def show_worker(worker_id: int, caller: Caller) -> rows.Worker:
        """One worker with its story, its requests and its recent work; also one that is gone for less than a day."""
        try:
            home, worker = workers.get(worker_id, caller.sees)
            gone_at = 0.0
        except NotFound:
            home, worker, gone_at = workers.gone(worker_id, caller.sees)
        row = _worker_row(home, worker, hub.clock.now(), gone_at)
        return replace(row, page=await workers.page(home, worker))

    @app.get("/v1/workers/{worker_id}/logs", response_model=rows.WorkerLogs)
    async def show_logs(
        worker_id: int, caller: Caller, tail: Annotated[int, Query(ge=1, le=100_000)] = 200
    ) -> Response:
        """The last lines that the worker printed, as its provider has them; of one that is gone, if it keeps them."""
        try:
            worker = workers.get(worker_id, caller.sees)[1]
            place = worker.instance_id
        except NotFound:
            worker = workers.gone(worker_id, caller.sees)[1]
            place = worker.label
        provider = hub.provider_of(worker)
        if provider is None:
            raise NotFound(f"the provider {worker.provider!r} of worker {worker_id} is no longer configured")
        if not place:
            return await _logs("")
        try:
            async with asyncio.timeout(LOGS_WAIT_S):
                text = await provider.logs(place, tail)
        except TimeoutError:
            raise Busy(f"{worker.provider} did not hand over the logs within {LOGS_WAIT_S:g} s", LOGS_WAIT_S) from None
        return await _logs(text)


async def _logs(text: str) -> Response:
    """Megabytes perhaps: beside the event loop, and not looked through again on the way out."""
    body = await asyncio.to_thread(msgspec.json.encode, rows.WorkerLogs(text=text[-MAX_LOGS:]))
    return Response(body, media_type="application/json")


def _add_act_routes(app: FastAPI, hub: Hub, workers: Workers) -> None:
    @app.post("/v1/workers/{worker_id}/drain", status_code=202)
    async def drain_worker(worker_id: int, caller: Caller) -> rows.Worker:
        """Has the worker finish what it has and rest, until the load calls for it again. One whose provider cannot stop
        it is destroyed instead."""
        await workers.drain(worker_id, caller.who, caller.sees)
        return _worker_row(*workers.get(worker_id, caller.sees), hub.clock.now())

    @app.delete("/v1/workers/{worker_id}/drain", status_code=202)
    async def undrain_worker(worker_id: int, caller: Caller) -> rows.Worker:
        """Takes back a drain: the worker gets requests again. One that rests already is woken when the load calls for
        it."""
        await workers.undrain(worker_id, caller.who, caller.sees)
        return _worker_row(*workers.get(worker_id, caller.sees), hub.clock.now())

    @app.post("/v1/workers/{worker_id}/restart", status_code=202)
    async def restart_worker(worker_id: int, caller: Caller) -> rows.Worker:
        """Restarts the worker with what its template says now: once the others can do its work, and it has
        finished what it has. One whose provider cannot do that is replaced."""
        await workers.restart(worker_id, caller.who, caller.sees)
        return _worker_row(*workers.get(worker_id, caller.sees), hub.clock.now())

    @app.delete("/v1/workers/{worker_id}", status_code=202)
    async def dismiss_worker(worker_id: int, caller: Caller) -> rows.Worker:
        """Sends the worker away: it gets no more requests, finishes what it has, and is destroyed."""
        await workers.dismiss(worker_id, caller.sees)
        return _worker_row(*workers.get(worker_id, caller.sees), hub.clock.now())


def _worker_row(managed: ManagedEndpoint, worker: Worker, now: float, gone_at: float = 0.0) -> rows.Worker:
    fleet = managed.fleet
    return rows.Worker(
        id=worker.id,
        endpoint=fleet.endpoint.name,
        workergroup_id=worker.group_id,
        state=str(worker.state),
        goal=str(worker.goal),
        url=worker.url,
        instance_id=worker.instance_id,
        provider=worker.provider,
        machine=worker.machine,
        gpu_name=worker.gpu_name,
        num_gpus=worker.num_gpus,
        perf=worker.perf,
        outstanding=0.0 if gone_at else fleet.requests.load_at(worker.id)[0],
        busy=not gone_at and fleet.requests.busy(worker.id),
        penalty_s=fleet.requests.outliers.penalties_s(now).get(worker.id, 0.0),
        price_usd_h=worker.usd_h(),
        spent_usd=worker.spent_at(now),
        age_s=now - worker.created_at,
        load_s=worker.load_s,
        version=worker.version,
        scheme=worker.scheme,
        message=managed.message_of(worker),
        gone_at=gone_at,
        build=worker.build,
        update="" if gone_at else update_of(managed, worker),
        look=look(worker),
    )
