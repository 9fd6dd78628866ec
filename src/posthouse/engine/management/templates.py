"""Templates: made, changed and deleted."""

import asyncio
import hashlib
from dataclasses import asdict, dataclass, replace

import msgspec

from posthouse.config import Limits
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId
from posthouse.engine import memory
from posthouse.engine.hub import Hub
from posthouse.engine.management.inputs import MAX_NAME, NewTemplate, TemplateChanges, TemplateRef
from posthouse.engine.management.shared import check_room, filters
from posthouse.errors import BadRequest, NotFound
from posthouse.template import Template, TemplateId
from posthouse.wire.env import env_text, parse_env

NO_CONTENT = ("id", "hash_id", "created_at", "account_id", "revision")
"""Fields of a template that say nothing of what it is."""


@dataclass(slots=True)
class Templates:
    """The use cases of templates."""

    hub: Hub
    limits: Limits
    lock: asyncio.Lock

    async def create(self, new: NewTemplate, owner: AccountId = DEFAULT_ACCOUNT) -> Template:
        """The owner's new template; the one that is there already if its content is the same. Raises: BadRequest."""
        async with self.lock:
            blank = Template(TemplateId(0), "", "", created_at=self.hub.clock.now(), account_id=owner)
            template = _changed(blank, new)
            known = self._same_content(template)
            if known is not None:
                return known
            check_room(len(self.hub.templates), self.limits.templates, "templates")
            template = await self.hub.store.add_template(template)
            memory.take_template(self.hub, template)
            return template

    async def update(self, changes: TemplateChanges, sees: AccountId | None = None) -> Template:
        """The template that is named by id or hash, with the changes. Its workers are updated.

        Raises: BadRequest, NotFound.
        """
        async with self.lock:
            before = find_template(self.hub, changes.id, changes.hash_id, sees)
            template = _changed(before, changes)
            known = self._same_content(template)
            if known is not None and known.id != before.id:
                raise BadRequest(f"template {known.id} is the same as what template {before.id} would become")
            template = await self.hub.store.put_template(template)
            memory.take_template(self.hub, template)
            return template

    async def delete(self, named: TemplateRef, sees: AccountId | None = None) -> Template:
        """The template that was deleted. Raises: BadRequest while a workergroup uses it, NotFound."""
        async with self.lock:
            template = find_template(self.hub, named.template_id, named.hash_id, sees, "template_id")
            users = [str(g.id) for g in self.hub.workergroups.values() if g.template_id == template.id]
            if users:
                raise BadRequest(
                    f"template {template.id} is used by workergroup {', '.join(users[:10])}: change that first"
                )
            await self.hub.store.drop_template(template.id)
            memory.drop_template(self.hub, template.id)
            return template

    def _same_content(self, template: Template) -> Template | None:
        """The owner's template that says the same."""
        same = (template.account_id, template.hash_id)
        return next((t for t in self.hub.templates.values() if (t.account_id, t.hash_id) == same), None)


def find_template(
    hub: Hub,
    template_id: int | None,
    hash_id: str | None,
    sees: AccountId | None = None,
    id_field: str = "id",
    hash_field: str = "hash_id",
) -> Template:
    """The template with this id and this hash; either may be None. Raises: BadRequest, NotFound."""
    if template_id is None and hash_id is None:
        raise BadRequest(f"{id_field} or {hash_field}: one of them is required")
    for template in sorted(hub.templates.values(), key=lambda t: t.account_id):  # the installation's own first
        if sees not in (None, template.account_id):
            continue
        if template_id in (None, template.id) and hash_id in (None, template.hash_id):
            return template
    words = [f"{id_field} {template_id}"] if template_id is not None else []
    words += [f"{hash_field} {hash_id[:64]!r}"] if hash_id is not None else []
    raise NotFound(f"there is no template with {' and '.join(words)}; every edit changes the hash")


def _changed(before: Template, changes: NewTemplate) -> Template:
    """The template with the changes, and its hash. Raises: BadRequest."""
    given = changes.model_dump(
        include={"name", "image", "tag", "onstart", "desc", "readme", "private", "loading_timeout_s"}, exclude_none=True
    )
    if changes.recommended_disk_space is not None:
        given["disk_gb"] = changes.recommended_disk_space
    if changes.env is not None:
        given["env"] = env_text(changes.env)
        parse_env(given["env"])
    if changes.extra_filters is not None:
        given["extra_filters"] = filters(changes.extra_filters, "extra_filters")
    template = replace(before, **given)
    if not template.name:
        raise BadRequest(f"name: a template needs a name of 1 to {MAX_NAME} characters")
    return replace(template, hash_id=_hash(template))


def _hash(template: Template) -> str:
    """The first 32 hex digits of SHA-256 over everything that makes the template what it is."""
    content = {name: value for name, value in asdict(template).items() if name not in NO_CONTENT}
    if not template.loading_timeout_s:  # which templates have not always had
        del content["loading_timeout_s"]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()[:32]
