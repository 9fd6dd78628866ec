"""Writes manifests."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

from posthouse.cli.manifest.plan import Found
from posthouse.domain.endpoint import PARAMETERS, defaults
from posthouse.wire.env import parse_env

if TYPE_CHECKING:
    from posthouse.wire.rows import Endpoint, Template, Workergroup

GPU_RAM_GB = 24.0
"""What the server takes for the size of a model of which nothing is said."""
ALWAYS = ("min_load", "cold_workers", "max_workers")
"""Scaling parameters that are written also where they are the defaults."""


def described(found: Found, endpoint: "Endpoint") -> dict[str, Any]:
    """The manifest of an endpoint as it is. Its template is written out, if all its workergroups have the same."""
    usual = defaults(endpoint.slo_mode)
    scaling = {
        name: getattr(endpoint, name)
        for name in PARAMETERS
        if name in ALWAYS or getattr(endpoint, name) != getattr(usual, name)
    }
    groups = found.groups_of(endpoint)
    used = {row.template_id: found.name_of(row.template_id) for row in groups}
    row = found.template(endpoint.endpoint_name)
    own = row is not None and set(used) <= {row.id}
    manifest: dict[str, Any] = {"endpoint": endpoint.endpoint_name, "scaling": scaling}
    main = endpoint.endpoint_name if own else next(iter(used.values()), "")
    manifest["template"] = _template(row) if own and row is not None else main
    manifest["workergroups"] = [_group(group, used[group.template_id], main) for group in groups] or [{}]
    return manifest


def dumped(manifests: Iterable[Mapping[str, Any]], head: str = "") -> str:
    """The manifests as a file in YAML, after the comment `head`."""
    texts = [
        yaml.dump(dict(one), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
        for one in manifests
    ]
    return head + "---\n".join(texts)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = "\n" in text and all(char.isprintable() or char == "\n" for char in text)
    style = "|" if plain and not any(line.endswith(" ") for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _template(row: "Template") -> dict[str, Any]:
    variables, ports = parse_env(row.env)
    fields = {
        "desc": row.desc,
        "image": f"{row.image}:{row.tag}" if row.tag else row.image,
        "ports": list(ports) if ports != (3000,) else [],
        "env": variables,
        "onstart": row.onstart,
        "disk_gb": row.recommended_disk_space,
        "search": search_text(row.extra_filters),
        "loading_timeout_s": row.loading_timeout_s,
    }
    return {name: value for name, value in fields.items() if value}


def _group(row: "Workergroup", template: str, main: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "provider": row.provider,
        "search": search_text(row.search_params),
        "gpu_ram": row.gpu_ram if row.gpu_ram != GPU_RAM_GB else 0,
        "launch_args": row.launch_args,
        "signature_scheme": row.signature_scheme,
        "template": template if template != main else "",
    }
    return {name: value for name, value in fields.items() if value}


def search_text(search: str) -> str:
    """A search as people write it, if it is kept as JSON; units are those of JSON, so it stays JSON then."""
    if not search.strip().startswith("{"):
        return search
    return search if json.loads(search) else ""
