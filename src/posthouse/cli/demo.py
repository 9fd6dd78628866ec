"""`posthouse demo`"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from posthouse.cli.options import AsJson
from posthouse.cli.serve import server_extra


def demo(
    duration_s: Annotated[float, typer.Option("--duration", min=1, help="Length of the traffic, in seconds.")] = 90.0,
    out: Annotated[Path, typer.Option(help="Directory of the results.")] = Path("posthouse-demo"),
    provider: Annotated[
        Literal["process", "docker"], typer.Option(help="Where its workers run: as processes, or in containers.")
    ] = "process",
    engine: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Engine of the containers, Docker or podman, on this machine.",
            show_default="$DOCKER_HOST, or unix:///var/run/docker.sock",
        ),
    ] = "",
    image: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Image of the containers; it needs sh.", show_default="one made of this machine's sh"
        ),
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing on the way.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch real requests be routed, signed, served and autoscaled on this machine.

    A server, one endpoint, workers, and recorded traffic. Exits with 0 only if
    every request was answered and every worker is gone.

    Examples:
      posthouse demo --duration 60 --out results
      posthouse demo --provider docker
      posthouse demo --provider docker --engine unix:///run/podman/podman.sock
    """
    with server_extra():
        from posthouse.app.logs import configure_logging
        from posthouse.demo.run import Options
        from posthouse.demo.run import demo as run_demo
    configure_logging("error", "console")
    raise typer.Exit(run_demo(Options(duration_s, out, quiet, as_json, provider, engine, image)))
