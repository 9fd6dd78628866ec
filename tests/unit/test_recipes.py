"""Recipes: each is a sound template, and a wrong parameter is told by its name."""

import json
import subprocess
from pathlib import Path

import pytest

from posthouse.cli import main
from posthouse.errors import BadRequest, NotFound
from posthouse.recipes import examples, names, recipe
from posthouse.recipes.parameter import Parameter
from posthouse.wire.env import parse_env
from posthouse.wire.search import FIELDS, parse_search
from tests.kit.recipes import given, started

ONSTART_LIMIT = 4048  # characters, on the marketplace of the protocol
ENGINES = {
    *("comfyui", "diffusers", "faster-whisper", "function", "infinity", "llama.cpp", "llama.cpp-cuda", "ollama"),
    *("sglang", "tei", "tgi", "vllm"),
}

each = pytest.mark.parametrize("name", names())


def test_there_is_a_recipe_for_each_engine_and_each_example() -> None:
    assert set(names()) == ENGINES | set(examples())
    for wrong in ("../x", "", "llama"):
        with pytest.raises(NotFound, match=r"there is no recipe .*; there are: .*llama\.cpp, "):
            recipe(wrong)


@each
def test_a_recipe_is_a_sound_template(name: str, tmp_path: Path) -> None:
    found = recipe(name)
    fields = found.template(given(name, tmp_path), endpoint="chat")
    variables, ports = parse_env(fields["env"])
    assert ports == (3000,)
    expected = found.values(given(name, tmp_path), False, "chat")
    assert variables == found.env | {key.upper(): value for key, value in expected.items() if value}
    # Each parameter is used by the script, or by the program that it starts.
    read_elsewhere = {"STEPS", "PRECISION", "SIZE", "MODEL"} if name == "diffusers" else {found.gpus.upper()}
    assert all(
        f"${key.upper()}" in fields["onstart"].replace("${", "$")
        for key in found.parameters
        if key.upper() not in read_elsewhere
    )
    assert len(fields["onstart"]) <= ONSTART_LIMIT
    for shell in ("bash", "sh"):
        subprocess.run([shell, "-n"], input=fields["onstart"], text=True, check=True)
    assert set(parse_search(fields.get("extra_filters", ""))) <= set(FIELDS)
    assert bool(found.gpus) == ("num_gpus" in fields.get("extra_filters", ""))


@each
def test_what_a_recipe_starts_is_an_agent_with_a_model_server(name: str, tmp_path: Path) -> None:
    if name == "ocr":
        pytest.skip("its script installs packages first; tests of the examples run it")
    start = started(name, given(name, tmp_path), tmp_path)
    assert start.settings.command
    text = " ".join(start.settings.command)
    own = {"faster-whisper": "UVICORN_PORT", "ollama": "OLLAMA_HOST"}.get(name)
    assert "28001" in (start.environment[own] if own else text)
    assert start.settings.benchmark.route.startswith("/")
    if name not in {"demo-llm"}:
        assert start.settings.error_logs


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "model: is not given; a file in GGUF"),
        ({"model": "nowhere"}, "model: there is no file 'nowhere'; --force"),
        ({"model": ""}, "model: there is no file ''"),
        ({"model": "text"}, "model: must be a file in GGUF, and 'text' does not begin with GGUF"),
        ({"model": "here", "slots": "0"}, "slots: must be a whole number from 1 to 256, not '0'"),
        ({"model": "here", "slots": "1.5"}, "slots: must be a whole number"),
        ({"model": "here", "slots": "9" * 10_000}, "slots: must be a whole number"),
        ({"model": "here", "slot": "1"}, "slot: there is no such parameter. Did you mean slots?"),
    ],
)
def test_a_wrong_parameter_is_told_by_its_name(
    said: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_bytes(b"GGUF")
    Path("text").write_bytes(b"{}")
    with pytest.raises(BadRequest) as refused:
        recipe("llama.cpp").template(said)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "model",
            ["Qwen/Qwen3-8B", "qwen3:8b", "/models/a", "a/b:Q4_K_M"],
            ["", "a/b/c/d", "a b", "x';rm", "../a", "$A"],
        ),
        ("number", ["0.5", "1"], ["", "0", "1.5", "nan", "1e3", "-1", "٣"]),
        ("whole", ["1"], ["", "2", "٣", "-1"]),
        ("choice", ["fp8"], ["", "FP8", "fp4"]),
        ("word", ["chat", "a/b"], ["", "a b", 'a"', "a\\", "$a", "a`"]),
        ("flags", ["", "--a 1 --b"], ["--a '1'", "$(a)", "a\nb", "*"]),
        ("json", ["{}", '{"a": "$b"}'], ["", "[]", "{", "1", "[" * 100_000]),
    ],
)
def test_a_parameter_takes_what_its_kind_allows(kind: str, good: list[str], bad: list[str]) -> None:
    parameter = Parameter(help="", kind=kind, least=0.1 if kind == "number" else 1, most=1, choices=("fp8",))  # type: ignore[arg-type]
    for text in good:
        assert parameter.checked("x", text, False) == text
    for text in bad:
        with pytest.raises(BadRequest, match="x: must be "):
            parameter.checked("x", text, False)


def test_a_file_that_is_only_at_the_workers_is_taken_where_one_insists() -> None:
    fields = recipe("llama.cpp").template({"model": "/at/the/workers.gguf"}, force=True)
    assert parse_env(fields["env"])[0]["MODEL"] == "/at/the/workers.gguf"


def test_machines_follow_from_parameters_and_from_the_memory_that_the_model_needs() -> None:
    said = {"model": "a/b", "tensor_parallel": "2"}
    assert recipe("vllm").template(said)["extra_filters"] == "num_gpus=2 cuda_max_good>=13.0"
    filters = recipe("vllm").template(said, gpu_ram_gb=22.5)["extra_filters"]
    assert filters == "num_gpus=2 gpu_ram>=22.5 cuda_max_good>=13.0"


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    assert main(["recipe", "show", "vllm", "--param", "max_model_len=16384"]) == 0
    out = capsys.readouterr().out
    assert "MAX_MODEL_LEN=16384" in out
    assert "must be given" in out
    assert "vllm serve" in out
    assert main(["recipe", "show", "vllm", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["parameters"]["quantization"]["default"] == ""
    assert shown["template"] == recipe("vllm").template({"model": "ORG/NAME"}, force=True)
    assert main(["recipe", "show", "vllm", "--param", "parallel=0"]) == 2
    assert "parallel: must be a whole number from 1 to 1000, not '0'" in capsys.readouterr().err
    assert main(["recipe", "show", "none"]) == 4
