"""What can decide in a simulated world, by name: `knative`, or with knobs `knative(utilisation=0.5,stable_s=120)`."""

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from typing import Any

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.errors import BadRequest
from posthouse.fleet.controller import Policy
from posthouse.policy.decide import decide
from posthouse.sim.rivals.aibrix import Aibrix
from posthouse.sim.rivals.aws import Aws
from posthouse.sim.rivals.dynamo import Dynamo
from posthouse.sim.rivals.histogram import Histogram
from posthouse.sim.rivals.knative import Knative
from posthouse.sim.rivals.kubernetes import Hpa, Keda
from posthouse.sim.rivals.modal import Modal
from posthouse.sim.rivals.ray import RayServe
from posthouse.sim.rivals.runpod import RunPodByCount, RunPodByDelay
from posthouse.sim.rivals.skyserve import SkyServe
from posthouse.sim.rivals.static import Static
from posthouse.sim.rivals.vast import Vast
from posthouse.sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Knob:
    """A number that a policy is made with, and what is allowed for it."""

    low: float
    high: float
    whole: bool = False
    or_zero: bool = False
    """0 is allowed as well: another knob holds."""

    @property
    def allowed(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}{', or 0' if self.or_zero else ''}"

    def read(self, text: str) -> float | None:
        """The value; None if it is not allowed."""
        try:
            value = float(text)
        except ValueError:
            return None
        if not (self.low <= value <= self.high or (self.or_zero and value == 0)) or (self.whole and value % 1):
            return None
        return int(value) if self.whole else value


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy that can be named."""

    make: Callable[..., Policy]
    """Takes what `arguments` returns, and its knobs by name; their defaults are in its signature."""
    arguments: Callable[[Scenario], tuple[Any, ...]] = lambda given: ()
    """What its operator would have to know, of the first type of worker."""
    knobs: Mapping[str, Knob] = field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values of the main knobs; every combination is a point of the sweep."""

    def default(self, knob: str) -> float:
        value: float = inspect.signature(self.make).parameters[knob].default
        return value


def _perf(given: Scenario) -> tuple[float]:
    return (given.workers[0].perf,)


def _slots(given: Scenario) -> tuple[int]:
    return (given.workers[0].slots,)


def _slots_and_perf(given: Scenario) -> tuple[int, float]:
    return given.workers[0].slots, given.workers[0].perf


def _traffic(given: Scenario) -> tuple[Any, ...]:
    return given.traffic.arrivals(given.seed), given.workers[0].perf


LEAST = Knob(0, 1000, whole=True)
SECONDS = Knob(0, 86_400)
SHARE = Knob(0.01, 1)
SHARE_OR_ZERO = Knob(0.01, 1, or_zero=True)
COUNT = Knob(0.01, 10_000)

UTILISATIONS = (0.4, 0.55, 0.7, 0.85, 0.95)

POLICIES: dict[str, Entry] = {
    "posthouse": Entry(lambda: decide),
    "static": Entry(
        Static,
        _traffic,
        {"share": Knob(0, 1)},
        {"share": (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)},
    ),
    "knative": Entry(
        Knative,
        _slots,
        {"utilisation": SHARE, "stable_s": Knob(6, 3600), "down_delay_s": Knob(0, 3600)},
        {"utilisation": UTILISATIONS, "down_delay_s": (0, 300, 900)},
    ),
    "hpa": Entry(
        Hpa,
        _slots,
        {"utilisation": SHARE, "down_stable_s": Knob(0, 3600)},
        {"utilisation": UTILISATIONS, "down_stable_s": (60, 300, 900)},
    ),
    "keda": Entry(
        Keda,
        _slots,
        {"waiting": COUNT, "cooldown_s": SECONDS, "least": Knob(0, 1, whole=True)},
        {"waiting": (0.5, 1, 2, 5, 10), "least": (0, 1)},
    ),
    "ray": Entry(
        RayServe,
        _slots,
        {
            "target": COUNT,
            "utilisation": SHARE_OR_ZERO,
            "up_delay_s": SECONDS,
            "down_delay_s": SECONDS,
            "least": LEAST,
        },
        {"utilisation": UTILISATIONS, "down_delay_s": (60, 300, 600)},
    ),
    "skyserve": Entry(
        SkyServe,
        _perf,
        {
            "utilisation": SHARE,
            "up_delay_s": SECONDS,
            "down_delay_s": SECONDS,
            "over": LEAST,
            "least": LEAST,
        },
        {"utilisation": (0.4, 0.7, 0.95), "up_delay_s": (20, 300), "down_delay_s": (300, 1200)},
    ),
    "runpod-count": Entry(
        RunPodByCount,
        _slots,
        {"value": COUNT, "utilisation": SHARE_OR_ZERO, "idle_s": Knob(1, 3600)},
        {"utilisation": UTILISATIONS, "idle_s": (5, 60, 300)},
    ),
    "runpod-delay": Entry(
        RunPodByDelay,
        _slots,
        {"value": COUNT, "idle_s": Knob(1, 3600)},
        {"value": (0.5, 1, 2, 4, 8), "idle_s": (5, 60, 300)},
    ),
    "modal": Entry(
        Modal,
        _slots,
        {"utilisation": SHARE, "buffer": LEAST, "window_s": Knob(2, 1200), "least": LEAST},
        {"utilisation": (0.5, 0.75, 1), "buffer": (0, 2), "window_s": (60, 300)},
    ),
    "aibrix": Entry(
        Aibrix,
        _slots,
        {"utilisation": SHARE, "cooldown_s": Knob(0, 3600)},
        {"utilisation": UTILISATIONS, "cooldown_s": (60, 300, 900)},
    ),
    "vast": Entry(
        Vast,
        _perf,
        {"utilisation": SHARE_OR_ZERO, "hold_s": Knob(0, 3600)},
        {"utilisation": (0.5, 0.7, 0.8, 0.9, 0.97), "hold_s": (60, 300, 900)},
    ),
    "histogram": Entry(
        Histogram,
        _slots,
        {"utilisation": SHARE, "tail": Knob(0.05, 1), "fixed_s": SECONDS},
        {"utilisation": UTILISATIONS, "tail": (0.9, 0.95, 0.99)},
    ),
    "aws": Entry(
        Aws,
        _slots_and_perf,
        {"utilisation": SHARE, "cooldown_s": Knob(0, 3600), "buffer_s": Knob(0, 3599)},
        {"utilisation": UTILISATIONS, "cooldown_s": (60, 300, 900)},
    ),
    "dynamo": Entry(
        Dynamo,
        _slots_and_perf,
        {"utilisation": SHARE, "sensitivity": SHARE, "kalman": Knob(0, 1, whole=True)},
        {"utilisation": (0.55, 0.7, 0.85, 1), "sensitivity": (0.4, 0.6, 0.8)},
    ),
}
"""Every policy that can be named, in the order in which they are shown."""

_WRITTEN = re.compile(r"([\w-]+)(?:\((.*)\))?")
_OWN = re.compile(r"([\w.]+):(\w+)")


def policy(given: Scenario) -> Policy:
    """A new one of the name and the knobs that the scenario says: most remember. Raises: BadRequest."""
    if _OWN.fullmatch(given.policy.strip()):
        return own(given.policy)
    name, knobs = parse(given.policy)
    entry = POLICIES[name]
    return entry.make(*entry.arguments(given), **knobs)


def own(text: str) -> Policy:
    """One of somebody's own, written `module:function`, from the working directory or installed. Raises: BadRequest.

    Called with a snapshot and a memory it returns a decision. A class is made again for each run.
    """
    module, name = text.strip().split(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadRequest(f"policy {text!r}: {error}") from None
    policy: Policy = found() if isinstance(found, type) else found
    if not callable(policy):
        raise BadRequest(f"policy {text!r}: it must be a function of a snapshot and a memory, or a class of such")
    return _Own(policy, text.strip())


class _Own:
    """Somebody's own policy: what goes wrong in it is said of it. Raises: BadRequest."""

    def __init__(self, policy: Policy, name: str) -> None:
        self._policy, self._name = policy, name

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        try:
            decision = self._policy(s, memory)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}, line {frame.lineno}"
            raise BadRequest(f"policy {self._name!r}: {type(error).__name__}: {error} ({where})") from error
        if not isinstance(decision, Decision):
            raise BadRequest(f"policy {self._name!r}: it must return a Decision, not {decision!r:.100}")
        return decision


def parse(text: str) -> tuple[str, dict[str, float]]:
    """The name and the knobs of a policy as it is written. Raises: BadRequest."""
    if _OWN.fullmatch(text.strip()):
        own(text)
        return text.strip(), {}
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        raise BadRequest(
            f"policy {text!r}: it must be written NAME or NAME(KNOB=NUMBER,KNOB=NUMBER), or MODULE:FUNCTION, which "
            "takes no knobs"
        )
    name, inside = match.groups()
    if name not in POLICIES:
        raise BadRequest(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    knobs = POLICIES[name].knobs
    said: dict[str, float] = {}
    for part in inside.split(",") if inside and inside.strip() else ():
        word, equals, value = (piece.strip() for piece in part.partition("="))
        knob = knobs.get(word)
        if knob is None:
            there = f"there are {', '.join(knobs)}" if knobs else "it has none"
            raise BadRequest(f"policy {name}: there is no knob `{word}`; {there}")
        number = knob.read(value)
        if number is None:
            shown = f"is {value!r}" if equals else "has no value"
            raise BadRequest(f"policy {name}: `{word}` {shown}; it must be {knob.allowed}")
        if word in said:
            raise BadRequest(f"policy {name}: `{word}` is there twice")
        said[word] = number
    return name, said


def sweep(name: str) -> tuple[str, ...]:
    """The policy at every point of its main knobs, as it is written; by its name alone where it has none."""
    grid = POLICIES[name].grid
    if not grid:
        return (name,)
    points = [zip(grid, values, strict=True) for values in product(*grid.values())]
    return tuple(f"{name}({','.join(f'{knob}={value:g}' for knob, value in point)})" for point in points)
