"""Manifests: a file in YAML that describes endpoints and aliases whole, for `posthouse apply`."""

from posthouse.cli.manifest.alias import AliasManifest, alias_deletion, alias_manifest, alias_plan, described_alias
from posthouse.cli.manifest.describe import Manifest, check_once, manifest, manifests
from posthouse.cli.manifest.plan import Change, Found, Plan, deletion, plan
from posthouse.cli.manifest.read import documents
from posthouse.cli.manifest.schema import schema
from posthouse.cli.manifest.write import described, dumped
from posthouse.errors import BadRequest

__all__ = [
    "AliasManifest",
    "Change",
    "Found",
    "Manifest",
    "Plan",
    "described",
    "described_alias",
    "dumped",
    "manifests",
    "plan",
    "plans",
    "schema",
    "whole",
]


def whole(text: str, file: str, force: bool = False) -> tuple[list[Manifest], list[AliasManifest]]:
    """What a file says of endpoints, and of aliases. Raises: BadRequest with the line and the field."""
    endpoints, aliases = list[Manifest](), list[AliasManifest]()
    for document in documents(text, file):
        if isinstance(document.plain, dict) and "alias" in document.plain:
            aliases.append(alias_manifest(document))
        else:
            endpoints.append(manifest(document, force))
    if not endpoints and not aliases:
        raise BadRequest(f"{file}: describes no endpoint and no alias")
    check_once((one.endpoint, one.place) for one in endpoints)
    check_once(((one.name, one.place) for one in aliases), "alias")
    return endpoints, aliases


def plans(endpoints: list[Manifest], aliases: list[AliasManifest], found: Found, delete: bool = False) -> list[Plan]:
    """What has to be done for each to be as it is described, or not to be: what others name comes first, or last."""
    if delete:
        return [alias_deletion(one, found) for one in reversed(aliases)] + [deletion(one, found) for one in endpoints]
    return [plan(one, found) for one in endpoints] + [alias_plan(one, found) for one in aliases]
