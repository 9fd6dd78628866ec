"""`posthouse up`"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.described import SCALING, with_options
from posthouse.cli.input import check_search, named_value
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect
from posthouse.cli.output import print_json
from posthouse.cli.recipe import Param
from posthouse.domain.errors import BadRequest
from posthouse.recipes import names, recipe
from posthouse.wire.search import parse_search

if TYPE_CHECKING:
    from posthouse.client import Client
    from posthouse.wire.rows import Endpoint, Template, Workergroup

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
    quantization: Annotated[str | None, typer.Option(help="Of the weights, where the recipe has it.")] = None,
    max_model_len: Annotated[
        str | None, typer.Option(metavar="TOKENS", help="Most tokens of a request, where the recipe has it.")
    ] = None,
    param: Param = None,
    provider: Annotated[str | None, typer.Option(help="Where to rent.", show_default="the server's default")] = None,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="Only machines with this GPU, like RTX_4090.")] = None,
    gpu_ram_gb: Annotated[
        float | None, typer.Option(min=1, help="Memory that each GPU must have.", show_default="the recipe's")
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
      posthouse up chat --recipe vllm --model Qwen/Qwen3-8B --provider vast --gpu RTX_4090
    """
    given = dict(named_value(text, "--param") for text in param or [])
    own = {"model": model, "quantization": quantization, "max_model_len": max_model_len}
    given |= {key: value for key, value in own.items() if value is not None}
    fields = recipe(recipe_name).template(given, force, name, gpu_ram_gb or 0.0)
    group = {"provider": provider} if provider else {}
    if gpu is not None:
        group["search_params"] = f"{fields.get('extra_filters', '')} gpu_name={gpu}".strip()
        check_search(group["search_params"], "--gpu")
    with connect(url, api_key) as client:
        template = next((row for row in client.templates() if row.name == name), None)
        endpoint = next((row for row in client.endpoints() if row.endpoint_name == name), None)
        groups = [row for row in client.workergroups() if endpoint is not None and row.endpoint_id == endpoint.id]
        if any(template is None or row.template_id != template.id for row in groups):
            raise BadRequest(f"NAME: {name!r} has workers of other templates; delete it first, or choose another name")
        template_id, how_template = _template(client, template, {"name": name, **fields})
        endpoint_id, how_endpoint = _endpoint(client, endpoint, name, scaling)
        if groups:
            group_id, how_group = _group(client, groups[0], group)
        else:
            group_id = client.create_workergroup(endpoint_id=endpoint_id, template_id=template_id, **group)
            how_group = "created"
        gateway = client.status().gateway
    if as_json:
        print_json({"endpoint_id": endpoint_id, "template_id": template_id, "workergroup_id": group_id})
        return
    typer.echo(f"template {template_id} {how_template}")
    typer.echo(f"endpoint {endpoint_id} {how_endpoint}")
    typer.echo(f"workergroup {group_id} {how_group}")
    typer.echo(f"the model is {name!r} at {gateway or 'a gateway: `posthouse gateway`'}")


def _group(client: "Client", there: "Workergroup", fields: dict[str, str]) -> Done:
    if not fields:
        return there.id, KEPT
    client.update_workergroup(there.id, **fields)
    return there.id, "changed"


def _template(client: "Client", there: "Template | None", fields: dict[str, Any]) -> Done:
    if there is None:
        return client.create_template(**fields).id, "created"
    said = {**fields, "extra_filters": parse_search(fields.get("extra_filters", ""))}
    has = {**{field: getattr(there, field) for field in fields}, "extra_filters": parse_search(there.extra_filters)}
    if said == has:
        return there.id, KEPT
    return client.update_template(there.id, **fields).id, "changed"


def _endpoint(client: "Client", there: "Endpoint | None", name: str, scaling: dict[str, Any]) -> Done:
    if there is None:
        return client.create_endpoint(name, **SMALL | scaling), "created"
    if not scaling:
        return there.id, KEPT
    client.update_endpoint(there.id, **scaling)
    return there.id, "changed"
