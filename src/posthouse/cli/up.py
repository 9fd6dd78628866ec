"""`posthouse up`"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from posthouse.cli.apply import applied, told
from posthouse.cli.described import SCALING, with_options
from posthouse.cli.input import check_search, named_value, read_text
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect
from posthouse.cli.output import print_json
from posthouse.cli.recipe import Param
from posthouse.errors import BadRequest, PosthouseError
from posthouse.recipes import Recipe, names, recipe

if TYPE_CHECKING:
    from posthouse.client import Client

SMALL = {"min_load": 0, "cold_workers": 0, "max_workers": 1}
"""How a new endpoint scales where nothing is said: it costs nothing while nobody asks."""

HEAD = "# Written by `posthouse up`, which overwrites it. Change it, delete this line, and `posthouse apply -f` it.\n"


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
        float | None,
        typer.Option(min=1, help="Memory that each GPU must have.", show_default="the recipe's, or worked out"),
    ] = None,
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="Where the manifest is written.", show_default="NAME.yaml")
    ] = None,
    force: Force = False,
    *,
    scaling: dict[str, Any],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make an endpoint that serves a model, or change it: template, endpoint and workergroup in one.

    It writes a manifest and applies it. A new endpoint has no worker until a
    request comes, and one at most, unless options say otherwise. A second call
    changes what is given; workers are then updated a few at a time.

    Examples:
      posthouse up chat --recipe llama.cpp --model ./model.gguf
      posthouse up chat --recipe llama.cpp --model ./model.gguf --param context=8192 --max-workers 2
      posthouse up chat --recipe vllm --model Qwen/Qwen3-8B --provider vast --gpu RTX_4090
    """
    from posthouse.manifest import whole
    from posthouse.manifest.write import dumped

    given = dict(named_value(text, "--param") for text in param or [])
    own = {"model": model, "quantization": quantization, "max_model_len": max_model_len}
    given |= {key: value for key, value in own.items() if value is not None}
    found_recipe = recipe(recipe_name)
    values = found_recipe.values(given, force, name)
    if gpu is not None:
        check_search(f"gpu_name={gpu}", "--gpu")
    group = {key: value for key, value in (("provider", provider), ("gpu", gpu)) if value}
    ram, note = (gpu_ram_gb, "") if gpu_ram_gb else _worked_out(found_recipe, values)
    with connect(url, api_key) as client:
        manifest: dict[str, Any] = {
            "endpoint": name,
            "scaling": {**SMALL, **_checked(client, name), **scaling},
            "recipe": recipe_name,
            "parameters": {key: values[key] for key in given},
        }
        manifest |= {"gpu_ram_gb": ram} if ram else {}
        manifest |= {"workergroups": [group]} if group else {}
        text = dumped([manifest], HEAD)
        path = _ours(Path(file or f"{name}.yaml"), named=file is not None)
        [wanted] = whole(text, str(path), force)
        applied(client, wanted, dry_run=True)  # what is wrong is not written down
        path.write_text(text, encoding="utf-8")
        done = applied(client, wanted)
        told(done, quiet=as_json)
        gateway = client.status().gateway
    if as_json:
        ids = {"endpoint_id": done.endpoint_id, "template_id": done.template_id}
        print_json({**ids, "workergroup_id": done.workergroup_ids[0], "file": str(path), "usd_h_at_most": done.most})
        return
    for line in filter(None, [note, "" if done.changes else "everything is as it was", f"at most: {done.most}"]):
        typer.echo(line)
    typer.echo(f"{path} has it all, for `posthouse apply`")
    typer.echo(f"the model is {name!r} at {gateway or 'a gateway: `posthouse gateway`'}")


def _checked(client: "Client", name: str) -> dict[str, Any]:
    """How the endpoint scales, where that is not the default. Raises: BadRequest if it is of another kind."""
    has = next((one for one in client.manifests() if one.get("endpoint") == name), None)
    if has is None:
        return {}
    if (has["template"] and not isinstance(has["template"], dict)) or len(has["workergroups"]) > 1:
        raise BadRequest(
            f"NAME: {name!r} has workers of other templates, or several workergroups; "
            "`posthouse apply` changes such, or choose another name"
        )
    return {key: value for key, value in has["scaling"].items() if value is not None}


def _worked_out(found: Recipe, values: dict[str, str]) -> tuple[float, str]:
    """The memory in GB that each GPU must have where the recipe leaves that to the model, and a line about it."""
    if not found.memory:
        return 0.0, ""
    from posthouse.recipes import memory

    try:
        needed = memory.needed_by(found, values)
    except PosthouseError as error:
        return 0.0, f"how much memory GPUs must have is not known ({error}); --gpu-ram-gb says it"
    gb = math.ceil(needed / 2**20 / 100) / 10  # as offers state it: thousands of MiB
    return gb, f"each GPU must have {gb:g} GB"


def _ours(path: Path, named: bool) -> Path:
    """The file to write. Raises: BadRequest where there is one that `up` has not written, if it was not named."""
    if path.is_file() and not named and not read_text(str(path)).startswith(HEAD):
        raise BadRequest(f"--file: {path} is here and was not written by `posthouse up`; give another, or apply that")
    return path
