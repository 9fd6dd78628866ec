"""A policy of one's own, as the guide writes it, runs beside the shipped one."""

import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posthouse.cli import app
from posthouse.errors import BadRequest
from posthouse.sim.policies import own
from posthouse.sim.scenario import load

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
    words = ["simulate", "--policy", "mine:by_tens", "--policy", "posthouse", "--load", "800", "--duration", "300"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert {row["policy"] for row in json.loads(result.stdout)} == {"mine:by_tens", "posthouse"}


def test_the_command_of_the_guide_has_requests(here: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    said = dict(re.findall(r"--(shape|load|low|period|duration) (\S+)", text))
    numbers = {name: float(said[name]) for name in ("load", "low")}
    traffic = {"shape": said["shape"], "period_s": float(said["period"]), "span_s": float(said["duration"]), **numbers}
    given = load(None, {"traffic": traffic})
    costs = [cost for _, cost in given.traffic.arrivals(given.seed)]
    assert sum(costs) > numbers["low"] * traffic["span_s"] * 1.2


@pytest.mark.parametrize(
    ("body", "said"),
    [("return s.nothing", "mine.py, line 2"), ("return 3", "must return a Decision, not 3")],
)
def test_what_goes_wrong_in_a_policy_is_said_of_it(here: Path, body: str, said: str) -> None:
    (here / "faulty.py").write_text(f"def mine(s, memory):\n    {body}\n", encoding="utf-8")
    sys.modules.pop("faulty", None)
    result = CliRunner().invoke(app, ["simulate", "--policy", "faulty:mine", "--duration", "60"])
    assert said.replace("mine.py", "faulty.py") in str(result.exception)
    assert isinstance(result.exception, BadRequest)


@pytest.mark.parametrize(
    ("text", "said"),
    [("nowhere:mine", "No module named"), ("math:mine", "no attribute"), ("math:pi", "must be a function")],
)
def test_a_policy_that_is_none_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        own(text)
