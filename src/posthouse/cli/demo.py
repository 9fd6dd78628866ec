"""`posthouse demo`"""

from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.serve import server_extra


def demo(
    duration_s: Annotated[float, typer.Option("--duration", min=1, help="Length of the traffic, in seconds.")] = 90.0,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("posthouse-demo"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on the way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch real requests be routed, signed, served and autoscaled on this machine.

    A server, one endpoint, workers as processes, and recorded traffic. Exits with
    0 only if every request was answered and every worker process is gone.

    Example:
      posthouse demo --duration 60 --out results
    """
    with server_extra():
        from posthouse.app.logs import configure_logging
        from posthouse.demo.run import demo as run_demo
    configure_logging("error", "console")
    raise typer.Exit(run_demo(duration_s, out, quiet=quiet, as_json=as_json))
