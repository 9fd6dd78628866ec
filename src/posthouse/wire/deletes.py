"""`POST /delete_requests/`: a worker reports requests that have ended, in one of three forms."""

from typing import Any

import msgspec

from posthouse.domain.reports import Ended
from posthouse.errors import BadRequest
from posthouse.wire.body import decoded
from posthouse.wire.checks import integer, number
from posthouse.wire.status import MAX_INDEXES, indexes, text


class DeletesBody(msgspec.Struct):
    worker_id: Any = None
    mtoken: Any = None
    request_idxs: Any = None
    success: Any = True
    requests: Any = None


_decoder = msgspec.json.Decoder(DeletesBody)


def decode(raw: bytes) -> tuple[int, str, tuple[Ended, ...]]:
    """Worker id, its token (empty if the form has none), and the ended requests. Raises: BadRequest."""
    body = decoded(_decoder, raw)
    worker_id = integer(body.worker_id, "worker_id")
    token = text(body.mtoken, "mtoken", 512)
    if body.requests is None:
        ended = tuple(Ended(i, bool(body.success)) for i in indexes(body.request_idxs or [], "request_idxs"))
        return worker_id, token, ended
    if not isinstance(body.requests, list) or len(body.requests) > MAX_INDEXES:
        raise BadRequest(f"requests: must be a list of at most {MAX_INDEXES} objects")
    return worker_id, token, tuple(_ended(r) for r in body.requests)


def _ended(row: object) -> Ended:
    if not isinstance(row, dict):
        raise BadRequest("requests: each must be an object with request_idx, success and status")
    idx = integer(row.get("request_idx"), "requests.request_idx", low=-(2**63), high=2**63)
    # Workers say of a session that it was begun the moment it came; of a request, that it was a little later.
    session = row.get("entered_queue_at") == row.get("work_started_at") not in (None, 0)
    status = text(row.get("status"), "requests.status", 64, cut=True)
    work = None if row.get("work") is None else number(row["work"], "requests.work")
    return Ended(idx, bool(row.get("success", True)), status, session, work=work)
