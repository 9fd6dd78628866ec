"""An endpoint's own traffic, played again: from its segments, with its own parameters and its own workers.

Seconds are counted from the beginning of the record; the time in which the server was away is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import numpy as np

from posthouse.errors import BadRequest
from posthouse.recording.decode import Piece, decoded
from posthouse.recording.log import Numbers
from posthouse.sim import fit, measured
from posthouse.sim.measured import Measured
from posthouse.sim.record import Sample
from posthouse.sim.scenario import Scenario, Traffic, load
from posthouse.sim.traffic import Arrival

LEAD_S = 3600.0
"""How long before its count a replay begins, where the endpoint had workers already."""


class Played(Traffic, frozen=True, kw_only=True):
    """Recorded requests, those before `from_s` to warm up with."""

    at_s: Any
    """When each came, rising; an array of numbers, as `work` is."""
    work: Any
    from_s: float
    lead_s: float
    """How much of what comes first is a lead; where the record has less before `from_s`, its beginning is played."""

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """As they were, or thinned out by `scale`."""
        random, until_s = Random(f"{seed}/thinning"), self.from_s + self.span_s - self.lead_s
        lead_from_s = self.from_s - self.lead_s if self.lead_s <= self.from_s else 0.0
        for begin_s, end_s, shift_s in (
            (lead_from_s, lead_from_s + self.lead_s, 0.0),
            (self.from_s, until_s, self.lead_s),
        ):
            first, end = np.searchsorted(self.at_s, (begin_s, end_s))
            for at_s, work in zip(self.at_s[first:end].tolist(), self.work[first:end].tolist(), strict=True):
                if self.scale == 1 or random.random() < self.scale:
                    yield at_s - begin_s + shift_s, work


@dataclass(frozen=True, slots=True)
class Recording:
    """What an endpoint was asked, what became of it, and what a scenario of it is."""

    endpoint: str
    pieces: Sequence[Piece]
    at_s: Numbers
    work: Numbers
    layer: Mapping[str, Any]
    """Parameters and workers, as a scenario says them."""
    notes: Sequence[str]
    """What is not known and was assumed."""

    @property
    def span_s(self) -> float:
        return self.pieces[-1].end_s

    def snapped(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """The same part of the record, widened to where segments begin and end. Raises: BadRequest for none of it."""
        if not begin_s < min(end_s, self.span_s):
            raise BadRequest(f"the record of {self.endpoint} is {self.span_s:.0f} s long: no part of it is selected")
        inside = [p for p in self.pieces if p.end_s > begin_s and p.begin_s < end_s]
        return inside[0].begin_s, inside[-1].end_s

    def requests(self, begin_s: float, end_s: float) -> int:
        first, end = np.searchsorted(self.at_s, (begin_s, end_s))
        return int(end - first)

    def scenario(self, *changes: Mapping[str, Any], begin_s: float = 0.0, end_s: float | None = None) -> Scenario:
        """The part of the record as a scenario, with `changes` over what the endpoint is. Raises: BadRequest."""
        until_s = self.span_s if end_s is None else end_s
        begun = self.pieces[0].figures.workers > 0
        lead_s = min(LEAD_S, begin_s or (until_s if begun else 0.0))
        given = load(None, self.layer, *changes)
        if given.traffic.scale > 1:
            raise BadRequest(
                f"scale is {given.traffic.scale:g}; requests can only be thinned out: 0 to 1, or give workers less perf"
            )
        played = Played(
            at_s=self.at_s,
            work=self.work,
            from_s=begin_s,
            lead_s=lead_s,
            span_s=lead_s + until_s - begin_s,
            scale=given.traffic.scale,
        )
        return msgspec.structs.replace(given, traffic=played, warm_s=lead_s)

    def measured(self, goal_s: float, begin_s: float = 0.0, end_s: float | None = None) -> Measured:
        """What really happened in a part of the record."""
        until_s = self.span_s if end_s is None else end_s
        return measured.measured([p for p in self.pieces if begin_s <= p.begin_s and p.end_s <= until_s], goal_s)

    def samples(self, begin_s: float, end_s: float) -> list[Sample]:
        """What there was, segment by segment, at even distances."""
        return measured.samples(self.pieces, begin_s, end_s)


def recording(reply: Mapping[str, Any]) -> Recording:
    """What the server's answer to `traffic` says. Raises: BadRequest where it is of another version, NotFound where
    nothing was recorded yet."""
    said, pieces = decoded(reply)
    workers, notes = fit.workers(said, pieces)
    return Recording(
        said.endpoint,
        pieces,
        np.concatenate([p.at_s for p in pieces]),
        np.concatenate([p.work for p in pieces]),
        {"scaling": said.scaling, "workers": workers},
        notes,
    )
