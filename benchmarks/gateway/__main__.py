"""Measures our gateway beside others, in front of one engine: `python -m benchmarks.gateway [--rivals FOLDER]`

Names after it: posthouse, nginx, vllm-router, sglang-router, litellm; without one all that are installed, on the PATH
or in `FOLDER/NAME/bin`. What is measured runs on core 1 alone, with the server that routes where it is ours; the engine
and the callers on core 0. Prints a table and writes `benchmarks/results/gateway.json`.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from tests.cases import server

from benchmarks.gateway import engine, rivals
from benchmarks.gateway.load import Result, measure
from posthouse.client import Client

RESULTS = Path(__file__).parents[1] / "results" / "gateway.json"
NAMES = ("posthouse", "nginx", "vllm-router", "sglang-router", "litellm")
LOADS = {"64 requests": (64, False), "64 streams": (64, True), "500 streams": (500, True)}
SPAN_S = 8.0
ROUNDS = 2
ENGINE_CORE, CORE = 0, 1


@contextmanager
def worker() -> Iterator[tuple[dict[str, str], rivals.Running]]:
    """A server of ours with the engine as its one worker; yields the environment that leads to it, and the engine."""
    with tempfile.TemporaryDirectory() as directory, server(Path(directory)) as environ:
        with Client(environ["POSTHOUSE_URL"], environ["POSTHOUSE_API_KEY"]) as owner:
            program = '"$PYTHON" -m benchmarks.gateway.engine "$WORKER_PORT"'
            script = f"cd {Path.cwd()} && exec taskset -c {ENGINE_CORE} {program}"
            template = owner.create_template(name="engine", env="-p 3000:3000", onstart=script)
            scaling = {"min_load": 1.0, "max_workers": 1, "cold_workers": 0}
            endpoint_id = owner.create_endpoint("m", **scaling)
            owner.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)
            routed = owner.route("m", cost=20)
            url = getattr(routed, "url", "")
            while not url:
                url = getattr(owner.route("m", cost=20), "url", "")
        port = int(url.rpartition(":")[2])
        own = [engine.__name__, str(port)]
        [process] = (p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-2:] == own)
        yield environ, rivals.Running("direct", port, "x", [process])


def run(names: list[str], folder: Path, span_s: float, rounds: int) -> dict[str, dict[str, Result]]:
    """For each load what was seen in front of each gateway, the engine alone as `direct`."""
    results: dict[str, dict[str, list[Result]]] = {load: {} for load in LOADS}

    def look(gateway: rivals.Running) -> None:
        for load, (connections, stream) in LOADS.items():
            result = asyncio.run(measure(gateway, connections, stream, span_s))
            results[load].setdefault(gateway.name, []).append(result)
            print(f"{gateway.name:14} {load:12} {result}", file=sys.stderr, flush=True)

    with worker() as (environ, direct), tempfile.TemporaryDirectory() as scratch:
        for _ in range(rounds):
            look(direct)
            for name in names:
                if name == "posthouse":
                    with rivals.posthouse(environ, CORE) as ours:
                        look(ours)
                    continue
                with rivals.rival(name, direct.port, Path(scratch), folder, CORE) as other:
                    if other:
                        look(other)
    return {load: {name: middle(seen) for name, seen in by.items()} for load, by in results.items()}


def middle(seen: list[Result]) -> Result:
    """The medians of what was seen in the rounds."""
    return Result(**{name: median(getattr(one, name) for one in seen) for name in Result.__dataclass_fields__})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="what to measure")
    parser.add_argument("--rivals", type=Path, default=Path("/nowhere"), help="a folder with a venv for each")
    parser.add_argument("--span", type=float, default=SPAN_S, help="seconds for each load")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--show", action="store_true", help="print the table of the last results, and measure nothing")
    asked = parser.parse_args()
    if not asked.show:
        os.sched_setaffinity(0, {ENGINE_CORE})
        results = run(asked.names or list(NAMES), asked.rivals, asked.span, asked.rounds)
        about: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
        about["posthouse"] = version("posthouse")
        document = about | {load: {name: asdict(seen) for name, seen in by.items()} for load, by in results.items()}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    document = json.loads(RESULTS.read_text())
    print(f"{document['at'][:10]}, {document['machine']}:\n")
    results = {load: {name: Result(**seen) for name, seen in document[load].items()} for load in LOADS}
    print(table(results), *goals(results), sep="\n")


def table(results: dict[str, dict[str, Result]]) -> str:
    heads = ("answers/s", "processor µs", "of it routing", "answers per core and s", "added p50, ms", "added p99, ms")
    lines = [f"| load | gateway | {' | '.join(heads)} | kB each | failed |", "| --- | --- |" + " --: |" * 8]
    for load, by in results.items():
        direct = by["direct"]
        for name, seen in by.items():
            if name == "direct":
                added = f"({seen.p50_ms:.1f}) | ({seen.p99_ms:.1f}) | "
                lines.append(f"| {load} | none | {seen.per_s:.0f} | | | | {added}| {seen.failed:.0f} |")
                continue
            costs = f"{seen.cpu_us:,.0f} | {seen.beside_us:.0f} | {1e6 / seen.cpu_us:,.0f}"
            added = f"{seen.p50_ms - direct.p50_ms:.1f} | {seen.p99_ms - direct.p99_ms:.1f}"
            each = f"{seen.stream_kb:.0f} | {seen.failed:.0f}"
            lines.append(f"| {load} | {name} | {seen.per_s:.0f} | {costs} | {added} | {each} |")
    return "\n".join(lines)


def goals(results: dict[str, dict[str, Result]]) -> Iterator[str]:
    """How far each goal is reached, of those that were measured."""
    yield ""
    for load, by in results.items():
        ours = by.get("posthouse")
        for rival, least in (("vllm-router", 1), ("litellm", 20)):
            if ours and rival in by:
                share = by[rival].cpu_us / ours.cpu_us
                yield f"- {load}: answers per core, to those of {rival}: {share:.2f} (goal: {least})"
        if ours and load == "500 streams":
            yield f"- {load}: added at p99: {ours.p99_ms - by['direct'].p99_ms:.1f} ms (goal: at most 1.5)"


def machine() -> str:
    said = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    model = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("Model name")]
    return f"{model[0] if model else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
