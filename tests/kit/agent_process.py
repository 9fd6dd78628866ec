"""An agent in a process of its own."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from tests.kit.agent_world import MTOKEN, World, until

AGENT_PROGRAM = """
import asyncio, logging, os, sys
from posthouse.agent import AgentSettings, run
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
upstream, drain_s = sys.argv[1], float(sys.argv[2])
asyncio.run(run(AgentSettings.from_environment(os.environ, upstream=upstream, perf=1000.0, drain_s=drain_s)))
"""


def environment(world: World) -> dict[str, str]:
    """What a worker of this world finds in its environment."""
    return {
        "PATH": os.environ["PATH"],
        "CONTAINER_ID": "7",
        "MASTER_TOKEN": MTOKEN,
        "REPORT_ADDR": world.control.url,
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(world.port),
        f"VAST_TCP_PORT_{world.port}": str(world.port),
    }


@contextlib.asynccontextmanager
async def agent_process(world: World, drain_s: float) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", AGENT_PROGRAM, world.model.url, str(drain_s)),
        env=environment(world),
        cwd=world.directory,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: world.control.ready() or process.returncode is not None)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
