"""What the server's answer to `traffic` says, decoded: an endpoint's segments as arrays, its parameters, its machines.

Seconds are counted from the beginning of the record; the time in which the server was away is left out.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from posthouse.domain.lifecycle import Command, State
from posthouse.errors import BadRequest, NotFound
from posthouse.recording.log import Numbers, unpacked


class Figures(msgspec.Struct, frozen=True):
    workers: int
    state_s: dict[State, float]
    usd: float
    ready_work: float
    given: dict[Command, int]
    unserved: int
    unserved_work: float
    start_s: list[float]
    create_s: list[float]
    served: list[tuple[float, float]]


class StoredSegment(msgspec.Struct, frozen=True):
    since: float
    until: float
    requests: int
    asked: str
    waited: str
    figures: Figures


class Machines(msgspec.Struct, frozen=True):
    kind: Annotated[str, Meta(min_length=1)]
    perf: float
    ready_usd_h: float
    loading_usd_h: float
    stopped_usd_h: float
    workers: int
    available: int
    agent: bool


class Reply(msgspec.Struct, frozen=True):
    endpoint: str
    scaling: dict[str, Any]
    kinds: list[Machines]
    start_s: float
    create_s: float
    segments: list[StoredSegment]


@dataclass(frozen=True, slots=True)
class Piece:
    begin_s: float
    end_s: float
    requests: int
    at_s: Numbers
    work: Numbers
    wait_s: Numbers
    wait_work: Numbers
    figures: Figures

    @property
    def span_s(self) -> float:
        return self.end_s - self.begin_s

    def asked_work(self) -> float:
        """Work that was asked, with that of the requests that were dropped."""
        kept = len(self.work)
        return float(self.work.sum()) * (self.requests / kept) if kept else 0.0


def decoded(reply: Mapping[str, Any]) -> tuple[Reply, Sequence[Piece]]:
    """The answer, and its segments in the order of time. Raises: BadRequest where it is of another version, NotFound
    where nothing was recorded yet."""
    try:
        said = msgspec.convert(reply, Reply)
        pieces = list(_pieces(said.segments))
    except (msgspec.ValidationError, binascii.Error, ValueError) as error:
        raise BadRequest(f"the server's record is of another version: {error}") from None
    if not any(len(p.at_s) for p in pieces):
        raise NotFound(
            f"there is no recorded traffic of {said.endpoint} yet: send it requests, and see that the server's "
            "`engine.traffic_log_mb` is not 0"
        )
    return said, pieces


def _pieces(segments: Sequence[StoredSegment]) -> Iterator[Piece]:
    begin_s = 0.0
    for segment in sorted(segments, key=lambda segment: segment.since):
        gaps_ms, work = unpacked(base64.b64decode(segment.asked, validate=True))
        wait_ms, wait_work = unpacked(base64.b64decode(segment.waited, validate=True))
        if (span_s := segment.until - segment.since) <= 0:
            continue
        at_s = begin_s + np.minimum(np.cumsum(gaps_ms) / 1000, span_s)
        end_s = begin_s + span_s
        yield Piece(begin_s, end_s, segment.requests, at_s, work, wait_ms / 1000, wait_work, segment.figures)
        begin_s = end_s
