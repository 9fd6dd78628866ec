"""Manifests: endpoints and aliases described whole, as the API takes them, and files in YAML for `posthouse apply`."""

from posthouse.errors import BadRequest
from posthouse.manifest.alias import AliasManifest, alias_manifest
from posthouse.manifest.describe import Manifest, manifest
from posthouse.manifest.value import Value

__all__ = ["AliasManifest", "Manifest", "Value", "described_in", "whole"]


def described_in(document: Value, force: bool = False) -> Manifest | AliasManifest:
    """What a document says. `force`: files at workers need not be here. Raises: BadRequest with the field."""
    if isinstance(document.plain, dict) and "alias" in document.plain:
        return alias_manifest(document)
    return manifest(document, force)


def whole(text: str, file: str, force: bool = False) -> list[Manifest | AliasManifest]:
    """What a file says, endpoints first: aliases name them. Raises: BadRequest with the line and the field."""
    from posthouse.manifest.read import documents  # here, for servers need no YAML

    found = [described_in(document, force) for document in documents(text, file)]
    if not found:
        raise BadRequest(f"{file}: describes no endpoint and no alias")
    names = set[str]()
    for one in found:
        if one.name in names:
            what = "alias" if isinstance(one, AliasManifest) else "endpoint"
            raise one.document.plain[what].wrong(f"{one.name!r} is described twice")
        names.add(one.name)
    return sorted(found, key=lambda one: isinstance(one, AliasManifest))
