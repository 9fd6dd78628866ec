"""Each drill in small: what it measures is the same, and what it calls broken must not happen here either."""

import pytest

from tests.resilience import burst, crash, dead, drains, overload, restart, soak, streams, wake
from tests.resilience.site import ONSTART, Ground, ground


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast a server starts is the drill's to judge, too."""
    monkeypatch.setattr(Ground, "forks", True)


def test_what_was_routed_outlives_kills_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "RATE", 20.0)
    figures, violations = crash.run(count=1)
    assert [
        v for v in violations if not v.startswith(("routing was back", "the load was"))
    ] == []  # the drill's to judge
    assert figures["answered"] == figures["routed"] > 0


@pytest.mark.long
def test_clients_see_no_restart_in_place() -> None:
    figures, violations = restart.run(count=1)
    assert violations == []
    assert figures["answered_right"] == figures["unmodified_requests"] > 0


@pytest.mark.long
def test_no_stream_is_killed_when_a_fleet_is_scaled_down() -> None:
    figures, violations = drains.run(scale_downs=4, workers=4)
    assert violations == []
    assert figures["with_streams_open"] == 4
    assert figures["whole"] == figures["streams"] > 0


@pytest.mark.long
def test_an_overloaded_endpoint_serves_what_it_can_and_tells_the_others_to_wait() -> None:
    figures, violations = overload.run(span_s=4.0)
    assert [v for v in violations if "refused" in v or "status" in v or "end" in v] == []
    assert figures["told_to_wait"] > 0
    assert figures["served_per_s"] > 0


@pytest.mark.long
def test_a_burst_without_workers_loses_no_request() -> None:
    figures, violations = burst.run(count=200)
    assert [v for v in violations if "to be sent" not in v] == []
    assert figures["answered"] == 200


@pytest.mark.long
@pytest.mark.peer("POST /route/", "C1", does="50 requests of an endpoint whose worker is dead, for 30 s")
async def test_a_storm_at_a_dead_worker_is_slowed_to_a_route_a_second_and_healthy_requests_go_on() -> None:
    figures, violations = await dead.run(clients=50, span_s=30.0)
    assert [v for v in violations if not v.startswith("only ")] == [], figures  # how many is the drill's to judge


@pytest.mark.long
def test_streams_of_a_gateway_end_with_a_word_or_whole() -> None:
    figures, violations = streams.run(count=6, cancelled=3, workers=2)
    assert [v for v in violations if not v.startswith("places are free")] == []  # the drill's to judge
    assert figures["the server was killed"] == {"whole": 6, "later: whole": 6}


@pytest.mark.long
def test_who_comes_at_once_where_no_worker_is_wakes_one_and_is_answered_or_told_when_to_come_back() -> None:
    figures, violations = wake.run(count=20)
    assert violations == []
    assert [figures[name]["answered"] for name in ("held", "told when to come back")] == [20, 20]


@pytest.mark.long
async def test_a_soak_sees_growth_and_leaks() -> None:
    with ground(providers__process__slots=8) as site:
        site.begin("export DRILL_PERF=100\n" + ONSTART, min_load=50, cold_workers=1, cold_mult=1, max_workers=3)
        figures, violations = await soak.soak(site, minutes=0.2)
    # In the first seconds memory and connections grow: only the long drill can judge them.
    assert [v for v in violations if not v.startswith(("memory grows", "file descriptors grew"))] == []
    assert figures["endpoints_made_and_deleted"] > 0
    assert figures["answered"] > 0
    assert soak.slope([(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) == pytest.approx(2.0)


def test_a_soak_tells_a_leak_from_one_step() -> None:
    leak = [(5.0 * n, 100 + 5.0 * n / 3600 * 2) for n in range(240)]
    step = [(5.0 * n, 105.0 if n > 60 else 100.0) for n in range(240)]
    assert soak.growth_mb_h(leak) == pytest.approx(2.0)
    assert soak.growth_mb_h(step) < soak.MAX_MB_H
