"""Stand-ins of model engines: their health, routes, refusals and log lines, as each engine has them.

Sources: the engines' own code and documentation, of the versions that the recipes name.
"""

import asyncio
import base64
import io
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Engine:
    """One engine: what it answers, and what it prints."""

    health: str
    routes: dict[str, Callable[["Engine", Any], tuple[int, Any]]]
    """What a payload is answered with, by path."""
    loading: int | None
    """Status of the health call while it loads; None: nobody listens."""
    prints: tuple[str, ...]
    """Until it is ready."""
    fails: dict[str, str]
    """What a load that fails prints, by its cause."""
    healthy_too_early: bool = False
    """The health call says 200 while it has no model."""
    names: tuple[str, ...] = ("chat",)
    """What it calls its model."""
    ready: bool = False
    asked: list[Any] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_get(self.health, self._health)
        for path, answer in self.routes.items():
            app.router.add_post(path, self._handler(answer))
        return app

    async def _health(self, request: web.Request) -> web.Response:
        status = 200 if self.ready or self.healthy_too_early else self.loading
        return web.json_response({}, status=status or 503)

    def _handler(self, answer: Callable[["Engine", Any], tuple[int, Any]]) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            if request.content_type == "multipart/form-data":
                payload: Any = {
                    name: value.file.read() if isinstance(value, web.FileField) else value
                    for name, value in (await request.post()).items()
                }
            else:
                payload = await request.json()
            self.asked.append(payload)
            status, body = answer(self, payload) if self.ready else (503, {"error": "loading"})
            return web.json_response(body, status=status)

        return handle


def completion(engine: Engine, asked: Any) -> tuple[int, Any]:
    """OpenAI's completions. Names are checked where the engine has any."""
    if engine.names and asked.get("model") not in engine.names:
        return 404, {"error": {"message": "The model does not exist.", "type": "NotFoundError", "code": 404}}
    if not isinstance(asked.get("prompt"), str) or not isinstance(asked.get("max_tokens"), int):
        return 400, {"error": {"message": "wrong fields", "type": "BadRequestError", "code": 400}}
    usage = {"prompt_tokens": 5, "completion_tokens": asked["max_tokens"]}
    return 200, {"choices": [{"text": "so it was", "finish_reason": "length"}], "usage": usage}


def generate(engine: Engine, asked: Any) -> tuple[int, Any]:
    """TGI's own."""
    if set(asked) != {"inputs", "parameters"} or not 0 < asked["parameters"]["max_new_tokens"] <= 4096:
        return 422, {"error": "Input validation error", "error_type": "validation"}
    return 200, {"generated_text": "so it was"}


def embeddings(engine: Engine, asked: Any) -> tuple[int, Any]:
    if engine.names and asked.get("model") not in engine.names:
        return 400, {"error": {"message": "model not found", "code": 400}}
    texts = asked["input"]
    if not texts or len(texts) > 64 or not all(isinstance(text, str) and len(text) > 200 for text in texts):
        return 422, {"message": "batch size", "code": 422, "type": "validation"}
    return 200, {"data": [{"embedding": [0.0], "index": n} for n in range(len(texts))], "usage": {"prompt_tokens": 1}}


def transcription(engine: Engine, asked: Any) -> tuple[int, Any]:
    if asked.get("model") not in engine.names:
        return 404, {"detail": "Model is not installed locally"}
    with wave.open(io.BytesIO(asked["file"])) as sound:
        seconds = sound.getnframes() / sound.getframerate()
    return (200, {"text": "the courier"}) if seconds == 30 else (400, {"detail": "too short"})


GATED = "OSError: You are trying to access a gated repo."


def engines() -> dict[str, Engine]:
    """A new stand-in of each engine."""
    return {
        "vllm": Engine(
            health="/health",
            routes={"/v1/completions": completion},
            loading=None,
            prints=("Loading weights took 4.20 seconds", "INFO:     Application startup complete."),
            fails={
                "memory": "RuntimeError: Engine core initialization failed. See root cause above.",
                "core": "(EngineCore pid=7) ERROR 11-28 10:00:00 EngineCore failed to start.",
                "gated": GATED,
            },
            names=("chat", "ORG/NAME"),
        ),
        "sglang": Engine(
            health="/ready",
            routes={"/v1/completions": completion},
            loading=503,
            # The first line comes before the server can answer.
            prints=("INFO:     Uvicorn running on http://127.0.0.1:1", "The server is fired up and ready to roll!"),
            fails={
                "memory": "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
                "graphs": "Exception: Capture cuda graph failed: CUDA out of memory",
                "gated": GATED,
            },
            names=(),
        ),
        "tgi": Engine(
            health="/health",
            routes={"/generate": generate},
            loading=None,
            prints=("INFO text_generation_router: Warming up model", "INFO text_generation_router: Connected"),
            fails={"shard": "ERROR text_generation_launcher: Shard 0 failed to start", "gated": GATED},
        ),
        "llama.cpp": Engine(
            health="/slots",
            routes={"/v1/completions": completion},
            loading=503,
            prints=("main: model loaded",),
            fails={
                "file": "main: exiting due to model loading error",
                "binding": "RuntimeError: Failed to init server",
            },
            names=(),
        ),
        "llama.cpp-cuda": Engine(
            health="/slots",
            routes={"/v1/completions": completion},
            loading=503,
            prints=("main: model loaded",),
            fails={"memory": "ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory"},
            names=(),
        ),
        "ollama": Engine(
            health="/api/version",
            routes={"/v1/completions": completion},
            loading=200,
            prints=("Listening on 127.0.0.1:1 (version 0.33.0)", "posthouse: ORG/NAME is loaded"),
            fails={"pull": "posthouse: ORG/NAME cannot be loaded"},
            healthy_too_early=True,
            names=("ORG/NAME",),
        ),
        "tei": Engine(
            health="/health",
            routes={"/v1/embeddings": embeddings},
            loading=None,
            prints=("INFO text_embeddings_router: Ready",),
            fails={
                "kind": "Runtime compute cap 120 is not compatible with compile time compute cap 80",
                "backend": "Error: Could not create backend",
            },
            names=(),
        ),
        "infinity": Engine(
            health="/health",
            routes={"/v1/embeddings": embeddings},
            loading=None,
            prints=("INFO:     Application startup complete.",),
            fails={"startup": "ERROR:    Application startup failed. Exiting.", "gated": GATED},
        ),
        "faster-whisper": Engine(
            health="/health",
            routes={"/v1/audio/transcriptions": transcription},
            loading=None,
            prints=("INFO:     Application startup complete.",),
            fails={"library": "Unable to load libcudnn_ops.so.9"},
            names=("Systran/faster-whisper-large-v3",),
        ),
    }


class ComfyUi:
    """ComfyUI's own API: a workflow is taken at once and worked on later. `go_on` lets one end."""

    def __init__(self) -> None:
        self.go_on = asyncio.Semaphore(0)
        self.history: dict[str, Any] = {}
        self.interrupted: list[str] = []
        self.fails = False
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/system_stats", self._stats),
                web.post("/prompt", self._prompt),
                web.get("/history/{id}", self._history),
                web.post("/history", self._forget),
                web.get("/view", self._view),
                web.post("/interrupt", self._interrupt),
                web.post("/queue", self._queue),
            ]
        )
        return app

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response({"system": {}, "devices": []})

    async def _prompt(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if not all("class_type" in node for node in asked["prompt"].values()):
            return web.json_response({"error": {"type": "invalid_prompt"}, "node_errors": {}}, status=400)
        self._tasks[asked["prompt_id"]] = asyncio.create_task(self._work(asked["prompt_id"]))
        return web.json_response({"prompt_id": asked["prompt_id"], "number": 1, "node_errors": {}})

    async def _work(self, job: str) -> None:
        await self.go_on.acquire()
        images = [{"filename": "a.png", "subfolder": "", "type": "temp"}]
        status = {"status_str": "error" if self.fails else "success"}
        self.history[job] = {"outputs": {"6": {"images": images}}, "status": status}

    async def _history(self, request: web.Request) -> web.Response:
        job = request.match_info["id"]
        return web.json_response({job: self.history[job]} if job in self.history else {})

    async def _forget(self, request: web.Request) -> web.Response:
        for job in (await request.json())["delete"]:
            self.history.pop(job, None)
        return web.Response()

    async def _view(self, request: web.Request) -> web.Response:
        return web.Response(body=b"png", status=200 if request.query["filename"] == "a.png" else 404)

    async def _interrupt(self, request: web.Request) -> web.Response:
        job = (await request.json())["prompt_id"]
        self.interrupted.append(job)
        self._tasks[job].cancel()
        return web.Response()

    async def _queue(self, request: web.Request) -> web.Response:
        return web.Response()


IMAGE = base64.b64encode(b"png").decode()
WORKFLOW = {"prompt": {"1": {"class_type": "KSampler", "inputs": {"steps": 20}}}}
