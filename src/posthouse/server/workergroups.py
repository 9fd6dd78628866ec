"""The protocol's calls about workergroups, under both of their names: `workergroups` and `autojobs`."""

from typing import Any

from fastapi import FastAPI

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.domain.workergroup import Workergroup
from posthouse.engine.catalog import Catalog
from posthouse.server.auth import Keyring
from posthouse.server.endpoints import ACCOUNT_ID, deleted
from posthouse.server.middleware import Ask
from posthouse.wire.numbers import integer

PARENT_PARAMETERS = ("min_load", "target_util", "cold_mult", "cold_workers", "max_workers")
"""Shown with a workergroup because the protocol does. They are the endpoint's: a workergroup has none of its own."""


def add_workergroup_routes(app: FastAPI, catalog: Catalog, keyring: Keyring) -> None:
    hub = catalog.hub

    def row(group: Workergroup) -> dict[str, Any]:
        endpoint = hub.managed(group.endpoint_id).fleet.endpoint
        return {
            "id": group.id,
            "endpoint_id": group.endpoint_id,
            "endpoint_name": endpoint.name,
            "template_id": group.template_id,
            "template_hash": hub.templates[group.template_id].hash_id,
            "search_params": group.search_params,
            "launch_args": group.launch_args,
            "gpu_ram": group.gpu_ram,
            "provider": group.provider,
            "signature_scheme": group.signature_scheme,
            "test_workers": 0,  # performance is learned from workers that serve
            **{name: getattr(endpoint.scaling, name) for name in PARENT_PARAMETERS},
            "api_key": keyring.endpoint_key(endpoint.id, endpoint.key_version),
            "user_id": ACCOUNT_ID,
            "created_at": group.created_at,
        }

    async def list_workergroups() -> dict[str, Any]:
        """Every workergroup."""
        return {"success": True, "results": [row(g) for g in hub.workergroups.values()]}

    async def create_workergroup(ask: Ask) -> dict[str, Any]:
        """Makes a workergroup of an endpoint, by `endpoint_id` or `endpoint_name`, from a template, by `template_hash`
        or `template_id`. Empty `search_params`: the template's own filters."""
        group = await catalog.create_workergroup(ask)
        return {"success": True, "id": group.id}

    async def show_workergroup(group_id: int) -> dict[str, Any]:
        """One workergroup."""
        return {"success": True, "result": row(catalog.workergroup(group_id))}

    async def update_workergroup(group_id: int, ask: Ask) -> dict[str, Any]:
        """Changes a workergroup; what is absent or null stays. Another template: its workers are updated."""
        await catalog.update_workergroup(group_id, ask)
        return {"success": True}

    async def delete_workergroup(group_id: int) -> dict[str, Any]:
        """Deletes a workergroup. Its workers finish what they have and are destroyed."""
        return deleted(await catalog.delete_workergroup(group_id))

    @app.post("/update_workers")
    async def update_workers(ask: Ask) -> dict[str, Any]:
        """Updates the workers of the workergroup `workergroup_id` to what its template says now, a few at a time, while
        the others serve. With `cancel_update` those whose update has not begun stay as they are."""
        group_id, cancel = integer(ask.get("workergroup_id"), "workergroup_id", 1), ask.get("cancel_update")
        if cancel is not None and not isinstance(cancel, bool):
            raise BadRequest("cancel_update: must be true or false")
        try:
            if cancel:
                catalog.cancel_update(group_id)
                return {"success": True, "cancelled": True, "workers_to_update": 0}
            return {"success": True, "cancelled": False, "workers_to_update": catalog.update_workers(group_id)}
        except NotFound as error:  # with 200: the protocol's command line shows the text only then
            return {"success": False, "error_msg": str(error)}

    for path in ("/api/v0/autojobs", "/api/v0/workergroups"):
        app.get(path)(list_workergroups)
        app.post(path)(create_workergroup)
        app.get(path + "/{group_id}")(show_workergroup)
        app.put(path + "/{group_id}")(update_workergroup)
        app.delete(path + "/{group_id}")(delete_workergroup)
