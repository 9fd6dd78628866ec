"""How what happened is told: lines in the order of time, each level within the next."""

from collections.abc import Sequence
from typing import Any

from posthouse.domain.endpoint import Endpoint, EndpointId
from posthouse.engine.clock import SystemClock
from posthouse.engine.hub import Hub
from posthouse.engine.logs import logs
from posthouse.fleet.events import Level
from posthouse.ports import JournalEntry
from tests.kit.fleets import NOW, Fleet, worker


class Journal:
    """A store that has nothing but decisions, newest first."""

    def __init__(self, *entries: JournalEntry) -> None:
        self._entries = entries

    async def journal(self, endpoint_id: EndpointId, limit: int) -> Sequence[JournalEntry]:
        return sorted(self._entries, key=lambda entry: -entry.at)[:limit]


def decision(at: float, **goals: str) -> JournalEntry:
    reason = {"what": "hot supply", "value": "not measured yet", "rule": "ready and coming workers"}
    return JournalEntry(EndpointId(1), at, {"goals": goals, "rentals": [], "because": [reason]})


async def told(store: Any, tail: int | None = None, *notes: tuple[float, Level, str]) -> dict[str, str]:
    fleet = Fleet(Endpoint(EndpointId(1), "e"), NOW)
    for at, level, text in notes:
        fleet.history.note(at, level, text, worker().id, worker().group_id)
    return await logs(Hub(store, SystemClock(), {}, "", "test", stabilization_s=0.0), fleet.managed, tail)


async def test_decisions_and_what_happened_stand_in_the_order_of_time() -> None:
    journal = Journal(decision(NOW + 3), decision(NOW + 1, **{"1": "hot"}))
    texts = await told(journal, None, (NOW + 2, Level.INFO0, "broke"), (NOW + 4.5, Level.DEBUG, "rent: done"))
    because = "because: hot supply not measured yet (ready and coming workers)"
    assert texts["debug"].splitlines() == [
        f"2023-11-14T22:13:21.000Z info1 decided: worker 1 becomes hot; {because}",
        "2023-11-14T22:13:22.000Z info0 worker 1 broke",
        f"2023-11-14T22:13:23.000Z trace decided: no change; {because}",
        "2023-11-14T22:13:24.500Z debug worker 1 rent: done",
    ]
    assert [len(texts[str(level)].splitlines()) for level in Level] == [1, 2, 3, 4]


async def test_an_endpoint_to_which_nothing_happened_has_empty_logs() -> None:
    assert await told(Journal()) == {"info0": "", "info1": "", "trace": "", "debug": ""}


async def test_the_tail_counts_for_each_level() -> None:
    notes = [(NOW + number, level, f"{number}") for number in range(3) for level in Level]
    texts = await told(Journal(), 2, *notes)
    assert [line[-1] for line in texts["info0"].splitlines()] == ["1", "2"]
    assert [line.split()[1] for line in texts["debug"].splitlines()] == ["trace", "debug"]


async def test_what_others_write_makes_no_line_and_steers_no_terminal() -> None:
    texts = await told(Journal(), None, (NOW, Level.INFO0, "said: a\nb\r\x1b[31mred\N{LINE SEPARATOR}c é"))
    assert texts["info0"].endswith("worker 1 said: a b  [31mred c é")
