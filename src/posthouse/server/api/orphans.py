"""Our own calls about instances that no worker owns, under /v1. For the installation's admins."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from posthouse.audit import Act
from posthouse.domain.endpoint import WorkergroupId
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import AdoptedOrphan, NamedOrphan
from posthouse.engine.orphans import Orphan, Orphans
from posthouse.errors import BadRequest
from posthouse.server.api.replies import Message
from posthouse.server.middleware import Caller, check_installation_admin
from posthouse.wire import rows


def add_orphan_routes(app: FastAPI, hub: Hub, orphans: Orphans) -> None:
    async def note(what: str, orphan: Orphan, endpoint_id: int = 0, after: Mapping[str, Any] | None = None) -> None:
        was = {"provider": orphan.provider.name, "label": orphan.instance.label, "state": str(orphan.instance.seen)}
        act = Act(f"orphan.{what}", orphan.instance.id, endpoint_id=endpoint_id, before=was, after=after or {})
        await hub.store.note(act)

    @app.get("/v1/orphans")
    async def list_orphans(caller: Caller) -> list[rows.Orphan]:
        """Instances that carry this installation's label and that no worker owns, as last listed."""
        check_installation_admin(caller, "orphans")
        return [_row(orphans, orphan, hub.clock.now()) for orphan in orphans.all()]

    @app.post("/v1/orphans/destroy", status_code=202)
    async def destroy_orphan(named: NamedOrphan, caller: Caller) -> Message:
        """Destroys the instance; one that reports first finishes what it has."""
        check_installation_admin(caller, "orphans")
        orphan = orphans.find(named.instance_id, named.provider)
        drains = orphans.serves(orphan)
        await note("destroy", orphan)
        await orphans.end([orphan])
        how = "finishes what it has, and is destroyed then" if drains else "is being destroyed"
        return Message(msg=f"instance {orphan.instance.id} at {orphan.provider.name} {how}")

    @app.post("/v1/orphans/adopt", status_code=201)
    async def adopt_orphan(named: AdoptedOrphan, caller: Caller) -> Message:
        """Makes the instance a worker of a workergroup again: it serves once it has reported."""
        check_installation_admin(caller, "orphans")
        group = hub.workergroups.get(WorkergroupId(named.workergroup_id))
        if group is None:
            raise BadRequest(f"workergroup_id: there is no workergroup {named.workergroup_id}")
        hub.managed(group.endpoint_id)  # nothing is noted where another server has it
        orphan = orphans.find(named.instance_id, named.provider)
        await note("adopt", orphan, group.endpoint_id, {"workergroup_id": group.id})
        worker = await orphans.adopt(orphan, group)
        return Message(msg=f"instance {worker.instance_id} is worker {worker.id} of endpoint {worker.endpoint_id}")


def _row(orphans: Orphans, orphan: Orphan, now: float) -> rows.Orphan:
    return rows.Orphan(
        instance_id=orphan.instance.id,
        provider=orphan.provider.name,
        label=orphan.instance.label,
        worker_id=orphan.worker_id,
        state=str(orphan.instance.seen),
        reports=orphans.serves(orphan),
        known=orphan.known,
        listed_s=now - orphan.since,
    )
