"""Our own calls about manifests, under /v1: an endpoint or an alias whole, made so by one call."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Response
from pydantic import BaseModel, WithJsonSchema, create_model

from posthouse.engine.management import Management
from posthouse.engine.management.inputs import OwnInput
from posthouse.engine.management.manifests import Precondition, Shown
from posthouse.manifest import AliasManifest
from posthouse.manifest.schema import properties
from posthouse.server.auth import Scope
from posthouse.server.errors import Forbidden
from posthouse.server.middleware import Caller
from posthouse.wire import rows

if TYPE_CHECKING:
    _Fields = BaseModel
    _Input = OwnInput
else:
    _fields = {name: (Annotated[Any, WithJsonSchema(schema)], None) for name, schema in properties().items()}
    _Fields = create_model("ManifestFields", **_fields)
    _Input = create_model("ManifestInput", __base__=OwnInput, **_fields)


class ManifestBody(_Input):
    """What an endpoint should be, or with `alias` what an alias should be. `posthouse apply --schema` has the rules."""

    passed_over = OwnInput.passed_over | {"status"}


class Manifest(_Fields):
    """A manifest, and what there is of it. Fields of which nothing is said are absent."""

    status: rows.ManifestStatus


IfMatch = Annotated[str, Header(max_length=4096)]
DryRun = Annotated[bool, Query(description="Change nothing, and say what would change.")]


def add_manifest_routes(app: FastAPI, management: Management) -> None:
    manifests = management.manifests

    @app.get("/v1/manifests", response_model=list[Manifest])
    async def list_manifests(caller: Caller) -> Response:
        """Every endpoint and alias of the account as it is, each as the manifest that makes it again."""
        found = [{**one, "status": rows.ManifestStatus()} for one in manifests.all(caller.account_id)]
        return Response(msgspec.json.encode(found), media_type="application/json")

    # `:path`, because names may have slashes in them.

    @app.get("/v1/manifests/{name:path}", response_model=Manifest)
    async def show_manifest(name: str, caller: Caller) -> Response:
        """The manifest as it was applied; what has been changed since is as it is now, and `status.drift` says it."""
        return _answer(await manifests.get(name, caller.account_id, caller.scope >= Scope.ADMIN))

    @app.put("/v1/manifests/{name:path}", response_model=Manifest)
    async def put_manifest(
        name: str,
        body: ManifestBody,
        caller: Caller,
        dry_run: DryRun = False,
        if_match: IfMatch = "",
        if_none_match: IfMatch = "",
    ) -> Response:
        """Makes the endpoint or the alias of this name as it is described, and what its workers need: what differs is
        made, changed or deleted. The same again changes nothing, and ends what failed half-way. Scaling parameters that
        are not named are left as they are. With `keys` it needs the scope admin."""
        given = {field: getattr(body, field) for field in type(body).model_fields}
        wanted = manifests.read(name, {field: value for field, value in given.items() if value is not None})
        is_admin = caller.scope >= Scope.ADMIN
        if not isinstance(wanted, AliasManifest) and wanted.keys and not is_admin:
            raise Forbidden("keys: this key has no scope admin, which limits of keys need")
        asked = Precondition(if_match, if_none_match)
        return _answer(await manifests.put(wanted, caller.account_id, dry_run, asked, is_admin))

    @app.delete("/v1/manifests/{name:path}", response_model=Manifest)
    async def delete_manifest(name: str, caller: Caller, dry_run: DryRun = False, if_match: IfMatch = "") -> Response:
        """Deletes the endpoint or the alias, its workergroups and its own template, which has its name, where nothing
        else uses that. Workers finish what they have and are destroyed."""
        is_admin = caller.scope >= Scope.ADMIN
        return _answer(await manifests.delete(name, caller.account_id, dry_run, Precondition(if_match), is_admin))


def _answer(shown: Shown) -> Response:
    body = msgspec.json.encode({**shown.manifest, "status": asdict(shown.status)})
    return Response(body, media_type="application/json", headers={"ETag": shown.tag})
