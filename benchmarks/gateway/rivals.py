"""What is measured: each started in front of the engine, on a core of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

START_S = 180.0
KEY = "sk-0123456789abcdef"
"""That is shown to a rival; LiteLLM starts with no weaker one."""
NGINX = """
daemon off; master_process off; worker_processes 1; error_log {folder}/error.log; pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; }}
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{
    proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
LITELLM = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{engine}/v1", api_key: x}}
litellm_settings: {{telemetry: false}}
"""


@dataclass
class Running:
    """What answers, and the processes whose processor time it takes."""

    name: str
    port: int
    key: str
    processes: list[psutil.Process]
    beside: list[psutil.Process] = field(default_factory=list)
    """Of `processes`, those that are not in the way of the bytes: the server that routes."""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(port: int, key: str) -> bool:
    """Whether a chat is answered."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    try:
        with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, URLError):
        return False


def command(
    name: str, port: int, engine: int, folder: Path, rivals: Path
) -> tuple[list[str], Mapping[str, str]] | None:
    """How a rival is started; None where it is not installed."""
    found = shutil.which(name, path=f"{rivals / name / 'bin'}:{os.environ['PATH']}")
    if found is None:
        return None
    url = f"http://127.0.0.1:{engine}"
    listen = ["--host", "127.0.0.1", "--port", str(port)]
    match name:
        case "nginx":
            (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, engine=engine))
            return [found, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], {}
        case "litellm":
            (folder / "litellm.yaml").write_text(LITELLM.format(engine=engine))
            more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
            return [found, "--config", str(folder / "litellm.yaml"), *listen, "--num_workers", "1"], more
        case _:
            launch = ["launch"] if name == "sglang-router" else []
            own = ["--prometheus-port", str(free_port()), "--log-level", "error"]
            return [found, *launch, *listen, "--worker-urls", url, "--policy", "round_robin", *own], {}


@contextmanager
def rival(name: str, engine: int, folder: Path, rivals: Path, core: int) -> Iterator[Running | None]:
    """A rival in front of the engine; None where it is not installed, or does not answer."""
    port = free_port()
    started = command(name, port, engine, folder, rivals)
    if started is None:
        yield None
        return
    argv, environ = started
    log = (folder / f"{name}.log").open("wb")
    pinned, whole = ["taskset", "-c", str(core), *argv], {**os.environ, **environ}
    with log, subprocess.Popen(pinned, stdout=log, stderr=log, env=whole) as process:
        try:
            began = time.monotonic()
            while not answers(port, KEY):
                if process.poll() is not None or time.monotonic() - began > START_S:
                    said = (folder / f"{name}.log").read_text(errors="replace")[-2000:]
                    print(f"{name} does not answer, and is left out:\n{said}", file=sys.stderr)
                    yield None
                    return
                time.sleep(0.2)
            top = psutil.Process(process.pid)
            yield Running(name, port, KEY, [top, *top.children(recursive=True)])
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.terminate()
                process.terminate()


@contextmanager
def posthouse(environ: Mapping[str, str], core: int) -> Iterator[Running]:
    """Our gateway, in front of the endpoint `m` of the server that runs, both on the core."""
    port = free_port()
    argv = ["taskset", "-c", str(core), environ["PH"], "gateway", "--listen", f"127.0.0.1:{port}"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([*argv, "--log-level", "warning"], env=dict(environ), stdout=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        began = time.monotonic()
        while not answers(port, environ["POSTHOUSE_API_KEY"]):
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise SystemExit("our gateway does not answer")
            time.sleep(0.2)
        server = psutil.Process(int(environ["SERVER_PID"]))
        server.cpu_affinity([core])
        yield Running("posthouse", port, environ["POSTHOUSE_API_KEY"], [psutil.Process(process.pid), server], [server])
