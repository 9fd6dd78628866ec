"""The events of an endpoint are kept, and do the same when they are played again."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling, WorkergroupId
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Command, Observation, State
from posthouse.domain.reports import Ended, Report
from posthouse.domain.worker import WorkerId
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import BadRequest
from posthouse.fleet.events import (
    Answered,
    Asked,
    Commit,
    Configured,
    Effect,
    Event,
    Failed,
    Left,
    Listed,
    Offered,
    Reported,
    RequestsEnded,
    Run,
    Ticked,
    UpdateAsked,
    Wish,
    Written,
)
from posthouse.policy.decide import decide
from posthouse.ports import FleetRecord
from posthouse.recording.events import Began, EventLog, differences, replay
from tests.kit.fleets import GROUP, NOW, decision_to_rent, worker

ENDPOINT = Endpoint(EndpointId(1), "e", Scaling(min_load=50.0, cold_workers=1, max_workers=4))


class Life:
    """An endpoint to which things happen at random, as a server would tell them."""

    def __init__(self, path: Path, max_bytes: int = 10**8, seed: int = 1) -> None:
        self.now, self.random = NOW, Random(seed)
        self.ids = (WorkerId(i) for i in count(10))
        self.commands: list[Run] = []
        self.kept: EventLog

        def keep(began: Began) -> EventLog:
            self.kept = EventLog(path, began, max_bytes)
            return self.kept

        self.managed = ManagedEndpoint.open(
            ENDPOINT,
            NOW,
            FleetRecord(1, (worker(),)),
            5.0,
            label="test-",
            known=frozenset({"sim"}),
            deeds=self,
            keep=keep,
        )
        (offer,) = {rental.offer for rental in decision_to_rent(1).rentals}
        self.told(Configured(ENDPOINT, frozenset({"sim"})))
        self.told(Offered((offer,)))
        self.heard: list[Effect] = []

    def told(self, event: Event) -> None:
        self.managed.handle(event, self.now)

    def run_command(self, managed: ManagedEndpoint, command: Run, now: float) -> None:
        self.commands.append(command)

    def commit(self, managed: ManagedEndpoint, commit: Commit, now: float) -> None:
        managed.handle(Written(self.random.random() > 0.1), now)

    def wake(self, managed: ManagedEndpoint) -> None: ...

    def instance(self, worker_id: WorkerId, seen: Observation = Observation.RUNNING) -> Instance:
        places = frozenset({f"10.0.0.{worker_id}:8000", f"10.0.1.{worker_id}:8000", f"10.0.2.{worker_id}:8000"})
        return Instance(f"i{worker_id}", f"test-{worker_id}", seen, places)

    def live(self, steps: int) -> "Life":
        for _ in range(steps):
            self.now += self.random.uniform(0, 2.0)
            random, fleet = self.random, self.managed.fleet
            if self.commands and random.random() < 0.5:
                one = self.commands.pop(0)
                failure = "" if random.random() > 0.2 else "refused"
                seen = None if failure or one.command is not Command.RENT else self.instance(one.worker.id)
                self.told(Answered(one.worker.id, one.command, failure, True, seen))
            self.told(Ticked(self.ids))
            wish = random.choice([None, Wish(random.getrandbits(64)), Wish(7, frozenset({WorkerId(1), WorkerId(0)}))])
            self.managed.assign(0, random.choice([10.0, 500.0]), self.now, True, random.choice([0.0, 3.0]), wish)
            alive = list(fleet.workers.values())
            if not alive:
                self.told(Listed("sim", (), self.now))
                continue
            one_worker = random.choice(alive)
            open_here = list(fleet.ledger.at.get(one_worker.id, {}))
            report = Report(100.0, "", f"http://10.0.0.{one_worker.id}:8000", "1.1.0", "U", frozenset(open_here))
            listed = tuple(self.instance(w.id) for w in alive if w.instance_id and w.state is not State.STOPPED)
            events: list[Event] = [
                Reported(one_worker.id, report),
                Listed("sim", listed, self.now),
                UpdateAsked(WorkergroupId(GROUP)),
                Left(random.choice([*fleet.ledger.waiting, 7])),
                Asked(0, 30.0),
            ]
            if open_here:
                ended = RequestsEnded(one_worker.id, (Ended(open_here[0], success=random.random() > 0.3),))
                events += [ended] * 4 + [Failed(open_here[0], one_worker.id, "connection refused")]
            self.told(random.choice(events))
            fleet.validate()
        return self


@pytest.mark.parametrize("seed", range(5))
def test_kept_events_do_the_same_again_byte_for_byte(tmp_path: Path, seed: int) -> None:
    life = Life(tmp_path / "events.jsonl", seed=seed).live(300)
    life.kept.close()
    found = replay(tmp_path / "events.jsonl")
    assert (found.line, found.kept, found.now) == (0, "", "")
    assert found.events > 600
    assert found.effects > 300


def test_where_it_does_something_else_that_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Life(path).live(100).kept.close()
    lines = path.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if '"reqnum"' in line or ('"Deliver"' in line and i > 50))
    lines[number] = lines[number].replace("Deliver", "Delivex", 1)
    path.write_text("".join(lines))
    found = replay(path)
    assert found.line == number + 1
    assert "Delivex" in found.kept
    assert "Delivex" not in found.now


def test_what_another_version_does_is_counted_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Life(path).live(200).kept.close()
    found = differences(path)
    assert found.same == found.events == replay(path).events
    assert found.was == found.now
    assert sum(found.was.values()) > 3

    def idle(snapshot: Snapshot, memory: Memory) -> Decision:
        return replace(decide(snapshot, memory), rentals=())

    found = differences(path, idle)
    assert 0 < found.same < found.events
    assert "rent" in found.was
    assert "rent" not in found.now
    assert found.kept != found.again


def test_what_is_kept_is_bounded_and_can_be_played_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Life(path, max_bytes=20_000).live(200).kept.close()
    assert 10_000 < path.stat().st_size <= 20_000
    assert replay(path).line == 0
    assert replay(path).events > 10


def test_what_a_crash_cut_off_is_left_out_and_what_is_no_event_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Life(path).live(20).kept.close()
    whole = replay(path).events
    with path.open("ab") as file:
        file.write(b'[1700000000.0,"Lef')
    assert replay(path).events == whole
    for text in ("", "{}\n", "no json\n"):
        (tmp_path / "other").write_text(text)
        with pytest.raises(BadRequest):
            replay(tmp_path / "other")
    with pytest.raises(BadRequest):
        replay(tmp_path / "absent")
    with path.open("ab") as file:
        file.write(b'\n[1,"Unheard",[],[]]\n')
    with pytest.raises(BadRequest):
        replay(path)
