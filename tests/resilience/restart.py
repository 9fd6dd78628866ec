"""Restarts the server in place again and again under unmodified clients: none of them sees an error.

`python -m tests.resilience restart --restarts 20`
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import psutil

from posthouse.app.signals import RESTART
from tests.kit.clients import CLIENTS
from tests.resilience.crash import workers_of
from tests.resilience.site import Ground, conclude, ground, options, until

RATE = 50.0
"""Requests per second, of one process of the protocol's own client."""
WORKERS = 2
ONSTART = """
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 500 --slots 32 --load-s 0 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --parallel 32 --perf 3200
"""


def restarts(site: Ground, count: int) -> tuple[dict[str, Any], list[str]]:
    """Restarts the server in place `count` times under unmodified clients."""
    argv = [sys.executable, "-W", "ignore", "-c", CLIENTS, site.url, site.key, str(RATE), "drill"]
    pipe = subprocess.PIPE
    clients = subprocess.Popen(argv, env=site.environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    before = workers_of(site)
    took_s: list[float] = []
    violations: list[str] = []
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline()
        for _ in range(count):
            old, began = site.owner(), time.monotonic()
            os.kill(old, RESTART)
            until(lambda old=old: site.owner() not in (0, old), 90.0)
            until(lambda old=old: not _lives(old))
            took_s.append(time.monotonic() - began)
        said, complaint = clients.communicate("", timeout=120)
    finally:
        clients.kill()
    told: dict[str, Any] = (
        json.loads(said) if clients.returncode == 0 else {"asked": 0, "right": 0, "errors": [complaint[-500:]]}
    )
    if workers_of(site) != before:
        violations.append("the workers' processes are not the same")
    violations += [f"a client saw an error: {error}" for error in told["errors"]]
    violations += ["a request had no answer"] if told["right"] != told["asked"] else []
    figures = {
        "restarts_in_place": count,
        "unmodified_requests": told["asked"],
        "answered_right": told["right"],
        "client_errors": len(told["errors"]),
        "restart_s_mean": round(sum(took_s) / max(1, len(took_s)), 1),
    }
    return figures, violations


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def run(count: int) -> tuple[dict[str, Any], list[str]]:
    with ground(providers__process__slots=WORKERS) as site:
        site.begin(ONSTART, min_load=5760, cold_workers=0, cold_mult=1, max_workers=WORKERS)
        until(lambda: site.states() == ["idle"] * WORKERS)
        return restarts(site, count)


def main() -> int:
    return conclude("restart", *run(options(__doc__, restarts=20).restarts))


if __name__ == "__main__":
    sys.exit(main())
