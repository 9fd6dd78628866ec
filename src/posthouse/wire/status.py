"""`POST /worker_status/`: a worker reports, in the form of its generation."""

from typing import Any

import msgspec

from posthouse.domain.errors import BadRequest
from posthouse.domain.load import Report
from posthouse.wire.body import decoded
from posthouse.wire.checks import MAX_WORK, integer, number
from posthouse.wire.signed import scheme_for

MAX_INDEXES = 100_000
"""Most request indexes in one message."""
MAX_TEXT = 500
"""How much of an error message is kept, in characters."""
MAX_URL = 2048
FLAT = "0"
"""The version noted for the first generation, which states none: unknown fields of a request reach its model."""


class StatusBody(msgspec.Struct):
    """The union of what all generations send, as far as it means something here."""

    id: Any = None
    mtoken: Any = None
    version: Any = None
    message: Any = None
    max_perf: Any = None
    cur_load: Any = None
    new_load: Any = None
    cur_perf: Any = None
    error_msg: Any = None
    url: Any = None
    num_requests_working: Any = None
    working_request_idxs: Any = None
    disk_usage: Any = None
    additional_disk_usage: Any = None
    loaded: Any = None


_decoder = msgspec.json.Decoder(StatusBody)


def decode(raw: bytes) -> tuple[int, str, Report]:
    """Worker id, its token (empty if the form has none), and the report. Raises: BadRequest naming the field."""
    body = decoded(_decoder, raw)
    worker_id = integer(body.id, "id")
    idxs = body.working_request_idxs
    working = None if idxs is None else indexes(idxs, "working_request_idxs")
    version = text(body.version, "version", 64)
    scheme = scheme_for(version or None, has_working_request_idxs=working is not None)
    if not version and working is None and body.mtoken:  # the second has no token in its body
        version = FLAT
    max_perf = None if body.max_perf is None else number(body.max_perf, "max_perf")
    if max_perf is None and body.message == "loading update":
        max_perf = 0.0
    # Since there are request indexes, `cur_load` is a level and the others are sums since the report before. Earlier,
    # `cur_load` was what came in: per second, but for the one form of the first generation that has an address.
    # Negative where a generation's own sums cancel; nothing below 0 is meant.
    cur_load = max(0.0, number(body.cur_load or 0.0, "cur_load", low=-MAX_WORK))
    level, came_in = (0.0, cur_load) if working is None else (cur_load, 0.0)
    summed = body.message == "data update" and body.url
    done = _figure(body.cur_perf)
    return (
        worker_id,
        text(body.mtoken, "mtoken", 512),
        Report(
            max_perf=max_perf,
            error=text(body.error_msg, "error_msg", MAX_TEXT, cut=True),
            url=text(body.url, "url", MAX_URL),
            version=version,
            scheme=str(scheme),
            working=working,
            working_count=integer(body.num_requests_working or 0, "num_requests_working"),
            cur_load=level,
            taken=_figure(body.new_load) if working is not None else came_in if summed else 0.0,
            taken_rate=0.0 if summed else came_in,
            done=0.0 if working is None else done,
            done_rate=done if working is None else 0.0,
            disk_gb=_figure(body.disk_usage),
            disk_added_gb=_figure(body.additional_disk_usage, low=-MAX_WORK),
        ),
    )


def _figure(value: object, low: float = 0.0) -> float:
    """A number that is only shown: nothing is refused for it, so what is none is 0."""
    return float(min(max(value, low), MAX_WORK)) if isinstance(value, int | float) else 0.0


def indexes(value: object, field: str) -> frozenset[int]:
    """Request indexes. Raises: BadRequest naming the field."""
    if not isinstance(value, list) or len(value) > MAX_INDEXES:
        raise BadRequest(f"{field}: must be a list of at most {MAX_INDEXES} request indexes")
    return frozenset(integer(v, field, low=-(2**63), high=2**63) for v in value)


def text(value: object, field: str, most: int, cut: bool = False) -> str:
    """A string, empty for null. Longer ones are cut or refused. Raises: BadRequest naming the field."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{field}: must be a string")
    if len(value) > most and not cut:
        raise BadRequest(f"{field}: must be at most {most} characters, not {len(value)}")
    return value[:most]
