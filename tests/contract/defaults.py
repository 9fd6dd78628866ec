"""The unmodified `vastai` with all its defaults, where the service's names are this machine: `test_tls.py` runs it.

    python -m tests.contract.defaults DIRECTORY

Must run in mount and network namespaces of its own. DIRECTORY/data has the authority that SSL_CERT_FILE names. Leaves
what was seen in DIRECTORY/seen.json.
"""

import asyncio
import fcntl
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vastai import Serverless

from posthouse.client import AsyncClient
from posthouse.wiring import Running
from tests.contract.live import AGENT, PATIENCE_S, add_endpoint, live_server, ready

NAMES = ("console.vast.ai", "run.vast.ai")
SIGNED = """\
set -e
openssl req -newkey rsa:2048 -subj /C=US/ST=CA/CN=pyworker.vast.ai/ -addext subjectAltName=IP:0.0.0.0 -nodes -sha256 \\
  -keyout /etc/instance.key -out /etc/instance.csr
curl --header 'Content-Type: application/octet-stream' --data-binary @//etc/instance.csr -X \\
  POST "https://console.vast.ai/api/v0/sign_cert/?instance_id=$CONTAINER_ID" > /etc/instance.crt;
"""
"""What its worker's script does: a key, a request for no address, and a call that shows no key and checks nothing."""
WORKER = """\
cat > worker.py <<'END'
import os
from vastai import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig

benchmark = BenchmarkConfig(dataset=[{"model": "demo", "prompt": "x", "max_tokens": 10}], runs=1, concurrency=2)
Worker(WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(os.environ["MODEL_PORT"]),
    model_log_file=os.environ["MODEL_LOG"],
    handlers=[HandlerConfig(route="/v1/completions", benchmark_config=benchmark)],
    log_action_config=LogActionConfig(on_load=["model loaded"]),
)).run()
END
"$PYTHON" -u -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 200 --slots 4 --load-s 3 > "$MODEL_LOG" 2>&1 &
exec "$PYTHON" worker.py
"""


def enter(directory: Path) -> None:
    """Gives this mount namespace an /etc of its own, in which the service is here, and brings up its loopback."""
    etc = directory / "etc"
    shutil.copytree("/etc", etc, symlinks=True, ignore_dangling_symlinks=True)
    (etc / "hosts").unlink()
    (etc / "hosts").write_text(f"127.0.0.1 localhost {' '.join(NAMES)}\n")
    subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
    with socket.socket() as any_socket:
        up = struct.pack("16sh14x", b"lo", 1)  # IFF_UP, as in linux/if.h
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS, as in linux/sockios.h


async def seen(server: Running, client: Any, name: str) -> dict[str, Any]:
    """What comes of a request, of a stream, and of a look at the certificate."""
    await ready(server, name)
    endpoint = await client.get_endpoint(name)
    payload = {"model": "demo", "prompt": "Hello", "max_tokens": 20}
    answer = await endpoint.request("/v1/completions", payload, cost=20)
    stream = await endpoint.request("/v1/completions", {**payload, "stream": True}, cost=20, stream=True)
    pieces = [event["choices"][0]["text"] async for event in stream["response"]]
    fleet = server.hub.fleet_named(name)
    assert fleet is not None
    url = next(iter(fleet.workers.values())).url
    return {
        "url": url,
        "text": answer["response"]["choices"][0]["text"],
        "pieces": len(pieces),
        "names": await asyncio.to_thread(names_shown, url),
    }


def names_shown(url: str) -> list[list[str]]:
    """The names in the certificate at an address, after as strict a check as there is, of the address itself, too."""
    strict = ssl.create_default_context()
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    at = urlsplit(url)
    with (
        socket.create_connection((at.hostname, at.port)) as plain,
        strict.wrap_socket(plain, server_hostname=at.hostname) as secured,
    ):
        certificate: Any = secured.getpeercert()
        return [list(name) for name in certificate["subjectAltName"]]


async def main(directory: Path) -> dict[str, Any]:
    settings = {
        "server.port": 443,
        "server.tls": "self",
        "server.tls_names": ",".join(NAMES),
        "public_url": f"https://{NAMES[1]}",
    }
    env = "-p 3000:3000 -e USE_SSL=true"
    async with live_server(directory / "data", **settings) as server:
        async with AsyncClient(server.url, server.admin_key) as owner:
            await add_endpoint(owner, "agent", AGENT, env)
            await add_endpoint(owner, "worker", SIGNED + WORKER, env)
        async with Serverless(server.admin_key) as client:
            async with asyncio.timeout(2 * PATIENCE_S):
                return {name: await seen(server, client, name) for name in ("agent", "worker")}


if __name__ == "__main__":
    given = Path(sys.argv[1])
    enter(given)
    (given / "seen.json").write_text(json.dumps(asyncio.run(main(given))))
