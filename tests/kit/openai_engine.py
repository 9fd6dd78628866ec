"""A stand-in for a model server that speaks OpenAI's API, run as a program: `openai_engine.py PORT FOLDER`.

The field `user` of a request says what becomes of it: `PLAN` or `PLAN:TOKEN`, or `PLAN-at-MODEL` where that is asked of
this model alone. What it is asked, and what it sees of its
clients, goes as lines of JSON into the file `seen` of the folder.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HUGE = 2_000_000
BUSY = {"error": {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": "busy"}}
WRONG = {"error": {"message": "temperature: must be at most 2", "type": "x", "param": "temperature", "code": "too_hot"}}
LONG = {"error": {"message": "the prompt is too long", "type": "x", "code": "context_length_exceeded"}}
_RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [], "tools": []}
ANSWERS: dict[str, Any] = {
    "/v1/moderations": {"id": "modr-1", "model": "m", "results": [{"flagged": True, "categories": {}}]},
    "/v1/images/generations": {"created": 1, "data": [{"b64_json": "aGk="}]},
    "/v1/images/edits": {"created": 1, "data": [{"b64_json": "aGk="}]},
    "/v1/images/variations": {"created": 1, "data": [{"b64_json": "aGk="}]},
    "/v1/audio/transcriptions": {"text": "the quick brown fox"},
    "/v1/audio/translations": {"text": "the quick brown fox"},
    "/v1/messages/count_tokens": {"input_tokens": 3},
}


@web.middleware
async def refused(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What it cannot read it refuses, as engines do."""
    try:
        return await handler(request)
    except Exception as error:
        return web.json_response({"error": {"message": repr(error)}}, status=400)


class Engine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.responses: dict[str, dict[str, Any]] = {}

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26, middlewares=[refused])
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/embeddings", self.embed)
        app.router.add_post("/v1/{path:chat/completions|completions}", self.generate)
        app.router.add_post("/v1/messages", self.message)
        app.router.add_post("/v1/responses", self.respond)
        app.router.add_route("*", "/v1/responses/{id}{more:.*}", self.response)
        app.router.add_route("*", "/{path:.*}", self.other)
        return app

    def see(self, what: str, asked: dict[str, Any], **more: Any) -> None:
        with (self.folder / "seen").open("a") as file:
            file.write(json.dumps({"what": what, "user": asked.get("user", ""), "pid": os.getpid(), **more}) + "\n")

    def is_first(self, user: str) -> bool:
        """Whether no engine that shares the folder has seen this before."""
        try:
            (self.folder / user.replace("/", "-")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        """As vLLM's; the file `adapters-PID` of the folder names what it holds beside its model."""
        named = self.folder / f"adapters-{os.getpid()}"
        base = {"id": "base", "object": "model", "owned_by": "vllm", "parent": None}
        more = [{**base, "id": name, "parent": "base"} for name in named.read_text().split()] if named.exists() else []
        return web.json_response({"object": "list", "data": [base, *more]})

    async def embed(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.see("begun", asked, body=asked)
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
        return web.json_response({"object": "list", "model": asked["model"], "data": data, "usage": USAGE})

    async def message(self, request: web.Request) -> web.StreamResponse:
        """Anthropic's."""
        asked = await request.json()
        user = asked.get("metadata", {}).get("user_id", "")
        self.see("begun", {"user": user}, body=asked, headers=dict(request.headers))
        if user == "refuses":
            error = {"type": "invalid_request_error", "message": "max_tokens: must be above 0"}
            return web.json_response({"type": "error", "error": error}, status=400)
        if early := await self.early(request, plan := self.plan_of(user), user):
            return early
        said = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked["model"], "stop_reason": None}
        text = {"done": "data: [DONE]\n\n[DONE]", "huge": "x" * HUGE}.get(plan, "so it was")
        if not asked.get("stream"):
            block: dict[str, Any] = {"type": "text", "text": text}
            if plan == "tools":
                block = {"type": "tool_use", "id": "toolu_1", "name": asked["tools"][0]["name"]}
                block["input"] = {"city": "Paris"}
            usage = {"input_tokens": 3, "output_tokens": 2}
            return web.json_response({**said, "content": [block], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        delta = {"type": "text_delta", "text": text}
        events: list[dict[str, Any]] = [
            {
                "type": "message_start",
                "message": {**said, "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
            },
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        ]
        for number, event in enumerate(events):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            if plan == "dies" and number == 2:
                await asyncio.sleep(0.1)  # so that what was written leaves
                assert request.transport is not None
                request.transport.abort()
                break
        return response

    async def respond(self, request: web.Request) -> web.StreamResponse:
        """A response, which is kept, and goes on from one that was."""
        asked = await request.json()
        self.see("begun", asked, body=asked)
        before = asked.get("previous_response_id")
        if before and before not in self.responses:
            return web.json_response({"error": {"message": "not found", "code": "not_here"}}, status=400)
        named = f"resp_{os.getpid()}_{len(self.responses)}"
        usage = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        text = {"type": "output_text", "text": f'"id": "{named}"', "annotations": []}
        output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]}]
        said = {**_RESPONSE, "id": named, "model": asked["model"], "output": output, "usage": usage}
        said |= {"status": "completed", "previous_response_id": before}
        self.responses[named] = said
        if not asked.get("stream"):
            return web.json_response(said)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, kind in enumerate(("response.created", "response.completed")):
            event = {"type": kind, "sequence_number": number, "response": said}
            await response.write(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())
        return response

    async def response(self, request: web.Request) -> web.Response:
        """One that is kept."""
        named, call = request.match_info["id"], (request.method, request.match_info["more"])
        if (kept := self.responses.get(named)) is None:
            return web.json_response({"error": {"message": "no such response", "code": None}}, status=404)
        if call == ("DELETE", ""):
            del self.responses[named]
            return web.json_response({"id": named, "object": "response.deleted", "deleted": True})
        if call == ("GET", "/input_items"):
            return web.json_response(
                {"object": "list", "data": [{"id": "msg_0", "type": "message"}], "has_more": False}
            )
        if call == ("POST", "/cancel"):
            kept["status"] = "cancelled"
        return web.json_response(kept)

    async def other(self, request: web.Request) -> web.Response:
        """Any other call: it is answered with what came."""
        came: dict[str, Any] = {"method": request.method, "path": request.path_qs, "headers": dict(request.headers)}
        if request.content_type == "multipart/form-data":
            fields = await request.post()
            came["form"] = {
                name: len(value.file.read()) if isinstance(value, web.FileField) else value
                for name, value in fields.items()
            }
        else:
            came["body"] = (await request.read()).decode("latin-1")
        user = came.get("form", {}).get("prompt", request.query.get("user", ""))
        self.see("begun", {"user": user}, **came)
        if user.startswith("breaks-once") and self.is_first(user):
            return web.json_response({"error": {"message": "out of memory"}}, status=500)
        if request.path == "/v1/audio/speech":
            return web.Response(body=bytes(range(256)) * 100, content_type="audio/mpeg")
        return web.json_response(ANSWERS.get(request.path, came))

    async def generate(self, request: web.Request) -> web.StreamResponse:
        raw = await request.text()
        asked = json.loads(raw)
        user = asked.get("user", "")
        plan = user.partition(":")[0]
        plan, at, endpoint = plan.partition("-at-")
        if at and endpoint != asked["model"]:
            plan = ""
        self.see("begun", asked, body=raw, headers=dict(request.headers))
        try:
            plan = self.plan_of(user, plan)
            if early := await self.early(request, plan, user):
                return early
            if plan == "tools" and asked["messages"][-1]["role"] != "tool":
                return web.json_response(self.calling(asked))
            if not asked.get("stream"):
                return web.json_response(self.document(asked, raw if plan == "echo" else "so it was"))
            return await self.stream(request, asked, plan)
        except asyncio.CancelledError:
            self.see("cancelled", asked)
            raise

    def plan_of(self, user: str, plan: str | None = None) -> str:
        """What is to become of this user's request; `plan`: as far as that is known."""
        plan = user.partition(":")[0] if plan is None else plan
        if plan.endswith("-once"):
            plan = plan.removesuffix("-once") if self.is_first(user) else ""
        return plan

    async def early(self, request: web.Request, plan: str, user: str) -> web.Response | None:
        """What happens before the first byte."""
        if plan == "waits":
            while not (self.folder / f"go-{user}").exists():
                await asyncio.sleep(0.02)
        if plan == "exits":
            os._exit(3)
        if plan == "breaks":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if plan == "busy":
            return web.json_response(BUSY, status=429, headers={"Retry-After": "1"})
        if plan == "full":
            return web.json_response(BUSY, status=429, headers={"Retry-After": "3600"})
        if plan == "fails":
            return web.json_response({"error": {"message": "out of memory", "code": "oom"}}, status=500)
        if plan == "long":
            return web.json_response(LONG, status=400)
        if plan == "refuses":
            return web.json_response(WRONG, status=400)
        if plan == "redirects":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        return None

    def document(self, asked: dict[str, Any], text: str) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
        choice |= {"message": {"role": "assistant", "content": text}} if "messages" in asked else {"text": text}
        kind = "chat.completion" if "messages" in asked else "text_completion"
        said = {"id": "c1", "object": kind, "created": 1, "model": asked["model"], "choices": [choice], "usage": USAGE}
        return said | {"x_engine": "kept"}

    def calling(self, asked: dict[str, Any]) -> dict[str, Any]:
        """A call of the first tool."""
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
        said = self.document(asked, "")
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        said["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
        return said

    async def stream(self, request: web.Request, asked: dict[str, Any], plan: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Request-Id": "of-the-engine"})
        if plan in {"waits", ""}:
            del response.headers["X-Request-Id"]
        await response.prepare(request)
        assert request.transport is not None
        texts = {"done": ["data: [DONE]\n\n", "[DONE]"], "huge": ["x" * HUGE]}.get(plan, ["so ", "it ", "was"])
        for number, text in enumerate(texts):
            event = self.event(asked, [self.choice(asked, text)])
            if plan == "tears" and number == 1:
                event = event[: len(event) // 2]
            await response.write(event)
            if plan in {"hangs", "tears", "dies"} and number == 1:
                if plan == "hangs":
                    await asyncio.sleep(3600)
                await asyncio.sleep(0.1)  # so that what was written leaves
                request.transport.abort()
                return response
        if asked.get("stream_options", {}).get("include_usage"):
            await response.write(self.event(asked, []))
        await response.write(b"data: [DONE]\n\n")
        return response

    def choice(self, asked: dict[str, Any], text: str) -> dict[str, Any]:
        said: dict[str, Any] = {"delta": {"content": text}} if "messages" in asked else {"text": text}
        return {"index": 0, "finish_reason": None, **said}

    def event(self, asked: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
        kind = "chat.completion.chunk" if "messages" in asked else "text_completion"
        chunk = {"id": "c1", "object": kind, "created": 1, "model": asked["model"], "choices": choices}
        chunk |= {"usage": None if choices else USAGE} if asked.get("stream_options") else {}
        return f"data: {json.dumps(chunk)}\n\n".encode()


if __name__ == "__main__":
    web.run_app(
        Engine(Path(sys.argv[2])).app(), host="127.0.0.1", port=int(sys.argv[1]), print=None, handler_cancellation=True
    )
