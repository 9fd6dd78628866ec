"""The events of one endpoint and what followed from each, kept as lines of JSON, and played again.

The first line is how the controller began; each further one is `[time, kind, event, effects]`. A controller that begins
so and is told the same events does the same, byte for byte: `replay` shows it, or where it does not.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import msgspec

from posthouse.domain.decision import Cap
from posthouse.domain.endpoint import Endpoint
from posthouse.domain.lifecycle import State
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import BadRequest
from posthouse.fleet.controller import Controller, Policy
from posthouse.fleet.events import Asked, Commit, Deliver, Effect, Event, Offered, Run, Ticked, Traffic
from posthouse.policy.decide import decide

FORMAT = 4
"""Raised when older files cannot be read any more."""

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Event)}
_ENCODE = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Began:
    """How a controller began: the arguments of `Controller`, and the version that ran it."""

    version: str
    endpoint: Endpoint
    now: float
    workers: tuple[Worker, ...]
    stabilization_s: float
    spent_usd: float
    label: str
    known: frozenset[str] | None
    tick_s: float
    silent_s: float
    canary_s: float
    rollouts: tuple[Rollout, ...]
    format: int = FORMAT

    def controller(self, policy: Policy = decide, traffic: Traffic | None = None) -> Controller:
        """One that begins in the same way."""
        return Controller(
            self.endpoint,
            self.now,
            self.workers,
            self.stabilization_s,
            self.spent_usd,
            label=self.label,
            known=self.known,
            policy=policy,
            tick_s=self.tick_s,
            silent_s=self.silent_s,
            traffic=traffic,
            rollouts=self.rollouts,
            canary_s=self.canary_s,
        )


class EventLog:
    """Keeps what it hears in a file, until that is full: what began in the middle could not be played again."""

    def __init__(self, path: Path, began: Began, max_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] | None = path.open("wb")  # closed by its owner, or when it is full
        self._left = max_bytes
        self._write(_ENCODE(began))

    def heard(self, now: float, event: Event | None, effects: list[Effect]) -> None:
        """Writes an event and its effects; None where they followed from the beginning."""
        if self._file is None:
            return
        told: Any = event
        if isinstance(event, Ticked) and event.ids is not None:
            told = [_given(now, effects), event.cap]
        elif isinstance(event, Offered):
            told = _finite(msgspec.to_builtins(event))
        self._write(_line(now, event, told, effects))

    def close(self) -> None:
        """Writes the rest down."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: bytes) -> None:
        if self._file is None:
            return
        self._left -= len(line) + 1
        if self._left < 0:
            self.close()
            return
        self._file.write(line + b"\n")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of playing events again."""

    events: int = 0
    effects: int = 0
    line: int = 0
    """Of the first difference; 0 if there is none."""
    kept: str = ""
    now: str = ""
    """What was there, and what came now, at that line."""


def replay(path: Path, policy: Policy = decide) -> Replayed:
    """Plays the events of a file again. Raises: BadRequest where it is no such file, or one of another format."""
    events = count = 0
    for again in _again(path, policy):
        if again.line != again.kept:
            return Replayed(events, count, again.number, again.kept.decode(), again.line.decode())
        events, count = events + 1, count + len(again.effects)
    return Replayed(events, count)


@dataclass(frozen=True, slots=True)
class Differences:
    """What this version does with events that were kept, beside what was done with them then."""

    events: int
    same: int
    """Events before the first that led to something else; as many as there are if none did. What follows it is told
    of a world that the other version made."""
    at: float
    """When that was; 0 if never."""
    was: Mapping[str, int]
    """Commands of providers by kind."""
    now: Mapping[str, int]
    kept: str = ""
    """What that event led to then, and now."""
    again: str = ""


def differences(path: Path, policy: Policy = decide) -> Differences:
    """The same to the end, whatever differs. Raises: BadRequest, as `replay`."""
    was, now = Counter[str](), Counter[str]()
    events, same, at, kept, line = 0, 0, 0.0, "", ""
    for again in _again(path, policy):
        _, _, _, done = msgspec.json.decode(again.kept)
        was.update(effect[1] for name, effect in done if name == Run.__name__)
        now.update(str(effect.command) for effect in again.effects if isinstance(effect, Run))
        if again.line != again.kept and not kept:
            same, at, kept, line = events, again.at, again.kept.decode(), again.line.decode()
        events += 1
    return Differences(events, same if kept else events, at, was, now, kept, line)


@dataclass(frozen=True, slots=True)
class _Again:
    """An event that was played again."""

    number: int
    at: float
    kept: bytes
    line: bytes
    effects: list[Effect]


def _again(path: Path, policy: Policy) -> Iterator[_Again]:
    lines = _lines(path)
    try:
        began = msgspec.json.decode(next(lines, b""), type=Began)
    except msgspec.DecodeError as error:
        raise BadRequest(f"{path}: not a file of kept events: {error}") from None
    if began.format != FORMAT:
        raise BadRequest(f"{path}: has format {began.format}; this version reads {FORMAT}")
    controller = began.controller(policy)
    for number, line in enumerate(lines, 2):
        try:
            now, kind, told, _ = msgspec.json.decode(line, type=tuple[float, str, msgspec.Raw, msgspec.Raw])
            event = _event(kind, told)
        except (msgspec.DecodeError, ValueError, KeyError) as error:
            raise BadRequest(f"{path}: line {number} is not an event: {error}") from None
        effects = _played(controller, event, now)
        yield _Again(number, now, line, _line(now, event, told, effects), effects)


def _played(controller: Controller, event: Event | None, now: float) -> list[Effect]:
    if event is None:
        return controller.take_effects()
    if isinstance(event, Asked):
        outcome = controller.assign(event.request_idx, event.cost, now, event.polls, event.hold_s, event.wish)
        return [Deliver(outcome.request_idx, outcome), *controller.take_effects()]
    try:
        return controller.handle(event, now)
    except Exception:  # noqa: BLE001 - it may have failed then, too: what it did before that is compared
        return controller.take_effects()


def _line(now: float, event: Event | None, told: Any, effects: list[Effect]) -> bytes:
    kind = "" if event is None else type(event).__name__
    done = [[type(effect).__name__, effect] for effect in effects]
    plain = msgspec.to_builtins(done, str_keys=True, order="deterministic")
    return _ENCODE([now, kind, told, _same_numbers(plain)])


def _finite(told: Any) -> Any:
    """The same without infinite amounts, which JSON does not have and which are what is meant where nothing is said."""
    if isinstance(told, dict):
        return {name: _finite(value) for name, value in told.items() if value != math.inf}
    return [_finite(value) for value in told] if isinstance(told, list | tuple) else told


def _same_numbers(value: Any) -> Any:
    """The same with 1 for 1.0: a number that came as a whole one is read back as the float that its field has."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {name: _same_numbers(one) for name, one in value.items()}
    return [_same_numbers(one) for one in value] if isinstance(value, list | tuple) else value


def _event(kind: str, told: msgspec.Raw) -> Event | None:
    if not kind:
        return None
    if kind == Ticked.__name__:
        ids, cap = msgspec.json.decode(told, type=tuple[list[WorkerId] | None, Cap | None])
        return Ticked(ids, cap)
    event: Event = msgspec.json.decode(told, type=_KINDS[kind])
    return event


def _given(now: float, effects: list[Effect]) -> list[WorkerId]:
    """The ids that a tick gave to workers: they are in what is to be written down."""
    rows = [row for effect in effects if isinstance(effect, Commit) for row in effect.rows]
    return [row.id for row in rows if row.state is State.WANTED and row.created_at == now]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):  # what a crash cut off is left out
                    yield line[:-1]
    except OSError as error:
        raise BadRequest(f"{path}: cannot be read: {error.strerror}") from None
