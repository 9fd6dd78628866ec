"""`posthouse simulate`: what it prints, and what it says to what it cannot read."""

import json
import shlex
from pathlib import Path

import pytest

from posthouse.cli import main
from posthouse.domain.worker import Worker
from posthouse.sim import world
from posthouse.sim.audit import BrokenRule
from posthouse.sim.policies import POLICIES

BRIEF = ["--load", "200", "--duration", "300", "--quiet"]
SCENARIO = """
goal_s = 5
[traffic]
trace = "requests.csv"
[scaling]
min_load = 0
inactivity_timeout = "none"
[[workers]]
gpu = "small"
perf = 50
start_s = { median = 5, p95 = 9 }
[[workers]]
gpu = "large"
perf = 200
ready_usd_h = 1.2
create_s = { quantiles = [[0, 10], [1, 60]] }
"""


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code = main(["simulate", *argv])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["simulate", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


def test_it_prints_what_a_run_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    table = said(capsys, *BRIEF)
    for words in ("cost, US dollars", "worker-hours ready", "wait, p99, s", "work over the goal, %", "not served"):
        assert words in table
    (row,) = json.loads(said(capsys, *BRIEF, "--json"))
    assert row["requests"] == row["answered"] > 200
    assert row["usd"] > 0
    assert row["ready_h"] > 0
    assert 0 < row["busy"] < 1
    assert row["wait_s"]["p50"] <= row["wait_s"]["p95"] <= row["wait_s"]["p99"] <= row["wait_s"]["most"]


def test_the_same_options_give_the_same_run_and_another_seed_another(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [said(capsys, *BRIEF, "--json", "--seed", seed) for seed in ("1", "1", "2")]
    assert runs[0] == runs[1] != runs[2]


def test_a_price_twice_as_high_is_a_bill_twice_as_high(capsys: pytest.CaptureFixture[str]) -> None:
    def usd(price: str) -> float:
        options = ("--price", price, "--stopped-price", "0", "--json")
        return float(json.loads(said(capsys, *BRIEF, *options))[0]["usd"])

    assert usd("0.8") == pytest.approx(2 * usd("0.4"), rel=1e-5)


def test_a_scenario_from_a_file_names_its_trace_from_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "requests.csv").write_text("t_s,cost\n" + "".join(f"{n},100\n" for n in range(600)))
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    (row,) = json.loads(said(capsys, str(path), "--quiet", "--json"))
    assert (row["requests"], row["answered"], row["goal_s"], row["span_s"]) == (600, 600, 5, 599)
    (dearer,) = json.loads(said(capsys, str(path), "--price", "0.8", "--goal", "7", "--quiet", "--json"))
    assert dearer["goal_s"] == 7
    assert dearer["usd"] > row["usd"]


def test_it_draws_a_picture_and_writes_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, log = tmp_path / "a.svg", tmp_path / "a.log"
    assert main(["simulate", *BRIEF[:-1], "--svg", str(picture), "--log", str(log)]) == 0
    assert "workers not stopped" in capsys.readouterr().out
    assert picture.read_text().startswith("<svg")
    assert "capacity ready" in picture.read_text()
    lines = log.read_text().splitlines()
    assert any(line.endswith("rent worker 1") for line in lines)
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--trace", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--policy", "psychic"], "there is no policy 'psychic'; there are posthouse"),
        (["--policy", "knative(0.5)"], "policy knative: there is no knob `0.5`; there are utilisation, stable_s"),
        (["--policy", "knative(utilisation=2)"], "`utilisation` is '2'; it must be a number from 0.01 to 1"),
        (["--shape", "round"], "shape"),
        (["--perf", "0"], "`float` > 0.0, at `workers[0].perf`"),
        (["--slo-mode", "fast"], "'fast' is not one of"),
        (["--target-util", "7"], "target_util: must be a number from 0.01 to 1, not 7.0"),
        (["--load", "nan"], "traffic.load"),
    ],
)
def test_what_it_cannot_use_is_named(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *argv, "--quiet")


def test_the_help_names_every_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--help"]) == 0
    words = capsys.readouterr().out.replace("│", " ").replace(",", " ").replace(".", " ").split()
    assert set(POLICIES) <= set(words)


def test_a_scenario_with_an_unknown_field_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text("[traffic]\nspeed = 3\n")
    assert "unknown field `speed`" in refused(capsys, str(path), "--quiet")
    path.write_text("traffic = [")
    assert "is not TOML" in refused(capsys, str(path), "--quiet")


def test_a_broken_rule_prints_the_command_that_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--load", "200", "--duration", "300", "--seed", "7", "--min-load", "0", "--policy", "posthouse"]
    monkeypatch.setattr(world.World, "_rent", _twice)
    texts = []
    for _ in range(2):
        assert main(["simulate", *argv, "--quiet"]) == 1
        texts.append(capsys.readouterr().err)
        argv = shlex.split(texts[-1].split("repeat it with: posthouse simulate ")[1])
    assert "one intent, one instance" in texts[0]
    assert texts[0] == texts[1]
    assert BrokenRule.__name__ not in texts[0]


def _twice(self: world.World, worker: Worker) -> tuple[str, bool]:
    self.audit.made(worker.label)
    return once(self, worker)


once = world.World._rent
