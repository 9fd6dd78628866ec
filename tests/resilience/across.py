"""One endpoint over containers, a box by ssh and a GPU market at once serves the demo's traffic.

`python -m tests.resilience across --span-s 108`. It needs root, Docker's engine and sshd; the market is simulated, and
runs what is rented as processes.
"""

import asyncio
import csv
import json
import sys
import time
from collections import Counter
from contextlib import ExitStack
from importlib import resources
from statistics import median
from typing import Any

from posthouse.client import AsyncClient, ClientError
from posthouse.demo.run import RECORDED_S
from tests.kit.container_engines import IMAGE, ContainerEngine, container_engine
from tests.kit.live import end_workers
from tests.kit.market import MarketProcess, market_process
from tests.kit.ssh_server import ssh_server
from tests.resilience.site import Ground, conclude, ground, options, until

PROVIDERS = {"boxes": 0.05, "containers": 0.10, "market": 0.0}
"""Each has room for one worker at this price in $/h; but the market has its own prices, from 0.15 on, and is dearer."""
PERF = 600
"""What a worker does, in tokens per second: four requests at 150."""
ONSTART = f"""
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 150 --slots 4 --load-s 1 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --perf {PERF}
"""
READY_S = 300.0
REQUEST_S = 120.0
SETTINGS = """
default_provider = "any"
[server]
host = "{gateway}"
[engine]
tick_s = 0.5
stabilization_s = 1
[providers.containers]
type = "docker"
url = "{engine}"
image = "{image}"
poll_s = 1
catalog_s = 1
slots = 1
ready_usd_h = {containers}
[providers.market]
type = "vast"
url = "{market}"
api_key = "{api_key}"
image = "demo/image"
pace = 0.02
poll_s = 1
catalog_s = 1
[providers.boxes]
type = "ssh"
poll_s = 1
catalog_s = 1
[[providers.boxes.hosts]]
{host}
"""


def configure(site: Ground, engine: ContainerEngine, market: MarketProcess, table: dict[str, Any]) -> None:
    text = SETTINGS.format(
        gateway=engine.gateway,
        engine=engine.url,
        image=IMAGE,
        market=market.url,
        api_key=market.api_key,
        containers=PROVIDERS["containers"],
        host="\n".join(f"{name} = {json.dumps(value)}" for name, value in table.items()),
    )
    (site.directory / "posthouse.toml").write_text(text)


async def _serve(site: Ground, span_s: float) -> tuple[dict[str, Any], list[str]]:
    """Sends the demo's traffic; what came of it."""
    text = resources.files("posthouse.demo").joinpath("azure_2023_conversation.csv").read_text()
    speed = RECORDED_S / span_s
    rows = [(float(row["t_s"]) / speed, int(row["out_tok"])) for row in csv.DictReader(text.splitlines())]
    places: dict[str, str] = {}
    served, failed, waited = Counter[str](), list[str](), list[float]()
    async with AsyncClient(site.url, site.key) as client:

        async def one(at_s: float, tokens: int) -> None:
            await asyncio.sleep(at_s)
            payload = {"inputs": "Tell me about post horses.", "parameters": {"max_new_tokens": tokens}}
            try:
                answer = await client.request("drill", "/generate", payload, cost=tokens, timeout_s=REQUEST_S)
            except ClientError as error:
                failed.append(f"{type(error).__name__}: {error}")
                return
            if answer.worker_url not in places:
                places.update({worker.url: worker.provider for worker in await client.workers()})
            served[places.get(answer.worker_url, "unknown")] += 1
            waited.append(answer.wait_s)

        began = time.monotonic()
        await asyncio.gather(*(one(*row) for row in rows))
    took_s = round(time.monotonic() - began, 1)
    figures = {"requests": len(rows), "answered": sum(served.values()), "by_provider": dict(served), "took_s": took_s}
    figures |= {"wait_s_median": round(median(waited), 3), "wait_s_worst": round(max(waited), 1)} if waited else {}
    return figures, failed


def across(site: Ground, span_s: float) -> tuple[dict[str, Any], list[str]]:
    until(lambda: {o["provider"] for o in site.json("offers", "--limit", "1000")} == set(PROVIDERS), READY_S)
    site.json("workergroup", "create", "--endpoint", "drill", "--template", "drill")  # whatever matches, anywhere
    began = time.monotonic()
    until(lambda: site.states().count("idle") == len(PROVIDERS), READY_S)
    workers = site.json("worker", "list")
    ready = {worker["provider"]: worker["price_usd_h"] for worker in workers}
    ready_s = round(time.monotonic() - began, 1)
    print(site.run("worker", "list").stdout, site.run("offers", "--endpoint", "drill", "--limit", "5").stdout)
    figures, failed = asyncio.run(_serve(site, span_s))
    violations = [f"a request failed: {why}" for why in failed]
    violations += [f"{name} answered nothing" for name in PROVIDERS if not figures["by_provider"].get(name)]
    deleted = site.run("endpoint", "delete", "drill", "--wait", "--timeout", "120")
    violations += [f"deleting: {deleted.stderr}"] if deleted.returncode else []
    return {"ready_s": ready_s, "usd_h": ready, **figures, "failed": len(failed)}, violations


def run(span_s: float) -> tuple[dict[str, Any], list[str]]:
    with ExitStack() as stack:
        site = stack.enter_context(ground())
        engine = stack.enter_context(container_engine("docker", site.directory / "docker"))
        market = stack.enter_context(market_process(site.directory / "machines"))
        server = stack.enter_context(ssh_server(site.directory / "sshd"))
        boxes = site.directory / "box"
        stack.callback(end_workers, boxes)
        configure(site, engine, market, server.host(dir=str(boxes), slots=1, ready_usd_h=PROVIDERS["boxes"]))
        site.environ = {name: text for name, text in site.environ.items() if "PROVIDERS__PROCESS" not in name}
        site.open(ONSTART, min_load=2.5 * PERF, target_util=1, cold_workers=0, cold_mult=1, max_workers=4)
        return across(site, span_s)


def main() -> int:
    return conclude("across", *run(options(__doc__, span_s=RECORDED_S).span_s))


if __name__ == "__main__":
    sys.exit(main())
