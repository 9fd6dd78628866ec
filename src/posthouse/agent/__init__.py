"""What runs beside a model server on a worker: it measures, reports, verifies, queues and proxies."""

from collections.abc import Mapping

from posthouse.agent.settings import AgentSettings, Benchmark

__all__ = ["AgentSettings", "Benchmark", "report_failure", "run"]


async def run(settings: AgentSettings) -> str:
    """Run the agent until SIGTERM or SIGINT, then let running requests end; or until it is cancelled.

    Returns how the model server ended, if the agent started it and it has; empty after a stop.

    Raises: OSError when it cannot listen, or has no directory.
    """
    from posthouse.agent.service import run  # here, because it takes its time, and the command line has every command

    return await run(settings)


def report_failure(environ: Mapping[str, str], text: str) -> None:
    """Tell the server of the worker in this environment, if it is one, why no agent runs on it."""
    from posthouse.agent.report import report_failure  # as above

    report_failure(environ, text)
