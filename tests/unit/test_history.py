"""What a fleet remembers for people: lines by level, and figures of workers."""

import math

import pytest
from msgspec import structs

from posthouse.domain.decision import Decision, Memory, Obstacle, Reason
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Observation, State
from posthouse.domain.reports import Ended, Report
from posthouse.engine.history import KEPT, TEXT, WHY, History
from posthouse.engine.worker_stats import FADES_OVER_S, WorkerStats
from posthouse.fleet.events import Level
from posthouse.fleet.requests import UNSEEN_KEPT_S
from tests.kit.fleets import (
    GROUP,
    NOW,
    ONE,
    SILENT_S,
    TWO,
    Fleet,
    assigned,
    decision_to_rent,
    fleet_of,
    instance,
    new_fleet,
    ready_report,
    worker,
)


def told(fleet: Fleet) -> list[tuple[Level, str]]:
    return [(line.level, line.text) for line in fleet.history.lines()]


def blocked(*texts: str) -> Decision:
    because = (Reason("need", 1.0, "min_load"), *(Obstacle("no more hot workers", 0, text) for text in texts))
    return Decision(NOW, 0, 0, 0, {}, (), Memory(), because)


# -- lines -----------------------------------------------------------------------------------------------------------


def test_every_event_has_its_words() -> None:
    assert set(WHY) == {*Command, *Observation}


def test_the_way_of_a_worker_is_told_step_by_step() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW + 1)
    fleet.command_answered(ONE, NOW + 2)
    fleet.observe_instance(ONE, instance(), NOW + 2)
    fleet.report(ONE, ready_report(), NOW + 9)
    lines = fleet.history.lines()
    assert [(line.at - NOW, line.level, line.text) for line in lines] == [
        (0, Level.INFO1, "is wanted hot: offer o of sim for workergroup 7"),
        (1, Level.INFO1, "went from wanted to creating: its provider is asked for a machine"),
        (2, Level.INFO1, "went from creating to model_loading: its provider lists it as running"),
        (9, Level.TRACE, "reports from http://10.0.0.1:8000, version 1.1.0, 100 work/s"),
        (9, Level.INFO1, "went from model_loading to idle: it reports that it is ready, 100 work/s"),
    ]
    assert {(line.worker_id, line.group_id) for line in lines} == {(ONE, GROUP)}


def test_a_worker_that_breaks_is_a_failure_with_its_own_words() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, structs.replace(ready_report(), error="CUDA out of memory"), NOW + 1)
    assert told(fleet)[-1] == (Level.INFO0, "went from idle to error: it reports an error: CUDA out of memory")
    fleet.observe("sim", (), NOW + 2, NOW + 2)
    assert told(fleet)[-1] == (Level.INFO1, "went from error to destroyed: its provider no longer lists it")


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        ((), "went from idle to destroyed: its provider no longer lists it"),
        ((instance(seen=Observation.HALTED),), "went from idle to stopped: its provider lists it as stopped"),
        ((instance(seen=Observation.EXITED),), "went from idle to unavail: its provider lists it as ended"),
    ],
)
def test_what_happens_behind_our_back_is_a_failure(seen: tuple[Instance, ...], text: str) -> None:
    fleet = fleet_of(worker())
    fleet.observe("sim", seen, NOW + 1, NOW + 1)
    assert told(fleet)[-1] == (Level.INFO0, text)


def test_what_was_asked_for_is_no_failure() -> None:
    fleet = fleet_of(worker())
    fleet.command_sent(ONE, Command.STOP, NOW + 1)
    fleet.command_answered(ONE, NOW + 1)
    fleet.observe("sim", (instance(seen=Observation.HALTED),), NOW + 2, NOW + 2)
    assert [level for level, _ in told(fleet)[1:]] == [Level.INFO1, Level.INFO1]


def test_a_refused_command_is_told_once_as_a_failure() -> None:
    fleet = new_fleet()
    fleet.command_sent(ONE, Command.RENT, NOW)
    fleet.command_answered(ONE, NOW + 1, "rent: no credit")
    assert told(fleet)[-2:] == [
        (Level.INFO0, "its command was refused: rent: no credit"),
        (Level.INFO1, "went from creating to destroyed: its command was refused"),
    ]


def test_an_obstacle_is_told_when_it_comes_and_not_at_every_tick() -> None:
    fleet = fleet_of()
    for number, texts in enumerate((["full"], ["full"], ["full", "broke"], [], ["full"])):
        fleet.tick(blocked(*texts), NOW + number, iter(()), "test-")
    assert told(fleet) == [
        (Level.INFO0, "no more hot workers: full"),
        (Level.INFO0, "no more hot workers: broke"),
        (Level.INFO0, "no more hot workers: full"),
    ]


def test_an_address_that_is_not_the_workers_own_is_told() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, structs.replace(ready_report(), url="http://6.6.6.6:1"), NOW + 1)
    assert (Level.INFO0, "reported an address that is not its own: http://6.6.6.6:1") in told(fleet)


def test_a_report_that_says_nothing_new_leaves_no_line() -> None:
    fleet = fleet_of(worker())
    before = told(fleet)
    for second in range(5):
        fleet.report(ONE, ready_report(), NOW + second)
    assert told(fleet) == before


def test_requests_that_fail_or_are_given_up_are_details() -> None:
    fleet = fleet_of(worker())
    failed, lost = (assigned(fleet.assign(0, 10, NOW)).request_idx for _ in range(2))
    fleet.end(ONE, Ended(failed, False, "Rejected"), NOW + 2)
    fleet.advance(NOW + UNSEEN_KEPT_S, SILENT_S)
    assert told(fleet)[1:] == [
        (Level.DEBUG, f"request {failed} ended after 2.0 s: Rejected"),
        (Level.DEBUG, f"request {lost} was given up, 30 s after it was sent here"),
        (Level.TRACE, f"request {lost} never came here; others are preferred for a while"),
    ]


def test_a_request_that_is_asked_again_tells_of_its_worker_once() -> None:
    fleet = fleet_of(worker(ONE), worker(TWO))
    first = assigned(fleet.assign(0, 10, NOW))
    for second in range(1, 4):
        fleet.assign(first.request_idx, 10, NOW + second / 10)
    lines = [line for line in fleet.history.lines() if line.level is Level.TRACE]
    assert sorted((line.worker_id or 0, line.level) for line in lines) == [(ONE, Level.TRACE), (TWO, Level.TRACE)]


def test_details_never_drive_out_what_matters() -> None:
    history = History()
    history.note(NOW, Level.INFO0, "a failure")
    for number in range(3 * KEPT):
        history.note(NOW + number, Level.DEBUG, f"detail {number}")
    lines = history.lines()
    assert (lines[0].text, len(lines)) == ("a failure", 1 + KEPT)
    assert lines[-1].text == f"detail {3 * KEPT - 1}"


def test_a_line_has_a_bound() -> None:
    history = History()
    history.note(NOW, Level.INFO0, "x" * (2 * TEXT))
    assert len(history.lines()[0].text) == TEXT


def test_lines_of_one_moment_stay_in_their_order() -> None:
    history = History()
    for number, level in enumerate((Level.DEBUG, Level.INFO0, Level.TRACE, Level.INFO1)):
        history.note(NOW, level, str(number))
    assert [line.text for line in history.lines()] == ["0", "1", "2", "3"]


def test_lines_of_a_workergroup_are_those_of_its_workers() -> None:
    fleet = fleet_of()
    fleet.tick(blocked("full"), NOW, iter(()), "test-")
    fleet.tick(decision_to_rent(1), NOW, iter([ONE]), "test-")
    assert [line.worker_id for line in fleet.history.lines()] == [None, ONE]
    assert [line.worker_id for line in fleet.history.lines(GROUP)] == [ONE]


# -- figures ---------------------------------------------------------------------------------------------------------


def test_amounts_and_rates_mean_the_same_for_every_generation() -> None:
    amounts, rates = WorkerStats(NOW), WorkerStats(NOW)
    amounts.take(Report(taken=50.0, done=20.0, disk_gb=7.0), NOW + 10)
    rates.take(Report(taken_rate=5.0, done_rate=2.0, disk_added_gb=7.0), NOW + 10)
    assert amounts == rates
    assert (amounts.taken, amounts.done_rate, amounts.disk_gb) == (50.0, 2.0, 7.0)


def test_a_report_that_is_repeated_at_once_does_not_make_a_huge_rate() -> None:
    figures = WorkerStats(NOW)
    figures.take(Report(done=20.0), NOW)
    assert figures.done_rate == 20.0


def test_growth_of_the_disk_adds_up_and_never_falls_below_nothing() -> None:
    figures = WorkerStats(NOW)
    for added in (3.0, 2.0, -1.0, -9.0, 0.5):
        figures.take(Report(disk_added_gb=added), NOW)
    assert figures.disk_gb == 0.5


def test_the_mean_load_follows_the_work_and_fades() -> None:
    figures = WorkerStats(NOW)
    assert figures.mean_load(NOW, [(100.0, 1000 * FADES_OVER_S)]) == pytest.approx(100)
    figures.ended(100.0, FADES_OVER_S, NOW + FADES_OVER_S)
    assert figures.mean_load(NOW + FADES_OVER_S, ()) == pytest.approx(63.2, abs=0.1)
    assert figures.mean_load(NOW + 2 * FADES_OVER_S, ()) == pytest.approx(63.2 / math.e, abs=0.1)


@pytest.mark.parametrize("requests", [1, 10, 1000])
def test_the_mean_load_is_the_same_in_many_requests_as_in_one(requests: int) -> None:
    fleet = fleet_of(worker(), max_queue_time=1000)
    fleet.report(ONE, ready_report(), NOW)
    for number in range(requests):
        now = NOW + 60 * number / requests
        routed = assigned(fleet.assign(0, 50.0, now))
        fleet.end(ONE, Ended(routed.request_idx, True), now + 60 / requests)
    assert fleet.mean_load(ONE, NOW + 60) == pytest.approx(31.6, abs=0.1)


def test_the_mean_load_has_the_requests_that_are_there() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, ready_report(), NOW)
    fleet.assign(0, 50.0, NOW)
    assert fleet.mean_load(ONE, NOW) == 0.0
    assert fleet.mean_load(ONE, NOW + 60) == pytest.approx(31.6, abs=0.1)


def test_reliability_is_the_share_of_time_that_it_was_there() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, ready_report(), NOW)
    fleet.advance(NOW + 100, SILENT_S)
    assert fleet.workers[ONE].state is State.UNAVAIL
    assert fleet.worker_stats(ONE).reliability(NOW, NOW + 100, NOW + 125) == pytest.approx(0.8)
    fleet.report(ONE, ready_report(), NOW + 150)
    assert fleet.worker_stats(ONE).reliability(NOW, NOW + 200, NOW + 200) == pytest.approx(0.75)


def test_a_worker_that_was_never_ready_has_nothing_held_against_it() -> None:
    assert WorkerStats(NOW).reliability(0.0, NOW - 10, NOW) == 1.0


def test_the_figures_of_a_worker_go_with_it() -> None:
    fleet = fleet_of(worker())
    fleet.report(ONE, structs.replace(ready_report(), disk_gb=5.0), NOW)
    assert fleet.worker_stats(ONE).disk_gb == 5.0
    fleet.observe("sim", (), NOW + 1, NOW + 1)
    assert fleet.worker_stats(ONE).disk_gb == 0.0
