"""Recipes: each is a sound template, and a wrong parameter is told by its name."""

import subprocess
from pathlib import Path

import pytest

from posthouse.domain.errors import BadRequest, NotFound
from posthouse.recipes import names, recipe
from posthouse.wire.env import parse_env


@pytest.mark.parametrize("name", names())
def test_a_recipe_is_a_sound_template(name: str, tmp_path: Path) -> None:
    model = tmp_path / "it's a model"
    model.touch()
    found = recipe(name)
    fields = found.template({"model": str(model)}, force=False)
    variables, ports = parse_env(fields["env"])
    assert ports == (3000,)
    assert variables["MODEL"] == str(model)
    assert set(variables) == {name.upper() for name in found.parameters}
    assert all(f'"${name}"' in fields["onstart"] for name in variables)
    subprocess.run(["bash", "-n"], input=fields["onstart"], text=True, check=True)


def test_there_is_llama_cpp() -> None:
    assert "llama.cpp" in names()
    for wrong in ("../x", "", "llama"):
        with pytest.raises(NotFound, match=r"there is no recipe .*; there are: llama\.cpp"):
            recipe(wrong)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "model: is not given; a file in GGUF"),
        ({"model": "nowhere"}, "model: there is no file 'nowhere'; --force"),
        ({"model": ""}, "model: there is no file ''"),
        ({"model": "here", "slots": "0"}, "slots: must be a whole number from 1 to 256, not '0'"),
        ({"model": "here", "slots": "1.5"}, "slots: must be a whole number"),
        ({"model": "here", "slots": "9" * 10_000}, "slots: must be a whole number"),
        ({"model": "here", "slot": "1"}, "slot: there is no such parameter. Did you mean slots?"),
    ],
)
def test_a_wrong_parameter_is_told_by_its_name(
    given: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    with pytest.raises(BadRequest) as refused:
        recipe("llama.cpp").template(given, force=False)
    assert words in str(refused.value)


def test_a_file_that_is_only_at_the_workers_is_taken_where_one_insists() -> None:
    fields = recipe("llama.cpp").template({"model": "/at/the/workers.gguf"}, force=True)
    assert parse_env(fields["env"])[0]["MODEL"] == "/at/the/workers.gguf"
