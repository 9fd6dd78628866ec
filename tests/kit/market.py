"""A simulated GPU market of a test's own, with a provider at it."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posthouse.market.faults import Faults, changed
from posthouse.market.local import LocalRunner, NoRunner
from posthouse.market.server import Api, served
from posthouse.market.world import Market
from posthouse.ports import Provider
from tests.kit.provider_contract import opened_provider
from tests.kit.site import START_S

KEY, READ_KEY = "renter-key", "reader-key"
QUICK = {"schedule_s": 0.0, "pull_s": 0.05, "stop_s": 0.05, "start_s": 0.05, "limits": 0.0}
"""A market that nobody waits for."""


@asynccontextmanager
async def market(directory: Path | None = None, offers: int = 5, seed: int = 1, **faults: Any) -> AsyncIterator[Api]:
    """A market that is quick unless `faults` say otherwise; with a directory it runs instances as processes."""
    loop = asyncio.get_running_loop()
    now = time.time
    runner = NoRunner() if directory is None else LocalRunner(directory, seed)
    world = Market(runner, now(), offers, seed, Faults(**{**QUICK, **faults}))
    if isinstance(runner, LocalRunner):
        runner.ended = lambda *ended: loop.call_soon_threadsafe(world.ended, *ended)
    api = Api(world, {KEY: "all", READ_KEY: "read"}, now, seed)
    try:
        async with served(api):
            yield api
    finally:
        if isinstance(runner, LocalRunner):
            await asyncio.to_thread(runner.close)


def provider_at(api: Api, name: str = "market", **table: Any) -> AbstractAsyncContextManager[Provider]:
    given = {"type": "vast", "url": api.url, "api_key": KEY, "image": "demo/image", "pace": 0.0}
    return opened_provider(name, given | table)


@dataclass(frozen=True, slots=True)
class MarketProcess:
    """A market in a process of its own."""

    url: str
    api_key: str
    process: "subprocess.Popen[str]"


@contextmanager
def market_process(machines: Path, *flags: str) -> Iterator[MarketProcess]:
    """A market that runs what is rented there as processes, with their files in a directory."""
    argv = [sys.executable, "-m", "posthouse", "market", "--json", "--port", "0", "--run", str(machines), *flags]
    for fault in ("schedule_s=0.2", "pull_s=0.5", "stop_s=0.2", "start_s=0.2", "limits=0.02"):
        argv += ["--fault", fault]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield MarketProcess(**json.loads(process.stdout.readline()), process=process)
        finally:
            process.terminate()
        assert process.wait(START_S) == 0


def go_wrong(api: Api, **values: Any) -> None:
    """From now on these things go wrong, too."""
    api.market.set_faults(changed(api.market.faults, values))
