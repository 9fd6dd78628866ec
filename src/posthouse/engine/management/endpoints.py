"""Endpoints: made, changed and deleted."""

import asyncio
from dataclasses import dataclass, replace

from posthouse.config import Limits
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint, EndpointId, defaults
from posthouse.engine import memory
from posthouse.engine.hub import Hub
from posthouse.engine.management.aliases import check_unnamed
from posthouse.engine.management.inputs import MAX_NAME, EndpointChanges, NewEndpoint
from posthouse.engine.management.shared import check_room
from posthouse.errors import BadRequest

DEFAULT_NAME = "default-endpoint"
"""Of an endpoint that is made without a name: the protocol's."""


@dataclass(slots=True)
class Endpoints:
    """The use cases of endpoints."""

    hub: Hub
    limits: Limits
    lock: asyncio.Lock

    async def create(self, new: NewEndpoint, owner: AccountId = DEFAULT_ACCOUNT) -> Endpoint:
        """The owner's new endpoint. Raises: BadRequest."""
        async with self.lock:
            hub, now = self.hub, self.hub.clock.now()
            endpoint = replace(self.foreseen(None, new, owner), created_at=now)
            check_room(len(hub.directory), self.limits.endpoints, "endpoints")
            endpoint = await hub.store.add_endpoint(endpoint)
            await hub.open_new(endpoint)
            return endpoint

    def foreseen(
        self, before: Endpoint | None, changes: EndpointChanges, owner: AccountId = DEFAULT_ACCOUNT
    ) -> Endpoint:
        """The endpoint as it would be with the changes; None: a new one of the owner. Raises: BadRequest."""
        scaling = defaults(changes.scaling().get("slo_mode"))
        return self._changed(before or Endpoint(EndpointId(0), DEFAULT_NAME, scaling, account_id=owner), changes)

    async def update(self, endpoint_id: int, changes: EndpointChanges, sees: AccountId | None = None) -> Endpoint:
        """The endpoint with the changes. Raises: BadRequest, NotFound."""
        async with self.lock:
            before = self.hub.find(endpoint_id, sees)
            return await self._put(self.foreseen(before, changes))

    async def rotate_key(self, endpoint_id: int) -> Endpoint:
        """The endpoint with a new key; the one before is worth nothing from now on. Raises: NotFound."""
        async with self.lock:
            before = self.hub.find(endpoint_id)
            return await self._put(replace(before, key_version=before.key_version + 1))

    async def delete(self, endpoint_id: int, sees: AccountId | None = None) -> int:
        """Deletes the endpoint and its workergroups; returns how many workers go with it.

        Raises: NotFound, BadRequest while an alias names it.
        """
        async with self.lock:
            endpoint = self.hub.managed(endpoint_id, sees).fleet.endpoint
            check_unnamed(self.hub, endpoint.account_id, endpoint.name, "endpoint")
            await self.hub.store.drop_endpoint(endpoint.id)
            return memory.drop_endpoint(self.hub, endpoint.id)

    async def _put(self, endpoint: Endpoint) -> Endpoint:
        endpoint = await self.hub.store.put_endpoint(endpoint)
        memory.take_endpoint(self.hub, endpoint)
        return endpoint

    def _changed(self, before: Endpoint, changes: EndpointChanges) -> Endpoint:
        name = before.name if changes.endpoint_name is None else changes.endpoint_name
        if not name or name != name.strip():
            raise BadRequest(f"endpoint_name: must have 1 to {MAX_NAME} characters, without blanks around them")
        if self.hub.directory.id_of(before.account_id, name) not in (None, before.id):
            raise BadRequest(f"endpoint_name: {name!r} is taken; choose another")
        if name in self.hub.aliases.get(before.account_id, {}):
            raise BadRequest(f"endpoint_name: {name!r} is an alias; choose another, or delete that")
        if before.id and name != before.name:
            check_unnamed(self.hub, before.account_id, before.name, "endpoint_name: endpoint")
        scaling = before.scaling.changed(changes.scaling())
        if scaling.max_workers > self.limits.workers_per_endpoint:
            raise BadRequest(
                f"max_workers: must be a whole number from 0 to {self.limits.workers_per_endpoint}, which is this "
                f"server's limit, not {scaling.max_workers}"
            )
        return replace(before, name=name, scaling=scaling, state=changes.endpoint_state or before.state)
