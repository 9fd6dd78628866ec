"""What runs beside a model server on a worker: it measures, reports, verifies, queues and proxies."""

from posthouse.agent.service import run
from posthouse.agent.settings import AgentSettings, Benchmark

__all__ = ["AgentSettings", "Benchmark", "run"]
