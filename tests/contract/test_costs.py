"""What endpoints cost over time: the parts add up to what was spent, by key as each asked, and outlive the server."""

import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import Goal, State
from posthouse.engine.costs import DAYS, HOURS, MAX_NAMES, OTHER, Bucket, Costs, costs_of
from posthouse.engine.externals import ExternalCosts
from posthouse.engine.samples import Sampler
from posthouse.store import catalogue
from posthouse.wire import spent
from tests.kit.web import Web, served, worker

HOUR_S = 3600.0
NOON = 1_700_049_599.0
"""Just before an hour begins."""


@dataclass
class Clock:
    at: float = NOON

    def now(self) -> float:
        return self.at

    wall = now


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        web.hub.clock = Clock()
        yield web


class Hours:
    """An endpoint with a worker that serves, one that rests, and a sampler that a test drives."""

    def __init__(self, web: Web, endpoint_id: int) -> None:
        self.web, self.clock = web, web.hub.clock
        at = {"created_at": NOON, "since": NOON, "progressed_at": NOON}
        cold = {"state": State.STOPPED, "goal": Goal.COLD, "gpu_name": "H100", "num_gpus": 2}
        self.fleet = web.staff(worker(1, endpoint_id, **at), worker(2, endpoint_id, **at, **cold))
        self.managed = self.fleet.managed
        self.sampler = Sampler(web.hub.endpoints.values, self.clock.now, web.hub.store)

    async def pass_by(self, hours: float, step_s: float = 300.0, **asked: float) -> None:
        """So much time, with a sample and what each key asked in every step."""
        for _ in range(round(hours * HOUR_S / step_s)):
            for key, work in asked.items():
                self.managed.costs.asked[key] += work
            self.clock.at += step_s  # type: ignore[attr-defined]
            await self.sampler.round()


@pytest.fixture
async def hours(web: Web) -> Hours:
    hours = Hours(web, await web.make_endpoint("llm"))
    await hours.sampler.round()
    return hours


async def test_the_parts_add_up_to_what_was_spent(web: Web, hours: Hours) -> None:
    await hours.pass_by(2.5)
    spent = hours.managed.fleet.spent_usd(hours.clock.now())
    assert spent == pytest.approx(2.5 * 0.51)
    for by, names in {
        "endpoint": {"llm": 1.275},
        "provider": {"shelf": 1.275},
        "gpu": {"1× RTX 4090": 1.25, "2× H100": 0.025},
        "state": {"idle": 1.25, "storage": 0.025},
        "key": {"(nobody asked)": 1.275},
    }.items():
        found = (await web.call("GET", f"/v1/costs?by={by}")).body
        assert {line["name"]: line["usd"] for line in found["lines"]} == pytest.approx(names), by
        assert (found["usd"], found["idle_usd"], found["storage_usd"]) == pytest.approx((spent, 1.25, 0.025))
        assert [sum(line["usd_of"][-3:]) for line in found["lines"]] == pytest.approx([*names.values()])


async def test_keys_pay_in_each_hour_in_proportion_to_what_they_asked(web: Web, hours: Hours) -> None:
    key = next(record for record in web.keyring.records() if record.name == "route")
    await hours.pass_by(1, **{key.id: 30.0, "phe_1_1": 10.0})
    await hours.pass_by(1, phe_1_1=7.0)
    await hours.pass_by(1)
    found = (await web.call("GET", "/v1/costs?by=key")).body
    assert {line["name"]: line["usd"] for line in found["lines"]} == pytest.approx(
        {f"route (ph_{key.id})": 0.75 * 0.51, "llm's own key": 1.25 * 0.51, "(nobody asked)": 0.51}, rel=0.03
    )
    assert found["usd"] == pytest.approx(3 * 0.51)


async def test_routing_counts_what_each_key_asks(web: Web, hours: Hours) -> None:
    from posthouse.engine.router import Router
    from posthouse.wire.route import RouteAsk

    router = Router(web.hub, None, lambda worker: bytes(32), 0.0, lambda text, told: None)  # type: ignore[arg-type]
    for key, cost in (("a", 20.0), ("b", 5.0), ("a", 1.0)):
        router.route(hours.managed, RouteAsk("llm", cost), lambda reply: None, key, hours.clock.now())
    assert dict(hours.managed.costs.asked) == {"a": 21.0, "b": 5.0}


async def test_days_are_the_hours_that_they_have_and_the_present_one(web: Web, hours: Hours) -> None:
    await hours.pass_by(30, step_s=1800.0, phe_1_1=1.0)
    by_day, by_hour = [(await web.call("GET", f"/v1/costs?by=key&last_s={days * 86_400}")).body for days in (30, 7)]
    assert (by_day["step_s"], by_hour["step_s"]) == (86_400.0, 3600.0)
    assert by_day["usd"] == pytest.approx(by_hour["usd"]) == pytest.approx(30 * 0.51)
    assert [round(usd, 4) for usd in by_day["lines"][0]["usd_of"][-2:]] == pytest.approx([12 * 0.51, 18 * 0.51])


async def test_a_worker_that_goes_between_two_samples_is_paid_for(web: Web, hours: Hours) -> None:
    await hours.pass_by(0.5)
    managed = hours.managed
    hours.clock.at += 300.0  # type: ignore[attr-defined]
    gone = managed.fleet.workers[1]  # type: ignore[index]
    managed.fleet.roster.spent_gone_usd += gone.spent_at(hours.clock.now())
    del managed.fleet.roster.workers[gone.id]
    await hours.sampler.round()
    found = (await web.call("GET", "/v1/costs?by=gpu")).body
    assert found["usd"] == pytest.approx(managed.fleet.spent_usd(hours.clock.now()))
    assert found["lines"][0]["name"] == "1× RTX 4090"


async def test_what_was_written_goes_on_after_a_crash_and_counts_no_hour_twice(web: Web, hours: Hours) -> None:
    await hours.pass_by(3, a=1.0)
    before = (await web.call("GET", "/v1/costs?by=key&last_s=864000")).body
    hours.managed.costs, hours.managed.samples.loaded = Costs(), False
    await hours.sampler.round()
    await hours.pass_by(1, a=1.0)
    after = (await web.call("GET", "/v1/costs?by=key&last_s=864000")).body
    assert after["usd"] == pytest.approx(before["usd"] + 0.51, rel=0.02)  # of the last minute nothing was written


async def test_nothing_is_missing_that_is_written_while_it_is_read(
    hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs, store, one = hours.managed.costs, hours.sampler.store, EndpointId(1)
    hours.clock.at += 60.0  # type: ignore[attr-defined]
    costs.take(hours.managed, hours.clock.now())
    assert costs.unsaved(one, hours.clock.now(), at_once=True)

    async def read(*which: Any) -> list[Any]:
        costs.saved()
        return []

    monkeypatch.setattr(store, "history", read)
    found = await costs_of(store, {one: costs}, [one], HOURS, 0)
    assert sum(sum(bucket.spent.values()) for bucket in found[one].values()) == pytest.approx(0.51 / 60)


async def test_an_hour_that_ends_while_it_is_written_is_written_again(hours: Hours) -> None:
    costs, one = hours.managed.costs, EndpointId(1)
    for _ in range(2):
        hours.clock.at += HOUR_S / 2  # type: ignore[attr-defined]
        costs.take(hours.managed, hours.clock.now())
        written = costs.unsaved(one, hours.clock.now(), at_once=True)
    hours.clock.at += HOUR_S  # type: ignore[attr-defined]
    costs.take(hours.managed, hours.clock.now())
    costs.saved()
    again = costs.unsaved(one, hours.clock.now(), at_once=True)
    numbers = {chunk.number for chunk in written if chunk.scale == HOURS}
    assert {chunk.number for chunk in again if chunk.scale == HOURS} == {max(numbers), max(numbers) + 1}


class Gateway:
    """A gateway's file of what it spent at `external:other`, with the cap of $5."""

    def __init__(self, hours: Hours, folder: Path) -> None:
        self.hours, self.path = hours, folder / "externals.toml.spent"
        hours.web.hub.external = hours.sampler.external = ExternalCosts(self.path)

    def spends(self, usd: float, key: str) -> None:
        today = datetime.fromtimestamp(self.hours.clock.now(), UTC).date().isoformat()
        found = spent.look(self.path) or {}
        row = found.get("other")
        if row is None or row.day != today:
            row = spent.Spent(today, 0.0, 5.0)
        row.add(key, usd)
        with self.path.open("w+b") as file:
            spent.write(file, found | {"other": row})

    async def told(self, query: str, of: str) -> list[float]:
        found = (await self.hours.web.call("GET", f"/v1/costs?{query}")).body
        return next((line["usd_of"] for line in found["lines"] if line["name"] == of), [])


async def test_what_gateways_spend_elsewhere_is_among_the_costs(web: Web, hours: Hours, tmp_path: Path) -> None:
    gateway, key = Gateway(hours, tmp_path), next(r for r in web.keyring.records() if r.name == "route")
    gateway.spends(2.0, f"ph_{key.id}")  # reserved, half of which is not used
    await hours.pass_by(1)
    gateway.spends(-1.0, f"ph_{key.id}")
    gateway.spends(0.25, "phe_1_1")
    await hours.pass_by(1)
    assert await gateway.told("by=endpoint", "external:other") == pytest.approx([0] * 22 + [2.0, 0.0])
    gateway.spends(1.5, f"ph_{key.id}")
    await hours.pass_by(0.9)
    for by, name in (("endpoint", "external:other"), ("provider", "external:other"), ("state", "external")):
        assert sum(await gateway.told(f"by={by}", name)) == pytest.approx(2.75), by
    [cap] = [c for c in (await web.call("GET", "/v1/status")).body["caps"] if c["cap"] == "external:other"]
    assert (cap["used"], cap["limit"], cap["level"]) == (2.75, 5.0, "ok")
    assert "$2.7500 used, $2.2500 left" in cap["text"]

    hours.web.hub.external = hours.sampler.external = ExternalCosts(gateway.path)  # after a crash
    await hours.pass_by(0.1)
    assert sum(await gateway.told("by=endpoint", "external:other")) == pytest.approx(2.75)
    await hours.pass_by(24)
    gateway.spends(0.5, f"ph_{key.id}")
    await hours.pass_by(1)
    assert sum(await gateway.told("by=endpoint&last_s=2592000", "external:other")) == pytest.approx(3.25)
    assert sum(await gateway.told("by=endpoint&endpoint=llm&last_s=2592000", "external:other")) == 0


async def test_keys_are_listed_with_what_each_cost_this_month(web: Web, hours: Hours, tmp_path: Path) -> None:
    gateway, key = Gateway(hours, tmp_path), next(r for r in web.keyring.records() if r.name == "route")

    async def usd_month() -> dict[str, float]:
        return {row["name"]: row["usd_month"] for row in (await web.call("GET", "/v1/keys")).body}

    await hours.pass_by(30, step_s=1800.0, **{key.id: 30.0, "phe_1_1": 10.0})
    gateway.spends(1.0, f"ph_{key.id}")
    await hours.pass_by(1)
    in_costs = (await web.call("GET", "/v1/costs?by=key&last_s=2592000")).body["lines"]
    whole = next(line["usd"] for line in in_costs if key.id in line["name"])
    assert whole == pytest.approx(1.0 + 0.75 * 30 * 0.51, rel=0.03)
    assert (await usd_month())["route"] == pytest.approx(whole)
    assert (await usd_month())["admin"] == 0
    await hours.pass_by(24 * 16, step_s=3600.0)  # into December
    assert (await usd_month())["route"] == 0


async def test_what_a_deleted_endpoint_cost_stays_by_name_within_a_bound(
    web: Web, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    for worker_ in (hours.fleet.workers[1], hours.fleet.workers[2]):  # type: ignore[index]
        hours.managed.version = await web.hub.store.commit(EndpointId(1), hours.managed.version, 1, [worker_], None)
    await hours.pass_by(26)
    before = (await web.call("GET", "/v1/costs?last_s=864000")).body
    assert (await web.call("DELETE", "/api/v0/endptjobs/1/")).status == 200
    await hours.pass_by(0.5)  # its workers go on until they are gone
    gone = replace(hours.fleet.workers[1], state=State.DESTROYED, spent_usd=13.5)  # type: ignore[index]
    rest = replace(hours.fleet.workers[2], state=State.DESTROYED, spent_usd=0.3)  # type: ignore[index]
    await web.hub.store.commit(EndpointId(1), hours.managed.version, 1, [gone, rest], None)
    del web.hub.endpoints[EndpointId(1)]
    hours.sampler.over(hours.managed)
    await hours.sampler.round()
    again = await web.make_endpoint("llm")
    await web.call("DELETE", f"/api/v0/endptjobs/{await web.make_endpoint('other')}/")  # sweeps
    for last_s in (86_400 * 7, 86_400 * 10):
        found = (await web.call("GET", f"/v1/costs?last_s={last_s}")).body
        assert [(line["name"], line["deleted"]) for line in found["lines"]] == [("llm", True)]
        assert found["usd"] == pytest.approx(before["usd"] + 0.255)
    assert (await web.call("GET", f"/v1/costs?endpoint={again}")).body["usd"] == 0
    assert (await web.call("GET", "/v1/costs?endpoint=1&last_s=864000")).body["usd"] == found["usd"]
    query = f"{web.url}/v1/costs?as_csv=true&last_s=864000"
    async with web.session.get(query, headers={"Authorization": f"Bearer {web.keys['read']}"}) as reply:
        assert "llm (deleted)" in await reply.text()
    monkeypatch.setattr(catalogue, "DELETED_KEPT", 0)
    await web.call("DELETE", f"/api/v0/endptjobs/{again}/")
    assert (await web.call("GET", "/v1/costs?last_s=864000")).body["lines"] == []


async def test_as_csv_with_units_and_nothing_that_a_spreadsheet_computes(web: Web, hours: Hours) -> None:
    await web.call("PUT", "/api/v0/endptjobs/1/", {"endpoint_name": "=1+1"})
    await hours.pass_by(1)
    async with web.session.get(
        f"{web.url}/v1/costs?as_csv=true&last_s=3600", headers={"Authorization": f"Bearer {web.keys['read']}"}
    ) as reply:
        assert reply.content_type == "text/csv"
        table = list(csv.reader(io.StringIO(await reply.text())))
    assert table[0] == ["begin_utc", "span_s", "endpoint", "usd"]
    assert table[1][:3] == ["2023-11-15T12:00:00Z", "3600", "'=1+1"]


async def test_by_key_is_for_who_may_see_keys_and_others_see_their_own(web: Web, hours: Hours) -> None:
    await hours.pass_by(1)
    assert (await web.call("GET", "/v1/costs?by=key", key="operate")).status == 403
    await web.call("POST", "/v1/accounts", {"name": "acme"})
    theirs = (await web.call("POST", "/v1/keys", {"name": "t", "scope": "admin", "account": "acme"})).body["key"]
    assert (await web.call("GET", "/v1/costs", key=theirs)).body["lines"] == []
    assert (await web.call("GET", "/v1/costs?endpoint=llm", key=theirs)).status == 404


def test_what_is_stored_of_a_bucket_has_a_bound_and_keeps_the_sum() -> None:
    bucket = Bucket(5)
    for n in range(1000):
        bucket.spent["p" * 30, f"GPU {n}", "working"] += n
        bucket.asked[f"{n:08x}"] += n
    chunk = bucket.pack(1, HOURS)  # type: ignore[arg-type]
    assert len(chunk.packed) < 16_000
    again = Bucket.of(chunk)
    assert (sum(again.spent.values()), sum(again.asked.values())) == pytest.approx((499_500, 499_500))
    assert (len(again.asked), OTHER in again.asked) == (MAX_NAMES + 1, True)
    assert bucket.pack(1, DAYS).slot == 5  # type: ignore[arg-type]
    assert json.loads(chunk.packed)
