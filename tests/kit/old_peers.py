"""Workers and clients that no registry has, each run as it is from a checkout, and the model server they ask."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.kit.live import TIMEOUT_S

FOLDER = Path(os.environ.get("PEERS", "/nowhere"))
"""Has checkouts, named after their generations, and `python`: one with what they need, aiohttp 3.10.1 above all."""
PYTHON = FOLDER / "python"
STUBS = {
    "nltk/__init__.py": "from nltk import corpus\ndef download(name): pass\n",
    "nltk/corpus.py": "class words:\n  words = staticmethod(lambda: ['a'])\n",
    "transformers.py": "class Tokenizer:\n  tokenize = staticmethod(str.split)\n"
    "  from_pretrained = classmethod(lambda cls, name: cls)\nAutoTokenizer = OpenAIGPTTokenizer = Tokenizer\n",
}
"""In place of two large libraries that workers and clients count words with."""

MODEL = """\
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Model(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        asked = self.rfile.read(int(self.headers["content-length"]))
        with open(ASKED, "ab") as file:
            file.write(asked + b"\\n")
        self.answer(b'{"generated_text": "hello"}')
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass

ThreadingHTTPServer.request_queue_size = 128
server = ThreadingHTTPServer(("127.0.0.1", 5001), Model)
print('''\
{"level":"INFO","fields":{"message":"Args { max_batch_prefill_tokens: 4096, max_total_tokens: 2048 }"}}
{"level":"INFO","message":"Setting max batch total tokens to 16000","target":"text_generation_router"}
{"level":"INFO","message":"Connected","target":"text_generation_router"}''', flush=True)
server.serve_forever()
"""
"""Text Generation Inference, as far as workers of 2024 and 2025 see it: calls, and lines of its log. A worker has its
address built in. It keeps what it is asked."""


def written(directory: str, files: Mapping[str, str]) -> str:
    """A script that writes the files."""
    texts = "".join(f"cat >{directory}/{name} <<'END'\n{text}END\n" for name, text in files.items())
    return f"mkdir -p {directory}/nltk\n{texts}"


def onstart(checkout: Path) -> str:
    """What starts a worker beside its model, in the way of its generation."""
    files = written("$HOME", STUBS | {"model.py": f"ASKED = 'asked.jsonl'\n{MODEL}"})
    if (checkout / "server.py").exists():  # the first: two programs in the background, in a copy, where they write
        return f"""{files}cp -r {checkout} worker && cd worker && touch infer.log
export PYTHONPATH="$HOME" PYTHONUNBUFFERED=1 BACKEND=tgi AUTH_PORT="$WORKER_PORT"
{PYTHON} server.py >"$MODEL_LOG" 2>&1 &
tail -f -n +1 infer.log | {PYTHON} logwatch.py >watch.log 2>&1 &
echo "starting model download" >>infer.log
cd .. && {PYTHON} model.py >>worker/infer.log 2>&1 &
"""
    return f"""{files}export PYTHONPATH="$HOME:{checkout}" HF_TOKEN=x PYTHONDONTWRITEBYTECODE=1
touch "$MODEL_LOG"
(sleep 6; exec {PYTHON} model.py >>"$MODEL_LOG" 2>&1) &
exec {PYTHON} -m workers.tgi.server
"""


async def requests(checkout: Path, count: int, name: str, key: str, directory: Path, env: Mapping[str, str]) -> str:
    """Makes requests as the client beside a worker does, with all its defaults; returns what it prints."""
    for file, text in STUBS.items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text(text)
    command = [str(checkout / "test_LLM.py"), key, name, "hi", str(count), "--use_auth"]
    if not (checkout / "test_LLM.py").exists():
        command = ["-m", "workers.tgi.test_load", "-n", str(count), "-rps", "2", "-k", key, "-e", name]
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        *command,
        cwd=directory,
        env={"PATH": os.defpath, "PYTHONPATH": f"{directory}:{checkout}", "PYTHONDONTWRITEBYTECODE": "1", **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    return printed.decode()


@asynccontextmanager
async def tunnel(port: int) -> AsyncIterator[str]:
    """The URL of a proxy that leads to this port, whatever name it is asked for."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        from_there, there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pass_on(reader, there), pass_on(from_there, writer), return_exceptions=True)

    server = await asyncio.start_server(lead, "127.0.0.1")
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
