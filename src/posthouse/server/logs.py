"""The protocol's calls for the logs of endpoints and workergroups."""

from fastapi import FastAPI

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.engine.catalog import Catalog
from posthouse.engine.hub import ManagedEndpoint
from posthouse.engine.logs import logs
from posthouse.fleet.history import Level
from posthouse.server.auth import Principal
from posthouse.server.middleware import Ask, Caller
from posthouse.wire.numbers import integer

LONGEST = 2**53
"""Largest `tail` that is taken: far more lines than are kept, so as good as all."""


def add_log_routes(app: FastAPI, catalog: Catalog) -> None:
    hub = catalog.hub

    def named(ask: Ask, caller: Principal) -> ManagedEndpoint:
        """The endpoint with this `id`, or with the name `endpoint`. Raises: BadRequest, NotFound."""
        if ask.get("id") is not None:
            return hub.managed(integer(ask["id"], "id", 1), caller.sees)
        name = ask.get("endpoint")
        if not isinstance(name, str):
            raise BadRequest("id or endpoint: one of them is required, the id or the name of an endpoint")
        endpoint_id = hub.ids_by_name.get((caller.account_id, name))
        if endpoint_id is None:
            raise NotFound(f"there is no endpoint {name[:255]!r}")
        return hub.managed(endpoint_id)

    @app.post("/get_endpoint_logs")
    async def show_endpoint_logs(ask: Ask, caller: Caller) -> dict[str, str]:
        """What happened to the endpoint `id`, or `endpoint` by its name: a text for each level.

        Each of `info0`, `info1`, `trace` and `debug` has the lines of the ones before it; `logs` is `info1`. `tail`:
        the last lines of each; below 0, or none given, is all. One that was meant as bytes is more lines than asked.
        """
        return _reply(await logs(hub, named(ask, caller), _tail(ask)))

    async def show_group_logs(ask: Ask, caller: Caller) -> dict[str, str]:
        """What happened to the workers of the workergroup `id`, and the decisions about its endpoint: as for those."""
        group = catalog.workergroup(integer(ask.get("id"), "id", 1))
        return _reply(await logs(hub, hub.managed(group.endpoint_id, caller.sees), _tail(ask), group.id))

    app.post("/get_autogroup_logs")(show_group_logs)
    app.post("/get_workergroup_logs")(show_group_logs)


def _tail(ask: Ask) -> int | None:
    """How many lines are asked for; None for all. Raises: BadRequest."""
    said = ask.get("tail")
    lines = -1 if said is None else integer(said, "tail", -LONGEST, LONGEST)
    return None if lines < 0 else lines


def _reply(texts: dict[str, str]) -> dict[str, str]:
    return {**texts, "logs": texts[str(Level.INFO1)]}
