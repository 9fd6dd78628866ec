"""A simulated GPU market of a test's own, with a provider at it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from posthouse.config import load_settings
from posthouse.market.faults import Faults, changed
from posthouse.market.local import LocalRunner, NoRunner
from posthouse.market.server import Api, served
from posthouse.market.world import Market
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened

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


@asynccontextmanager
async def provider_at(api: Api, name: str = "market", **table: Any) -> AsyncIterator[Provider]:
    """As a server opens it, behind its wrappers."""
    given = {"type": "vast", "url": api.url, "api_key": KEY, "image": "demo/image", "pace": 0.0}
    flags = {f"providers.{name}.{key}": value for key, value in (given | table).items()}
    settings, _ = load_settings(flags, None, {})
    provider, _ = await opened(settings.providers[name], Context(name, "test", Path()))
    try:
        yield provider
    finally:
        await provider.close()


def go_wrong(api: Api, **values: Any) -> None:
    """From now on these things go wrong, too."""
    api.market.set_faults(changed(api.market.faults, values))
