"""The work of a request by each rule, and what a client cannot make it."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.agent.work import Tokens, first_file
from posthouse.agent.worker import Outcome
from posthouse.agent.workload import MAX_WORK, workload_rule
from posthouse.recipes.speech import write


@pytest.mark.parametrize(
    ("rule", "payload", "work"),
    [
        ("tokens", {"max_tokens": 5}, 5.0),
        ("tokens", {"max_new_tokens": 6}, 6.0),
        ("tokens", {"max_completion_tokens": 7}, 7.0),
        ("tokens", {"max_output_tokens": 7}, 7.0),
        ("tokens", {"inputs": "x", "parameters": {"max_new_tokens": 8}}, 8.0),
        ("tokens", {"input": {"parameters": {"max_new_tokens": 9}}}, 9.0),
        ("tokens", {"max_tokens": None, "parameters": {"max_tokens": 10}}, 10.0),
        ("tokens", {"inputs": "x"}, 64.0),
        ("tokens", {"max_tokens": "12"}, 64.0),
        ("tokens", {"max_tokens": True}, 64.0),
        ("tokens", {"max_tokens": -1}, 64.0),
        ("tokens", {"max_tokens": 10**400}, MAX_WORK),
        ("tokens", [1, 2], 64.0),
        ("tokens", None, 64.0),
        ("cost", {"max_tokens": 5}, 64.0),
        ("json:image.steps", {"image": {"steps": 20.5}}, 20.5),
        ("json:image.steps", {"image": "x"}, 64.0),
        ("json:steps", {"steps": 3}, 3.0),
        ("constant:2.5", {"max_tokens": 5}, 2.5),
        ("length:input", {"input": "héllo"}, 5.0),
        ("length:input,texts", {"input": ["ab", "c", 4, ["de"]], "texts": "f"}, 6.0),
        ("length:a.b", {"a": {"b": "abc"}}, 3.0),
        ("length:input", {"input": ""}, 64.0),
        ("length:input", {"input": 5}, 64.0),
        ("length:input", None, 64.0),
        ("pixels", {"prompt": "x", "size": "1000x1000", "n": 2, "num_inference_steps": 30}, 60.0),
        ("pixels", {"prompt": "x", "width": 500, "height": 1000, "steps": 10, "batch_size": 2, "n_iter": 3}, 30.0),
        ("pixels", {"prompt": "x"}, 1024 * 1024 / 1e6 * 20),
        ("pixels:500x1000x4", {"prompt": "x", "size": "auto"}, 2.0),
        ("pixels", b"a form", 64.0),
        ("pixels", None, 64.0),
        ("audio", {"max_tokens": 5}, 64.0),
        ("audio", None, 64.0),
        ("audio", b"no sound", 64.0),
    ],
)
def test_a_rule_counts_the_work(rule: str, payload: Any, work: float) -> None:
    assert workload_rule(rule)(payload, 64.0) == work


def test_a_workflow_is_the_steps_of_its_samplers_times_its_pictures() -> None:
    nodes: dict[str, Any] = {
        "1": {"class_type": "KSampler", "inputs": {"steps": 20, "model": ["4", 0]}},
        "2": {"class_type": "KSampler", "inputs": {"steps": 10}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 1000, "height": 500, "batch_size": 2}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
        "5": "no node",
    }
    assert workload_rule("pixels")({"prompt": nodes}, 64.0) == 30.0
    del nodes["3"]
    assert workload_rule("pixels:1000x1000x7")({"prompt": nodes}, 64.0) == 30.0


@pytest.mark.parametrize("seconds", [0.5, 30.0])
def test_sound_is_its_seconds(tmp_path: Path, seconds: float) -> None:
    write(tmp_path / "speech.wav", seconds)
    assert workload_rule("audio")((tmp_path / "speech.wav").read_bytes(), 64.0) == seconds


@given(
    content=st.binary(max_size=2000),
    begin=st.sampled_from([b"", b"RIFF\xff\xff\xff\xffWAVE", b"ID3\x04", b"fLaC", b"OggS"]),
)
def test_what_is_no_sound_is_some_work_and_no_error(content: bytes, begin: bytes) -> None:
    assert 0 < workload_rule("audio")(begin + content, 64.0) <= MAX_WORK


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n12\r\n--b--\r\n', b"12"),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b\r\nX: filename=a\r\n\r\n2\r\n--b--', b"2"),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', None),
        (b"--b\r\nX: filename=a\r\n\r\n", b""),
        (b"--b", None),
        (b"", None),
    ],
)
def test_the_first_file_of_a_form_is_found(body: bytes, content: bytes | None) -> None:
    assert first_file(body, "multipart/form-data; boundary=b") == content
    assert first_file(body, "multipart/form-data") is None
    assert first_file(body, "text/plain; boundary=b") is None


@given(body=st.binary(max_size=300))
def test_no_form_is_too_odd_to_be_looked_at(body: bytes) -> None:
    first_file(b"--b" + body, "multipart/form-data; boundary=b")


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, -math.inf])
def test_a_request_without_any_usable_number_is_one_unit_of_work(cost: float) -> None:
    assert workload_rule("tokens")({}, cost) == 1.0


@given(payload=st.dictionaries(st.just("max_tokens"), st.floats() | st.integers()), cost=st.floats())
def test_work_is_always_a_sensible_amount(payload: dict[str, Any], cost: float) -> None:
    assert 0 < workload_rule("tokens")(payload, cost) <= MAX_WORK


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "token",
        "json",
        "json:",
        "json:a..b",
        "length:",
        "length:a,",
        "pixels:1x1",
        "pixels:0x1x1",
        "audio:1",
        "constant",
        "constant:x",
        "constant:0",
        "constant:nan",
        "cost:1",
    ],
)
def test_a_rule_that_does_not_exist_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="workload: must be tokens, cost, json"):
        workload_rule(rule)


@pytest.mark.parametrize(
    ("pieces", "outcome", "counted"),
    [
        (
            (b'{"choices":[{"text":"\\"usage\\":{\\"completion_tokens\\":9}"}],"usage":{"prompt_tokens":3,',),
            "Success",
            None,
        ),
        ((b'{"usage":{"prompt_tokens":3,"compl', b'etion_tokens": 7,"total_tokens":10}}'), "Success", 7.0),
        ((b'data: {"x":1}\n\n', b'data: {"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n'), "Success", 2.0),
        ((b'data: {"type":"message_delta","usage":{"output_tokens":5}}\n\n',), "Success", 5.0),
        ((b"data: a\n\ndata: b\n\n", b"data: c\n\n"), "Cancelled", 3.0),
        ((b"x" * 9000, b'"usage":{"completion_tokens":1}'), "Success", 1.0),
        ((b'{"usage":{"prompt_tokens":3}}',), "Success", None),
        ((b'{"usage":{"completion_tokens":1}}',), "Error", None),
    ],
)
def test_tokens_are_counted_while_an_answer_passes(
    pieces: tuple[bytes, ...], outcome: Outcome, counted: float | None
) -> None:
    tokens, others = Tokens(counts=True), Tokens(counts=False)
    for piece in pieces:
        tokens.feed(piece)
        others.feed(piece)
    assert (tokens.counted(outcome), others.counted(outcome)) == (counted, None)
