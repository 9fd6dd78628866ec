"""What if: a server's own record of a bit of traffic, played again by the command line."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.site import ONSTART, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.clear()


@pytest.mark.long
def test_a_bit_of_real_traffic_is_played_again_and_too_little_to_advise_from(site: Site) -> None:
    site.environ |= {
        "POSTHOUSE_PROVIDERS__PROCESS__READY_USD_H": "0.4",
        "POSTHOUSE_PROVIDERS__PROCESS__LOADING_USD_H": "0.4",
    }
    site.start()
    site.json("template", "create", "--name", "demo", "--env", "-p 3000:3000", "--onstart", ONSTART)
    site.json("endpoint", "create", "llm", "--min-load", "0", "--cold-workers", "0", "--max-workers", "1")
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "demo")

    nothing = site.run("simulate", "--from-journal", "llm")
    assert nothing.returncode == 4
    assert nothing.stderr.startswith("error: there is no recorded traffic of llm yet")
    assert nothing.stderr.count("\n") == 1
    for _ in range(3):
        assert site.run("request", "llm", "hello", "--max-new-tokens", "20").returncode == 0

    was, now = site.json("simulate", "--from-journal", "llm", "--quiet")
    assert (was["column"], now["column"]) == ("as it was", "as it is")
    assert was["requests"] == now["requests"] == now["answered"] == 3
    assert was["rents"] == now["rents"] == 1
    assert was["route_s"]["most"] > 0  # the first waited for the worker
    assert min(was["usd"], now["usd"]) > 0  # how near they are depends on how fast this machine is just now
    _, now, dearer = site.json("simulate", "--from-journal", "llm", "--price", "0.8", "--quiet")
    assert dearer["usd"] == pytest.approx(2 * now["usd"], rel=0.01)
    advice = site.json("advise", "llm")
    assert advice["verdict"] == "too short"
    assert "too little is recorded" in site.run("advise", "llm").stdout

    assert site.stop(signal.SIGTERM)[0] == 0
    site.start()
    again = site.json("simulate", "--from-journal", "llm", "--quiet")
    assert again[0]["requests"] == 3
    (site.directory / "requests.csv").write_text(site.run("endpoint", "traffic", "llm").stdout)
    assert [row["cost"] for row in site.json("endpoint", "traffic", "llm")] == [20, 20, 20]
    (run,) = site.json("simulate", "--trace", "requests.csv", "--quiet")
    assert run["requests"] == 3
    site.json("endpoint", "delete", "llm", "--wait")
