"""Endpoints, workergroups and templates: made, changed and deleted, in the store first and then in memory."""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import msgspec

from posthouse.config import Limits
from posthouse.domain.account import DEFAULT_ACCOUNT, AccountId
from posthouse.domain.endpoint import SCALING_LIMITS, SLO_MODES, Endpoint, EndpointId, EndpointState, Scaling, defaults
from posthouse.domain.errors import BadRequest, NotFound
from posthouse.domain.lifecycle import Goal
from posthouse.domain.template import Template, TemplateId
from posthouse.domain.worker import Worker, WorkerId
from posthouse.domain.workergroup import Workergroup, WorkergroupId
from posthouse.engine.hub import Hub, ManagedEndpoint
from posthouse.fleet.fleet import Fleet
from posthouse.wire import search
from posthouse.wire.env import env_text, parse_env
from posthouse.wire.numbers import integer, number
from posthouse.wire.search import parse_search
from posthouse.wire.signed import Scheme

Ask = Mapping[str, object]
"""A request in the protocol's words. null means the same as not there; unknown fields are ignored."""

DEFAULT_NAME = "default-endpoint"
"""Of an endpoint that is made without a name: the protocol's."""
MAX_NAME = 255
"""Longest name, in characters: the protocol's."""
MAX_IMAGE = 4096
"""Longest name of an image, in characters: our choice."""
MAX_TEXT = 262_144
"""Longest script or readme, in characters: our choice, far above real ones."""
MAX_GB = 1e6
"""Largest disk, and largest model, in GB: our choice, far above real ones."""

NO_CONTENT = ("id", "hash_id", "created_at", "account_id", "revision")
"""Fields of a template that say nothing of what it is."""

UNSAID_SEARCH = "verified=True rentable=True rented=False"
"""What the protocol's command line sends as `search_params` where its user said nothing. Taken at its word it would
put aside the template's filters, and every update of another field would overwrite the search."""

WHOLE_NUMBERS = ("cold_workers", "max_workers")
MAY_BE_NONE = ("inactivity_timeout", "max_usd_h")
"""Parameters that can be taken back, with the text "none": null says "unchanged"."""


@dataclass(slots=True)
class Catalog:
    """What can be changed, one change at a time: each reads, checks, writes and only then changes memory."""

    hub: Hub
    limits: Limits
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    # -- endpoints ---------------------------------------------------------------------------------------------------

    async def create_endpoint(self, ask: Ask) -> Endpoint:
        """The new endpoint. Raises: BadRequest."""
        async with self._one_at_a_time:
            now = self.hub.clock.now()
            blank = Endpoint(EndpointId(0), DEFAULT_NAME, defaults(ask.get("slo_mode")), created_at=now)
            endpoint = self._endpoint(blank, ask)
            _check_room(len(self.hub.ids_by_name), self.limits.endpoints, "endpoints")
            endpoint = await self.hub.store.add_endpoint(endpoint)
            self.hub.endpoints[endpoint.id] = ManagedEndpoint(Fleet(endpoint, now))
            self.hub.ids_by_name[endpoint.account_id, endpoint.name] = endpoint.id
            self.hub.bell.set()
            return endpoint

    async def update_endpoint(self, endpoint_id: int, ask: Ask) -> Endpoint:
        """The endpoint with what `ask` changes. Raises: BadRequest, NotFound."""
        async with self._one_at_a_time:
            before = self.hub.managed(endpoint_id).fleet.endpoint
            return await self._put_endpoint(self._endpoint(before, ask))

    async def rotate_key(self, endpoint_id: int) -> Endpoint:
        """The endpoint with a new key; the one before is worth nothing from now on. Raises: NotFound."""
        async with self._one_at_a_time:
            before = self.hub.managed(endpoint_id).fleet.endpoint
            return await self._put_endpoint(replace(before, key_version=before.key_version + 1))

    async def delete_endpoint(self, endpoint_id: int) -> int:
        """Deletes the endpoint and its workergroups; how many workers go with it. Raises: NotFound."""
        async with self._one_at_a_time:
            managed = self.hub.managed(endpoint_id)
            endpoint = managed.fleet.endpoint
            await self.hub.store.drop_endpoint(endpoint.id)
            managed.leaving = True
            del self.hub.ids_by_name[endpoint.account_id, endpoint.name]
            for group in self.hub.groups_of(endpoint.id):
                self.hub.drop_group(group.id)
            return self._dismiss(managed.fleet, managed.fleet.workers.values())

    async def _put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        managed = self.hub.managed(endpoint.id)
        endpoint = await self.hub.store.put_endpoint(endpoint)
        del self.hub.ids_by_name[endpoint.account_id, managed.fleet.endpoint.name]
        self.hub.ids_by_name[endpoint.account_id, endpoint.name] = endpoint.id
        managed.fleet.configure(endpoint)
        self.hub.bell.set()
        return endpoint

    def _endpoint(self, before: Endpoint, ask: Ask) -> Endpoint:
        name = _line(ask, "endpoint_name", before.name, MAX_NAME)
        if not name or name != name.strip():
            raise BadRequest(f"endpoint_name: must have 1 to {MAX_NAME} characters, without blanks around them")
        if self.hub.ids_by_name.get((before.account_id, name), before.id) != before.id:
            raise BadRequest(f"endpoint_name: {name!r} is taken; choose another")
        state = _one_of(ask, "endpoint_state", before.state, [str(s) for s in EndpointState])
        scaling = _scaling(before.scaling, ask)
        if scaling.max_workers > self.limits.workers_per_endpoint:
            raise BadRequest(
                f"max_workers: must be a whole number from 0 to {self.limits.workers_per_endpoint}, which is this "
                f"server's limit, not {scaling.max_workers}"
            )
        return replace(before, name=name, scaling=scaling, state=EndpointState(state))

    # -- workergroups ------------------------------------------------------------------------------------------------

    def workergroup(self, group_id: int) -> Workergroup:
        """Raises: NotFound."""
        group = self.hub.workergroups.get(WorkergroupId(group_id))
        if group is None:
            raise NotFound(f"workergroup {group_id} does not exist")
        return group

    async def create_workergroup(self, ask: Ask) -> Workergroup:
        """The new workergroup. Raises: BadRequest."""
        async with self._one_at_a_time:
            endpoint_id, template = self._named_endpoint(ask), self._named_template(ask)
            if endpoint_id is None:
                raise BadRequest(
                    "endpoint_id or endpoint_name: Please assign your workergroup to a valid endpoint identifier"
                )
            if template is None:
                raise BadRequest("template_hash or template_id: one of them is required")
            now = self.hub.clock.now()
            blank = Workergroup(WorkergroupId(0), endpoint_id, template.id, created_at=now)
            group = self._group(blank, ask)
            _check_room(len(self.hub.workergroups), self.limits.workergroups, "workergroups")
            group = await self.hub.store.add_workergroup(group)
            self.hub.put_group(group)
            self.hub.bell.set()
            return group

    async def update_workergroup(self, group_id: int, ask: Ask) -> Workergroup:
        """The workergroup with what `ask` changes. Another template: its workers are updated one after another.

        Raises: BadRequest, NotFound.
        """
        async with self._one_at_a_time:
            before = self.workergroup(group_id)
            if self._named_endpoint(ask) not in (None, before.endpoint_id):
                raise BadRequest(f"endpoint_id: workergroup {group_id} cannot move to another endpoint; make a new one")
            template = self._named_template(ask)
            group = self._group(before, ask)
            group = group if template is None else replace(group, template_id=template.id)
            group = await self.hub.store.put_workergroup(group)
            self.hub.put_group(group)
            self._roll_out(group, self.hub.templates[before.template_id])
            self.hub.bell.set()
            return group

    def update_workers(self, group_id: int) -> int:
        """Asks for an update of every worker that the workergroup has; how many these are. Raises: NotFound."""
        group = self.workergroup(group_id)
        self.hub.bell.set()
        return self.hub.managed(group.endpoint_id).fleet.ask_update(group.id, self.hub.clock.now())

    def cancel_update(self, group_id: int) -> None:
        """Calls off the updates of the workergroup's workers that have not begun. Raises: NotFound."""
        group = self.workergroup(group_id)
        self.hub.managed(group.endpoint_id).fleet.cancel_update(group.id, self.hub.clock.now())
        self.hub.bell.set()

    def _roll_out(self, group: Workergroup, before: Template) -> None:
        if self.hub.templates[group.template_id].runs() != before.runs():
            self.update_workers(group.id)

    async def delete_workergroup(self, group_id: int) -> int:
        """Deletes the workergroup; how many workers go with it. Raises: NotFound."""
        async with self._one_at_a_time:
            group = self.workergroup(group_id)
            await self.hub.store.drop_workergroup(group.id)
            self.hub.drop_group(group.id)
            fleet = self.hub.managed(group.endpoint_id).fleet
            return self._dismiss(fleet, [w for w in fleet.workers.values() if w.group_id == group.id])

    def _group(self, before: Workergroup, ask: Ask) -> Workergroup:
        return replace(
            before,
            search_params=_search(ask, before.search_params),
            launch_args=_text(ask, "launch_args", before.launch_args),
            gpu_ram=_number(ask, "gpu_ram", before.gpu_ram, MAX_GB),
            provider=_one_of(ask, "provider", before.provider, ["", *self.hub.providers]),
            signature_scheme=_one_of(ask, "signature_scheme", before.signature_scheme, ["", *map(str, Scheme)]),
        )

    def _named_endpoint(self, ask: Ask) -> EndpointId | None:
        """The endpoint that `ask` names, by id, by name or by both; None if by neither. Raises: BadRequest."""
        said_id, name = ask.get("endpoint_id"), ask.get("endpoint_name")
        by_id = None if said_id is None else EndpointId(integer(said_id, "endpoint_id", 1))
        by_name = (
            None
            if name is None
            else self.hub.ids_by_name.get((DEFAULT_ACCOUNT, _line(ask, "endpoint_name", "", MAX_NAME)))
        )
        managed = None if by_id is None else self.hub.endpoints.get(by_id)
        unknown = (by_id is not None and (managed is None or managed.leaving)) or (name is not None and by_name is None)
        if unknown or (by_id is not None and name is not None and by_id != by_name):
            raise BadRequest(
                "endpoint_id or endpoint_name: there is no such endpoint. "
                "Please assign your workergroup to a valid endpoint identifier"
            )
        return by_name if by_id is None else by_id

    def _named_template(self, ask: Ask) -> Template | None:
        """The template that `ask` names, by id, by hash or by both; None if by neither. Raises: BadRequest."""
        if ask.get("template_id") is None and ask.get("template_hash") is None:
            return None
        try:
            return self.template(ask.get("template_id"), ask.get("template_hash"), "template_id", "template_hash")
        except NotFound as error:
            raise BadRequest(str(error)) from None

    # -- workers ------------------------------------------------------------------------------------------------------

    def worker(self, worker_id: int, sees: AccountId | None = None) -> tuple[Fleet, Worker]:
        """The worker, and the fleet that has it. Raises: NotFound, also for one of another account than `sees`."""
        fleet = self.hub.fleet_of(worker_id)
        if fleet is None or sees not in (None, fleet.endpoint.account_id):
            raise NotFound(f"worker {worker_id} does not exist")
        return fleet, fleet.workers[WorkerId(worker_id)]

    def dismiss_worker(self, worker_id: int, sees: AccountId | None = None) -> None:
        """Wants the worker gone, once it has finished what it has. Raises: NotFound."""
        fleet, worker = self.worker(worker_id, sees)
        self._dismiss(fleet, [worker])

    def _dismiss(self, fleet: Fleet, workers: Iterable[Worker]) -> int:
        """Wants the workers gone; how many were not on their way out yet."""
        leaving = [w.id for w in workers if w.goal is not Goal.GONE]
        for worker_id in leaving:
            fleet.set_goal(worker_id, Goal.GONE)
        self.hub.bell.set()
        return len(leaving)

    # -- templates ---------------------------------------------------------------------------------------------------

    def template(
        self, said_id: object, said_hash: object, id_field: str = "id", hash_field: str = "hash_id"
    ) -> Template:
        """The template with this id and this hash; either may be None. Raises: BadRequest, NotFound."""
        if said_id is None and said_hash is None:
            raise BadRequest(f"{id_field} or {hash_field}: one of them is required")
        if said_hash is not None and not isinstance(said_hash, str):
            raise BadRequest(f"{hash_field}: must be text")
        template_id = None if said_id is None else integer(said_id, id_field, 1)
        for template in self.hub.templates.values():
            if template_id in (None, template.id) and said_hash in (None, template.hash_id):
                return template
        words = [f"{id_field} {template_id}"] if template_id is not None else []
        words += [f"{hash_field} {said_hash[:64]!r}"] if said_hash is not None else []
        raise NotFound(f"there is no template with {' and '.join(words)}; every edit changes the hash")

    async def create_template(self, ask: Ask) -> Template:
        """The new template; the one that is there already if its content is the same. Raises: BadRequest."""
        async with self._one_at_a_time:
            blank = Template(TemplateId(0), "", "", created_at=self.hub.clock.now())
            template = _template(blank, ask)
            known = self._same_content(template)
            if known is not None:
                return known
            _check_room(len(self.hub.templates), self.limits.templates, "templates")
            template = await self.hub.store.add_template(template)
            self.hub.templates[template.id] = template
            return template

    async def update_template(self, ask: Ask) -> Template:
        """The template that `ask` names by id or hash, with what else it says. Workers that it makes are updated.

        Raises: BadRequest, NotFound.
        """
        async with self._one_at_a_time:
            before = self.template(ask.get("id"), ask.get("hash_id"))
            template = _template(before, ask)
            known = self._same_content(template)
            if known is not None and known.id != before.id:
                raise BadRequest(f"template {known.id} is the same as what template {before.id} would become")
            template = await self.hub.store.put_template(template)
            self.hub.templates[template.id] = template
            for group in self.hub.workergroups.values():
                if group.template_id == template.id:
                    self._roll_out(group, before)
            self.hub.bell.set()
            return template

    def _same_content(self, template: Template) -> Template | None:
        return next((t for t in self.hub.templates.values() if t.hash_id == template.hash_id), None)

    async def delete_template(self, said_id: object, said_hash: object) -> Template:
        """The template that was deleted. Raises: BadRequest while a workergroup uses it, NotFound."""
        async with self._one_at_a_time:
            template = self.template(said_id, said_hash, "template_id")
            users = [str(g.id) for g in self.hub.workergroups.values() if g.template_id == template.id]
            if users:
                raise BadRequest(
                    f"template {template.id} is used by workergroup {', '.join(users[:10])}: change that first"
                )
            await self.hub.store.drop_template(template.id)
            del self.hub.templates[template.id]
            return template


def _check_room(count: int, most: int, what: str) -> None:
    if count >= most:
        raise BadRequest(
            f"there are {count} {what}, and this server's limit is {most}: delete some, or raise the limit"
        )


def _scaling(before: Scaling, ask: Ask) -> Scaling:
    """The parameters with what `ask` changes. Raises: BadRequest."""
    said = {name: ask[name] for name in SCALING_LIMITS if ask.get(name) is not None}
    alias = ask.get("min_workers")
    if alias is not None and said.setdefault("cold_workers", alias) != alias:
        raise BadRequest("min_workers: is another name of cold_workers, and the two differ")
    values: dict[str, float | str | None] = {}
    mode = ask.get("slo_mode")
    if mode is not None:
        if mode not in SLO_MODES:
            raise BadRequest(f"slo_mode: is {mode!r:.100}; it must be one of {', '.join(SLO_MODES)}")
        values["slo_mode"] = str(mode)
    for name, value in said.items():
        limit = SCALING_LIMITS[name]
        if name in MAY_BE_NONE and value == "none":
            values[name] = None
        elif name in WHOLE_NUMBERS:
            values[name] = integer(value, name, int(limit.low), int(limit.high))
        else:
            values[name] = number(value, name, limit.low, limit.high)
    return replace(before, **values)  # type: ignore[arg-type]  # the names come from a table with every field


def _template(before: Template, ask: Ask) -> Template:
    """The template with what `ask` changes, and its hash. Raises: BadRequest."""
    env = ask.get("env")
    if env is not None:
        if not isinstance(env, str | Mapping):
            raise BadRequest("env: must be docker flags as text, or an object of texts")
        env = env_text(env)
        parse_env(env)
    filters = ask.get("extra_filters")
    template = replace(
        before,
        name=_line(ask, "name", before.name, MAX_NAME),
        image=_line(ask, "image", before.image, MAX_IMAGE),
        tag=_line(ask, "tag", before.tag, MAX_NAME),
        env=before.env if env is None else env,
        onstart=_text(ask, "onstart", before.onstart),
        disk_gb=_number(ask, "recommended_disk_space", before.disk_gb, MAX_GB),
        extra_filters=before.extra_filters if filters is None else _filters(filters, "extra_filters"),
        desc=_text(ask, "desc", before.desc),
        readme=_text(ask, "readme", before.readme),
        private=_yes_or_no(ask, "private", before.private),
    )
    if not template.name:
        raise BadRequest(f"name: a template needs a name of 1 to {MAX_NAME} characters")
    return replace(template, hash_id=_hash(template))


def _hash(template: Template) -> str:
    """The first 32 hex digits of SHA-256 over everything that makes the template what it is."""
    content = {name: value for name, value in asdict(template).items() if name not in NO_CONTENT}
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:32]


def _search(ask: Ask, before: str) -> str:
    """The offer search as text, checked; empty for the template's own filters. Raises: BadRequest."""
    said = ask.get("search_params")
    if said is None or said == UNSAID_SEARCH:
        return before
    filters = _filters(said, "search_params")
    if isinstance(said, str):
        return said.strip()
    return msgspec.json.encode(filters).decode() if filters else ""


def _filters(said: object, field_name: str) -> dict[str, object]:
    if not isinstance(said, str | Mapping):
        raise BadRequest(f"{field_name}: must be a search as text, or an object {{field: {{op: value}}}}")
    if not isinstance(said, str) and len(msgspec.json.encode(said)) > search.MAX_TEXT:
        raise BadRequest(f"{field_name}: has more than {search.MAX_TEXT} bytes as JSON")
    try:
        return {**parse_search(said)}
    except BadRequest as error:
        raise BadRequest(f"{field_name}: {error}") from None


def _number(ask: Ask, field_name: str, before: float, most: float) -> float:
    said = ask.get(field_name)
    return before if said is None else number(said, field_name, 0, most)


def _yes_or_no(ask: Ask, field_name: str, before: bool) -> bool:
    said = ask.get(field_name)
    if said is not None and not isinstance(said, bool):
        raise BadRequest(f"{field_name}: must be true or false")
    return before if said is None else said


def _one_of(ask: Ask, field_name: str, before: str, allowed: list[str]) -> str:
    said = ask.get(field_name)
    if said is None:
        return before
    if not isinstance(said, str) or said not in allowed:
        raise BadRequest(f"{field_name}: must be one of {', '.join(a or '(empty)' for a in allowed)}")
    return said


def _line(ask: Ask, field_name: str, before: str, most: int) -> str:
    """Text without line breaks or other control characters. Raises: BadRequest."""
    said = ask.get(field_name)
    if said is None:
        return before
    if not isinstance(said, str) or len(said) > most or not said.isprintable():
        raise BadRequest(f"{field_name}: must be text of at most {most} printable characters")
    return said


def _text(ask: Ask, field_name: str, before: str) -> str:
    """Text of any number of lines. Raises: BadRequest."""
    said = ask.get(field_name)
    if said is None:
        return before
    if not isinstance(said, str) or len(said) > MAX_TEXT or "\0" in said:
        raise BadRequest(f"{field_name}: must be text of at most {MAX_TEXT} characters, without NUL")
    return said
