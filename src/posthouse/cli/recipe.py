"""`posthouse recipe ...`"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from posthouse.cli.input import named_value
from posthouse.cli.options import AsJson
from posthouse.cli.output import console, print_json, print_record, print_rows, table
from posthouse.recipes import Parameter, Recipe, names, recipe
from posthouse.recipes.memory.shape import QUANTIZATIONS
from posthouse.wire.checks import unknown

if TYPE_CHECKING:
    from posthouse.recipes.memory import Fit

app = typer.Typer(help="Recipes: what workers run for an engine, for `posthouse up`.", no_args_is_help=True)

Param = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the recipe; repeat for more.")
]
GIB = 2**30
STAND_INS = {"model": "ORG/NAME", "file": "/path/to/FILE"}
"""What is shown for a parameter that must be given, by its kind."""


def parameter_row(name: str, parameter: Parameter) -> dict[str, Any]:
    """What people read of a parameter."""
    default = {"None": "must be given", "": "the engine's", "{endpoint}": "the endpoint's name"}
    return {
        "parameter": name,
        "default": default.get(str(parameter.default), parameter.default),
        "allowed": parameter.allowed,
        "meaning": parameter.help,
    }


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes that there are.

    Example:
      posthouse recipe list
    """
    rows = [_row(name, recipe(name)) for name in names()]
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, ("name", "desc", "image", "must_be_given"), "no recipes", ("image",))


def _row(name: str, found: Recipe) -> dict[str, Any]:
    return {
        "name": name,
        "desc": found.desc,
        "image": found.image,
        "gpu": bool(found.gpus),
        "must_be_given": ", ".join(key for key, parameter in found.parameters.items() if parameter.required),
    }


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the recipe.", autocompletion=names)],
    param: Param = None,
    as_json: AsJson = False,
) -> None:
    """Show a recipe: its parameters, and the template that would be made of it.

    Examples:
      posthouse recipe show vllm
      posthouse recipe show vllm --param model=Qwen/Qwen3-8B --param max_model_len=16384
    """
    found, given = recipe(name), dict(named_value(text, "--param") for text in param or [])
    for key, parameter in found.parameters.items():
        if parameter.required:
            given.setdefault(key, STAND_INS.get(parameter.kind, "VALUE"))
    template = found.template(given, force=True)
    if as_json:
        parameters = {key: value | {"allowed": found.parameters[key].allowed} for key, value in _plain(found).items()}
        print_json({"name": name, "desc": found.desc, "parameters": parameters, "template": template})
        return
    typer.echo(f"{name}: {found.desc}\n")
    if found.parameters:
        console().print(table([parameter_row(key, parameter) for key, parameter in found.parameters.items()]))
    typer.echo("\nThe template that is made of it:\n")
    onstart = template.pop("onstart")
    for key, value in template.items():
        typer.echo(f"{key}: {value}")
    typer.echo(f"onstart:\n\n{onstart}")


@app.command()
def size(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, a config.json, a file in GGUF, or ORG/NAME at a hub.")
    ],
    gpu: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A GPU, like 'RTX 4090'; repeat for more.", show_default="every known"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=64, help="GPUs of one machine that share it.")] = 1,
    max_model_len: Annotated[
        int, typer.Option(min=0, max=10**8, help="Tokens of a request.", show_default="the model's most")
    ] = 0,
    quantization: Annotated[str, typer.Option(help="Of the weights.", show_default="as the checkpoint is")] = "",
    kv_cache_dtype: Annotated[Literal["auto", "fp8"], typer.Option(help="Of the KV cache; fp8 is half.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Work out the memory of a language model: weights, KV cache, and how many requests fit on which GPUs.

    Models at a hub are read from $HF_ENDPOINT, with the token in $HF_TOKEN. The
    figures are those of vLLM with 92 % of each
    GPU; 2.5 GiB of each are left for what else it needs.

    Examples:
      posthouse recipe size Qwen/Qwen3-8B --gpu 'RTX 4090' --max-model-len 16384
      posthouse recipe size ./model --count 2 --quantization fp8
    """
    from posthouse.recipes import memory

    if quantization not in ("", *QUANTIZATIONS):
        raise unknown(quantization, QUANTIZATIONS, "quantization")
    gpus = dict(memory.gpu(name) for name in gpu) if gpu else memory.GPUS
    shape = memory.read_model(model)
    asked: dict[str, Any] = {
        "count": count,
        "tokens": max_model_len or shape.most_tokens,
        "quantization": quantization,
        "number_bytes": 1.0 if kv_cache_dtype == "fp8" else 2.0,
    }
    rows = [_fitting(name, mib, count, memory.fit(shape, mib, **asked)) for name, mib in gpus.items()]
    figures = {
        "parameters": shape.parameters or None,
        "weights_gib": shape.weight_bytes(quantization) / GIB,
        "kv_cache_kib_per_token": shape.token_bytes(asked["number_bytes"]) / 1024,
        "max_model_len": asked["tokens"],
        "kv_cache_gib_per_request": shape.request_bytes(asked["tokens"], asked["number_bytes"]) / GIB,
        "needed_gib_per_gpu": memory.needed_bytes(shape, **asked) / GIB,
    }
    if as_json:
        print_json({**figures, "gpus": rows})
        return
    print_record(figures)
    typer.echo()
    print_rows(rows, rows[0], "no GPUs")


def _fitting(name: str, mib: int, count: int, found: "Fit") -> dict[str, Any]:
    return {
        "gpu": f"{count}x {name}" if count > 1 else name,
        "memory_gib": mib / 1024,
        "weights_gib": found.weights_bytes / GIB,
        "cache_gib": max(found.cache_bytes, 0.0) / GIB,
        "tokens": found.tokens,
        "requests": round(found.requests, 1),
        "fits": found.fits,
    }


def _plain(found: Recipe) -> dict[str, dict[str, Any]]:
    from msgspec import to_builtins

    plain: dict[str, dict[str, Any]] = to_builtins(found.parameters)
    return plain
