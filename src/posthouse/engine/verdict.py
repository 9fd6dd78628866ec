"""Why an endpoint is short of capacity: one verdict, the same wherever it is shown."""

import re
from typing import Final

from posthouse.domain.decision import Obstacle
from posthouse.domain.endpoint import EndpointState
from posthouse.domain.lifecycle import COMING, Command, Goal
from posthouse.engine.estimate import expected
from posthouse.engine.figures import figures
from posthouse.engine.managed import ManagedEndpoint
from posthouse.engine.words import span, usd, work
from posthouse.policy.faults import same_fault
from posthouse.policy.recruit import TAKEN
from posthouse.wire.rows.live import Figures, Verdict

SHORT: Final = 1.001
"""A need above this many times what is hot is one."""
STUCK_S: Final = 1.0
"""How old the word may be that clients get, in seconds."""
MAX_WHY: Final = 300
"""Longest sentence about failures, in characters."""
_REFUSED: Final = f"{Command.RENT}: "
"""How the words of a worker begin that was never made."""
_QUOTA: Final = re.compile(r"quota|limit.{0,40}(reached|exceeded)|(reached|exceed\w*).{0,40}limit", re.IGNORECASE)
_CAP: Final = re.compile(r"(the installation's )?(max_usd_\w+) (\S+) (?:would be exceeded|is exceeded)")


def verdict(managed: ManagedEndpoint, shown: Figures, now: float) -> Verdict | None:
    """What keeps the endpoint from what it needs; None where it has that. `shown`: its figures now."""
    waits = f"{shown.waiting} wait, the oldest {span(shown.oldest_wait_s)}. " if shown.waiting else ""
    state = managed.fleet.endpoint.state
    if state is not EndpointState.ACTIVE:
        if not shown.waiting:
            return None
        text = f"{waits}No worker is started or rented until it is resumed."
        return Verdict(word=str(state), title=f"is {state}", text=text)
    if not shown.waiting and shown.need <= SHORT * shown.hot:
        return None
    if (fails := _crash_loop(managed, waits, now)) is not None:
        return fails
    if (blocked := _blocked(managed, shown, waits)) is not None:
        return blocked
    return _starting(managed, shown, waits, now)


def stuck(managed: ManagedEndpoint, now: float) -> str:
    """The word of its verdict, at most a second old: for everybody who waits. Empty where it has what it needs."""
    at, word = managed.stuck
    if not 0 <= now - at < STUCK_S:
        found = verdict(managed, figures(managed, now), now)
        word = "" if found is None else found.word
        managed.stuck = now, word
    return word


def condition(managed: ManagedEndpoint, shown: Figures, found: Verdict | None) -> str:
    """One word for how the endpoint stands."""
    state = managed.fleet.endpoint.state
    if managed.leaving:
        return "deleting"
    if state is not EndpointState.ACTIVE:
        return str(state)
    if found is not None:
        return found.word if found.word in ("starting", "busy") else "short"
    if any(rollout.under_way for rollout in managed.fleet.roster.rollouts.values()):
        return "updating"
    return "enough" if shown.hot or shown.load else "at_rest"


def _crash_loop(managed: ManagedEndpoint, waits: str, now: float) -> Verdict | None:
    """What it runs fails, or is not made at all: on several machines, or so that the next try waits."""
    faults = [f for f in managed.fleet.roster.estimator.group_failures.values() if f.count]
    same = any(same_fault(fault) for fault in faults)
    if not same and not (any("failed" in rule for rule in _rules(managed)) and faults):
        return None
    machines = len({machine for fault in faults for machine in fault.machines})
    where = f" on {machines} machines" if machines > 1 else ""
    said = next((worker.message for worker in reversed(managed.last_failures(now))), "")
    if said.startswith(_REFUSED):
        word = "quota" if _QUOTA.search(said) else "refused"
        title = "gets no workers: a quota is used up" if word == "quota" else "gets no workers: its provider refuses"
        return Verdict(word=word, title=title, text=f"{waits}The provider said:", said=shortened(said))
    return Verdict(
        word="crash_loop",
        title="does not come up: what it runs fails",
        text=f"{waits}Failures: {sum(fault.count for fault in faults)}{where}{', last:' if said else '.'}",
        said=shortened(said),
    )


def obstacles(managed: ManagedEndpoint) -> list[Obstacle]:
    """What the latest decision says stood in its way."""
    return [] if managed.decision is None else [r for r in managed.decision.because if isinstance(r, Obstacle)]


def _rules(managed: ManagedEndpoint) -> list[str]:
    """Of these, what keeps it from more hot workers."""
    return [o.rule for o in obstacles(managed) if o.what in ("no more hot workers", "not started", "cost per hour")]


def _blocked(managed: ManagedEndpoint, shown: Figures, waits: str) -> Verdict | None:
    if not (rules := _rules(managed)):
        return None
    rule, short = rules[0], f"It needs {work(shown.need)} work/s and has {work(shown.hot + shown.coming)}. "
    scaling = managed.fleet.endpoint.scaling
    if found := _CAP.match(rule):
        whose = "installation" if found[1] else "endpoint"
        cap = f"{usd(float(found[3]))}{'/h' if found[2] == 'max_usd_h' else ''}"
        spends = f"It spends {usd(shown.usd_h)}/h, and one more worker would pass the cap of {cap}. "
        title = "may not grow: its cap is reached" if whose == "endpoint" else "may not grow: the cap of all is reached"
        return Verdict(word=f"cap.{whose}.{found[2]}", title=title, text=f"{waits}{short}{spends}".strip())
    if rule.startswith("max_workers"):
        there = sum(worker.goal is not Goal.GONE for worker in managed.fleet.workers.values())
        title = f"may not grow: {there} of {scaling.max_workers} workers"
        return Verdict(word="limit.max_workers", title=title, text=f"{waits}{short}".strip())
    if rule == TAKEN or "offer" in rule:
        return Verdict(word="no_offer", title="finds nothing to rent", text=f"{waits}{short}{_sentence(rule)}")
    return Verdict(word="blocked", title="cannot grow now", text=f"{waits}{short}{_sentence(rule)}", mends=True)


def _starting(managed: ManagedEndpoint, shown: Figures, waits: str, now: float) -> Verdict | None:
    count = sum(w.goal is Goal.HOT and w.state in COMING for w in managed.fleet.workers.values())
    soon, many = expected(managed, now), f"{count} worker{'s' if count > 1 else ''}"
    if not count and not shown.waiting:
        return None
    if not count and shown.hot:
        free = f"One is free in about {span(soon.in_s)}." if soon.in_s else ""
        title = "is busy: every worker has as much as it may"
        return Verdict(word="busy", title=title, text=f"{waits}{free}".strip(), mends=True, ready_in_s=soon.in_s)
    if not count:
        return Verdict(word="starting", title="is about to start", text=waits.strip(), mends=True)
    ready = f"ready in about {span(soon.in_s)}" if soon.in_s else "when it is ready is not known yet"
    sure = f", nine in ten between {span(soon.from_s)} and {span(soon.by_s)}" if soon.by_s else ""
    return Verdict(
        word="starting",
        title=f"is starting: {ready}",
        text=f"{waits}On the way: {many}{sure}.",
        mends=True,
        ready_in_s=soon.in_s,
        ready_from_s=soon.from_s,
        ready_by_s=soon.by_s,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def shortened(text: str) -> str:
    """The text with its beginning and, which says more of an error, its end."""
    if len(text) <= MAX_WHY:
        return text
    beginning, end = text[: MAX_WHY // 4].rpartition(" ")[0], text[-MAX_WHY * 3 // 4 :].partition(" ")[2]
    return f"{beginning} ... {end}"
