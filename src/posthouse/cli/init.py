"""`posthouse init`"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.output import print_json
from posthouse.errors import BadRequest
from posthouse.recipes import examples

TEMPLATE = "template.json"


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the template, and of the folder that is made.")],
    example: Annotated[str, typer.Option(help="The example to start from.")] = "demo-llm",
    as_json: AsJson = False,
) -> None:
    """Write a template to start from: a copy of an example, in a folder of that name.

    Examples:
      posthouse init llama
      posthouse init receipts --example ocr
    """
    found, folder = examples(), Path(name)
    if example not in found:
        raise BadRequest(f"--example: there is no example {example!r}; allowed: {', '.join(found) or 'none'}")
    if not name or folder.name != name:
        raise BadRequest(f"NAME: must be the name of a folder to make here, not {name!r}")
    if folder.exists():
        raise BadRequest(f"NAME: {name} is here already; choose another name, or move it away")
    shutil.copytree(found[example], folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    file = folder / TEMPLATE
    # An example that needs its own files says where they are in the image: here they are in the new folder.
    text = file.read_text(encoding="utf-8").replace(f"/opt/posthouse/examples/{example}", str(folder.resolve()))
    template = {**json.loads(text), "name": name}
    file.write_text(json.dumps(template, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json({"template": str(file)})
        return
    typer.echo(f"{file} is yours to change: `onstart` is the script that a worker runs. Then:")
    typer.echo(f"  posthouse template create {file}")
    typer.echo(f"  posthouse endpoint create {name} --max-workers 1")
    typer.echo(f"  posthouse workergroup create --endpoint {name} --template {name}")
    typer.echo("  posthouse status   # `posthouse logs` and `posthouse explain` say more")
