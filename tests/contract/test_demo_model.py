"""The demo model behaves on the wire like the servers it stands in for."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from posthouse.demo.model import ABOUT, MAX_BODY_BYTES, Model, application, main

FAST = 100_000.0  # tokens/s: no test waits for text


@pytest.fixture
def model() -> Model:
    model = Model(tokens_per_s=FAST, slots=2, max_waiting=3)
    model.loaded = True
    return model


@pytest.fixture
async def client(model: Model) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(application(model))) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def events(body: str) -> list[Any]:
    lines = [line.removeprefix("data:").strip() for line in body.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def inputs(tokens: int) -> dict[str, Any]:
    return {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": tokens}}


async def test_it_says_plainly_what_it_is(client: TestClient[Any, Any]) -> None:
    about = await (await client.get("/")).json()
    assert about["about"] == ABOUT
    assert "not a language model" in ABOUT


async def test_generate_answers_with_as_many_words_as_tokens_were_asked_for(client: TestClient[Any, Any]) -> None:
    answer = await client.post("/generate", json=inputs(30))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert len((await answer.json())["generated_text"].split()) == 30


async def test_generate_without_parameters_answers_with_256_tokens(client: TestClient[Any, Any]) -> None:
    for body in ({"inputs": "x"}, {"inputs": "x", "parameters": None}, {"inputs": "x", "parameters": {}, "cost": 1}):
        answer = await (await client.post("/generate", json=body)).json()
        assert len(answer["generated_text"].split()) == 256


async def test_a_stream_carries_the_same_text_token_by_token_and_whole_at_its_end(client: TestClient[Any, Any]) -> None:
    whole = (await (await client.post("/generate", json=inputs(40))).json())["generated_text"]
    answer = await client.post("/generate_stream", json=inputs(40))
    assert answer.headers["Content-Type"] == "text/event-stream"
    tokens = events(await answer.text())
    assert len(tokens) == 40
    assert "".join(event["token"]["text"] for event in tokens) == whole
    assert [event["generated_text"] for event in tokens] == [None] * 39 + [whole]


async def test_completions_have_the_shape_of_openai(client: TestClient[Any, Any]) -> None:
    answer = await (await client.post("/v1/completions", json={"prompt": "one two", "max_tokens": 5})).json()
    assert answer["object"] == "text_completion"
    assert len(answer["choices"][0]["text"].split()) == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


async def test_chat_counts_the_words_of_all_messages(client: TestClient[Any, Any]) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "one two three"}]},
    ]
    body = {"messages": messages, "max_completion_tokens": 4, "model": "mine"}
    answer = await (await client.post("/v1/chat/completions", json=body)).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "mine")
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert len(answer["choices"][0]["message"]["content"].split()) == 4
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


@pytest.mark.parametrize("usage", [False, True])
async def test_an_openai_stream_ends_in_done_and_reports_usage_when_asked(
    client: TestClient[Any, Any], usage: bool
) -> None:
    options = {"max_tokens": 6000, "stream": True, "stream_options": {"include_usage": usage}}
    chat = {**options, "messages": [{"role": "user", "content": "one"}]}
    for path, body in (("/v1/completions", {**options, "prompt": "one"}), ("/v1/chat/completions", chat)):
        *chunks, done = events(await (await client.post(path, json=body)).text())
        assert done == "[DONE]"
        if usage:
            assert chunks.pop()["usage"]["completion_tokens"] == 6000
        choices = [chunk["choices"][0] for chunk in chunks]
        text = "".join(choice["delta"]["content"] if "chat" in path else choice["text"] for choice in choices)
        assert len(text.split()) == 6000
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]


async def test_it_refuses_work_while_loading(model: Model, client: TestClient[Any, Any]) -> None:
    model.loaded = False
    assert (await client.get("/health")).status == 503
    answer = await client.post("/generate", json=inputs(1))
    assert (answer.status, (await answer.json())["error"]) == (503, "the model is still loading")
    model.loaded = True
    assert (await client.get("/health")).status == 200
    assert (await client.post("/generate", json=inputs(1))).status == 200


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", {}, "inputs"),
        ("/generate", {"inputs": 3}, "inputs"),
        ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
        ("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 10**6}}, "parameters.max_new_tokens"),
        ("/v1/completions", {"prompt": ["x"]}, "prompt"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}], "max_tokens": "9"}, "max_tokens"),
    ],
)
async def test_wrong_input_is_refused_by_the_name_of_its_field(
    client: TestClient[Any, Any], path: str, body: dict[str, Any], field: str
) -> None:
    answer = await client.post(path, json=body)
    error = (await answer.json())["error"]
    if path.startswith("/v1/"):
        assert (answer.status, error["type"]) == (400, "invalid_request_error")
        assert field in error["message"]
    else:
        assert answer.status == 422
        assert field in error


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 422), (b"{", 422), (b'{"inputs": "\xff"}', 422), (b" " * (MAX_BODY_BYTES + 1), 413)]
)
async def test_a_body_that_is_no_request_gets_a_json_error(
    client: TestClient[Any, Any], body: bytes, status: int
) -> None:
    answer = await client.post("/generate", data=io.BytesIO(body))
    assert (answer.status, answer.content_type) == (status, "application/json")
    assert (await answer.json())["error"]


async def test_only_slots_run_at_once_a_few_wait_and_the_rest_is_refused(
    model: Model, client: TestClient[Any, Any]
) -> None:
    model.tokens_per_s = 0.1
    asked = [asyncio.create_task(client.post("/generate", json=inputs(30_000))) for _ in range(5)]
    await until(lambda: (model.working, model.waiting) == (2, 3))
    assert (await client.post("/generate", json=inputs(1))).status == 429
    assert (await client.post("/v1/completions", json={"prompt": "x"})).status == 429

    model.tokens_per_s = FAST
    for task in asked[:2]:
        task.cancel()  # both clients leave: their slots go to those who wait, at full speed
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [a.status for a in answers if isinstance(a, aiohttp.ClientResponse)] == [200] * 3


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_it_stops_when_the_client_leaves(model: Model, client: TestClient[Any, Any], path: str) -> None:
    model.tokens_per_s = 20
    task = asyncio.create_task(client.post(path, json=inputs(30_000)))
    await until(lambda: model.working == 1)
    if path == "/generate":
        task.cancel()
    else:
        answer = await task
        assert await answer.content.readany()
        answer.close()
    await until(lambda: model.working == 0)


async def test_the_command_serves_and_says_when_the_model_is_loaded() -> None:
    command = [sys.executable, "-m", "posthouse.demo.model", "--port", "0", "--load-s", "0.1"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(120):
            first = (await process.stdout.readline()).decode()
            assert first.startswith(ABOUT)
            assert await process.stdout.readline() == b"model loaded\n"
        url = first.split("on ")[1].split(",")[0]
        async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as answer:
            assert answer.status == 200
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize(
    ("option", "value"), [("--slots", "0"), ("--tokens-per-s", "nan"), ("--port", "70000"), ("--load-s", "-1")]
)
def test_the_command_refuses_an_option_by_name(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([option, value])
    assert stopped.value.code == 2
    assert f"{option} is {value}; it must be from" in capsys.readouterr().err
