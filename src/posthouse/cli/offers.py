"""`posthouse offers`"""

from typing import Annotated

import typer

from posthouse.cli.input import check_search
from posthouse.cli.options import ApiKey, AsJson, Force, Url, connect, endpoint_names
from posthouse.cli.output import plain, print_json, print_rows

COLUMNS = ("provider", "id", "gpu", "gpu_ram_gb", "zone", "free", "usd_h", "stopped_usd_h")
RANKED = ("workergroup_id", "provider", "id", "gpu", "free", "usd_h", "usd_per_1000_work", "why")
LESS = ("zone", "stopped_usd_h", "workergroup_id", "free")
"""Columns that a narrow terminal goes without, the first first."""


def offers(
    search: Annotated[
        str, typer.Argument(metavar="SEARCH", help="Filters: 'gpu_ram>=24 dph_total<0.5'.", show_default="everything")
    ] = "",
    endpoint: Annotated[
        str,
        typer.Option(
            help="What this endpoint's workergroups could rent, the cheapest per unit of work first.",
            autocompletion=endpoint_names,
            show_default="none",
        ),
    ] = "",
    provider: Annotated[str, typer.Option(help="Of this provider alone.", show_default="every provider")] = "",
    disk_gb: Annotated[
        float | None,
        typer.Option(help="At the price with such a disk, in GB.", show_default="10, a template's default"),
    ] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
    force: Force = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List what could be rented now, the cheapest first.

    Examples:
      posthouse offers 'gpu_ram>=24 num_gpus=1' --disk-gb 40
      posthouse offers --endpoint llama
    """
    if not force:
        check_search(search, "SEARCH")
    with connect(url, api_key) as client:
        found = client.offers(search, endpoint=endpoint, provider=provider, disk_gb=disk_gb, limit=limit)
    if as_json:
        print_json(found)
        return
    shown = [
        plain(row)
        | {
            "gpu": f"{row.num_gpus}x {row.gpu_name}" if row.num_gpus else "none",
            "gpu_ram_gb": row.gpu_ram_mb / 1000 or None,
            "free": row.available,
            "usd_h": row.ready_usd_h,
            "usd_per_1000_work": row.ready_usd_h / row.perf / 3.6 if row.perf else None,
            "why": f"not now: {row.obstacle}" if row.obstacle else row.why,
        }
        for row in found
    ]
    nothing = "no workergroup of this endpoint finds an offer" if endpoint else "no offer satisfies this"
    print_rows(shown, RANKED if endpoint else COLUMNS, nothing, LESS)
