"""A model server that only streams, run as a program: `engine.py PORT FILE`.

A chat is answered by events, `PIECE_S` apart, until there is a file with `.end` after its name: nothing that is done to
a stream comes too late. What begins, ends and is given up goes as lines of JSON into the file, with the time of this
machine's clock.
"""

import asyncio
import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web

PIECE_S = 0.05
KEPT: web.AppKey[Path] = web.AppKey("kept", Path)


def end_of(kept: Path) -> Path:
    return kept.with_suffix(".end")


def note(request: web.Request, asked: dict[str, Any], what: str) -> None:
    with request.app[KEPT].open("a") as file:
        file.write(json.dumps({"what": what, "user": asked["user"], "at": time.monotonic()}) + "\n")


async def health(request: web.Request) -> web.Response:
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    note(request, asked, "begun")
    try:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in count():
            if end_of(request.app[KEPT]).exists():
                break
            choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
            event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(PIECE_S)
        await response.write(b"data: [DONE]\n\n")
    except (asyncio.CancelledError, ConnectionError):
        note(request, asked, "given up")
        raise
    note(request, asked, "whole")
    return response


if __name__ == "__main__":
    app = web.Application()
    app[KEPT] = Path(sys.argv[2])
    app.router.add_get("/health", health)
    app.router.add_post("/v1/chat/completions", chat)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, handler_cancellation=True)
