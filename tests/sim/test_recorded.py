"""An endpoint's own traffic, played again, and what is advised from it."""

import json
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import msgspec
import pytest

from posthouse.cli import main
from posthouse.client import Client
from posthouse.domain.endpoint import Scaling
from posthouse.domain.offer import Price
from posthouse.errors import BadRequest, NotFound
from posthouse.sim import traffic
from posthouse.sim.advice import Advice, Search, too_short
from posthouse.sim.market import Duration, Hardware
from posthouse.sim.recorded import Recording, recording
from posthouse.sim.run import run
from posthouse.wire import rows
from tests.kit.marks import long
from tests.sim.traffic_logged import PACE, Taped, lived, told

HOUR = 3600.0
MACHINE = Hardware(
    "A",
    perf=400,
    slots=8,
    overhead_s=0.3,
    agent=True,
    price=Price(0.4, 0.4, 0.02),
    create=Duration(120, 200),
    load=Duration(60, 90),
    start=Duration(30, 60),
    available=20,
)
COSTS = traffic.Costs(400, 0.7)
SPAN_S = 2 * HOUR
TICKS = {"tick_s": PACE.tick_s}


def day(span_s: float, low: float, high: float, period_s: float) -> list[traffic.Arrival]:
    return list(traffic.poisson(traffic.diurnal(low, high, period_s), high, COSTS, span_s, Random(3)))


@pytest.fixture(scope="module")
def world() -> Taped:
    """Two hours of an endpoint."""
    return lived(Scaling(min_load=100, cold_workers=3), day(SPAN_S, 0, 300, HOUR), MACHINE, SPAN_S)


@pytest.fixture(scope="module")
def record(world: Taped) -> Recording:
    return recording(told(world))


def test_what_was_measured_is_what_the_world_came_to(world: Taped, record: Recording) -> None:
    was = record.measured(10.0)
    assert was.span_s == pytest.approx(SPAN_S)
    assert was.requests == world.record.requests
    assert was.usd == pytest.approx(world.audit.usd, rel=0.01)
    assert (was.ready_h, was.loading_h, was.stopped_h) == pytest.approx(world.hours, rel=0.002)
    assert was.starts == world.given["start"]  # type: ignore[index]
    assert was.rents == world.given["rent"]  # type: ignore[index]
    assert was.route_s.p99 == pytest.approx(world.waits.p99, abs=0.01)
    assert was.route_s.mean == pytest.approx(world.waits.mean, abs=0.01)


def test_a_recorded_day_played_again_comes_to_the_same(record: Recording) -> None:
    was = record.measured(10.0)
    again = [
        run(msgspec.structs.replace(record.scenario(TICKS), seed=seed)).summary for seed in range(2)
    ]  # starts are drawn
    assert {one.requests for one in again} == {one.answered for one in again} == {was.requests}
    assert fmean(one.usd for one in again) == pytest.approx(was.usd, rel=0.02)
    assert fmean(one.ready_h for one in again) == pytest.approx(was.ready_h, rel=0.03)
    assert fmean(one.route_over_goal for one in again) == pytest.approx(was.route_over_goal, abs=0.005)
    assert fmean(one.route_s.mean for one in again) == pytest.approx(was.route_s.mean, abs=0.5)


def test_the_workers_are_those_that_were_seen(record: Recording) -> None:
    (kind,) = record.scenario().workers
    assert (kind.slots, kind.agent, kind.available) == (MACHINE.slots, True, 20)
    assert kind.perf == pytest.approx(400)
    assert kind.overhead_s == pytest.approx(0.3, abs=0.1)
    assert kind.hardware().price == MACHINE.price
    assert record.notes == []


def test_a_part_of_the_record_begins_with_what_came_before_it_and_does_not_count_that(record: Recording) -> None:
    part = record.snapped(HOUR, 1.5 * HOUR)
    assert part == pytest.approx((HOUR, 1.5 * HOUR), abs=301)
    scenario = record.scenario(TICKS, begin_s=part[0], end_s=part[1])
    assert scenario.warm_s == part[0]
    result = run(scenario)
    was = record.measured(10.0, *part)
    assert result.summary.requests == was.requests == record.requests(*part)
    assert result.summary.span_s == pytest.approx(was.span_s)
    assert result.summary.usd == pytest.approx(was.usd, rel=0.05)
    assert result.summary.rents <= 1  # they are there already


def test_the_time_in_which_the_server_was_away_is_left_out(world: Taped) -> None:
    whole, cut = told(world), told(world)
    del cut["segments"][10:20]
    shorter = recording(cut)
    gone_s = whole["segments"][19]["until"] - whole["segments"][10]["since"]
    assert shorter.span_s == pytest.approx(SPAN_S - gone_s)
    assert (shorter.at_s[1:] >= shorter.at_s[:-1]).all()
    assert run(shorter.scenario(end_s=HOUR / 4)).summary.requests > 0


def test_requests_that_were_dropped_are_still_counted(world: Taped) -> None:
    reply = told(world)
    reply["segments"][5]["requests"] += 100
    assert recording(reply).measured(10.0).requests == world.record.requests + 100


def test_what_is_not_known_is_assumed_and_said(world: Taped) -> None:
    reply = told(world)
    for segment in reply["segments"]:
        segment["figures"] |= {"start_s": [], "create_s": [], "served": []}
    record = recording(reply)
    assert len(record.notes) == 3
    reply["kinds"] = []
    assert "nominal" in recording(reply).notes[-1]
    assert recording(reply).scenario().workers[0].perf == 400


def test_a_record_of_nothing_and_one_of_another_version_are_refused(world: Taped) -> None:
    reply = told(world)
    with pytest.raises(NotFound, match="no recorded traffic of llm yet"):
        recording(reply | {"segments": []})
    with pytest.raises(BadRequest, match="of another version"):
        recording(reply | {"segments": 7})
    reply["segments"][0]["asked"] = "AAAA"
    with pytest.raises(BadRequest, match="of another version"):
        recording(reply)


def test_a_part_that_is_not_there_is_refused(record: Recording) -> None:
    with pytest.raises(BadRequest, match="no part of it"):
        record.snapped(9 * HOUR, 10 * HOUR)


# -- advice ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Recording:
    """Ninety minutes of an endpoint that keeps far too much."""
    return recording(told(lived(Scaling(min_load=1500), day(1.5 * HOUR, 0, 100, HOUR), MACHINE, 1.5 * HOUR)))


FEW = [[{"min_load": load, "inactivity_timeout": None} for load in (50.0, 100.0, 200.0)]]
"""Settings, where the search does not try all that it would."""


@pytest.fixture(scope="module", params=[long("few"), long("all")])
def advice(small: Recording, request: pytest.FixtureRequest) -> Advice:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "few":
            patch.setattr(Search, "_options", lambda search, part: FEW)
        return Search(small, goal_s=10.0, late_share=0.05).advice()


def test_where_too_much_is_kept_less_is_advised_and_it_holds_on_what_was_not_searched(
    small: Recording, advice: Advice
) -> None:
    assert advice.change
    assert advice.after.usd < 0.8 * advice.before.usd
    assert advice.after.over_goal <= max(0.05, advice.before.over_goal)
    assert advice.searched_s + advice.checked_s == pytest.approx(small.span_s)
    assert advice.before.requests == advice.after.requests == small.requests(*advice.part)
    assert set(advice.present) == set(advice.change)


def test_the_advice_is_what_a_simulation_with_it_comes_to(small: Recording, advice: Advice) -> None:
    changed = {"goal_s": 10.0, "scaling": {n: "none" if v is None else v for n, v in advice.change.items()}}
    begin_s, end_s = advice.part
    assert run(small.scenario(changed, begin_s=begin_s, end_s=end_s)).summary == advice.after


def test_too_little_is_too_little(world: Taped) -> None:
    reply = told(world)
    reply["segments"] = reply["segments"][:8]
    assert "39 min" in too_short(recording(reply)) or "40 min" in too_short(recording(reply))
    assert too_short(recording(told(world))) == ""


# -- the commands ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, world: Taped) -> dict[str, Any]:
    """Stands for a server that has the record; what it answers may be changed."""
    reply = told(world)
    monkeypatch.setattr(Client, "traffic", lambda self, endpoint, last_s=None: msgspec.convert(reply, rows.Traffic))
    return reply


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    code = main(list(argv))
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


PART = ("--duration", "900", "--quiet")


def test_what_was_what_is_and_what_was_asked_for_stand_side_by_side(
    server: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ("simulate", "--from-journal", "llm", *PART)
    more = ("--min-load", "1000")
    columns = json.loads(said(capsys, *ask, *more, "--price", "0.8", "--policy", "static", "--json"))
    assert [c["column"] for c in columns] == ["as it was", "as it is", "as asked", "static"]
    assert columns[0]["requests"] == columns[1]["requests"] == columns[2]["requests"]
    assert columns[2]["ready_h"] > columns[1]["ready_h"]
    table = said(capsys, *ask)
    for words in ("of its traffic", "as it was", "as it is", "wait for a worker, p99, s", "cost, US dollars"):
        assert words in table


def test_the_pictures_are_of_what_was_and_of_the_last_run(
    server: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "a.svg"
    assert main(["simulate", "--from-journal", "llm", "--duration", "900", "--svg", str(picture)]) == 0
    out = capsys.readouterr().out
    assert out.count("workers not stopped") == 2
    assert "\nas it was\n" in out
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--trace", "a.csv", "--load", "3"], 2, "leave out trace, load"),
        (["--policy", "psychic"], 2, "there is no policy 'psychic'"),
        (["--start", "900000"], 2, "no part of it is selected"),
        (["--target-util", "7"], 2, "target_util: must be a number from 0.01 to 1, not 7.0"),
        (["--scale", "2"], 2, "can only be thinned out"),
    ],
)
def test_what_it_cannot_use_is_named(
    server: dict[str, Any], argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "--from-journal", "llm", "--quiet", *argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_without_a_record_or_without_an_endpoint_there_is_one_line(
    server: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    server["segments"] = []
    for command in (["simulate", "--from-journal", "llm"], ["advise", "llm"]):
        assert main(command) == 4
        assert "error: there is no recorded traffic of llm yet" in capsys.readouterr().err
    assert main(["simulate", "--last", "60"]) == 2
    assert "--last is of the traffic of --from-journal" in capsys.readouterr().err


def test_too_short_a_record_is_no_ground_for_advice(server: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    server["segments"] = server["segments"][:4]
    assert "too little is recorded to tell" in said(capsys, "advise", "llm", "--quiet")
    assert json.loads(said(capsys, "advise", "llm", "--quiet", "--json"))["verdict"] == "too short"


def test_advice_comes_with_the_command_that_follows_it(
    monkeypatch: pytest.MonkeyPatch, advice: Advice, small: Recording, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("posthouse.cli.replay.fetched", lambda *_: small)
    monkeypatch.setattr(Search, "advice", lambda self: advice)
    text = said(capsys, "advise", "llm", "--share-over", "0.05", "--quiet")
    assert "posthouse endpoint update llm --" in text
    assert "It would save about $" in text
    assert "which the search did not see" in text
    (command,) = [line for line in text.splitlines() if line.startswith("  posthouse endpoint update")]
    for name in advice.change:
        assert f"--{name.replace('_', '-')} " in command
    row = json.loads(said(capsys, "advise", "llm", "--quiet", "--json"))
    assert (row["verdict"], row["change"], row["command"]) == ("change", advice.change, command.strip())
    kept = Advice({}, {}, advice.searched_s, advice.checked_s, 9, advice.before, advice.before, advice.part)
    monkeypatch.setattr(Search, "advice", lambda self: kept)
    assert "Nothing to change" in said(capsys, "advise", "llm", "--quiet")
