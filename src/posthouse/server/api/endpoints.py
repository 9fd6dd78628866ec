"""The protocol's calls about endpoints (`endptjobs`) and the lists of their workers."""

from collections.abc import Iterable
from dataclasses import asdict

from fastapi import FastAPI

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, Endpoint
from posthouse.domain.lifecycle import State
from posthouse.domain.worker import Worker
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.management import Management
from posthouse.engine.management.inputs import EndpointChanges, NewEndpoint
from posthouse.server.api.bodies import EndpointRef, WorkergroupRef
from posthouse.server.api.replies import Created, Deleted, Done, OneEndpoint, SeveralEndpoints
from posthouse.server.auth import Keyring
from posthouse.server.middleware import Caller, check_endpoint
from posthouse.wire import rows


def add_endpoint_routes(app: FastAPI, management: Management, keyring: Keyring) -> None:
    hub = management.hub

    def row(endpoint: Endpoint) -> rows.Endpoint:
        return rows.Endpoint(
            id=endpoint.id,
            endpoint_name=endpoint.name,
            endpoint_state=str(endpoint.state),
            **asdict(endpoint.scaling),
            # A key that may read may also route, so this key gives a reader nothing new; clients route with it.
            api_key=keyring.endpoint_key(endpoint.id, endpoint.key_version),
            user_id=endpoint.account_id,
            created_at=endpoint.created_at,
        )

    @app.get("/api/v0/users/current")
    async def show_user(caller: Caller) -> rows.User:
        """Who the key belongs to: the installation, or an account of it."""
        own = caller.account_id == DEFAULT_ACCOUNT
        username = hub.installation if own else hub.account_name(caller.account_id)
        return rows.User(id=caller.account_id, username=username)

    @app.get("/api/v0/endptjobs")
    async def list_endpoints(caller: Caller) -> SeveralEndpoints:
        """Every endpoint, each with the key that can only route to it."""
        return SeveralEndpoints(results=[row(e) for e in hub.directory if caller.may_see(e.account_id)])

    @app.post("/api/v0/endptjobs")
    async def create_endpoint(new: NewEndpoint, caller: Caller) -> Created:
        """Makes an endpoint from `endpoint_name` and scaling parameters; what is absent or null has its default."""
        return Created(result=(await management.endpoints.create(new, caller.account_id)).id)

    @app.get("/api/v0/endptjobs/{endpoint_id}")
    async def show_endpoint(endpoint_id: int, caller: Caller) -> OneEndpoint:
        """One endpoint. Its own key may ask too: clients refresh what they know of it."""
        check_endpoint(caller, endpoint_id)
        return OneEndpoint(result=row(hub.find(endpoint_id, caller.sees)))

    @app.put("/api/v0/endptjobs/{endpoint_id}")
    async def update_endpoint(endpoint_id: int, changes: EndpointChanges, caller: Caller) -> Done:
        """Changes an endpoint; what is absent or null stays. The text "none" takes back an optional parameter."""
        await management.endpoints.update(endpoint_id, changes, caller.sees)
        return Done()

    @app.delete("/api/v0/endptjobs/{endpoint_id}")
    async def delete_endpoint(endpoint_id: int, caller: Caller) -> Deleted:
        """Deletes an endpoint with its workergroups. Its workers finish what they have and are destroyed."""
        return Deleted.of(await management.endpoints.delete(endpoint_id, caller.sees))


def add_worker_list_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    @app.post("/get_endpoint_workers")
    async def list_endpoint_workers(named: EndpointRef, caller: Caller) -> list[rows.WorkerMetrics]:
        """The workers of the endpoint `id`."""
        check_endpoint(caller, named.id)
        managed = hub.managed(named.id, caller.sees)
        return _worker_rows(managed, managed.fleet.workers.values(), hub.clock.now())

    async def list_group_workers(named: WorkergroupRef, caller: Caller) -> list[rows.WorkerMetrics]:
        """The workers of the workergroup `id`."""
        group = management.workergroups.get(named.id, caller.sees)
        check_endpoint(caller, group.endpoint_id)
        managed = hub.managed(group.endpoint_id)
        return _worker_rows(managed, managed.of_group(group.id), hub.clock.now())

    app.post("/get_autogroup_workers")(list_group_workers)
    app.post("/get_workergroup_workers")(list_group_workers)


def _worker_rows(managed: ManagedEndpoint, workers: Iterable[Worker], now: float) -> list[rows.WorkerMetrics]:
    """Workers as the protocol lists them."""
    return [_worker_row(managed, worker, now) for worker in workers if worker.status()]


def _worker_row(managed: ManagedEndpoint, worker: Worker, now: float) -> rows.WorkerMetrics:
    stats = managed.worker_stats(worker.id)
    work, count = managed.fleet.requests.load_at(worker.id)
    away_since = worker.since if worker.state in (State.UNAVAIL, State.ERROR) else now
    reliability = stats.reliability(worker.loaded_at, away_since, now)
    return rows.WorkerMetrics(
        id=worker.id,
        status=worker.status(),
        gpu_name=worker.gpu_name,
        cur_load=work,
        new_load=stats.taken,
        cur_load_rolling_avg=managed.mean_load(worker.id, now),
        cur_perf=stats.done_rate,
        perf=worker.perf * reliability,
        measured_perf=worker.perf,
        dlperf=0.0,
        reliability=reliability,
        reqs_working=count,
        disk_usage=stats.disk_gb,
        loaded_at=worker.loaded_at,
        started_at=worker.created_at,
    )
