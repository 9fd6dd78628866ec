"""Workers that no registry has, from checkouts in the folder that PEERS names.

FOLDER/NAME is a checkout of a worker of before December 2025 that has `workers/hello_world`; FOLDER/python is a Python
with what it needs, aiohttp 3.10.1 above all. Nothing of them is kept here, and they run as they are.
"""

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from posthouse.client import AsyncClient
from tests.kit.live import add_endpoint, live_server, states, until

FOLDER = os.environ.get("PEERS", "")
CHECKOUTS = sorted(path.parents[1] for path in Path(FOLDER).glob("*/workers/hello_world")) if FOLDER else []
STUBS = {
    "nltk": "class corpus:\n  class words:\n    words = staticmethod(lambda: ['a'])\ndef download(name): pass\n",
    "transformers": "class AutoTokenizer:\n  tokenize = staticmethod(str.split)\n"
    "  from_pretrained = classmethod(lambda cls, name: cls)\nOpenAIGPTTokenizer = AutoTokenizer\n",
}
"""In place of two large libraries that a worker counts words with."""
MODEL = """\
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Model(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"response": "hello"}')
server = ThreadingHTTPServer(("127.0.0.1", 5001), Model)
print("infer server has started", flush=True)
server.serve_forever()
"""


async def answers(server: Any, key: str, polls: bool) -> int:
    """The status with which a worker answers one request."""
    ask: dict[str, Any] = {"endpoint": "old", "api_key": key, "cost": 10} | ({"request_idx": 0} if polls else {})
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/route/", json=ask) as reply:
            auth = await reply.json()
        if "url" not in auth:
            return 0
        body = {"auth_data": auth, "payload": {"prompt": "hi", "max_response_tokens": 3}}
        async with http.post(f"{auth['url']}/generate", json=body) as reply:
            return reply.status


@pytest.mark.skipif(not CHECKOUTS, reason="PEERS names no folder with checkouts of old workers")
@pytest.mark.parametrize("checkout", CHECKOUTS, ids=lambda path: path.name)
async def test_an_old_worker_is_ready_and_serves_without_a_patch(checkout: Path, tmp_path: Path) -> None:
    files = {f"{name}.py": text for name, text in STUBS.items()} | {"model.py": MODEL}
    written = "".join(f"cat >{name} <<'END'\n{text}END\n" for name, text in files.items())
    python = f"{FOLDER}/python"
    onstart = f"""{written}export PYTHONPATH="$PWD:{checkout}" HF_TOKEN=x PYTHONDONTWRITEBYTECODE=1
touch "$MODEL_LOG"
(sleep 6; exec {python} model.py >>"$MODEL_LOG" 2>&1) &
exec {python} -m workers.hello_world.server
"""
    polls = subprocess.run(["grep", "-q", "request_idx", checkout / "lib/data_types.py"]).returncode == 0
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        await add_endpoint(owner, "old", onstart=onstart)
        await until(lambda: "idle" in states(server, "old"), f"{checkout.name} is ready")
        found = []
        for _ in range(4):  # the first may be refused, where two schemes have one version
            found.append(await answers(server, server.admin_key, polls))
            await asyncio.sleep(2.5)
    assert found[-2:] == [200, 200], found
