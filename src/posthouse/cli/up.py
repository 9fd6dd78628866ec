"""`posthouse up`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.described import SCALING, with_options
from posthouse.cli.input import named_value
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect
from posthouse.cli.output import print_json
from posthouse.domain.errors import BadRequest
from posthouse.recipes import names, recipe

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.wire.rows import Endpoint, Template

SMALL = {"min_load": 0, "cold_workers": 0, "max_workers": 1}
"""How a new endpoint scales where nothing is said: it costs nothing while nobody asks."""

KEPT = "is as it was"
Done = tuple[int, str]
"""An id, and what became of it."""


@with_options("scaling", SCALING)
def up(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the endpoint, which is its model's name.")],
    recipe_name: Annotated[str, typer.Option("--recipe", help="What its workers run: " + ", ".join(names()) + ".")],
    model: Annotated[str | None, typer.Option(help="The model, as the recipe takes it; for llama.cpp a file.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Another parameter of the recipe; repeat for more.")
    ] = None,
    force: Force = False,
    *,
    scaling: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make an endpoint that serves a model, or change it: template, endpoint and workergroup in one.

    A new endpoint has no worker until somebody asks, and one at most, unless
    options say otherwise. A second call changes what is given; workers are then
    updated a few at a time.

    Examples:
      posthouse up chat --recipe llama.cpp --model ./model.gguf
      posthouse up chat --recipe llama.cpp --model ./model.gguf --param context=8192 --max-workers 2
    """
    given = dict(named_value(text, "--param") for text in param or [])
    if model is not None:
        given["model"] = model
    fields = recipe(recipe_name).template(given, force)
    with connect(url, api_key) as client:
        template = next((row for row in client.templates() if row.name == name), None)
        endpoint = next((row for row in client.endpoints() if row.endpoint_name == name), None)
        groups = [row for row in client.workergroups() if endpoint is not None and row.endpoint_id == endpoint.id]
        if any(template is None or row.template_id != template.id for row in groups):
            raise BadRequest(f"NAME: {name!r} has workers of other templates; delete it first, or choose another name")
        template_id, how_template = _template(client, template, {"name": name, **fields})
        endpoint_id, how_endpoint = _endpoint(client, endpoint, name, scaling)
        if groups:
            group_id, how_group = groups[0].id, KEPT
        else:
            group_id = client.create_workergroup(endpoint_id=endpoint_id, template_id=template_id)
            how_group = "created"
        gateway = client.status().gateway
    if as_json:
        print_json({"endpoint_id": endpoint_id, "template_id": template_id, "workergroup_id": group_id})
        return
    typer.echo(f"template {template_id} {how_template}")
    typer.echo(f"endpoint {endpoint_id} {how_endpoint}")
    typer.echo(f"workergroup {group_id} {how_group}")
    typer.echo(f"the model is {name!r} at {gateway or 'a gateway: `posthouse gateway`'}")


def _template(client: "Client", there: "Template | None", fields: dict[str, Any]) -> Done:
    if there is None:
        return client.create_template(**fields).id, "created"
    if all(getattr(there, field) == value for field, value in fields.items()):
        return there.id, KEPT
    return client.update_template(there.id, **fields).id, "changed"


def _endpoint(client: "Client", there: "Endpoint | None", name: str, scaling: dict[str, Any]) -> Done:
    if there is None:
        return client.create_endpoint(name, **SMALL | scaling), "created"
    if not scaling:
        return there.id, KEPT
    client.update_endpoint(there.id, **scaling)
    return there.id, "changed"
