"""The unmodified peer's own worker, in a start script, and a request of its client."""

import asyncio
from typing import Any

from tests.kit.live import (
    SIGNED,
    TIMEOUT_S,
)
from tests.kit.peers_at_home import AUTHORITY_DIR

PEER = """\
import os
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

port = int(os.environ["MODEL_PORT"])
Worker(WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=port,
    model_log_file=os.environ["MODEL_LOG"],
    model_healthcheck_url=f"http://127.0.0.1:{port}/health",
    handlers=[HandlerConfig(
        route="/v1/completions",
        allow_parallel_requests=True,
        workload_calculator=lambda payload: float(payload.get("max_tokens", 1)),
        benchmark_config=BenchmarkConfig(
            dataset=[{"model": "demo", "prompt": "x", "max_tokens": 10}], runs=1, concurrency=2
        ),
    )],
    log_action_config=LogActionConfig(on_load=["model loaded"], on_error=["CUDA out of memory"]),
)).run()
"""
DEMO_MODEL = '-m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 200 --slots 4 --load-s 1'


def onstart(model: str = DEMO_MODEL, certified: bool = True, **scripts: str) -> str:
    """What runs the peer's own `Worker` beside a model, with further scripts in files of their names."""
    certificate = SIGNED if AUTHORITY_DIR and certified else ""
    files = "".join(f"cat > {name}.py <<'END'\n{text}END\n" for name, text in {**scripts, "peer": PEER}.items())
    return f'{certificate}{files}"$PYTHON" -u {model} > "$MODEL_LOG" 2>&1 &\nexec "$PYTHON" peer.py\n'


async def complete(endpoint: Any, tokens: int = 5) -> Any:
    payload = {"model": "demo", "prompt": "Hello", "max_tokens": tokens}
    return await asyncio.wait_for(endpoint.request("/v1/completions", payload, cost=tokens), TIMEOUT_S)
