"""The protocol's calls for the logs of endpoints and workergroups."""

from fastapi import FastAPI

from posthouse.engine.logs import logs
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.management import Management
from posthouse.errors import BadRequest, NotFound
from posthouse.fleet.events import Level
from posthouse.server.api.bodies import EndpointLogsQuery, WorkergroupLogsQuery
from posthouse.server.auth import Principal
from posthouse.server.middleware import Caller
from posthouse.wire import rows


def add_log_routes(app: FastAPI, management: Management) -> None:
    hub = management.hub

    def named(query: EndpointLogsQuery, caller: Principal) -> ManagedEndpoint:
        """The endpoint with this `id`, or with the name `endpoint`. Raises: BadRequest, NotFound."""
        if query.id is not None:
            return hub.managed(query.id, caller.sees)
        if query.endpoint is None:
            raise BadRequest("id or endpoint: one of them is required, the id or the name of an endpoint")
        endpoint_id = hub.directory.id_of(caller.account_id, query.endpoint)
        if endpoint_id is None:
            raise NotFound(f"there is no endpoint {query.endpoint[:255]!r}")
        return hub.managed(endpoint_id)

    @app.post("/get_endpoint_logs")
    async def show_endpoint_logs(query: EndpointLogsQuery, caller: Caller) -> rows.EventLogs:
        """What happened to the endpoint `id`, or `endpoint` by its name: a text for each level.

        Each of `info0`, `info1`, `trace` and `debug` has the lines of the ones before it; `logs` is `info1`. `tail`:
        the last lines of each; below 0, or none given, is all. One that was meant as bytes is more lines than asked.
        """
        return _reply(await logs(hub, named(query, caller), _lines(query.tail)))

    async def show_group_logs(query: WorkergroupLogsQuery, caller: Caller) -> rows.EventLogs:
        """What happened to the workers of the workergroup `id`, and the decisions about its endpoint: as for those."""
        group = management.workergroups.get(query.id, caller.sees)
        return _reply(await logs(hub, hub.managed(group.endpoint_id), _lines(query.tail), group.id))

    app.post("/get_autogroup_logs")(show_group_logs)
    app.post("/get_workergroup_logs")(show_group_logs)


def _lines(tail: int | None) -> int | None:
    """How many lines are asked for; None for all."""
    return None if tail is None or tail < 0 else tail


def _reply(texts: dict[str, str]) -> rows.EventLogs:
    return rows.EventLogs(**texts, logs=texts[str(Level.INFO1)])
