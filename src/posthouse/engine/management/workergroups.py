"""Workergroups: made, changed and deleted; their workers updated."""

import asyncio
from dataclasses import dataclass, replace

import msgspec

from posthouse.audit import Act
from posthouse.config import Limits
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, EndpointId, WorkergroupId
from posthouse.engine import memory
from posthouse.engine.choice import check_regions
from posthouse.engine.hub import Hub, providers_named
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.management.inputs import NewWorkergroup, Search, WorkergroupChanges
from posthouse.engine.management.shared import check_room, filters
from posthouse.engine.management.templates import find_template
from posthouse.errors import BadRequest, NotFound
from posthouse.fleet.events import UpdateAsked
from posthouse.policy.trial import can_be_updated
from posthouse.template import Template, Workergroup
from posthouse.wire.search import parse_search

UNSAID_SEARCH = "verified=True rentable=True rented=False"
"""What the protocol's command line sends as `search_params` where its user said nothing. Taken at its word it would
put aside the template's filters, and every update of another field would overwrite the search."""


@dataclass(slots=True)
class Workergroups:
    """The use cases of workergroups."""

    hub: Hub
    limits: Limits
    lock: asyncio.Lock

    def get(self, group_id: int, sees: AccountId | None = None) -> Workergroup:
        """Raises: NotFound, also for one of another account than `sees`."""
        group = self.hub.workergroups.get(WorkergroupId(group_id))
        if group is None or sees not in (None, self.hub.find(group.endpoint_id).account_id):
            raise NotFound(f"workergroup {group_id} does not exist")
        return group

    async def create(
        self, new: NewWorkergroup, owner: AccountId = DEFAULT_ACCOUNT, sees: AccountId | None = None
    ) -> Workergroup:
        """The new workergroup, of an endpoint that `owner` has by name or may see by id. Raises: BadRequest."""
        async with self.lock:
            endpoint_id = self._named_endpoint(new, owner, sees)
            if endpoint_id is None:
                raise BadRequest(
                    "endpoint_id or endpoint_name: Please assign your workergroup to a valid endpoint identifier"
                )
            template = self._named_template(new, endpoint_id)
            if template is None:
                raise BadRequest("template_hash or template_id: one of them is required")
            blank = Workergroup(WorkergroupId(0), endpoint_id, template.id, created_at=self.hub.clock.now())
            group = self._changed(blank, new, template)
            check_room(len(self.hub.workergroups), self.limits.workergroups, "workergroups")
            group = await self.hub.store.add_workergroup(group)
            memory.take_group(self.hub, group)
            return group

    async def update(
        self,
        group_id: int,
        changes: WorkergroupChanges,
        owner: AccountId = DEFAULT_ACCOUNT,
        sees: AccountId | None = None,
    ) -> Workergroup:
        """The workergroup with the changes. Another template: its workers are updated one after another.

        Raises: BadRequest, NotFound.
        """
        async with self.lock:
            before = self.get(group_id, sees)
            if self._named_endpoint(changes, owner, sees) not in (None, before.endpoint_id):
                raise BadRequest(f"endpoint_id: workergroup {group_id} cannot move to another endpoint; make a new one")
            template = self._named_template(changes, before.endpoint_id)
            group = self._changed(before, changes, template or self.hub.templates[before.template_id])
            group = group if template is None else replace(group, template_id=template.id)
            group = await self.hub.store.put_workergroup(group)
            memory.take_group(self.hub, group)
            return group

    async def update_workers(self, group_id: int, sees: AccountId | None = None) -> int:
        """Asks for an update of every worker that the workergroup has; how many these are. Raises: NotFound."""
        group = self.get(group_id, sees)
        managed = await self._noted("update_workers", group)
        managed.handle(UpdateAsked(group.id), self.hub.clock.now())
        return sum(can_be_updated(worker) for worker in managed.of_group(group.id))

    async def cancel_update(self, group_id: int, sees: AccountId | None = None) -> None:
        """Calls off the updates of the workergroup's workers that have not begun. Raises: NotFound."""
        group = self.get(group_id, sees)
        managed = await self._noted("cancel_update", group)
        managed.handle(UpdateAsked(group.id, wanted=False), self.hub.clock.now())

    async def _noted(self, what: str, group: Workergroup) -> ManagedEndpoint:
        """Notes what somebody wants of the workers, before it is done. Raises: NotFound."""
        endpoint = self.hub.managed(group.endpoint_id).fleet.endpoint
        about = (endpoint.account_id, endpoint.id, endpoint.name)
        await self.hub.store.note(Act(f"workergroup.{what}", str(group.id), *about))
        return self.hub.managed(group.endpoint_id)

    async def delete(self, group_id: int, sees: AccountId | None = None) -> int:
        """Deletes the workergroup; returns how many workers go with it. Raises: NotFound."""
        async with self.lock:
            group = self.get(group_id, sees)
            await self.hub.store.drop_workergroup(group.id)
            return memory.drop_group(self.hub, group.id)

    def _changed(self, before: Workergroup, changes: WorkergroupChanges, template: Template) -> Workergroup:
        plain = {"launch_args", "gpu_ram", "provider", "signature_scheme"}
        given = changes.model_dump(include=plain, exclude_none=True)
        group = replace(before, search_params=_search(changes.search_params, before.search_params), **given)
        if given.get("provider") or changes.search_params is not None or not before.id:
            names = providers_named(self.hub, group.provider)
            search = parse_search(group.search_params or template.extra_filters)
            check_regions(search, self.hub.offers.known_zones(names), ", ".join(names))
        return group

    def _named_endpoint(self, named: WorkergroupChanges, owner: AccountId, sees: AccountId | None) -> EndpointId | None:
        """The endpoint that is named, by id, by name or by both; None if by neither. Raises: BadRequest."""
        by_id = None if named.endpoint_id is None else EndpointId(named.endpoint_id)
        name = named.endpoint_name
        by_name = None if name is None else self.hub.directory.id_of(owner, name)
        endpoint = None if by_id is None else self.hub.endpoint(by_id)
        hidden = endpoint is None or sees not in (None, endpoint.account_id)
        unknown = (by_id is not None and hidden) or (name is not None and by_name is None)
        if unknown or (by_id is not None and name is not None and by_id != by_name):
            raise BadRequest(
                "endpoint_id or endpoint_name: there is no such endpoint. "
                "Please assign your workergroup to a valid endpoint identifier"
            )
        return by_name if by_id is None else by_id

    def _named_template(self, named: WorkergroupChanges, endpoint_id: EndpointId) -> Template | None:
        """The template of the endpoint's owner that is named, by id, by hash or by both; None if by neither.

        Raises: BadRequest.
        """
        if named.template_id is None and named.template_hash is None:
            return None
        owner = self.hub.find(endpoint_id).account_id
        names = ("template_id", "template_hash")
        try:
            return find_template(self.hub, named.template_id, named.template_hash, owner, *names)
        except NotFound as error:
            raise BadRequest(str(error)) from None


def _search(said: Search | None, before: str) -> str:
    """The offer search as text, checked; empty for the template's own filters. Raises: BadRequest."""
    if said is None or said == UNSAID_SEARCH:
        return before
    found = filters(said, "search_params")
    if isinstance(said, str):
        return said.strip()
    return msgspec.json.encode(found).decode() if found else ""
