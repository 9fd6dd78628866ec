"""The unmodified `vastai` 1.9.1, pointed here only by its own constructors, attributes and flags."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from vastai import Serverless

from posthouse.client import AsyncClient
from posthouse.wiring import Running
from tests.contract.live import PATIENCE_S, SCALING, add_endpoint, live_server, ready, states, until

PEER_WORKER = """\
cat > peer.py <<'END'
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
    log_action_config=LogActionConfig(on_load=["model loaded"]),
)).run()
END
"$PYTHON" -u -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 200 --slots 4 --load-s 3 > "$MODEL_LOG" 2>&1 &
exec "$PYTHON" peer.py
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    async with live_server(tmp_path / "data") as server:
        yield server


@pytest.fixture
async def owner(server: Running) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, server.admin_key) as client:
        yield client


def peer(server: Running) -> Any:
    class Pointed(Serverless):  # type: ignore[misc]
        SSL_CERT_URL = f"{server.url}/static/jvastai_root.cer"

    return Pointed(api_key=server.admin_key, autoscaler_url=server.url, webserver_url=server.url)


async def complete(endpoint: Any, tokens: int = 5) -> Any:
    payload = {"model": "demo", "prompt": "Hello", "max_tokens": tokens}
    return await asyncio.wait_for(endpoint.request("/v1/completions", payload, cost=tokens), PATIENCE_S)


async def test_its_client_waits_for_the_first_worker_and_is_answered_by_our_agent(
    server: Running, owner: AsyncClient
) -> None:
    await add_endpoint(owner, "llm", min_load=0)
    async with peer(server) as client:
        endpoint = await client.get_endpoint("llm")
        assert states(server, "llm") == []
        answer = await complete(endpoint)
    assert answer["response"]["choices"][0]["text"].strip()
    fleet = server.hub.fleet_named("llm")
    assert fleet is not None
    await until(lambda: len(fleet.ledger) == 0, "the request has ended in the ledger")


async def test_its_client_is_streamed_to_by_our_agent(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "llm")
    await ready(server, "llm")
    async with peer(server) as client:
        endpoint = await client.get_endpoint("llm")
        payload = {"model": "demo", "prompt": "Hello", "max_tokens": 20, "stream": True}
        answer = await asyncio.wait_for(endpoint.request("/v1/completions", payload, cost=20, stream=True), PATIENCE_S)
        pieces = [event["choices"][0]["text"] async for event in answer["response"]]
    assert len(pieces) > 1


async def test_its_worker_serves_its_client(server: Running, owner: AsyncClient) -> None:
    await add_endpoint(owner, "peer", onstart=PEER_WORKER)
    await ready(server, "peer")
    fleet = server.hub.fleet_named("peer")
    assert fleet is not None
    worker = next(iter(fleet.workers.values()))
    assert (worker.version, worker.scheme) == ("1.1.0", "U")
    async with peer(server) as client:
        endpoint = await client.get_endpoint("peer")
        answers = await asyncio.gather(*(complete(endpoint) for _ in range(4)))
        rows = await endpoint.get_workers()
    assert all(a["response"]["choices"][0]["text"].strip() for a in answers)
    assert [row.status for row in rows] == ["idle"]
    await until(lambda: len(fleet.ledger) == 0, "its worker has reported the ends")


async def test_its_client_gets_an_error_at_once_for_a_wrong_key(server: Running, owner: AsyncClient) -> None:
    await owner.create_endpoint("llm", **SCALING)
    async with peer(server) as client:
        endpoint = await client.get_endpoint("llm")
        endpoint.data.api_key = "wrong"
        with pytest.raises(Exception, match="401"):
            await complete(endpoint)
