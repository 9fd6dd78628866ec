"""The protocol's calls about templates."""

from dataclasses import asdict, fields, replace

import msgspec
from fastapi import FastAPI

from posthouse.engine.management import Management
from posthouse.engine.management.inputs import NewTemplate, TemplateChanges, TemplateRef
from posthouse.errors import BadRequest
from posthouse.server.api.replies import Message, OneTemplate, SeveralTemplates
from posthouse.server.auth import Principal, Scope
from posthouse.server.middleware import Caller
from posthouse.template import Template
from posthouse.wire import rows
from posthouse.wire.env import without_values
from posthouse.wire.matching import matches
from posthouse.wire.search import parse_search

FIELDS = tuple(field.name for field in fields(rows.Template))
"""What a template shows."""


def add_template_routes(app: FastAPI, management: Management) -> None:
    templates = management.templates

    @app.get("/api/v0/template")
    async def list_templates(caller: Caller, select_filters: str = "{}") -> SeveralTemplates:
        """The templates that satisfy `select_filters`, a JSON object `{field: {op: value}}`.

        For a key of less than the scope operate the values of variables in `env` are `***`.
        """
        filters = parse_search(select_filters)
        for field in filters:
            if field not in FIELDS:
                raise BadRequest(f"select_filters: unknown field {field[:64]!r}; allowed are {', '.join(FIELDS)}")
        seen = [t for t in management.hub.templates.values() if caller.may_see(t.account_id)]
        found = [row for row in (_seen_row(t, caller) for t in seen) if matches(filters, asdict(row))]
        return SeveralTemplates(templates_found=len(found), templates=found)

    @app.post("/api/v0/template")
    async def create_template(new: NewTemplate, caller: Caller) -> OneTemplate:
        """Makes a template; one with the same content is there once. Fields about ssh and jupyter are ignored."""
        template = await templates.create(new, caller.account_id)
        return OneTemplate(template=_row(template), msg=f"template {template.id} is ready for use")

    async def update_template(changes: TemplateChanges, caller: Caller) -> OneTemplate:
        """Changes the template with this `id` and `hash_id`, which gives it a new hash; what is null stays."""
        template = await templates.update(changes, caller.sees)
        return OneTemplate(template=_row(template), msg=f"template {template.id} was changed")

    app.put("/api/v0/template")(update_template)
    app.put("/api/v1/template")(update_template)

    @app.delete("/api/v0/template")
    async def delete_template(named: TemplateRef, caller: Caller) -> Message:
        """Deletes the template with this `hash_id` or `template_id`, if no workergroup uses it."""
        template = await templates.delete(named, caller.sees)
        return Message(msg=f"template {template.id} was deleted")


def _seen_row(template: Template, caller: Principal) -> rows.Template:
    """A template as the caller may see it: who may not change it does not see what its variables hold."""
    if caller.scope >= Scope.OPERATE:
        return _row(template)
    return _row(replace(template, env=without_values(template.env)))


def _row(template: Template) -> rows.Template:
    """A template in the protocol's words. Its filters are JSON as text: the peer that reads them expects no other."""
    row = asdict(template)
    row["creator_id"] = row.pop("account_id")
    del row["revision"]
    row["recommended_disk_space"] = row.pop("disk_gb")
    row["extra_filters"] = msgspec.json.encode(template.extra_filters).decode()
    return rows.Template(**row)
