"""A demo model server: HTTP like a language model's, placeholder text at a set speed, no GPU and no model.

It stands in for a model while one develops or tries Posthouse. At saturation it produces `slots * tokens_per_s` tokens
per second in all. One token is one word.
"""

import argparse
import asyncio
import contextlib
import itertools
import math
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta, Struct

ABOUT = "a demo model: it produces placeholder text at a set speed; it is not a language model"
WORDS = tuple(f"{ABOUT};".split())

DEFAULT_TOKENS = 256  # tokens of an answer whose request names no number: the published example's
MAX_TOKENS = 32_768  # tokens: an answer of an hour at 10 tokens per second, far beyond any use
MAX_BODY_BYTES = 4 * 2**20  # holds a prompt of a million tokens
CHUNK_S = 0.05  # seconds between two writes of a stream: 20 a second look fluent and cost little

Tokens = Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None


class Parameters(Struct):
    max_new_tokens: Tokens = None


class Generate(Struct):
    """The body of `/generate` and `/generate_stream`. Source: Text Generation Inference (TGI)."""

    inputs: str
    parameters: Parameters | None = None


class StreamOptions(Struct):
    include_usage: bool = False


class Completion(Struct):
    """The body of `/v1/completions`. Source: the OpenAI API."""

    prompt: str
    max_tokens: Tokens = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    model: str = "demo"


class Part(Struct):
    text: str = ""


class Message(Struct):
    role: str
    content: str | list[Part] | None = None


class Chat(Struct):
    """The body of `/v1/chat/completions`. Source: the OpenAI API."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_tokens: Tokens = None
    max_completion_tokens: Tokens = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    model: str = "demo"


class Model:
    """The pace and the places of one demo model."""

    def __init__(self, tokens_per_s: float, slots: int, max_waiting: int) -> None:
        self.tokens_per_s = tokens_per_s
        self.slots = slots
        self.max_waiting = max_waiting
        self.loaded = False
        self.working = 0
        self.waiting = 0
        self._places = asyncio.Semaphore(slots)

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds one of the slots, after waiting for it; 503 while loading, 429 when too many wait already."""
        if not self.loaded:
            raise web.HTTPServiceUnavailable(text="the model is still loading")
        if self._places.locked() and self.waiting >= self.max_waiting:
            raise web.HTTPTooManyRequests(text=f"{self.waiting} requests wait already, the most that may")
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1
            self._places.release()

    async def text(self, tokens: int) -> str:
        """Returns a whole answer, after the time that it takes."""
        await asyncio.sleep(tokens / self.tokens_per_s)
        return "".join(itertools.islice(_words(), tokens))

    async def pieces(self, tokens: int) -> AsyncIterator[list[str]]:
        """Yields the same answer in pieces of some words, each when it is due."""
        clock = asyncio.get_running_loop().time
        started_at = clock()
        size = math.ceil(self.tokens_per_s * CHUNK_S)
        words = _words()
        for done in range(0, tokens, size):
            piece = list(itertools.islice(words, min(size, tokens - done)))
            # Against the start and not the last piece, so that late wake-ups do not add up.
            await asyncio.sleep(started_at + (done + len(piece)) / self.tokens_per_s - clock())
            yield piece


def _words() -> Iterator[str]:
    yield WORDS[0]
    for word in itertools.islice(itertools.cycle(WORDS), 1, None):
        yield f" {word}"


MODEL: web.AppKey[Model] = web.AppKey("model", Model)


def application(model: Model) -> web.Application:
    """Returns the HTTP application in front of `model`. Run it with `handler_cancellation`."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY_BYTES)
    app[MODEL] = model
    app.add_routes(
        [
            web.get("/", _about),
            web.get("/health", _health),
            web.post("/generate", _generate),
            web.post("/generate_stream", _generate_stream),
            web.post("/v1/completions", _completions),
            web.post("/v1/chat/completions", _chat),
        ]
    )
    return app


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers errors in the shape of the API that was called."""
    try:
        return await handler(request)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        status, kind, message = (422, "validation", f"the request body is wrong: {error}")
    except web.HTTPException as error:
        status, kind, message = (error.status, "overloaded" if error.status == 429 else "error", error.text or "")
    if request.path.startswith("/v1/"):
        openai = {"message": message, "type": "invalid_request_error" if kind == "validation" else kind}
        return _json({"error": openai}, 400 if kind == "validation" else status)
    return _json({"error": message, "error_type": kind}, status)


def _json(reply: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), status=status, content_type="application/json")


async def _about(request: web.Request) -> web.Response:
    model = request.app[MODEL]
    return _json(
        {
            "about": ABOUT,
            "tokens_per_s": model.tokens_per_s,
            "slots": model.slots,
            "loaded": model.loaded,
            "working": model.working,
            "waiting": model.waiting,
        }
    )


async def _health(request: web.Request) -> web.Response:
    loaded = request.app[MODEL].loaded
    return _json({"status": "ok" if loaded else "loading"}, 200 if loaded else 503)


async def _generate(request: web.Request) -> web.Response:
    tokens = await _tokens_of_generate(request)
    model = request.app[MODEL]
    async with model.slot():
        return _json({"generated_text": await model.text(tokens)})


async def _generate_stream(request: web.Request) -> web.StreamResponse:
    tokens = await _tokens_of_generate(request)
    model = request.app[MODEL]
    async with model.slot():
        response = await _event_stream(request)
        index, text = 0, ""
        async for piece in model.pieces(tokens):
            events = []
            for word in piece:
                index, text = index + 1, text + word
                token = {"id": index, "text": word, "logprob": 0.0, "special": False}
                generated = text if index == tokens else None
                events.append(_event({"index": index, "token": token, "generated_text": generated}))
            await response.write(b"".join(events))
    return response


async def _tokens_of_generate(request: web.Request) -> int:
    body = msgspec.json.decode(await request.read(), type=Generate)
    return (body.parameters and body.parameters.max_new_tokens) or DEFAULT_TOKENS


async def _completions(request: web.Request) -> web.StreamResponse:
    body = msgspec.json.decode(await request.read(), type=Completion)
    return await _openai(request, body, "text_completion", body.prompt, body.max_tokens or DEFAULT_TOKENS)


async def _chat(request: web.Request) -> web.StreamResponse:
    body = msgspec.json.decode(await request.read(), type=Chat)
    prompt = " ".join(_said(message) for message in body.messages)
    tokens = body.max_completion_tokens or body.max_tokens or DEFAULT_TOKENS
    return await _openai(request, body, "chat.completion", prompt, tokens)


def _said(message: Message) -> str:
    if isinstance(message.content, list):
        return " ".join(part.text for part in message.content)
    return message.content or ""


async def _openai(
    request: web.Request, body: Completion | Chat, kind: str, prompt: str, tokens: int
) -> web.StreamResponse:
    model = request.app[MODEL]
    prompt_tokens = len(prompt.split())
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
    reply = {"id": f"demo-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": body.model}
    chat = kind == "chat.completion"
    async with model.slot():
        if not body.stream:
            text = await model.text(tokens)
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            # Every answer ends at its number of tokens: it would go on forever.
            return _json({**reply, "choices": [{"index": 0, **said, "finish_reason": "length"}], "usage": usage})
        if chat:
            reply["object"] = "chat.completion.chunk"
        response = await _event_stream(request)
        produced = 0
        async for piece in model.pieces(tokens):
            text, first = "".join(piece), not produced
            produced += len(piece)
            said = {"delta": {"content": text} | ({"role": "assistant"} if first else {})} if chat else {"text": text}
            choice = {"index": 0, **said, "finish_reason": "length" if produced == tokens else None}
            await response.write(_event({**reply, "choices": [choice]}))
        if body.stream_options and body.stream_options.include_usage:
            await response.write(_event({**reply, "choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
    return response


async def _event_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


def _event(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


async def serve(model: Model, host: str, port: int, load_s: float) -> None:
    """Serves `model` until cancelled, and says so in the log; the model is loaded after `load_s` seconds."""
    # Cancelling the handler when its client leaves is what frees the slot.
    runner = web.AppRunner(application(model), handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        print(
            f"{ABOUT}; on http://{host}:{runner.addresses[0][1]}, "
            f"{model.slots} slots of {model.tokens_per_s:g} tokens/s, loading for {load_s:g} s",
            flush=True,
        )
        await asyncio.sleep(load_s)
        model.loaded = True
        print("model loaded", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m posthouse.demo.model", description=f"Runs {ABOUT}.")
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    option("--port", type=int, default=8000, help="port to listen on; 0: any free one (default %(default)s)")
    option("--tokens-per-s", type=float, default=50.0, help="speed of each answer (default %(default)s)")
    option("--slots", type=int, default=4, help="answers produced at the same time (default %(default)s)")
    option("--max-waiting", type=int, default=64, help="requests that may wait for a slot (default %(default)s)")
    option("--load-s", type=float, default=3.0, help="seconds of loading before the first answer (default %(default)s)")
    given = parser.parse_args(arguments)
    limits = {
        "port": (0, 65_535),
        "tokens_per_s": (0.01, 100_000),
        "slots": (1, 10_000),
        "max_waiting": (0, 100_000),
        "load_s": (0, 86_400),
    }
    for name, (low, high) in limits.items():
        value = getattr(given, name)
        if not low <= value <= high:  # also true of nan
            parser.error(f"--{name.replace('_', '-')} is {value:g}; it must be from {low:g} to {high:g}")
    model = Model(given.tokens_per_s, given.slots, given.max_waiting)
    try:
        asyncio.run(serve(model, given.host, given.port, given.load_s))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"cannot listen on {given.host}:{given.port}: {error.strerror or error}")


if __name__ == "__main__":
    main()
