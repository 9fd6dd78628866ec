"""Endpoints, workergroups and templates in the database."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import msgspec
from sqlalchemy import Row, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from posthouse.audit import Act, actor
from posthouse.domain.endpoint import AccountId, Endpoint, EndpointId, EndpointState, Scaling, WorkergroupId
from posthouse.domain.lifecycle import State
from posthouse.errors import BadRequest
from posthouse.recording.history import COST_SPANS
from posthouse.store.acts import note_act
from posthouse.store.checksums import fields_of, with_checksum
from posthouse.store.database import Database, missing, note_change, to_change
from posthouse.store.schema import (
    aliases,
    deleted_endpoints,
    endpoints,
    fleets,
    history,
    journal,
    manifests,
    segments,
    templates,
    versions,
    workergroups,
    workers,
)
from posthouse.template import Runs, Template, TemplateId, Workergroup
from posthouse.wire.rows import Alias

DELETED_KEPT: Final = 2000
"""Endpoints of whose costs something is kept after they were deleted: the latest. At most 600 rows each."""


class SqlCatalogue(Database):
    """The `Catalogue` port."""

    async def endpoints(self) -> Sequence[Endpoint]:
        return await self._all(select(endpoints).order_by(endpoints.c.id), endpoint_of)

    async def add_endpoint(self, endpoint: Endpoint) -> Endpoint:
        return replace(endpoint, id=EndpointId(await self._add(endpoints, endpoint_row(endpoint))))

    async def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        await self._put(endpoints, endpoint_row(endpoint))
        return replace(endpoint, revision=endpoint.revision + 1)

    async def drop_endpoint(self, endpoint_id: EndpointId) -> None:
        async with self._transaction() as db:
            await _sweep(db)
            found = await to_change(db, endpoints, endpoints.c.id == endpoint_id)
            if found is None:
                raise missing(endpoints, endpoint_id)
            groups = (await db.execute(select(workergroups).where(workergroups.c.endpoint_id == endpoint_id))).all()
            await db.execute(delete(workergroups).where(workergroups.c.endpoint_id == endpoint_id))
            await note_change(db, workergroups, *((dict(group._mapping), None) for group in groups))
            await db.execute(delete(endpoints).where(endpoints.c.id == endpoint_id))
            gone = {
                "account_id": found["account_id"],
                "name": found["name"],
                "deleted_at": actor.get().at or time.time(),
            }
            await db.execute(insert(deleted_endpoints).values(id=endpoint_id, **gone))
            await note_change(db, endpoints, (found, None))

    async def workergroups(self) -> Sequence[Workergroup]:
        return await self._all(
            select(workergroups).order_by(workergroups.c.id), lambda row: Workergroup(**fields_of(row))
        )

    async def add_workergroup(self, group: Workergroup) -> Workergroup:
        return replace(group, id=WorkergroupId(await self._add(workergroups, asdict(group))))

    async def put_workergroup(self, group: Workergroup) -> Workergroup:
        await self._put(workergroups, asdict(group))
        return replace(group, revision=group.revision + 1)

    async def drop_workergroup(self, group_id: WorkergroupId) -> None:
        await self._drop(workergroups, group_id)

    async def templates(self) -> Sequence[Template]:
        return await self._all(select(templates).order_by(templates.c.id), lambda row: Template(**fields_of(row)))

    async def add_template(self, template: Template) -> Template:
        return replace(template, id=TemplateId(await self._add(templates, asdict(template))))

    async def put_template(self, template: Template) -> Template:
        await self._put(templates, asdict(template), _keep_version)
        return replace(template, revision=template.revision + 1)

    async def drop_template(self, template_id: TemplateId) -> None:
        """Removes a template. Raises: BadRequest while a workergroup uses it."""
        try:
            await self._drop(templates, template_id, first=_keep_version)
        except IntegrityError as error:
            raise BadRequest(f"template_id {template_id} is used by a workergroup: remove that first") from error

    async def version(self, build: str) -> Runs | None:
        kept = await self._all(select(versions).where(versions.c.build == build), lambda row: row)
        return next(((row.image, row.tag, row.env, row.onstart) for row in kept), None)

    async def aliases(self) -> Mapping[AccountId, Mapping[str, Alias]]:
        found: dict[AccountId, dict[str, Alias]] = {}
        for row in await self._all(select(aliases).order_by(aliases.c.name), lambda row: row):
            found.setdefault(AccountId(row.account_id), {})[row.name] = msgspec.convert(row.body, Alias)
        return found

    async def put_alias(self, account_id: AccountId, alias: Alias) -> None:
        row = {"account_id": account_id, "name": alias.name, "body": asdict(alias)}
        of_it = (aliases.c.account_id == account_id, aliases.c.name == alias.name)
        async with self._transaction() as db:
            before = await to_change(db, aliases, *of_it)
            await db.execute(delete(aliases).where(*of_it))
            await db.execute(insert(aliases).values(with_checksum(aliases, row)))
            await note_change(db, aliases, (before, row))

    async def drop_alias(self, account_id: AccountId, name: str) -> None:
        await self._drop(aliases, account_id, name)

    async def manifest(self, endpoint_id: EndpointId) -> tuple[dict[str, Any], float] | None:
        of_it = select(manifests).where(manifests.c.endpoint_id == endpoint_id)
        return next(iter(await self._all(of_it, lambda row: (row.body, row.applied_at))), None)

    async def put_manifest(self, endpoint_id: EndpointId, body: dict[str, Any], at: float) -> None:
        async with self._transaction() as db:
            if (found := await to_change(db, endpoints, endpoints.c.id == endpoint_id)) is None:
                raise missing(endpoints, endpoint_id)
            await db.execute(delete(manifests).where(manifests.c.endpoint_id == endpoint_id))
            await db.execute(insert(manifests).values(endpoint_id=endpoint_id, body=body, applied_at=at))
            about = AccountId(found["account_id"]), endpoint_id, found["name"]
            await note_act(db, Act("manifest.apply", str(endpoint_id), *about))


async def _keep_version(db: AsyncConnection, template_id: object) -> None:
    """Keeps what a template runs before it is changed, and drops what no workergroup's workers run any more."""
    row = (await db.execute(select(templates).where(templates.c.id == template_id))).one_or_none()
    if row is None:
        return
    present = fleets.c.endpoint_id.in_(select(endpoints.c.id))
    used = select(fleets.c.endpoint_id).where(present, fleets.c.rollouts.contains(versions.c.build))
    before = Template(**fields_of(row))
    await db.execute(delete(versions).where(~used.exists() | (versions.c.build == before.build())))
    kept = dict(zip(("image", "tag", "env", "onstart"), before.runs(), strict=True))
    await db.execute(insert(versions).values(with_checksum(versions, {"build": before.build(), **kept})))


async def _sweep(db: AsyncConnection) -> None:
    """Deletes what endpoints that were dropped earlier left behind, once none of their workers is alive, but what the
    latest of them cost."""
    alive = select(workers.c.endpoint_id).where(workers.c.state != State.DESTROYED.value)
    latest = select(deleted_endpoints.c.id).order_by(deleted_endpoints.c.deleted_at.desc(), deleted_endpoints.c.id)
    beyond = (await db.execute(latest.offset(DELETED_KEPT))).scalars().all()
    await db.execute(delete(deleted_endpoints).where(deleted_endpoints.c.id.in_(beyond)))
    costs = history.c.scale.in_(COST_SPANS) & history.c.endpoint_id.in_(select(deleted_endpoints.c.id))
    for table in (history, journal, segments, workers):
        endpoint_id = table.c.endpoint_id
        gone = endpoint_id > 0, endpoint_id.not_in(select(endpoints.c.id)), endpoint_id.not_in(alive)
        await db.execute(delete(table).where(*gone, *([~costs] if table is history else [])))


def endpoint_row(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as its table has it."""
    return asdict(endpoint) | {"state": endpoint.state.value}


def endpoint_of(row: Row[Any]) -> Endpoint:
    """An endpoint from its row."""
    values = fields_of(row)
    return Endpoint(
        **values | {"scaling": Scaling(**values["scaling"]), "state": EndpointState(values["state"])},
    )
