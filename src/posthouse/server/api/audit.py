"""Our own calls about what people did, under /v1."""

from typing import Annotated

import msgspec
from fastapi import FastAPI, Query

from posthouse.audit import ActFilter, ActRecord
from posthouse.domain.endpoint import AccountId
from posthouse.engine.hub import Hub
from posthouse.server.api.v1 import find_endpoint
from posthouse.server.middleware import Caller, check_installation_admin
from posthouse.wire import rows
from posthouse.wire.checks import MAX_INTEGER


def add_audit_routes(app: FastAPI, hub: Hub) -> None:
    @app.get("/v1/audit")
    async def list_acts(
        caller: Caller,
        before: Annotated[int, Query(ge=0, le=MAX_INTEGER)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        action: Annotated[str, Query(max_length=64)] = "",
        key: Annotated[str, Query(max_length=255)] = "",
        subject: Annotated[str, Query(max_length=255)] = "",
        endpoint: Annotated[str, Query(max_length=255)] = "",
        request_id: Annotated[str, Query(max_length=64)] = "",
        since: Annotated[float, Query(ge=0, le=1e11)] = 0.0,
        until: Annotated[float, Query(ge=0, le=1e11)] = 0.0,
    ) -> list[rows.Act]:
        """What people changed and did by hand, the latest first: in your account; the installation's admins see all.

        The next page begins `before` the last id of this one. `action`: the whole (`endpoint.update`) or its first part
        (`endpoint`). `key`: id or name of a key. `endpoint`: by its name or id; with its workergroups and workers, also
        once it is deleted, then by its id. `since` and `until`: epoch seconds."""
        endpoint_id = 0
        if endpoint:
            known = endpoint.isascii() and endpoint.isdigit() and len(endpoint) < 19
            endpoint_id = int(endpoint) if known else find_endpoint(hub, caller, endpoint)
        wanted = ActFilter(caller.sees, before, limit, action, key, subject, endpoint_id, request_id, since, until)
        return [_row(hub, record) for record in await hub.store.acts(wanted)]

    @app.get("/v1/audit/verify")
    async def verify_acts(
        caller: Caller, head: Annotated[str, Query(max_length=90, pattern="^([0-9]{1,18}:[0-9a-f]{64})?$")] = ""
    ) -> rows.ActCheck:
        """Whether any row was changed, removed or added since it was written. For admins of the installation.

        `head`: what an earlier call answered. Without it nobody can see that the last rows were removed and the head of
        the chain was set back with them."""
        check_installation_admin(caller, "checks of the record")
        found = await hub.store.check_acts(head)
        return rows.ActCheck(
            ok=not found.problems,
            rows=found.last_id - found.first_id + 1,
            first_id=found.first_id,
            head=f"{found.last_id}:{found.hash}" if found.hash else "",
            problems=list(found.problems),
        )


def _row(hub: Hub, record: ActRecord) -> rows.Act:
    return rows.Act(
        id=record.id,
        at=record.at,
        account=hub.account_name(AccountId(record.account_id)),
        via=record.via,
        key_id=record.key_id,
        key_name=record.key_name,
        call=record.call,
        request_id=record.request_id,
        action=record.action,
        subject=record.subject,
        name=record.name,
        endpoint_id=record.endpoint_id,
        before=msgspec.json.decode(record.before),
        after=msgspec.json.decode(record.after),
    )
