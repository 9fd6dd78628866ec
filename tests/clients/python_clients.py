"""Clients in Python, unmodified, at a gateway: `python_clients.py URL KEY FOLDER`, with the Python that has them.

Prints a line of JSON for each case: what it is, and what went wrong, if anything.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import agents
import anthropic
import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

URL, KEY, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
Case = tuple[Callable[[], Any], Any]
Ask = Callable[[str], str]
"""The text that a user's request is answered with."""
HUGE = 2_000_000
OPENAI_ERRORS = openai.APIError, openai.RateLimitError
LOOP = asyncio.Runner()
"""What asyncio's clients keep connections in."""


def later(user: str) -> None:
    """Lets the engine go on with this user's request, after a while."""
    threading.Timer(2.0, (FOLDER / f"go-{user}").touch).start()


def odd(name: str, chat: Ask, streamed: Ask, died: type[Exception], full: type[Exception]) -> dict[str, Case]:
    """What every chat client is put through. `died`: what it raises for an error in a stream; `full`: for a 429."""

    def slow() -> str:
        later(f"waits:{name}")
        return streamed(f"waits:{name}")

    return {
        "chat": (lambda: chat(name), "so it was"),
        "streaming": (lambda: streamed(name), "so it was"),
        "slow first byte": (slow, "so it was"),
        "death before the first byte": (lambda: streamed(f"breaks-once:{name}"), "so it was"),
        "death after the first byte": (lambda: raised(died, lambda: streamed("dies")), "raised"),
        "[DONE] in content": (lambda: streamed("done"), "data: [DONE]\n\n[DONE]"),
        "429, once": (lambda: chat(f"busy-once:{name}"), "so it was"),
        "429 with Retry-After": (lambda: raised(full, lambda: chat("full")), "raised"),
        "huge event": (lambda: len(streamed("huge")), HUGE),
    }


def raised(kind: type[Exception], made: Callable[[], Any]) -> str:
    try:
        made()
    except kind:
        return "raised"
    return "no error"


def openai_sdk() -> dict[str, Case]:
    client: Any = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)

    def create(user: str, model: str = "chat", **more: Any) -> Any:
        messages = [{"role": "user", "content": "How was it?"}]
        return client.chat.completions.create(model=model, messages=messages, user=user, max_tokens=8, **more)

    def streamed(user: str, model: str = "chat") -> str:
        chunks = create(user, model, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def tools() -> Any:
        weather = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
        return json.loads(create("tools", tools=[weather]).choices[0].message.tool_calls[0].function.arguments)

    embedded, sound = {"model": "chat", "input": "x", "encoding_format": "float"}, ("a.wav", bytes(10_000))
    return {
        **odd("openai", lambda user: create(user).choices[0].message.content, streamed, *OPENAI_ERRORS),
        "tools": (tools, {"city": "Paris"}),
        "embeddings": (lambda: client.embeddings.create(**embedded).data[0].embedding, [0.5, -1.0]),
        "audio upload": (
            lambda: client.audio.transcriptions.create(model="chat", file=sound).text,
            "the quick brown fox",
        ),
        "images": (lambda: client.images.generate(model="chat", prompt="x").data[0].b64_json, "aGk="),
        "llama.cpp: chat": (lambda: create("x", "llama").usage.completion_tokens > 0, True),
        "llama.cpp: streaming": (lambda: isinstance(streamed("x", "llama"), str), True),
    }


def langchain() -> dict[str, Case]:
    def model(name: str = "chat", **more: Any) -> ChatOpenAI:
        return ChatOpenAI(base_url=URL, api_key=KEY, model=name, max_retries=0, **more)

    def streamed(user: str) -> str:
        return "".join(str(chunk.content) for chunk in model().stream("How was it?", user=user))

    @tool
    def weather(city: str) -> str:
        """The weather."""
        return city

    def tools() -> Any:
        return model().bind_tools([weather]).invoke("How is it?", user="tools").tool_calls[0]["args"]

    embeddings = OpenAIEmbeddings(base_url=URL, api_key=KEY, model="chat", check_embedding_ctx_length=False)
    llama = model("llama", max_tokens=8)
    return {
        **odd("langchain", lambda user: model().invoke("How was it?", user=user).content, streamed, *OPENAI_ERRORS),
        "tools": (tools, {"city": "Paris"}),
        "embeddings": (lambda: embeddings.embed_query("x"), [0.5, -1.0]),
        "llama.cpp: chat": (lambda: llama.invoke("x").usage_metadata["output_tokens"] > 0, True),
        "llama.cpp: streaming": (lambda: len(list(llama.stream("x"))) > 1, True),
    }


def agents_sdk() -> dict[str, Case]:
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def weather(city: str) -> str:
        """The weather."""
        return f"sunny in {city}"

    def agent(user: str, name: str = "chat", **more: Any) -> agents.Agent:
        client = openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0)
        settings = agents.ModelSettings(extra_body={"user": user}, max_tokens=8 if name == "llama" else None)
        model = agents.OpenAIChatCompletionsModel(model=name, openai_client=client)
        return agents.Agent(name="x", model=model, model_settings=settings, **more)

    def chat(user: str, name: str = "chat", **more: Any) -> str:
        return str(LOOP.run(agents.Runner.run(agent(user, name, **more), "How was it?")).final_output)

    async def all_of(user: str, name: str) -> str:
        run, text = agents.Runner.run_streamed(agent(user, name), "How was it?"), ""
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                text += event.data.delta
        return text

    def streamed(user: str, name: str = "chat") -> str:
        return LOOP.run(all_of(user, name))

    return {
        **odd("agents", chat, streamed, *OPENAI_ERRORS),
        "tools": (lambda: chat("tools", tools=[weather]), "so it was"),
        "llama.cpp: chat": (lambda: isinstance(chat("x", "llama"), str), True),
        "llama.cpp: streaming": (lambda: isinstance(streamed("x", "llama"), str), True),
    }


def anthropic_sdk() -> dict[str, Case]:
    client = anthropic.Anthropic(base_url=URL.removesuffix("/v1"), api_key=KEY, max_retries=0)

    def asked(user: str, model: str = "chat") -> dict[str, Any]:
        messages = [{"role": "user", "content": "How was it?"}]
        return {"model": model, "messages": messages, "max_tokens": 8, "metadata": {"user_id": user}}

    def streamed(user: str, model: str = "chat") -> str:
        with client.messages.stream(**asked(user, model)) as stream:
            return "".join(stream.text_stream)

    def chat(user: str) -> str:
        return str(client.messages.create(**asked(user)).content[0].text)

    def tools() -> Any:
        schema = {"type": "object", "properties": {"city": {"type": "string"}}}
        weather: Any = {"name": "weather", "description": "The weather.", "input_schema": schema}
        found: Any = client.messages.create(**asked("tools"), tools=[weather]).content[0]
        return found.input

    return {
        **odd("anthropic", chat, streamed, anthropic.APIError, anthropic.RateLimitError),
        "tools": (tools, {"city": "Paris"}),
        "llama.cpp: chat": (lambda: client.messages.create(**asked("x", "llama")).usage.output_tokens > 0, True),
        "llama.cpp: streaming": (lambda: isinstance(streamed("x", "llama"), str), True),
    }


CLIENTS: dict[str, Callable[[], dict[str, Case]]] = {
    "openai": openai_sdk,
    "anthropic": anthropic_sdk,
    "langchain-openai": langchain,
    "openai-agents": agents_sdk,
}

for package, make in CLIENTS.items():
    for what, (made, wanted) in make().items():
        try:
            got = made()
        except Exception as error:
            got = repr(error)
        wrong = "" if got == wanted else repr(got)[:300]
        print(json.dumps({"client": f"{package} {version(package)}", "case": what, "wrong": wrong}), flush=True)
