"""`POST /worker_status/`: a worker reports, in the form of its generation."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from posthouse.domain.reports import Report
from posthouse.errors import BadRequest
from posthouse.wire.body import decoded
from posthouse.wire.checks import MAX_INTEGER, MAX_WORK, integer, number
from posthouse.wire.signed import scheme_for

MAX_INDEXES = 10_000
"""Most request indexes in one message: no worker has as many requests at once."""
MAX_TEXT = 500
"""How much of an error message is kept, in characters."""
MAX_LOADING_S = 30 * 86_400.0
"""Longest time that a template may give a worker to load."""
MAX_URL = 2048
MAX_ADAPTERS = 100
"""Most adapters of a worker that are known."""
MAX_ADAPTER = 100
"""Longest name of one, in characters."""
MAX_TOKEN = 512
MAX_VERSION = 64
FLAT = "0"
"""The version noted for the first generation, which states none: unknown fields of a request reach its model."""


_Work = Annotated[float, Meta(ge=0.0, le=MAX_WORK)]
_Sum = Annotated[float, Meta(ge=-MAX_WORK, le=MAX_WORK)]
_Index = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


_Adapter = Annotated[str, Meta(min_length=1, max_length=MAX_ADAPTER)]


class StatusBody(msgspec.Struct):
    """The union of what all generations send, as far as it means something here."""

    id: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    mtoken: Annotated[str, Meta(max_length=MAX_TOKEN)] | None = None
    version: Annotated[str, Meta(max_length=MAX_VERSION)] | None = None
    message: str | None = None
    max_perf: _Work | None = None
    cur_load: _Sum | None = None
    new_load: _Work | None = None
    cur_perf: _Work | None = None
    error_msg: str | None = None
    url: Annotated[str, Meta(max_length=MAX_URL)] | None = None
    num_requests_working: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    num_requests_recieved: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    working_request_idxs: Annotated[list[_Index], Meta(max_length=MAX_INDEXES)] | None = None
    rej_load: _Work | None = None
    disk_usage: _Work | None = None
    additional_disk_usage: _Sum | None = None
    waits_for: str | None = None
    progress: Annotated[int, Meta(ge=0, le=MAX_INTEGER)] | None = None
    loading_timeout_s: Annotated[float, Meta(ge=0, le=MAX_LOADING_S)] = 0.0
    adapters: Annotated[list[_Adapter], Meta(max_length=MAX_ADAPTERS)] | None = None


class OddBody(msgspec.Struct):
    """A body that is not quite a `StatusBody`: numbers in quotes, or worse."""

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
    num_requests_recieved: Any = None
    working_request_idxs: Any = None
    rej_load: Any = None
    disk_usage: Any = None
    additional_disk_usage: Any = None


_usual = msgspec.json.Decoder(StatusBody)
_odd = msgspec.json.Decoder(OddBody)


def decode(raw: bytes) -> tuple[int, str, Report]:
    """Worker id, its token (empty if the form has none), and the report. Raises: BadRequest naming the field."""
    try:
        body = _usual.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        body = _checked(decoded(_odd, raw))
    working = None if body.working_request_idxs is None else frozenset(body.working_request_idxs)
    version = body.version or ""
    scheme = scheme_for(version or None, has_working_request_idxs=working is not None)
    if not version and working is None and body.mtoken:  # the second has no token in its body
        version = FLAT
    max_perf = body.max_perf
    if max_perf is None and body.message == "loading update":
        max_perf = 0.0
    # Since there are request indexes, `cur_load` is a level and the others are sums since the report before. Earlier,
    # `cur_load` was what came in: per second, but for the one form of the first generation that has an address.
    # Negative where a generation's own sums cancel; nothing below 0 is meant.
    cur_load = max(0.0, body.cur_load or 0.0)
    level, came_in = (0.0, cur_load) if working is None else (cur_load, 0.0)
    summed = body.message == "data update" and body.url
    done = body.cur_perf or 0.0
    report = Report(
        max_perf,
        (body.error_msg or "")[:MAX_TEXT],
        body.url or "",
        version,
        str(scheme),
        working,
        body.num_requests_working or 0,
        None if working is not None or body.num_requests_working is None else body.num_requests_recieved,
        level,
        taken=body.new_load or 0.0 if working is not None else came_in if summed else 0.0,
        taken_rate=0.0 if summed else came_in,
        done=0.0 if working is None else done,
        done_rate=done if working is None else 0.0,
        disk_gb=body.disk_usage or 0.0,
        disk_added_gb=body.additional_disk_usage or 0.0,
        waits_for=(body.waits_for or "")[:MAX_TEXT],
        progress=body.progress,
        loading_timeout_s=body.loading_timeout_s,
        rejected=body.rej_load or 0.0,
        adapters=tuple(body.adapters or ()),
    )
    return body.id, body.mtoken or "", report


def _checked(body: OddBody) -> StatusBody:
    """The body, with numbers read from quotes. Raises: BadRequest naming the field."""
    idxs = body.working_request_idxs
    return StatusBody(
        id=integer(body.id, "id"),
        working_request_idxs=None if idxs is None else sorted(indexes(idxs, "working_request_idxs")),
        version=text(body.version, "version", MAX_VERSION),
        max_perf=None if body.max_perf is None else number(body.max_perf, "max_perf"),
        cur_load=number(body.cur_load or 0.0, "cur_load", low=-MAX_WORK),
        mtoken=text(body.mtoken, "mtoken", MAX_TOKEN),
        error_msg=text(body.error_msg, "error_msg", MAX_TEXT, cut=True),
        url=text(body.url, "url", MAX_URL),
        num_requests_working=_count(body.num_requests_working, "num_requests_working"),
        num_requests_recieved=_count(body.num_requests_recieved, "num_requests_recieved"),
        message=body.message if isinstance(body.message, str) else None,
        new_load=_figure(body.new_load),
        cur_perf=_figure(body.cur_perf),
        rej_load=_figure(body.rej_load),
        disk_usage=_figure(body.disk_usage),
        additional_disk_usage=_figure(body.additional_disk_usage, low=-MAX_WORK),
    )


def _count(value: object, field: str) -> int | None:
    return None if value is None else integer(value, field)


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
