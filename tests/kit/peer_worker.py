"""A Worker of the unmodified peer, and everything that it calls."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from posthouse.signing.rsa import RsaKey
from tests.kit.agent_world import TIMEOUT_S
from tests.kit.ports import free_port

PEER = """
import os
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

Worker(WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(os.environ["MODEL_PORT"]),
    model_log_file="model.log",
    handlers=[HandlerConfig(
        route="/generate",
        allow_parallel_requests=True,
        workload_calculator=lambda payload: 16.0,
        benchmark_config=BenchmarkConfig(dataset=[{"inputs": "x"}], runs=1, concurrency=1),
    )],
    log_action_config=LogActionConfig(on_load=["model loaded"]),
)).run()
"""


@dataclass
class Elsewhere:
    """Everything that a peer's Worker calls, in one server: control plane, model, and whatever a session names."""

    public_pem: str
    posts: list[tuple[str, bytes]] = field(default_factory=list)

    def server(self) -> ThreadingHTTPServer:
        world = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(world.public_pem.encode())

            def do_POST(self) -> None:
                world.posts.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(b"{}")

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def peer_is_ready(self) -> bool:
        reports = [json.loads(body) for path, body in list(self.posts) if path == "/worker_status/"]
        return bool(reports) and reports[-1]["max_perf"] > 0 and not reports[-1]["error_msg"]


@dataclass
class PeerWorker:
    url: str
    elsewhere: Elsewhere
    elsewhere_url: str


@contextmanager
def ready_peer_worker(key: RsaKey, directory: Path) -> Iterator[PeerWorker]:
    """A Worker of the unmodified peer that is ready. `directory`: its own."""
    elsewhere = Elsewhere(key.public_pem)
    server = elsewhere.server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, port = f"http://127.0.0.1:{server.server_port}", free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "CONTAINER_ID": "8",
        "MASTER_TOKEN": "mtoken-of-worker-8",
        "REPORT_ADDR": url,
        "PUBLIC_IPADDR": "127.0.0.1",
        "WORKER_PORT": str(port),
        "WORKER_HTTP_PORT": str(free_port()),
        f"VAST_TCP_PORT_{port}": str(port),
        "MODEL_PORT": str(server.server_port),
        "USE_SSL": "false",
    }
    log_file = directory / "model.log"
    log_file.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", PEER],
        env=environment,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 3 * TIMEOUT_S
        while not elsewhere.peer_is_ready():
            assert time.monotonic() < deadline, "the peer's worker did not become ready"
            assert process.poll() is None, "the peer's worker has ended"
            with log_file.open("a") as log:
                log.write("model loaded\n")
            time.sleep(0.5)
        yield PeerWorker(f"http://127.0.0.1:{port}", elsewhere, url)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.shutdown()
        server.server_close()
