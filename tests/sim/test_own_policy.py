"""A policy of one's own, as the guide writes it, runs beside the shipped one."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posthouse.cli import app
from posthouse.domain.errors import BadRequest
from posthouse.sim.policies import own

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guides" / "add-a-policy.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_policy_of_the_guide_is_short_and_runs(here: Path) -> None:
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 30
    (here / "mine.py").write_text(code[1], encoding="utf-8")
    words = ["simulate", "--policy", "mine:by_tens", "--policy", "posthouse", "--load", "800", "--duration", "1800"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert {row["policy"] for row in json.loads(result.stdout)} == {"mine:by_tens", "posthouse"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("nowhere:mine", "No module named"), ("math:mine", "no attribute"), ("math:pi", "must be a function")],
)
def test_a_policy_that_is_none_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        own(text)
