"""Traffic, made up and recorded."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean, median, pstdev

import pytest

from posthouse.errors import BadRequest
from posthouse.sim import traffic
from posthouse.sim.market import Duration
from posthouse.sim.trace import Reading, read
from posthouse.sim.traffic import Arrival, Costs, Load, poisson

COSTS = Costs(10.0)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (traffic.constant(50.0), 50.0),
        (traffic.step(10.0, 90.0, 5000.0), 50.0),
        (traffic.diurnal(0.0, 100.0, 1000.0), 50.0),
        (traffic.burst(10.0, 90.0, 1000.0, 500.0), 50.0),
        (traffic.on_off(100.0, 1000.0), 50.0),
    ],
)
def test_made_up_traffic_offers_what_its_shape_says(load: Load, expected: float) -> None:
    arrivals = list(poisson(load, 100.0, COSTS, 10_000.0, Random(1)))
    assert sum(work for _, work in arrivals) / 10_000 == pytest.approx(expected, rel=0.02)
    assert [t for t, _ in arrivals] == sorted(t for t, _ in arrivals)
    for t, work in arrivals:
        assert 0 <= t < 10_000
        assert work == 10
        assert load(t) > 0


def test_costs_have_their_mean_and_spread() -> None:
    random = Random(1)
    drawn = [Costs(100.0, 0.8).draw(random) for _ in range(20_000)]
    assert mean(drawn) == pytest.approx(100, rel=0.03)
    assert max(drawn) > 500


def test_durations_keep_to_their_quantiles() -> None:
    random = Random(1)
    drawn = sorted(Duration(30.0, 60.0).draw(random) for _ in range(20_000))
    assert median(drawn) == pytest.approx(30, rel=0.03)
    assert drawn[19_000] == pytest.approx(60, rel=0.05)
    measured = Duration(quantiles=((0.0, 1.0), (0.5, 3.0), (1.0, 9.0)))
    drawn = sorted(measured.draw(random) for _ in range(20_000))
    assert (drawn[0] >= 1, drawn[-1] <= 9) == (True, True)
    assert median(drawn) == pytest.approx(3, rel=0.05)
    assert Duration(7.0).draw(random) == 7


def trace(path: Path, text: str, reading: Reading | None = None, costs: Costs = COSTS, seed: int = 0) -> list[Arrival]:
    path.write_text(text)
    return list(read(path, reading or Reading(), costs, seed))


def test_recorded_requests_are_read_with_work_by_tokens(tmp_path: Path) -> None:
    text = "t_s,client,in_tok,out_tok\n0.5,1,100,7\n2,1,50,9\n"
    assert trace(tmp_path / "a.csv", text) == [(0.5, 7.0), (2.0, 9.0)]
    assert trace(tmp_path / "a.csv", text, Reading(in_work=0.1, out_work=2.0)) == [(0.5, 24.0), (2.0, 23.0)]
    assert trace(tmp_path / "a.csv", "cost,t_s\n3,0\n4,9\n5,20\n", Reading(start_s=5, span_s=10)) == [(4.0, 4.0)]
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(text)
    assert list(read(tmp_path / "a.csv.gz", Reading(), COSTS, 0)) == [(0.5, 7.0), (2.0, 9.0)]


def test_recorded_requests_can_be_thinned_out(tmp_path: Path) -> None:
    text = "t_s,cost\n" + "".join(f"{n},1\n" for n in range(5000))
    some = trace(tmp_path / "a.csv", text, Reading(scale=0.3))
    assert len(some) == pytest.approx(1500, rel=0.1)
    assert some == trace(tmp_path / "a.csv", text, Reading(scale=0.3))
    assert some != trace(tmp_path / "a.csv", text, Reading(scale=0.3), seed=1)


def test_recorded_rates_become_requests_at_those_rates(tmp_path: Path) -> None:
    text = "t_s,rps,in_tok_s,out_tok_s\n0,2,400,50\n1000,0,0,0\n2000,4,400,60\n"
    arrivals = trace(tmp_path / "a.csv", text)
    first = [work for t, work in arrivals if t < 1000]
    last = [work for t, work in arrivals if t >= 2000]
    assert len(first) == pytest.approx(2000, rel=0.1)
    assert [t for t, _ in arrivals if 1001 < t < 2000] == []
    assert len(last) == pytest.approx(4000, rel=0.1)
    assert (set(first), set(last)) == ({25.0}, {15.0})
    half = trace(tmp_path / "a.csv", text, Reading(scale=0.5))
    assert len(half) == pytest.approx(len(arrivals) / 2, rel=0.1)


@pytest.mark.parametrize(
    ("law", "cv"), [("G,3,0.111111", 3.0), ("G,0.5,4", 0.5), ("W,2.24,0.5", 2.236), ("W,1,1", 1.0)]
)
def test_each_client_is_as_bursty_as_it_was(tmp_path: Path, law: str, cv: float) -> None:
    name, iat_cv, shape = law.split(",")
    rows = "".join(f"{c},0,5,{iat_cv},{name},{shape}\n{c},8000,5,{iat_cv},{name},{shape}\n" for c in "ab")
    arrivals = trace(tmp_path / "a.csv", f"client,t_s,rps,iat_cv,iat_dist,shape\n{rows}")
    assert len(arrivals) == pytest.approx(2 * 80_000, rel=0.05)
    one = trace(tmp_path / "a.csv", f"client,t_s,rps,iat_cv,iat_dist,shape\n{rows[: len(rows) // 2]}")
    gaps = [b - a for (a, _), (b, _) in pairwise(one)]
    assert pstdev(gaps) / mean(gaps) == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "`t_s` among them"),
        ("t_s,b\n1,2\n", "needs a column `rps`, or `cost`, or `in_tok` and `out_tok`"),
        ("t_s,cost\n1,x\n", "line 2: `cost` is 'x'; it must be a number"),
        ("t_s,cost\n1\n", "line 2: `cost` is missing"),
        ("t_s,cost\n1,-1\n", "line 2: `cost` is -1.0; it must be 0 or more"),
        ("t_s,cost\nnan,1\n", "line 2: `t_s` is nan"),
        ("t_s,cost\n2,1\n1,1\n", "line 3: `t_s` is 1, less than 2 before it"),
        ("t_s,rps\n", "has no rows"),
        ("t_s,rps\n5,1\n5,1\n", "line 3: `t_s` must grow"),
    ],
)
def test_a_bad_file_is_refused_with_the_line_the_field_and_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        trace(tmp_path / "bad.csv", text)
    assert said in str(caught.value)
    assert "bad.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not a CSV file"),
    ],
)
def test_what_is_no_file_of_text_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "x.csv"
    make(path)
    with pytest.raises(BadRequest, match=said):
        list(read(path, Reading(), COSTS, 0))


def test_recorded_requests_cannot_be_multiplied(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="thinned out"):
        trace(tmp_path / "a.csv", "t_s,cost\n1,1\n", replace(Reading(), scale=2.0))
