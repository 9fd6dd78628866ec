"""A template's environment is read as docker reads its flags, or refused by name."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.errors import BadRequest
from posthouse.wire.env import MAX_TEXT, MAX_VARIABLES, env_text, parse_env


@pytest.mark.parametrize(
    ("text", "variables", "ports"),
    [
        ("", {}, ()),
        ("-e A=b", {"A": "b"}, ()),
        ("--env A=b -e=C=d --env=E=f", {"A": "b", "C": "d", "E": "f"}, ()),
        ("-e A= -e B=x=y", {"A": "", "B": "x=y"}, ()),
        ("-e A=1 -e A=2", {"A": "2"}, ()),
        ("-e A=-p", {"A": "-p"}, ()),
        ("-p 3000:3000 -p=8080:80/tcp --publish 5000", {}, (3000, 80, 5000)),
        ("-p 3000:3000 -p 4000:3000", {}, (3000,)),
        (
            "-p 3000:3000 -e MODEL_ARGS='--model-id TheBloke/Llama --quantize gptq'",
            {"MODEL_ARGS": "--model-id TheBloke/Llama --quantize gptq"},
            (3000,),
        ),
        (" \n-e\tA=b\n", {"A": "b"}, ()),
        ("-e A='$(rm -rf /) `x` ${HOME}'", {"A": "$(rm -rf /) `x` ${HOME}"}, ()),
    ],
)
def test_docker_flags_are_variables_and_ports(text: str, variables: dict[str, str], ports: tuple[int, ...]) -> None:
    assert parse_env(text) == (variables, ports)


def test_an_object_says_the_same_as_flags() -> None:
    env = {"A": "two words", "-p 3000:3000": "1", "B": "it's"}
    assert parse_env(env) == ({"A": "two words", "B": "it's"}, (3000,))
    assert parse_env(env_text(env)) == parse_env(env)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ("--gpus all", "--gpus"),
        ("-v /:/host", "-v"),
        ("A=b", "'A'"),
        ("-e", "-e at the end"),
        ("-p", "-p at the end"),
        ("-e A", "'A' must be NAME=VALUE"),
        ("-e 1A=b", "'1A' must be NAME=VALUE"),
        ("-e =b", "must be NAME=VALUE"),
        ("-e A='b", "no closing quotation"),
        ("-p 0:1", "'0:1'"),
        ("-p 1:65536", "'1:65536'"),
        ("-p 3000:3000/udp", "tcp only"),
        ("-p 127.0.0.1:3000:3000", "must be PORT:PORT"),
        ("-p 3000-3010:3000-3010", "must be PORT:PORT"),
        ("-p ٣:٣", "must be PORT:PORT"),
        ("-e A=\0", "NUL"),
        ({"A": 1}, "'A' must have text"),
        ({"-v /:/host": "1"}, "-v"),
        ("-e A=" + "x" * MAX_TEXT, f"at most {MAX_TEXT}"),
        (" ".join(f"-e V{i}=" for i in range(MAX_VARIABLES + 1)), f"{MAX_VARIABLES + 1} variables"),
    ],
)
def test_anything_else_is_refused_by_name(env: str | dict[str, object], named: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_env(env)
    assert str(refusal.value).startswith("env: ")
    assert named in str(refusal.value)


def test_a_refusal_does_not_repeat_a_secret() -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_env("-e HF-TOKEN=hf_secret")
    assert "hf_secret" not in str(refusal.value)


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), st.text(max_size=20), max_size=9))
def test_every_quoted_value_comes_through_unchanged(variables: dict[str, str]) -> None:
    variables = {name: value.replace("\0", "") for name, value in variables.items()}
    text = " ".join(f"-e {shlex.quote(f'{name}={value}')}" for name, value in variables.items())
    assert parse_env(text) == (variables, ())
    assert parse_env(variables) == (variables, ())


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_env(text)
    except BadRequest as refusal:
        assert str(refusal).startswith("env: ")  # noqa: PT017 - a text that is read raises nothing
