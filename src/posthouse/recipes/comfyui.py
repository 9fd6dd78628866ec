"""ComfyUI behind a call that answers when a workflow is done, and ends it when its client leaves.

    POST /run     {"prompt": GRAPH in API format} -> {"prompt_id", "outputs", "images": [{"filename", "data"}]}
    GET /health   200 while ComfyUI answers and no workflow has run for too long

Every other call reaches ComfyUI as it is. Source of its API: `server.py` of ComfyUI 0.38.
"""

import argparse
import asyncio
import base64
import signal
import sys
import time
import uuid
from contextlib import suppress
from typing import Any, Final

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from yarl import URL

from posthouse.relay import Failure, Relay, relay_session

_POLL_S: Final = 0.25
_CALL = ClientTimeout(total=60)
_MAX_BODY: Final = 100 * 2**20  # as ComfyUI's own --max-upload-size
_MAX_IMAGES: Final = 256 * 2**20  # bytes of one answer, before they are in base64
_STATUS: Final[dict[Failure, int]] = {"too large": 413, "too slow": 408, "silent": 504, "broke off": 502}


class Front:
    """What stands before a ComfyUI at `engine`. `longest_s`: a workflow that runs for longer hangs."""

    def __init__(self, engine: str, session: ClientSession, longest_s: float) -> None:
        self._engine = engine
        self._session = session
        self._longest_s = longest_s
        self._since: dict[str, float] = {}
        """When each workflow was given to ComfyUI, by its id."""
        self._relay = Relay(session, _MAX_BODY, _refused)

    def application(self) -> web.Application:
        """The HTTP application. Run it with `handler_cancellation`."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes(
            [web.get("/health", self._health), web.post("/run", self._run), web.route("*", "/{path:.*}", self._pass)]
        )
        return app

    async def _health(self, request: web.Request) -> web.Response:
        oldest = min(self._since.values(), default=None)
        if oldest is not None and time.monotonic() - oldest > self._longest_s:
            return web.json_response({"error": f"a workflow has run for over {self._longest_s:g} s"}, status=503)
        try:
            async with self._session.get(f"{self._engine}/system_stats", timeout=_CALL) as answer:
                return web.Response(status=200 if answer.status == 200 else 503)
        except (ClientError, OSError, TimeoutError) as error:
            return web.json_response({"error": f"ComfyUI does not answer: {type(error).__name__}"}, status=503)

    async def _run(self, request: web.Request) -> web.Response:
        try:
            graph = (await request.json())["prompt"]
        except (ValueError, TypeError, LookupError):
            return web.json_response({"error": "prompt: must be a workflow in API format"}, status=400)
        job = str(uuid.uuid4())
        try:
            status, answer = await self._call("POST", "/prompt", {"prompt": graph, "prompt_id": job})
            if status != 200:
                return web.json_response(answer, status=status)
            self._since[job] = time.monotonic()
            return await self._result(job)
        except (ClientError, OSError, TimeoutError) as error:
            return web.json_response({"error": f"ComfyUI does not answer: {type(error).__name__}"}, status=502)
        except asyncio.CancelledError:
            with suppress(ClientError, OSError, TimeoutError):
                await asyncio.shield(self._cancel(job))
            raise
        finally:
            self._since.pop(job, None)

    async def _result(self, job: str) -> web.Response:
        while True:
            found = (await self._call("GET", f"/history/{job}"))[1].get(job)
            if found:
                break
            await asyncio.sleep(_POLL_S)
        outputs = found.get("outputs", {})
        try:
            if found.get("status", {}).get("status_str") == "error":
                return web.json_response({"error": "the workflow failed", "status": found["status"]}, status=500)
            images, left = [], _MAX_IMAGES
            for image in (image for output in outputs.values() for image in output.get("images", ())):
                data = await self._image(image)
                left -= len(data)
                if left < 0:
                    return web.json_response({"error": f"its images have over {_MAX_IMAGES} bytes"}, status=500)
                images.append({"filename": image["filename"], "data": base64.b64encode(data).decode()})
            return web.json_response({"prompt_id": job, "outputs": outputs, "images": images})
        finally:
            await self._call("POST", "/history", {"delete": [job]})  # which grows forever

    async def _image(self, image: dict[str, Any]) -> bytes:
        place = {name: str(image.get(name, "")) for name in ("filename", "subfolder", "type")}
        async with self._session.get(f"{self._engine}/view", params=place, timeout=_CALL) as answer:
            return await answer.read()

    async def _cancel(self, job: str) -> None:
        await self._call("POST", "/queue", {"delete": [job]})
        await self._call("POST", "/interrupt", {"prompt_id": job})

    async def _call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        async with self._session.request(method, self._engine + path, json=body, timeout=_CALL) as answer:
            text = await answer.read()
            return answer.status, await answer.json(content_type=None) if text else {}

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        response, _ = await self._relay.forward(request, URL(self._engine + request.raw_path, encoded=True))
        return response


def _refused(failure: Failure) -> web.HTTPException:
    refusal = web.HTTPServiceUnavailable(text=f"ComfyUI: {failure}")
    refusal.set_status(_STATUS.get(failure, 503))
    return refusal


async def _serve(port: int, engine_port: int, command: list[str], longest_s: float) -> int:
    """Run ComfyUI and what stands before it until one ends; return ComfyUI's exit status."""
    engine = await asyncio.create_subprocess_exec(*command)
    async with relay_session(0) as session:
        front = Front(f"http://127.0.0.1:{engine_port}", session, longest_s)
        runner = web.AppRunner(front.application(), handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, engine.terminate)
        status = await engine.wait()
        await runner.cleanup()
    return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-port", type=int, required=True, help="where ComfyUI listens")
    parser.add_argument("--longest-s", type=float, default=1800.0, help="a workflow that runs for longer hangs")
    parser.add_argument("command", nargs="+", help="what starts ComfyUI")
    args = parser.parse_args()
    sys.exit(asyncio.run(_serve(args.port, args.engine_port, args.command, args.longest_s)))


if __name__ == "__main__":
    main()
