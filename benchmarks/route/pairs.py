"""Compares what a route costs in two trees: `python benchmarks/route/pairs.py BEFORE AFTER`, folders of checkouts.

For a machine that others use, too. Both routes run without sockets, each in a process of its own, from the bytes that
come to those that go, and end as in `benchmarks.route`. They take turns of some ten milliseconds on one core, in random
order; of the processor time of each turn the ratio is taken, and of the ratios the median.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

CONNECTIONS = 64
ROUNDS = 6
"""Requests of every connection until all are ended."""
TURN = 3
"""How often that is done in a turn."""


class _Wire(asyncio.Transport):
    """Takes an answer and sends it nowhere."""

    written = b""

    def write(self, data: Any) -> None:
        self.written = data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return False


async def _serve(name: str) -> None:
    """Does a turn for each line that comes, and says what it took for each request, in microseconds."""
    from benchmarks.route import servers
    from benchmarks.route.load import post
    from posthouse.app import garbage
    from posthouse.server.auth import Keyring, Scope
    from posthouse.server.http import HttpServer

    servers.END_EVERY_S = 1e9  # at the end of a round instead
    record, key = Keyring(servers.SECRET, [], lambda _: None).mint("bench", Scope.ROUTE, time.time())
    request = post("/route/", {"endpoint": "bench-1", "api_key": key, "cost": 100, "request_idx": 0}, key)
    (site,) = [site for site in servers.SITES if site.name == name]
    server = HttpServer(servers._fast_path(site, record), servers._constant)
    wires = [_Wire() for _ in range(CONNECTIONS)]
    connections = [server.connection() for _ in wires]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)

    def turn() -> None:
        for _ in range(TURN):
            for _ in range(ROUNDS):
                for connection in connections:
                    connection.data_received(request)
                server._answer_due()
            servers._end_all(server.fast.hub)

    turn()
    assert all(b'"url"' in wire.written for wire in wires)
    garbage.settle()
    for _ in sys.stdin:
        began_s = time.process_time()
        turn()
        print((time.process_time() - began_s) / (TURN * ROUNDS * CONNECTIONS) * 1e6, flush=True)


def _begin(tree: Path, site: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(Path(__file__).resolve()), "--site", site]
    environment = os.environ | {"PYTHONPATH": f"{tree.resolve() / 'src'}:{tree.resolve()}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1)


def _turn_us(process: "subprocess.Popen[str]") -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, metavar="TREE")
    parser.add_argument("--sites", default="100,granted,10000", help="names of benchmarks/route/servers.py")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--site", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.site:
        asyncio.run(_serve(options.site))
        return
    if len(options.trees) != 2:
        parser.error("two trees are compared")
    os.sched_setaffinity(0, {random.choice(sorted(os.sched_getaffinity(0)))})
    for site in options.sites.split(","):
        processes = [_begin(tree, site) for tree in options.trees]
        pairs = []
        for _ in range(options.pairs):
            took = {i: _turn_us(processes[i]) for i in random.sample((0, 1), 2)}
            pairs.append((took[0], took[1]))
        for process in processes:
            process.communicate()
        low, middle, high = quantiles([after / before for before, after in pairs], n=4)
        before, after = (median(side) for side in zip(*pairs, strict=True))
        print(f"{site}: {before:.1f} and {after:.1f} µs; {middle:.3f} of it, half of the pairs {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
