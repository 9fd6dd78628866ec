"""The manifest of an endpoint as it is."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from posthouse.domain.endpoint import PARAMETERS, Endpoint, defaults
from posthouse.template import Template, TemplateId, Workergroup
from posthouse.wire.env import parse_env

GPU_RAM_GB: Final = 24.0
"""What the server takes for the size of a model of which nothing is said."""
ALWAYS: Final = ("min_load", "cold_workers", "max_workers")
"""Scaling parameters that are written also where they are the defaults."""


def described(
    endpoint: Endpoint, groups: Sequence[Workergroup], templates: Mapping[TemplateId, Template]
) -> dict[str, Any]:
    """The manifest that makes it again. Its template is written out, if all its workergroups have the same, and that
    has its name."""
    has, usual = endpoint.scaling, defaults(endpoint.scaling.slo_mode)
    scaling = {
        name: getattr(has, name) for name in PARAMETERS if name in ALWAYS or getattr(has, name) != getattr(usual, name)
    }
    used = [templates[row.template_id] for row in groups]
    main = used[0] if used else next((t for t in templates.values() if t.name == endpoint.name), None)
    own = main is not None and main.name == endpoint.name and all(one.id == main.id for one in used)
    return {
        "endpoint": endpoint.name,
        "scaling": scaling,
        "template": _template(main) if main is not None and own else main.name if main else "",
        "workergroups": [
            _group(row, one.name if main and one.name != main.name else "")
            for row, one in zip(groups, used, strict=True)
        ]
        or [{}],
    }


def _template(row: Template) -> dict[str, Any]:
    variables, ports = parse_env(row.env)
    fields = {
        "desc": row.desc,
        "image": image_of(row),
        "ports": list(ports) if ports != (3000,) else [],
        "env": variables,
        "onstart": row.onstart,
        "disk_gb": row.disk_gb,
        "search": json.dumps(row.extra_filters) if row.extra_filters else "",
        "loading_timeout_s": row.loading_timeout_s,
    }
    return {name: value for name, value in fields.items() if value}


def image_of(row: Template) -> str:
    """Its image with its tag, as a manifest has it."""
    return f"{row.image}:{row.tag}" if row.tag else row.image


def _group(row: Workergroup, template: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "provider": row.provider,
        "search": _search_text(row.search_params),
        "gpu_ram": row.gpu_ram if row.gpu_ram != GPU_RAM_GB else 0,
        "launch_args": row.launch_args,
        "signature_scheme": row.signature_scheme,
        "template": template,
    }
    return {name: value for name, value in fields.items() if value}


def _search_text(search: str) -> str:
    """A search as people write it, if it is kept as JSON; units are those of JSON, so it stays JSON then."""
    if not search.strip().startswith("{"):
        return search
    return search if json.loads(search) else ""
