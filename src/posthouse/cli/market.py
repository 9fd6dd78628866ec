"""`posthouse market`"""

import asyncio
import json
import secrets
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from posthouse.cli.input import named_value
from posthouse.errors import BadRequest
from posthouse.hosts import is_loopback
from posthouse.market.faults import Faults, changed


def market(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8090,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MARKET_API_KEY", help="Key of the account.", show_default="a new one"),
    ] = None,
    offers: Annotated[int, typer.Option(min=1, max=20_000, help="How many machines there are.")] = 40,
    seed: Annotated[int, typer.Option(help="The same one has the same machines, prices and faults.")] = 0,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Run instances as processes of this machine, with their files there."
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What goes wrong; may be given several times."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one line of JSON.")] = False,
) -> None:
    """Run a simulated GPU market with the REST API of Vast.ai, until Ctrl-C.

    For providers of type `vast`, and for `vastai --url`. Nothing is rented for
    real. Instances run nothing unless --run says so: then what is ordered runs
    here, as you, for anyone who has the key.

    Examples:
      posthouse market
      posthouse market --run workers --fault pull_s=2 --fault lost=0.1 --fault lag_s=5
    """
    if run is not None and not is_loopback(host):
        raise BadRequest("--host: with --run it must be an address of this machine alone, such as 127.0.0.1")
    values = dict(named_value(text, "--fault") for text in fault or [])
    key = api_key or secrets.token_hex(32)
    asyncio.run(_serve(host, port, key, offers, seed, run and run.absolute(), changed(Faults(), values), as_json))


async def _serve(
    host: str, port: int, key: str, offers: int, seed: int, run: Path | None, faults: Faults, as_json: bool
) -> None:
    from posthouse.market.local import LocalRunner, NoRunner
    from posthouse.market.server import Api, served
    from posthouse.market.world import Market

    loop = asyncio.get_running_loop()
    runner = NoRunner() if run is None else LocalRunner(run, seed)
    world = Market(runner, time.time(), offers, seed, faults)
    if isinstance(runner, LocalRunner):
        runner.ended = lambda *ended: loop.call_soon_threadsafe(world.ended, *ended)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with served(Api(world, {key: "all"}, time.time, seed), host, port) as url:
        if as_json:
            typer.echo(json.dumps({"url": url, "api_key": key}))
        else:
            typer.echo(f"A simulated market is open; Ctrl-C closes it.\n  url        {url}\n  api key    {key}")
        await stopped.wait()
    if isinstance(runner, LocalRunner):
        await asyncio.to_thread(runner.close)
