"""The protocol's calls about templates."""

from dataclasses import asdict, fields
from typing import Any

import msgspec
from fastapi import FastAPI

from posthouse.domain.errors import BadRequest
from posthouse.domain.template import Template
from posthouse.engine.catalog import Catalog
from posthouse.server.middleware import Ask
from posthouse.wire.matching import matches
from posthouse.wire.search import parse_search

_WIRE_NAMES = {"disk_gb": "recommended_disk_space", "account_id": "creator_id"}
_OURS = {"revision"}

FIELDS = tuple(_WIRE_NAMES.get(f.name, f.name) for f in fields(Template) if f.name not in _OURS)
"""What a template shows."""


def add_template_routes(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/api/v0/template")
    async def list_templates(select_filters: str = "{}") -> dict[str, Any]:
        """The templates that satisfy `select_filters`, a JSON object `{field: {op: value}}`."""
        filters = parse_search(select_filters)
        for field in filters:
            if field not in FIELDS:
                raise BadRequest(f"select_filters: unknown field {field[:64]!r}; allowed are {', '.join(FIELDS)}")
        found = [row for row in map(_row, catalog.hub.templates.values()) if matches(filters, row)]
        return {"success": True, "templates_found": len(found), "templates": found}

    @app.post("/api/v0/template")
    async def create_template(ask: Ask) -> dict[str, Any]:
        """Makes a template; one with the same content is there once. Fields about ssh and jupyter are ignored."""
        template = await catalog.create_template(ask)
        return {"success": True, "template": _row(template), "msg": f"template {template.id} is ready for use"}

    async def update_template(ask: Ask) -> dict[str, Any]:
        """Changes the template with this `id` and `hash_id`, which gives it a new hash; what is null stays."""
        template = await catalog.update_template(ask)
        return {"success": True, "template": _row(template), "msg": f"template {template.id} was changed"}

    app.put("/api/v0/template")(update_template)
    app.put("/api/v1/template")(update_template)

    @app.delete("/api/v0/template")
    async def delete_template(ask: Ask) -> dict[str, Any]:
        """Deletes the template with this `hash_id` or `template_id`, if no workergroup uses it."""
        template = await catalog.delete_template(ask.get("template_id"), ask.get("hash_id"))
        return {"success": True, "msg": f"template {template.id} was deleted"}


def _row(template: Template) -> dict[str, Any]:
    """A template in the protocol's words. Its filters are JSON as text: the peer that reads them expects no other."""
    row = {_WIRE_NAMES.get(n, n): value for n, value in asdict(template).items() if n not in _OURS}
    return row | {"extra_filters": msgspec.json.encode(template.extra_filters).decode()}
