"""The gateway as OpenAI's own client sees it, unmodified: a server, workers, a gateway, each a process of its own."""

import gc
import importlib
import json
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from posthouse.gateway.records import read
from posthouse.openai import AsyncDirect, Direct
from tests.kit import openai_engine
from tests.kit.gateways import ONSTART, World, add_endpoint, gateway, gateway_world, until
from tests.kit.later import Later
from tests.kit.prometheus import promtool
from tests.kit.site import TIMEOUT_S

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam
else:
    openai = Later("openai")

EXAMPLE = Path(__file__).parents[2] / "examples" / "llama-cpp"
MESSAGES: "list[ChatCompletionMessageParam]" = [{"role": "user", "content": "How was it?"}]


# The official clients are left as their users leave them: their sockets are closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    flags = ("--keep-alive-s", "0.5", "--drain-s", "1", "--max-body-mib", "1", "--records", "requests.jsonl")
    with gateway_world(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("engine"), *flags) as made:
        folder = made.folder
        made.manage.create_template("engine-tls", env=f"-p 3000:3000 -e USE_SSL=true -e SEEN={folder}", onstart=ONSTART)
        yield made
    gc.collect()  # so that what the clients left is found here


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


# -- answers -----------------------------------------------------------------------------------------------------------


def test_models_are_the_endpoints_that_the_key_reaches(world: World) -> None:
    add_endpoint(world.manage, "a/b", min_load=0)
    client = world.client()
    assert {"chat", "a/b"} <= {model.id for model in client.models.list()}
    found = client.models.retrieve("a/b")
    assert (found.object, found.owned_by) == ("model", "posthouse")
    assert abs(found.created - time.time()) < 86_400
    for scope in ("route", "read"):
        key = world.manage.create_key("gateway", scope).key
        assert "chat" in {model.id for model in world.client(key).models.list()}
    of_one = world.client(world.manage.endpoint("a/b").api_key)
    assert [model.id for model in of_one.models.list()] == ["a/b"]
    with pytest.raises(openai.NotFoundError, match="no model 'chat'; the models for this key: 'a/b'"):
        of_one.models.retrieve("chat")
    with pytest.raises(openai.NotFoundError, match="no model 'chat'; the models for this key: 'a/b'") as refused:
        of_one.chat.completions.create(model="chat", messages=MESSAGES)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_chat_is_answered_whole_and_as_a_stream(world: World) -> None:
    client = world.client()
    whole = client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=5)
    assert whole.choices[0].message.content == "so it was"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 2
    assert whole.model_extra == {"x_engine": "kept"}
    stream = client.chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    assert text_of(stream) == "so it was"
    file = world.site.directory / "requests.jsonl"
    until(lambda: '"prompt_tokens":3' in file.read_text().splitlines()[-1], "it is written down")
    record = file.read_text().splitlines()[-1]
    told = json.loads(record)
    assert (told["status"], told["outcome"], told["key"]) == (200, "complete", world.key[:11])
    assert (told["prompt_tokens"], told["completion_tokens"], told["work"]) == (3, 2, None)
    assert world.key not in record


def test_the_example_asks_for_a_stream_and_prints_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.site.directory)
    monkeypatch.setenv("OPENAI_BASE_URL", world.url)
    monkeypatch.setattr(sys, "argv", ["ask.py"])
    runpy.run_path(str(EXAMPLE / "ask.py"))
    assert capsys.readouterr().out == "so it was\n"


def test_completions_and_embeddings_are_answered(world: World) -> None:
    client = world.client()
    assert client.completions.create(model="chat", prompt="x").choices[0].text == "so it was"
    stream = client.completions.create(model="chat", prompt="x", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "so it was"
    found = client.embeddings.create(model="chat", input="x", encoding_format="float")
    assert found.data[0].embedding == [0.5, -1.0]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_every_other_route_of_openai_s_client_is_answered(world: World) -> None:
    client, png = world.client(), ("a.png", b"\x89PNG" + bytes(100_000), "image/png")
    assert client.responses.create(model="chat", input="x").id.startswith("resp_")
    assert client.moderations.create(model="chat", input="x").results[0].flagged
    assert client.images.generate(model="chat", prompt="x").data[0].b64_json == "aGk="  # type: ignore[index]
    assert client.images.edit(model="chat", image=png, prompt="x").data[0].b64_json == "aGk="  # type: ignore[index]
    assert client.images.create_variation(model="chat", image=png).data[0].b64_json == "aGk="  # type: ignore[index]
    assert client.audio.speech.create(model="chat", voice="x", input="x").content == bytes(range(256)) * 100
    assert client.audio.transcriptions.create(model="chat", file=png).text == "the quick brown fox"
    assert client.audio.translations.create(model="chat", file=png).text == "the quick brown fox"
    for path in ("rerank", "score"):
        answer = client.post(f"/{path}", body={"model": "chat", "query": "x"}, cast_to=dict)
        assert answer["path"] == f"/v1/{path}"


@pytest.mark.parametrize("file_first", [True, False])
def test_a_form_reaches_a_second_worker_whole_wherever_it_names_its_model(world: World, file_first: bool) -> None:
    user = f"breaks-once:form:{file_first}"
    fields: list[tuple[str, Any]] = [("model", (None, b"chat")), ("prompt", (None, user.encode()))]
    files: list[tuple[str, Any]] = [("file", ("a.wav", bytes(700_000), "audio/wav"))]
    headers = {
        "Authorization": f"Bearer {world.key}",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
    }
    url = f"{world.url}/audio/transcriptions"
    answer = httpx.post(url, files=files + fields if file_first else fields + files, headers=headers, timeout=TIMEOUT_S)
    assert answer.json() == {"text": "the quick brown fox"}
    seen = world.seen(user)
    assert len({row["pid"] for row in seen}) == len(seen) == 2
    for row in seen:
        assert row["form"] == {"model": "chat", "prompt": user, "file": 700_000}
        told = {name.lower(): value for name, value in row["headers"].items()}
        assert told["traceparent"] == headers["traceparent"]
        assert told["x-request-id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n--b--", 400, "model: is missing in the form"),
        (b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1", 400, "model: is missing"),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nnobody\r\n--b--', 404, "no model 'nobody'"),
        (b"--b\r\n" + b"x" * 10_000, 400, "body: a field of the form"),
        (b"x" * 1_100_000, 413, "body: must be at most"),
    ],
)
def test_a_wrong_form_is_told(world: World, content: bytes, status: int, words: str) -> None:
    headers = {"Authorization": f"Bearer {world.key}", "Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{world.url}/images/edits", content=content, headers=headers)
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True)
    nameless = httpx.post(
        f"{world.url}/images/edits", content=b"", headers={**headers, "Content-Type": "multipart/form-data"}
    )
    assert nameless.status_code == 400


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_any_path_of_an_endpoint_s_workers_can_be_called(world: World, method: str) -> None:
    url = f"{world.url}/x/chat/prompt/a%2Fb?q=%20&user=any:{method}"
    headers = {"X-Api-Key": world.key, "Content-Type": "text/odd", "X-Posthouse-Cost": "7"}
    content = b"\x00\xff" if method in {"POST", "PUT"} else None
    answer = httpx.request(method, url, content=content, headers=headers).json()
    told = {name.lower(): value for name, value in answer["headers"].items()}
    assert (answer["method"], answer["path"]) == (method, f"/prompt/a%2Fb?q=%20&user=any:{method}")
    assert (answer["body"], told["content-type"]) == ("\x00\xff" if content else "", "text/odd")
    assert world.key not in str(answer)
    for wrong in ("nan", "-1", "x"):
        refused = httpx.request(method, url, headers={**headers, "X-Posthouse-Cost": wrong})
        assert "X-Posthouse-Cost: must be a number" in refused.json()["error"]["message"]


def test_a_slash_in_an_endpoint_s_name_is_written_as_such(world: World) -> None:
    answer = httpx.get(f"{world.url}/x/no%2Fbody/y", headers={"Authorization": f"Bearer {world.key}"})
    assert "there is no model 'no/body'" in answer.json()["error"]["message"]


# -- Anthropic's client ------------------------------------------------------------------------------------------------


@pytest.fixture
def anthropic() -> Any:
    """The package: it is large, and imported by nobody else."""
    return importlib.import_module("anthropic")


def test_anthropic_s_client_is_answered(world: World, anthropic: Any) -> None:
    client = anthropic.Anthropic(base_url=world.url.removesuffix("/v1"), api_key=world.key, max_retries=0)
    messages: list[Any] = list(MESSAGES)
    assert "chat" in {model.id for model in client.models.list()}
    assert client.models.retrieve("chat").display_name == "chat"
    whole = client.messages.create(model="chat", max_tokens=9, messages=messages)
    assert (whole.content[0].text, whole.usage.output_tokens) == ("so it was", 2)
    assert whole._request_id is not None
    assert client.messages.count_tokens(model="chat", messages=messages).input_tokens == 3
    with client.messages.stream(model="chat", max_tokens=9, messages=messages) as stream:
        assert "".join(stream.text_stream) == "so it was"
    log = world.site.directory / "gateway.log"
    until(lambda: "tokens 3 + 2" in log.read_text().splitlines()[-1], "the tokens are told")


def test_anthropic_s_client_is_told_errors_in_its_shape(world: World, anthropic: Any) -> None:
    def client(key: str) -> Any:
        return anthropic.Anthropic(base_url=world.url.removesuffix("/v1"), api_key=key, max_retries=0)

    messages: list[Any] = list(MESSAGES)
    with pytest.raises(anthropic.AuthenticationError) as wrong:
        client("wrong").messages.create(model="chat", max_tokens=9, messages=messages)
    assert wrong.value.body["error"]["type"] == "authentication_error"
    assert wrong.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError, match="there is no model 'nobody'"):
        client(world.key).messages.create(model="nobody", max_tokens=9, messages=messages)
    with pytest.raises(anthropic.BadRequestError, match="must be above 0"):
        client(world.key).messages.create(
            model="chat", max_tokens=0, messages=messages, metadata={"user_id": "refuses"}
        )
    with (
        pytest.raises(anthropic.APIStatusError, match="worker"),
        client(world.key).messages.stream(
            model="chat", max_tokens=9, messages=messages, metadata={"user_id": "dies"}
        ) as stream,
    ):
        list(stream)


def test_a_body_passes_byte_for_byte(world: World) -> None:
    body = '{ "model":"chat","unknown":{"b": 1.0,  "a":"\\u00e9"},\n"user":"echo:bytes", "messages":[] }'
    headers = {"Authorization": f"Bearer {world.key}", "X-Request-Id": "mine", "Cookie": "a=b", "X-Mine": "1"}
    answer = httpx.post(f"{world.url}/chat/completions", content=body, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == body
    assert answer.headers["x-request-id"] == "mine"
    [seen] = world.seen("echo:bytes")
    assert seen["body"] == body
    told = {name.lower(): value for name, value in seen["headers"].items()}
    assert (told["x-request-id"], told["x-mine"], told["content-type"]) == ("mine", "1", "application/json")
    assert not {"authorization", "cookie", "x-posthouse-auth"} & set(told)
    assert world.key not in str(seen)


def test_the_engine_s_request_id_goes_before_the_gateway_s_own(world: World) -> None:
    client = world.client()
    own = client.chat.completions.with_raw_response.create(model="chat", messages=MESSAGES)
    assert own.headers["x-request-id"].startswith("req_")
    answer = client.chat.completions.with_raw_response.create(model="chat", messages=MESSAGES, user="done", stream=True)
    assert answer.headers["x-request-id"] == "of-the-engine"


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"x": 1}])
def test_usage_is_counted_and_hidden_where_it_was_not_asked_for(world: World, options: Any) -> None:
    user = f"plain:{options}"
    more = {} if options is None else {"stream_options": options}
    stream = world.client().chat.completions.create(
        model="chat", messages=MESSAGES, stream=True, user=user, extra_body=more
    )
    chunks = list(stream)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    [seen] = world.seen(user)
    assert json.loads(seen["body"])["stream_options"] == {**(options or {}), "include_usage": True}
    log = world.site.directory / "gateway.log"
    until(lambda: "tokens 3 + 2" in log.read_text().splitlines()[-1], "the tokens are told")


def test_usage_that_was_asked_for_is_passed_on(world: World) -> None:
    stream = world.client().chat.completions.create(
        model="chat", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    *_, last = stream
    assert last.usage is not None
    assert last.usage.total_tokens == 5


# -- odd engines -------------------------------------------------------------------------------------------------------


def test_done_in_the_content_is_content(world: World) -> None:
    stream = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, user="done")
    assert text_of(stream) == "data: [DONE]\n\n[DONE]"


def test_a_huge_event_passes(world: World) -> None:
    stream = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, user="huge")
    assert text_of(stream) == "x" * openai_engine.HUGE


def test_a_stream_whose_first_byte_is_slow_is_kept_alive(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.key}"}
    body = {"model": "chat", "messages": MESSAGES, "stream": True, "user": "waits:1"}
    lines = []
    with httpx.stream("POST", f"{world.url}/chat/completions", json=body, headers=headers, timeout=TIMEOUT_S) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if lines.count(": waiting for a worker") == 2:
                (world.folder / "go-waits:1").touch()
    assert lines[:3] == [": waiting for a worker", "", ": waiting for a worker"]
    assert sum(line.startswith("data: {") for line in lines) == 3
    assert lines[-2:] == ["data: [DONE]", ""]
    stream = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, user="waits:1")
    assert text_of(stream) == "so it was"


@pytest.mark.parametrize("stream", [True, False])
def test_what_breaks_before_the_first_byte_goes_to_another_worker(world: World, stream: bool) -> None:
    user = f"breaks-once:{stream}"
    said: Any = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=stream, user=user)
    assert (text_of(said) if stream else said.choices[0].message.content) == "so it was"
    seen = world.seen(user)
    assert len({row["pid"] for row in seen}) == len(seen) == 2


def test_what_fails_at_two_workers_is_not_begun_a_third_time(world: World) -> None:
    for plan, status, words in (("breaks", 502, "begun 2 times"), ("fails", 500, "out of memory")):
        with pytest.raises(openai.InternalServerError, match=words) as failed:
            world.client(max_retries=2).chat.completions.create(model="chat", messages=MESSAGES, user=f"{plan}:2")
        assert failed.value.status_code == status
        assert len(world.seen(f"{plan}:2")) == 2  # the client was told that it shall not try again either


def test_an_engine_that_is_full_is_not_the_end(world: World) -> None:
    said = world.client().chat.completions.create(model="chat", messages=MESSAGES, user="busy-once:1")
    assert said.choices[0].message.content == "so it was"


def test_where_every_engine_is_full_the_caller_is_told_when_to_come_back(world: World) -> None:
    for plan, after_s, tries in (("busy", "1", 7), ("full", "3600", 1)):
        with pytest.raises(openai.RateLimitError, match="too many requests") as full:
            world.client().chat.completions.create(model="chat", messages=MESSAGES, user=f"{plan}:1")
        assert full.value.response.headers["Retry-After"] == after_s
        assert full.value.code == "rate_limit_exceeded"
        assert len(world.seen(f"{plan}:1")) == tries


def test_what_dies_after_the_first_byte_ends_with_an_error_in_the_stream(world: World) -> None:
    stream = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, user="dies:1")
    came = [next(stream).choices[0].delta.content for _ in range(2)]
    assert came == ["so ", "it "]
    with pytest.raises(openai.APIError) as failed:
        next(stream)
    assert failed.value.code == "worker_failed"
    assert len(world.seen("dies:1")) == 1


def test_an_event_that_was_torn_does_not_pass(world: World) -> None:
    stream = world.client().chat.completions.create(model="chat", messages=MESSAGES, stream=True, user="tears:1")
    assert next(stream).choices[0].delta.content == "so "
    with pytest.raises(openai.APIError, match="worker"):
        next(stream)


def test_what_the_engine_refuses_is_passed_on_as_it_is(world: World) -> None:
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as refused:
            world.client().chat.completions.create(model="chat", messages=MESSAGES, user="refuses", stream=stream)
        assert refused.value.body == openai_engine.WRONG["error"]


def test_a_redirect_of_a_worker_is_not_followed(world: World) -> None:
    with pytest.raises(openai.InternalServerError, match="redirect"):
        world.client().chat.completions.create(model="chat", messages=MESSAGES, user="redirects")


def test_a_request_with_an_idempotency_key_is_worked_out_once(world: World) -> None:
    for stream in (True, False):
        user, key = f"plain:once:{stream}", f"once-{stream}"
        body = {"model": "chat", "messages": MESSAGES, "user": user, "stream": stream}
        headers = {"Authorization": f"Bearer {world.key}", "Idempotency-Key": key}
        first, again = (httpx.post(f"{world.url}/chat/completions", json=body, headers=headers) for _ in range(2))
        assert (first.content, first.status_code) == (again.content, 200)
        assert first.headers["content-type"] == again.headers["content-type"]
        assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
        assert len(world.seen(user)) == 1
        other = httpx.post(f"{world.url}/chat/completions", json={**body, "n": 1}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        records = [one.outcome for one in read(world.site.directory / "requests.jsonl")][-3:]
        assert records == ["complete", "repeated", "idempotency_key_reused"]


# -- limits of keys ----------------------------------------------------------------------------------------------------


def outcomes(world: World, key_id: str) -> list[str]:
    """What the records say became of this key's requests."""
    return [one.outcome for one in read(world.site.directory / "requests.jsonl") if one.key == f"ph_{key_id}"]


def test_a_key_at_its_limits_is_told_as_openai_tells_it(world: World) -> None:
    made = world.manage.create_key("alice", "route", requests_per_minute=2, work_per_minute=1000)
    client = world.client(made.key)
    first = client.chat.completions.with_raw_response.create(model="chat", messages=MESSAGES, max_tokens=10)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 990 <= int(first.headers["x-ratelimit-remaining-tokens"]) <= 1000
    assert re.fullmatch(r"\d+(\.\d)?s", first.headers["x-ratelimit-reset-requests"])
    with client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=10, stream=True) as stream:
        assert text_of(stream) == "so it was"
    once = {"Idempotency-Key": "limited"}
    with pytest.raises(
        openai.RateLimitError, match="this key may have 2 requests per minute; room for this in"
    ) as caught:
        client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=10, extra_headers=once)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 30
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.BadRequestError, match="cost: is 1001, and this key may have 1000 work per minute"):
        client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=1001)
    until(lambda: len(outcomes(world, made.id)) == 4, "each has its record")
    assert outcomes(world, made.id) == ["complete", "complete", "rate_limit_exceeded", "invalid_request"]

    def used() -> list[tuple[int, float]]:
        rows = world.manage.keys()
        return [(row.used_requests, row.used_work) for row in rows if row.id == made.id]

    until(lambda: used() == [(2, 4.0)], "two tokens each were counted")
    world.manage.update_key(made.id, requests_per_minute=0)
    client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=10, extra_headers=once)


def test_the_official_client_comes_again_when_there_is_room(world: World) -> None:
    made = world.manage.create_key("bob", "route", work_per_minute=600)
    client = world.client(made.key, max_retries=5)
    for cost in ("600", "30"):
        client.moderations.create(model="chat", input="x", extra_headers={"X-Posthouse-Cost": cost})
    until(lambda: outcomes(world, made.id).count("complete") == 2, "both have their records")
    assert "rate_limit_exceeded" in outcomes(world, made.id)


# -- cancel ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_worker(world: World, stream: bool) -> None:
    user = f"{'hangs' if stream else 'waits'}:{stream}"
    client = world.client(timeout=TIMEOUT_S if stream else 0.5)
    if stream:
        answer: Any = client.chat.completions.create(model="chat", messages=MESSAGES, user=user, stream=True)
        next(answer)
        assert any(row.busy for row in world.manage.workers("chat"))
        answer.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="chat", messages=MESSAGES, user=user)
    until(lambda: len(world.seen(user, "cancelled")) == 1, "the engine is told")
    until(lambda: not any(row.busy for row in world.manage.workers("chat")), "the worker's slot is free")
    assert len(world.seen(user)) == 1


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_told_in_openai_s_words(world: World) -> None:
    for key in ("wrong", "ph_00000000_" + "x" * 43, "é".encode().decode("latin-1")):
        for call in ("models", "chat/completions"):
            body = {"model": "chat", "messages": []} if call != "models" else None
            headers = {b"Authorization": b"Bearer " + key.encode("latin-1")}
            answer = httpx.request("GET" if body is None else "POST", f"{world.url}/{call}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    with pytest.raises(openai.AuthenticationError):
        world.client("wrong").chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    assert httpx.get(f"{world.url}/models").status_code == 401


def test_many_wrong_keys_are_put_off_and_a_good_one_is_not(world: World) -> None:
    def ask(key: str) -> int:
        body, headers = {"model": "chat", "messages": MESSAGES}, {"Authorization": f"Bearer {key}"}
        return http.post(f"{world.url}/chat/completions", json=body, headers=headers).status_code

    with httpx.Client(timeout=TIMEOUT_S) as http:
        with ThreadPoolExecutor(8) as pool:
            wrong = pool.map(ask, [f"ph_0000000{i % 10}_" + "x" * 43 for i in range(200)])
            assert {ask(world.key) for _ in range(10)} == {200}
            assert set(wrong) == {401, 429}
        until(lambda: ask("wrong") == 401, "wrong keys are told so again")


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ("", 400, None, "body: must be a JSON object"),
        ("[]", 400, None, "body: must be a JSON object"),
        ("[" * 100_000, 400, None, "body: must be a JSON object"),
        ('{"x":' * 100_000, 400, None, "body: must be a JSON object"),
        ('{"messages":[]}', 400, "model", "model: is missing"),
        ('{"model":7}', 400, "model", "model: must be"),
        ('{"model":""}', 400, "model", "model: must be"),
        (json.dumps({"model": "x" * 256}), 400, "model", "model: must be"),
        ('{"model":"nobody"}', 404, "model", "there is no model 'nobody'; the models for this key: "),
        (json.dumps({"model": "chat", "x": "x" * 2**20}), 413, None, "body: must be at most 1048576 bytes"),
    ],
)
def test_a_wrong_body_is_told_by_its_field(world: World, body: str, status: int, param: str | None, words: str) -> None:
    headers = {"Authorization": f"Bearer {world.key}"}
    answer = httpx.post(f"{world.url}/chat/completions", content=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"].startswith("req_")


def test_what_there_is_not_is_told_in_the_same_shape(world: World) -> None:
    headers = {"Authorization": f"Bearer {world.key}"}
    assert httpx.get(f"{world.url}/nothing", headers=headers).status_code == 404
    answer = httpx.get(f"{world.url}/chat/completions", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "unknown_url")
    coded = httpx.post(f"{world.url}/chat/completions", content=b"x", headers={**headers, "Content-Encoding": "br"})
    assert coded.status_code == 415


# -- from zero ---------------------------------------------------------------------------------------------------------


def test_a_hundred_requests_wake_an_endpoint_and_all_are_answered(world: World) -> None:
    add_endpoint(world.manage, "cold", min_load=0, max_workers=1)

    def ask(number: int) -> str:
        client = world.client()
        said: Any = client.chat.completions.create(
            model="cold", messages=MESSAGES, max_tokens=5, user=f"zero:{number}", stream=number % 2 == 0
        )
        return text_of(said) if number % 2 == 0 else str(said.choices[0].message.content)

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(ask, range(100))) == ["so it was"] * 100
    assert len(world.manage.workers("cold", gone=True)) == 1
    assert all(len(world.seen(f"zero:{number}")) == 1 for number in range(100))


def test_a_request_that_no_worker_takes_in_time_is_told_when_to_come_back(world: World) -> None:
    add_endpoint(world.manage, "never", max_workers=0)
    with gateway(world.site, "--hold-s", "0.5", "--keep-alive-s", "0.1") as url:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0)
        with pytest.raises(openai.InternalServerError, match=r"no worker of 'never' was free within 0\.5 s") as refused:
            client.chat.completions.create(model="never", messages=MESSAGES)
        assert (refused.value.status_code, refused.value.code) == (503, "no_worker")
        assert int(refused.value.response.headers["Retry-After"]) > 0
        with pytest.raises(openai.APIError) as failed:  # the stream has begun with a comment
            list(client.chat.completions.create(model="never", messages=MESSAGES, stream=True))
        assert failed.value.code == "no_worker"


def test_a_server_that_is_away_is_told(world: World) -> None:
    with gateway(world.site, "--url", "http://127.0.0.1:9") as url:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0)
        with pytest.raises(openai.InternalServerError, match="did not answer") as failed:
            client.chat.completions.create(model="chat", messages=MESSAGES)
        assert (failed.value.status_code, failed.value.code) == (503, "unavailable")
        assert "Retry-After" in failed.value.response.headers


def test_what_runs_at_a_stop_comes_to_its_end(world: World) -> None:
    log, user = world.site.directory / "gateway.log", "waits:stop"
    stops = log.read_text().count("stopping")

    def ask(url: str) -> str:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0)
        return text_of(client.chat.completions.create(model="chat", messages=MESSAGES, stream=True, user=user))

    def go_on() -> None:
        until(lambda: log.read_text().count("stopping") > stops, "the gateway stops")
        (world.folder / f"go-{user}").touch()

    with ThreadPoolExecutor(2) as pool, gateway(world.site) as url:
        asked = pool.submit(ask, url)
        until(lambda: len(world.seen(user)) == 1, "the request is at a worker")
        pool.submit(go_on)
    assert asked.result() == "so it was"


def test_bodies_that_are_held_are_bounded_together(world: World) -> None:
    user, body = "waits:held", "x" * 600_000
    with ThreadPoolExecutor(1) as pool, gateway(world.site, "--max-held-mib", "1") as url:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0)
        asked = pool.submit(lambda: client.completions.create(model="chat", prompt=body, user=user).choices[0].text)
        until(lambda: len(world.seen(user)) == 1, "the first is at a worker")
        with pytest.raises(openai.InternalServerError, match="holds too many bodies") as full:
            client.completions.create(model="chat", prompt=body)
        assert (full.value.status_code, full.value.code) == (503, "busy")
        assert client.completions.create(model="chat", prompt="x").choices[0].text == "so it was"
        (world.folder / f"go-{user}").touch()
        assert asked.result() == "so it was"
        assert client.completions.create(model="chat", prompt=body).choices[0].text == "so it was"


def test_workers_that_serve_https_are_trusted_by_the_server_s_root(world: World) -> None:
    add_endpoint(world.manage, "safe", "engine-tls", min_load=0, max_workers=1)
    said = world.client().chat.completions.create(model="safe", messages=MESSAGES)
    assert said.choices[0].message.content == "so it was"
    assert world.manage.workers("safe")[0].url.startswith("https://")


def test_an_engine_that_dies_with_a_request_is_replaced_and_the_request_answered(world: World) -> None:
    said = world.client().chat.completions.create(model="chat", messages=MESSAGES, user="exits-once:1")
    assert said.choices[0].message.content == "so it was"
    first, second = world.seen("exits-once:1")
    assert first["pid"] != second["pid"]
    until(lambda: any(w.gone_at for w in world.manage.workers("chat", gone=True)), "the worker is gone")
    until(lambda: [w.state for w in world.manage.workers("chat")].count("idle") == 2, "two workers are ready again")


# -- a real engine -----------------------------------------------------------------------------------------------------


def test_the_server_of_llama_cpp_answers_with_a_model_of_random_weights(world: World) -> None:
    """The text is noise. What is real is the engine: its API, its streams, its counts."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: llama.cpp's server was not tried")
    pytest.importorskip("gguf", reason="gguf is not installed: llama.cpp's server was not tried")
    model = world.folder / "tiny.gguf"
    subprocess.run([sys.executable, EXAMPLE / "tiny.py", model], check=True)
    up = ("up", "llama", "--recipe", "llama.cpp", "--model", str(model), "--param", "slots=2", "--param")
    made = world.site.json(*up, "context=256")
    assert world.site.json(*up, "context=512") == made
    again = world.site.run(*up, "context=512")
    assert "everything is as it was" in again.stdout, again.stderr
    client = world.client()
    options: Any = {"model": "llama", "max_tokens": 8, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(messages=MESSAGES, logprobs=True, top_logprobs=2, **options)
    assert whole.usage.completion_tokens == 8
    assert whole.choices[0].logprobs is not None
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, **options))
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    asked = client.completions.create(prompt="x", stream=True, stream_options={"include_usage": True}, **options)
    *_, last = asked
    assert last.usage.completion_tokens == 8
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="llama", prompt="x" * 5000)
    other = world.site.run("up", "chat", "--recipe", "llama.cpp", "--model", str(model))
    assert (other.returncode, "has workers of other templates" in other.stderr) == (2, True)


# -- direct ------------------------------------------------------------------------------------------------------------


class Watched(httpx.HTTPTransport):
    """Notes what goes where, and how much comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, bytes, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        self.calls.append(
            (request.url.host, request.url.port or 0, request.content, answer.headers.get("location", ""))
        )
        return answer


def test_a_direct_client_gets_its_answers_from_the_worker_and_no_byte_by_the_gateway(world: World) -> None:
    set_alias(world, "near", "chat")
    watched = Watched()
    with httpx.Client(transport=Direct(watched)) as through:
        client = world.client(http_client=through)
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "a secret"}]
        answer = client.chat.completions.create(model="near", messages=messages, user="direct", max_tokens=7)
        assert (answer.model, answer.choices[0].message.content) == ("chat", "so it was")
        stream = client.chat.completions.create(model="chat", messages=messages, user="direct", stream=True)
        assert text_of(stream) == "so it was"
        with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
            client.chat.completions.create(model="none", messages=messages)
        with pytest.raises(openai.BadRequestError, match="temperature: must be at most 2"):
            client.chat.completions.create(model="chat", messages=messages, user="refuses")
        assert client.models.retrieve("chat").id == "chat"
    gateway_port = httpx.URL(world.url).port
    asked, answered, *_ = watched.calls
    assert (asked[1], json.loads(asked[2])) == (gateway_port, {"model": "near", "max_tokens": 7})
    assert answered[1] != gateway_port
    assert asked[3] == f"http://{answered[0]}:{answered[1]}/v1/chat/completions"
    seen = world.seen("direct")
    assert len(seen) == 2
    for row in seen:
        assert world.key not in json.dumps(row)
    file = world.site.directory / "requests.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {(row["status"], row["first_byte_s"]) for row in rows if row["outcome"] == "direct"} == {(307, 0.0)}


async def test_the_asynchronous_client_may_be_direct_too(world: World) -> None:
    async with httpx.AsyncClient(transport=AsyncDirect()) as through:
        client = openai.AsyncOpenAI(base_url=world.url, api_key=world.key, http_client=through)
        answer = await client.chat.completions.create(model="chat", messages=MESSAGES)
        assert answer.choices[0].message.content == "so it was"


# -- aliases -----------------------------------------------------------------------------------------------------------


def set_alias(world: World, name: str, *targets: str, **fields: Any) -> None:
    world.manage.put_alias(name, targets=[{"model": model} for model in targets], **fields)


def test_an_alias_is_a_model_and_the_engine_gets_the_name_of_its_endpoint(world: World) -> None:
    set_alias(world, "team/fast", "chat")
    set_alias(world, "fast", "team/fast")
    client = world.client()
    assert {"chat", "fast", "team/fast"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("team/fast").id == "team/fast"
    with pytest.raises(openai.NotFoundError, match=r"there is no model 'slow'; the models .*'fast'"):
        client.chat.completions.create(model="slow", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match="there is no model 'fast'"):
        world.client(world.manage.endpoint("chat").api_key).chat.completions.create(model="fast", messages=MESSAGES)
    for _ in range(2):  # the second time the gateway knows it
        answer = client.chat.completions.create(model="fast", messages=MESSAGES, user="echo", seed=7)
        assert answer.model == "chat"
        said = json.loads(answer.choices[0].message.content or "")
        assert said == {"model": "chat", "messages": MESSAGES, "user": "echo", "seed": 7}
    assert text_of(client.chat.completions.create(model="fast", messages=MESSAGES, stream=True)) == "so it was"


def test_requests_that_begin_alike_meet_and_an_adapter_s_go_to_who_holds_it(world: World) -> None:
    client = world.client()
    for number in range(24):
        key = f"k{number % 6}"
        client.chat.completions.create(model="chat", messages=MESSAGES, user="alike", prompt_cache_key=key)
        until(lambda: not any(row.busy for row in world.manage.workers("chat")), "both are at rest")
    of_key: dict[str, Counter[int]] = {}
    for row in world.seen("alike"):
        of_key.setdefault(json.loads(row["body"])["prompt_cache_key"], Counter())[row["pid"]] += 1
    assert len(of_key) == 6
    # A worker that a busy machine made slow for a moment is passed by.
    assert sum(max(of_pid.values()) for of_pid in of_key.values()) >= 21, of_key
    affinity = world.manage.explain("chat").affinity
    assert affinity is not None
    assert affinity.kept >= 20

    for number in range(40):  # whose keys are of whom is chance
        client.chat.completions.create(model="chat", messages=MESSAGES, user="alike", prompt_cache_key=f"more-{number}")
    pids = sorted({row["pid"] for row in world.seen("alike")})
    assert len(pids) == 2
    for pid, names in zip(pids, ("sql", "sql legal"), strict=True):
        (world.folder / f"adapters-{pid}").write_text(names)
    with pytest.raises(openai.NotFoundError, match="no worker of 'chat' holds 'law'") as told:
        client.chat.completions.create(model="chat:law", messages=MESSAGES)
    assert (told.value.code, told.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="there is no model 'chatty:sql'"):
        client.chat.completions.create(model="chatty:sql", messages=MESSAGES)
    until(lambda: {"chat:sql", "chat:legal"} <= {model.id for model in client.models.list()}, "they are told")
    set_alias(world, "lawyer", "chat")
    for model in ("chat:legal", "lawyer:legal") * 3:
        answer = client.chat.completions.create(model=model, messages=MESSAGES, user=f"of-{model}")
        assert answer.model == "legal"
        assert {row["pid"] for row in world.seen(f"of-{model}")} == {pids[1]}
    direct = httpx.post(
        f"{world.url}/chat/completions",
        json={"model": "chat:sql", "messages": MESSAGES},
        headers={"Authorization": f"Bearer {world.key}", "X-Posthouse-Direct": "1"},
    )
    assert (direct.status_code, direct.headers["x-posthouse-model"]) == (307, "sql")
    for pid in pids:
        (world.folder / f"adapters-{pid}").unlink()


def test_a_response_is_found_again_at_the_worker_that_keeps_it_by_any_gateway(world: World) -> None:
    client = world.client()
    all_made = [client.responses.create(model="chat", input=f"hello {n}", prompt_cache_key=f"r{n}") for n in range(40)]
    made = list({one.id.split("_")[1]: one for one in all_made}.values())
    assert len(made) == 2, "both workers have some"
    with gateway(world.site) as other_url:
        others = openai.OpenAI(
            base_url=f"{other_url}/v1" if not other_url.endswith("/v1") else other_url, api_key=world.key
        )
        for one in made:
            again = others.responses.retrieve(one.id)
            assert (again.id, again.output_text) == (one.id, one.output_text)
            assert f'"id": "{one.id.partition(".")[0]}"' in one.output_text, "what a text says stays as it is"
            assert others.responses.input_items.list(one.id).data[0].id == "msg_0"
            assert others.responses.cancel(one.id).status == "cancelled"
            next_one = client.responses.create(model="chat", input="and then?", previous_response_id=one.id)
            assert next_one.id.split("_")[1] == one.id.split("_")[1]
            assert next_one.previous_response_id == one.id
            *_, last = client.responses.create(
                model="chat", input="and?", previous_response_id=next_one.id, stream=True, user="goes-on"
            )
            assert last.type == "response.completed"
            assert client.responses.retrieve(last.response.id).previous_response_id == next_one.id
    client.responses.delete(made[0].id)
    with pytest.raises(openai.NotFoundError, match="no such response"):
        client.responses.retrieve(made[0].id)
    other_key = world.manage.create_key("other", "route").key
    for strange in (world.client(other_key), client):
        with pytest.raises(openai.NotFoundError, match="no worker keeps this response") as told:
            strange.responses.retrieve(made[1].id if strange is not client else "resp_1")
        assert told.value.code == "response_not_found"
        with pytest.raises(openai.BadRequestError, match="no worker keeps this response") as refused:
            strange.responses.create(
                model="chat", input="x", previous_response_id=made[1].id if strange is not client else "resp_1"
            )
        assert refused.value.code == "previous_response_not_found"


def test_a_form_and_any_other_path_go_where_the_alias_says(world: World) -> None:
    set_alias(world, "ear", "chat")
    answer = world.client().audio.transcriptions.create(model="ear", file=("a.wav", bytes(100_000)), prompt="of-alias")
    assert answer.text == "the quick brown fox"
    [seen] = world.seen("of-alias")
    assert seen["form"] == {"model": "chat", "prompt": "of-alias", "file": 100_000}
    reply = httpx.get(f"{world.url}/x/ear/info", headers={"Authorization": f"Bearer {world.key}"})
    assert (reply.status_code, reply.json()["path"]) == (200, "/info")


@pytest.fixture(scope="module")
def canary(world: World) -> None:
    add_endpoint(world.manage, "canary", min_load=0, max_workers=1)


@pytest.mark.usefixtures("canary")
def test_weights_share_the_requests(world: World) -> None:
    world.manage.put_alias("split", targets=[{"model": "chat", "weight": 3}, {"model": "canary", "weight": 1}])
    client = world.client()
    went = [client.chat.completions.create(model="split", messages=MESSAGES).model for _ in range(60)]
    assert set(went) == {"chat", "canary"}
    assert went.count("chat") > went.count("canary")


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize(
    ("user", "fault", "stream"),
    [
        ("fails", "failed", False),
        ("breaks", "failed", True),
        ("full", "rate_limited", False),
        ("long", "too_long", False),
    ],
)
def test_what_fails_before_its_first_byte_falls_back_by_its_class(
    world: World, user: str, fault: str, stream: bool
) -> None:
    others = sorted({"failed", "rate_limited", "too_long", "no_worker"} - {fault})
    fallbacks = [{"model": "chat", "faults": others}, {"model": "canary", "faults": [fault]}]
    set_alias(world, f"safe-{user}", "chat", fallbacks=fallbacks)
    chats, name, user = world.client().chat.completions, f"safe-{user}", f"{user}-at-chat"
    if stream:
        assert text_of(chats.create(model=name, messages=MESSAGES, user=user, stream=True)) == "so it was"
    else:
        assert chats.create(model=name, messages=MESSAGES, user=user).model == "canary"


def test_an_error_without_a_fallback_is_told_as_it_is(world: World) -> None:
    set_alias(world, "strict", "chat", fallbacks=[{"model": "chat", "faults": ["no_worker"]}])
    client = world.client()
    with pytest.raises(openai.BadRequestError, match="temperature: must be at most 2"):
        client.chat.completions.create(model="strict", messages=MESSAGES, user="refuses")
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        client.chat.completions.create(model="strict", messages=MESSAGES, user="fails")


def test_where_no_worker_is_free_in_time_the_next_endpoint_answers(world: World) -> None:
    add_endpoint(world.manage, "asleep", min_load=0, max_workers=0)
    set_alias(world, "awake", "asleep", fallbacks=[{"model": "chat", "faults": ["no_worker"]}], wait_s=0)
    answer = world.client().chat.completions.create(model="awake", messages=MESSAGES, user="wakes", stream=True)
    assert text_of(answer) == "so it was"
    file = world.site.directory / "requests.jsonl"
    until(lambda: '"model":"awake"' in file.read_text(), "its record is there")
    [record] = [row for line in file.read_text().splitlines() if (row := json.loads(line))["model"] == "awake"]
    assert (record["endpoint"], record["outcome"]) == ("chat", "complete")


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics(url: str, key: str) -> httpx.Response:
    return httpx.get(url.removesuffix("/v1") + "/metrics", headers={"Authorization": f"Bearer {key}"})


def test_what_passed_is_counted_by_route_for_whoever_may_read(world: World) -> None:
    with gateway(world.site) as url:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0, timeout=TIMEOUT_S)
        client.chat.completions.create(model="chat", messages=MESSAGES)
        list(client.chat.completions.create(model="chat", messages=MESSAGES, stream=True))
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="none", input="x")
        httpx.get(f"{url.removesuffix('/v1')}/who/knows")
        page = metrics(url, world.key)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        found = {
            (row.name, *row.labels.values()): row.value
            for family in text_string_to_metric_families(page.text)
            for row in family.samples
        }
        chat = "/v1/chat/completions"
        assert found["posthouse_gateway_requests_total", chat, "2xx"] == 2
        assert found["posthouse_gateway_requests_total", "/v1/embeddings", "4xx"] == 1
        assert found["posthouse_gateway_requests_total", "other", "4xx"] == 1
        for name in ("request", "first_byte", "wait"):
            assert found[f"posthouse_gateway_{name}_seconds_count", chat] == 2, name
        assert found["posthouse_gateway_tokens_total", chat, "prompt"] > 0
        assert found["posthouse_gateway_tokens_total", chat, "completion"] > 0
        if shutil.which("promtool"):
            assert promtool("check", "metrics", said=page.content) == ""
        for key in ("wrong", world.manage.create_key("router", "route").key):
            assert metrics(url, key).status_code in (401, 403)


def test_what_is_tried_again_is_counted(world: World) -> None:
    with gateway(world.site) as url:
        client = openai.OpenAI(base_url=url, api_key=world.key, max_retries=0, timeout=TIMEOUT_S)
        client.chat.completions.create(model="chat", messages=MESSAGES, user="breaks-once:counted")
        page = metrics(url, world.key).text
    assert 'posthouse_gateway_retries_total{route="/v1/chat/completions"} 1\n' in page
