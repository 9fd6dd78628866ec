"""The protocol's calls about endpoints (`endptjobs`) and the lists of their workers."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI

from posthouse.domain.endpoint import Endpoint
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker
from posthouse.engine.catalog import Catalog
from posthouse.fleet.fleet import Fleet
from posthouse.server.auth import Keyring
from posthouse.server.middleware import Ask, Caller, check_endpoint
from posthouse.wire.numbers import integer

ACCOUNT_ID = 1
"""`user_id` on the wire: one installation is one account."""


def add_endpoint_routes(app: FastAPI, catalog: Catalog, keyring: Keyring) -> None:
    hub = catalog.hub

    def row(endpoint: Endpoint) -> dict[str, Any]:
        return {
            "id": endpoint.id,
            "endpoint_name": endpoint.name,
            "endpoint_state": str(endpoint.state),
            **asdict(endpoint.scaling),
            # Whoever may read may also route, so this key gives a reader nothing new; clients route with it.
            "api_key": keyring.endpoint_key(endpoint.id, endpoint.key_version),
            "user_id": ACCOUNT_ID,
            "created_at": endpoint.created_at,
            "auto_delete_in_seconds": None,
            "auto_delete_due_24h": False,
        }

    @app.get("/api/v0/users/current")
    async def show_user() -> dict[str, Any]:
        """Who the key belongs to: the installation."""
        # Older command lines take `api_key` out before they print the rest, and fail where there is none.
        return {"id": ACCOUNT_ID, "username": hub.installation, "host_agreement_accepted": False, "api_key": ""}

    @app.get("/api/v0/endptjobs")
    async def list_endpoints() -> dict[str, Any]:
        """Every endpoint, each with the key that can only route to it."""
        endpoints = [s.fleet.endpoint for s in hub.endpoints.values() if not s.leaving]
        return {"success": True, "results": [row(e) for e in endpoints]}

    @app.post("/api/v0/endptjobs")
    async def create_endpoint(ask: Ask) -> dict[str, Any]:
        """Makes an endpoint from `endpoint_name` and scaling parameters; what is absent or null has its default."""
        endpoint = await catalog.create_endpoint(ask)
        return {"success": True, "result": endpoint.id}

    @app.get("/api/v0/endptjobs/{endpoint_id}")
    async def show_endpoint(endpoint_id: int, caller: Caller) -> dict[str, Any]:
        """One endpoint. Its own key may ask too: clients refresh what they know of it."""
        check_endpoint(caller, endpoint_id)
        return {"success": True, "result": row(hub.managed(endpoint_id).fleet.endpoint)}

    @app.put("/api/v0/endptjobs/{endpoint_id}")
    async def update_endpoint(endpoint_id: int, ask: Ask) -> dict[str, Any]:
        """Changes an endpoint; what is absent or null stays. The text "none" takes back an optional parameter."""
        await catalog.update_endpoint(endpoint_id, ask)
        return {"success": True}

    @app.delete("/api/v0/endptjobs/{endpoint_id}")
    async def delete_endpoint(endpoint_id: int) -> dict[str, Any]:
        """Deletes an endpoint with its workergroups. Its workers finish what they have and are destroyed."""
        return deleted(await catalog.delete_endpoint(endpoint_id))

    @app.post("/get_endpoint_workers")
    async def list_endpoint_workers(ask: Ask, caller: Caller) -> list[dict[str, Any]]:
        """The workers of the endpoint `id`."""
        endpoint_id = integer(ask.get("id"), "id", 1)
        check_endpoint(caller, endpoint_id)
        fleet = hub.managed(endpoint_id).fleet
        return _worker_rows(fleet, fleet.workers.values(), hub.clock.now())

    async def list_group_workers(ask: Ask, caller: Caller) -> list[dict[str, Any]]:
        """The workers of the workergroup `id`."""
        group = catalog.workergroup(integer(ask.get("id"), "id", 1))
        check_endpoint(caller, group.endpoint_id)
        fleet = hub.managed(group.endpoint_id).fleet
        return _worker_rows(fleet, [w for w in fleet.workers.values() if w.group_id == group.id], hub.clock.now())

    app.post("/get_autogroup_workers")(list_group_workers)
    app.post("/get_workergroup_workers")(list_group_workers)


def deleted(workers: int) -> dict[str, Any]:
    """The reply to a deletion. None has failed yet: workers are destroyed afterwards, and again until it works."""
    text = f"deleted; {workers} workers finish what they have and go"
    return {"success": True, "deleted_workers": workers, "failed_workers": 0, "msg": text}


def _worker_rows(fleet: Fleet, workers: Iterable[Worker], now: float) -> list[dict[str, Any]]:
    """Workers as the protocol lists them: numbers only, 0 where there is none."""
    return [_worker_row(fleet, worker, now) for worker in workers if worker.status()]


def _worker_row(fleet: Fleet, worker: Worker, now: float) -> dict[str, Any]:
    """A worker as the protocol lists it. Units: work, work per second, GB, epoch seconds.

    `new_load`: work that it took on between its last two reports. `cur_load_rolling_avg`: its outstanding work, as a
    mean of the last minute. `cur_perf`: what it did per second between those reports. `reliability`: the share of the
    time since it was first ready, as far as this server watched, in which it was neither unavail nor failed. `perf` is
    `measured_perf` times that, as the protocol has it. `dlperf`, a mark of the protocol's own market, nobody here has.
    """
    figures = fleet.worker_stats(worker.id)
    away_since = worker.since if worker.state in (State.UNAVAIL, State.ERROR) else now
    reliability = figures.reliability(worker.loaded_at, away_since, now)
    return {
        "id": worker.id,
        "status": worker.status(),
        "gpu_name": worker.gpu_name,
        "cur_load": fleet.ledger.work.get(worker.id, 0.0),
        "new_load": figures.taken,
        "cur_load_rolling_avg": fleet.mean_load(worker.id, now),
        "cur_perf": figures.done_rate,
        "perf": worker.perf * reliability,
        "measured_perf": worker.perf,
        "dlperf": 0.0,
        "reliability": reliability,
        "reqs_working": len(fleet.ledger.at.get(worker.id, {})),
        "disk_usage": figures.disk_gb,
        "loaded_at": worker.loaded_at,
        "started_at": worker.created_at,
    }
