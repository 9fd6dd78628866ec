"""The simulated GPU market: what becomes of machines and instances, and what they cost."""

from collections.abc import Sequence
from typing import Any

import pytest

from posthouse.errors import BadRequest
from posthouse.market import rows
from posthouse.market.faults import Faults, changed
from posthouse.market.limits import Limits
from posthouse.market.local import NoRunner
from posthouse.market.model import MICRO, MONTH_H, Launch, Machine, Rental
from posthouse.market.world import Market, Refusal

HOUR_S = 3600.0
TIMES = {"schedule_s": 10.0, "pull_s": 20.0, "stop_s": 5.0, "start_s": 5.0}


class Recorder(NoRunner):
    """Runs nothing, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, rental: Rental, wipe: bool) -> None:
        self.told.append("start wiped" if wipe else "start")

    def end(self, rental: Rental, remove: bool) -> None:
        self.told.append("remove" if remove else "end")


def listed(market: Market) -> list[dict[str, Any]]:
    shown = rows.Shown(market)
    return [shown.row(number) for number in shown.rentals]


def market(**faults: Any) -> Market:
    return Market(Recorder(), 0.0, offers=4, seed=3, faults=Faults(**{**TIMES, **faults}))


def rented(market: Market, bid: int = 0) -> Rental:
    machine = market.offered()[0]
    return market.rent(machine.ask_id, Launch("image", {"-p 3000:3000": "1"}), "mine", 10.0, bid)


def statuses(rental: Rental) -> Sequence[str | None]:
    return [status for _, status in rental.history]


def test_an_instance_pulls_runs_rests_and_comes_back() -> None:
    it = market()
    rental = rented(it)
    it.advance(31.0)
    it.stop(rental)
    it.advance(40.0)
    assert (rental.has_gpus, rental.machine in it.offered()) == (False, True)
    it.start(rental)
    it.advance(50.0)
    assert statuses(rental) == [None, "loading", "running", "exited", "running"]
    assert isinstance(it.runner, Recorder)
    assert it.runner.told == ["start wiped", "end", "start"]


def test_bills_are_whole_microdollars_for_what_was_had() -> None:
    it = market()
    rental = rented(it)
    price, disk = rental.machine.price, rental.storage_price
    assert disk == round(rental.machine.storage * 10 / MONTH_H)
    it.advance(30.0 + HOUR_S)  # an hour since it runs
    it.bills()
    assert (rental.gpu, rental.storage) == (price * 3600 * MICRO, disk * 3630 * MICRO)
    it.stop(rental)
    it.advance(it.now + 5.0)
    gpu = rental.gpu
    it.advance(it.now + HOUR_S)
    it.destroy(rental)
    assert rental.gpu == gpu
    assert gpu == price * 3605 * MICRO
    spent = it.spent_usd()
    it.advance(it.now + HOUR_S)
    assert it.spent_usd() == spent == pytest.approx((price * 3605 + disk * (3635 + 3600)) / 3600 / MICRO)


def test_what_was_spent_is_not_forgotten_with_who_spent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posthouse.market.world.KEPT_GONE", 1)
    it = market()
    costs = 0
    for _ in range(3):
        rental = rented(it)
        it.advance(it.now + HOUR_S)
        it.destroy(rental)
        costs += rental.gpu + rental.storage
    assert len(it.gone) == 1
    assert it.spent_usd() == costs / (3600 * MICRO * MICRO)


def test_the_same_seed_has_the_same_fate() -> None:
    def life() -> list[object]:
        it = market(churn_h=3.0, move_h=6.0, offline_h=0.2, slow=0.3, stuck=0.2)
        rentals = [rented(it) for _ in range(2)]
        it.advance(20 * HOUR_S)
        return [[(m.price, m.min_bid, m.tenant, m.online) for m in it.machines.values()], [r.history for r in rentals]]

    assert life() == life()


def test_a_bid_is_outbid_and_gets_its_gpus_back() -> None:
    it = market()
    machine = it.offered()[0]
    with pytest.raises(Refusal, match="below the lowest"):
        rented(it, machine.min_bid - 1)
    rental = rented(it, machine.min_bid)
    it.advance(31.0)
    it.set_price(machine, machine.price, rental.price + 1)
    assert (rental.actual, rental.has_gpus, rental.intended) == ("exited", False, "running")
    assert machine not in it.offered()
    it.set_bid(rental, rental.price + 1)
    it.advance(40.0)
    assert (rental.actual, rental.has_gpus) == ("running", True)


def test_one_whose_gpus_others_have_waits_for_them() -> None:
    it = market()
    first = rented(it)
    it.advance(31.0)
    it.stop(first)
    it.advance(40.0)
    second = it.rent(first.machine.ask_id, Launch("image", {}), None, 10.0)
    it.start(first)
    it.advance(60.0)
    assert (first.actual, "scheduling" in first.message) == ("exited", True)
    it.destroy(second)
    it.advance(70.0)
    assert first.actual == "running"


def test_a_start_before_the_stop_is_done_restarts() -> None:
    it = market()
    rental = rented(it)
    it.advance(31.0)
    it.stop(rental)
    it.start(rental)
    it.advance(60.0)
    assert isinstance(it.runner, Recorder)
    assert (rental.actual, it.runner.told) == ("running", ["start wiped", "end", "start"])


def test_a_machine_that_goes_away_costs_its_disk_alone() -> None:
    it = market()
    rental = rented(it)
    it.advance(30.0 + HOUR_S)
    it.go_offline(rental.machine)
    gpu = rental.gpu
    it.advance(it.now + HOUR_S)
    it.bills()
    assert (rental.actual, rental.gpu) == ("offline", gpu)
    assert rental.machine not in it.offered()


def test_lists_may_lag() -> None:
    it = market(lag_s=15.0)
    rental = rented(it)
    it.advance(10.0)
    assert listed(it) == []
    it.advance(36.0)
    assert [row["actual_status"] for row in listed(it)] == ["loading"]
    it.advance(46.0)
    assert [row["actual_status"] for row in listed(it)] == ["running"]
    it.destroy(rental)
    assert len(listed(it)) == 1
    it.advance(62.0)
    assert listed(it) == []


def test_stuck_pulls_never_end_and_slow_ones_late() -> None:
    it = market(stuck=1.0)
    stuck = rented(it)
    it.advance(11.0)
    it.set_faults(changed(it.faults, {"stuck": 0.0, "slow": 1.0, "slow_factor": 10.0}))
    slow = rented(it)
    it.advance(220.0)
    assert (stuck.actual, slow.actual) == ("loading", "loading")
    it.advance(221.5)
    assert (stuck.actual, slow.actual) == ("loading", "running")


def test_others_take_machines_and_give_them_back() -> None:
    it = market(churn_h=60.0)
    seen = set()
    for minute in range(60):
        it.advance(60.0 * minute)
        seen.add(len(it.offered()))
    assert {0, 4} & seen
    assert len(seen) > 2


@pytest.mark.parametrize("values", [{"stuck": 2}, {"no_such": 1}, {"pull_s": "soon"}, {"only": "x"}, {"lag_s": None}])
def test_faults_that_cannot_be_are_refused_by_name(values: object) -> None:
    with pytest.raises(BadRequest, match="faults"):
        changed(Faults(), values)


def test_the_documented_intervals_are_kept_for_each_call_and_key() -> None:
    limits = Limits()

    def ask(call: str, at: float, who: str = "a", searches: int = 0) -> float | None:
        denied = limits.denied(call, who, at, 1.0, searches)
        return None if denied is None else denied.reset_at or denied.threshold_s

    assert [ask("list", at) for at in (0.0, 0.9, 1.0)] == [None, 1.0, None]
    assert [ask("create", at) for at in (0.0, 4.4, 5.0, 17.1)] == [None, 4.5, 4.5, None]
    assert ask("list", 1.1, who="b") is None
    assert [ask("search", float(at)) for at in range(11)] == [None] * 10 + [6.0]
    assert ask("search", 61.0) is None
    assert ask("search", 86_000.0, searches=11) == 86_400.0
    assert ask("search", 86_401.0, searches=11) is None


def test_an_order_is_merged_with_its_template() -> None:
    it = market()
    it.templates["h"] = {"image": "base", "env": "-e A=1 -e B=2 -p 80:80", "onstart": "run", "runtype": "args"}
    given = rows.order({"template_hash_id": "h", "env": {"B": "3", "-p 90:90": "1"}, "image": "mine"})
    launch = rows.launch(it, given)
    assert (launch.image, launch.onstart, launch.runtype) == ("mine", "run", "args")
    assert launch.env == {"A": "1", "B": "3", "-p 80:80": "1", "-p 90:90": "1"}
    assert rows.published(launch.env) == [80, 90]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "image"),
        ({"image": "a", "disk": 1}, "disk"),
        ({"image": "a", "onstart": "x" * 4049}, "onstart"),
        ({"image": "a", "label": "x" * 300}, "label"),
        ({"image": "a", "price": -1}, "price"),
        ({"image": "a", "env": "--privileged"}, "env"),
        ({"image": ["a"]}, "image"),
        ({"image": "a", "template_hash_id": "none"}, "template"),
    ],
)
def test_an_order_that_cannot_be_is_refused_by_name(body: dict[str, object], told: str) -> None:
    with pytest.raises(Refusal, match=told):
        rows.launch(market(), rows.order(body))


def test_machines_are_offered_as_they_are_searched_for() -> None:
    it = market()
    prices = [row["dph_total"] for row in rows.search(it, {"order": [["dph_total", "desc"]], "limit": 3})]
    assert prices == sorted(prices, reverse=True)
    assert len(prices) == 3
    machine: Machine = it.offered()[0]
    [row] = rows.search(it, {"id": {"eq": machine.ask_id}, "type": "bid", "allocated_storage": 20.0})
    assert row["dph_total"] == pytest.approx((machine.min_bid + machine.storage * 20 / MONTH_H) / MICRO)
