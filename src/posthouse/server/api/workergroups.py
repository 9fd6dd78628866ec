"""The protocol's calls about workergroups, under both of their names: `workergroups` and `autojobs`."""

from fastapi import FastAPI

from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.engine.management import Management
from posthouse.engine.management.inputs import NewWorkergroup, WorkergroupChanges
from posthouse.errors import NotFound
from posthouse.server.api.bodies import WorkersUpdate
from posthouse.server.api.replies import (
    CreatedWorkergroup,
    Deleted,
    Done,
    OneWorkergroup,
    SeveralWorkergroups,
    WorkersUpdated,
)
from posthouse.server.auth import Keyring
from posthouse.server.middleware import Caller
from posthouse.template import Workergroup
from posthouse.wire import rows


def add_workergroup_routes(app: FastAPI, management: Management, keyring: Keyring) -> None:
    hub, groups = management.hub, management.workergroups

    def row(group: Workergroup) -> rows.Workergroup:
        return _row(group, hub, keyring)

    def owner(group: Workergroup) -> AccountId:
        return hub.find(group.endpoint_id).account_id

    async def list_workergroups(caller: Caller) -> SeveralWorkergroups:
        """Every workergroup."""
        shown = [g for g in hub.workergroups.values() if caller.may_see(owner(g))]
        return SeveralWorkergroups(results=[row(g) for g in shown])

    async def create_workergroup(new: NewWorkergroup, caller: Caller) -> CreatedWorkergroup:
        """Makes a workergroup of an endpoint, by `endpoint_id` or `endpoint_name`, from a template, by `template_hash`
        or `template_id`. Empty `search_params`: the template's own filters."""
        return CreatedWorkergroup(id=(await groups.create(new, caller.account_id, caller.sees)).id)

    async def show_workergroup(group_id: int, caller: Caller) -> OneWorkergroup:
        """One workergroup."""
        return OneWorkergroup(result=row(groups.get(group_id, caller.sees)))

    async def update_workergroup(group_id: int, changes: WorkergroupChanges, caller: Caller) -> Done:
        """Changes a workergroup; what is absent or null stays. Another template: its workers are updated."""
        await groups.update(group_id, changes, caller.account_id, caller.sees)
        return Done()

    async def delete_workergroup(group_id: int, caller: Caller) -> Deleted:
        """Deletes a workergroup. Its workers finish what they have and are destroyed."""
        return Deleted.of(await groups.delete(group_id, caller.sees))

    @app.post("/update_workers", response_model_exclude_none=True)
    async def update_workers(update: WorkersUpdate, caller: Caller) -> WorkersUpdated:
        """Updates the workers of the workergroup `workergroup_id` to what its template says now, a few at a time, while
        the others serve. With `cancel_update` those whose update has not begun stay as they are."""
        try:
            if update.cancel_update:
                await groups.cancel_update(update.workergroup_id, caller.sees)
                return WorkersUpdated(success=True, cancelled=True, workers_to_update=0)
            marked = await groups.update_workers(update.workergroup_id, caller.sees)
            return WorkersUpdated(success=True, cancelled=False, workers_to_update=marked)
        except NotFound as error:  # with 200: the protocol's command line shows the text only then
            return WorkersUpdated(success=False, error_msg=str(error))

    for path in ("/api/v0/autojobs", "/api/v0/workergroups"):
        app.get(path)(list_workergroups)
        app.post(path)(create_workergroup)
        app.get(path + "/{group_id}")(show_workergroup)
        app.put(path + "/{group_id}")(update_workergroup)
        app.delete(path + "/{group_id}")(delete_workergroup)


def _row(group: Workergroup, hub: Hub, keyring: Keyring) -> rows.Workergroup:
    endpoint = hub.find(group.endpoint_id)
    scaling = endpoint.scaling
    return rows.Workergroup(
        id=group.id,
        endpoint_id=group.endpoint_id,
        endpoint_name=endpoint.name,
        template_id=group.template_id,
        template_hash=hub.templates[group.template_id].hash_id,
        search_params=group.search_params,
        launch_args=group.launch_args,
        gpu_ram=group.gpu_ram,
        provider=group.provider,
        signature_scheme=group.signature_scheme,
        test_workers=0,  # performance is learned from workers that serve
        min_load=scaling.min_load,
        target_util=scaling.target_util,
        cold_mult=scaling.cold_mult,
        cold_workers=scaling.cold_workers,
        max_workers=scaling.max_workers,
        user_id=endpoint.account_id,
        created_at=group.created_at,
    )
