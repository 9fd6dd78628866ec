"""What runs beside a model server on a worker: it measures, reports, verifies, queues and proxies."""

from posthouse.agent.settings import AgentSettings, Benchmark

__all__ = ["AgentSettings", "Benchmark", "run"]


async def run(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM or SIGINT, then let running requests end; or until it is cancelled.

    Raises: OSError when it cannot listen, or has no directory.
    """
    from posthouse.agent.service import run  # here, because it takes its time, and the command line has every command

    await run(settings)
