from posthouse.domain.worker import WorkerId
from posthouse.fleet.ledger import ENDED_KEPT, Ledger, Request

WORKER, OTHER = WorkerId(1), WorkerId(2)


def run(ledger: Ledger, idx: int, worker_id: WorkerId = WORKER) -> Request:
    """A request that got the worker and has ended."""
    request = Request(idx, cost=1.0, first_at=0.0, expires_at=60.0)
    ledger.assign(request, ledger.worker(worker_id), now=0.0)
    ledger.remove(request)
    return request


def test_the_latest_requests_that_ended_are_remembered_and_no_more_than_there_is_room_for() -> None:
    ledger = Ledger()
    count = 5 * ENDED_KEPT // 2
    for idx in range(count):
        run(ledger, idx)
    remembered = [idx for idx in range(count) if ledger.ended(idx) is not None]
    assert remembered[-ENDED_KEPT:] == list(range(count - ENDED_KEPT, count))
    assert len(remembered) < 2 * ENDED_KEPT


def test_of_a_request_that_ended_twice_the_latest_end_counts() -> None:
    ledger = Ledger()
    for idx in range(ENDED_KEPT):
        run(ledger, idx)
    run(ledger, 0, OTHER)
    assert ledger.ended(0) == (OTHER, None, 0)


def test_a_request_that_is_withdrawn_was_never_anywhere() -> None:
    ledger = Ledger()
    for idx in range(ENDED_KEPT):
        run(ledger, idx)
    again = Request(0, cost=1.0, first_at=0.0, expires_at=60.0)
    ledger.assign(again, ledger.worker(OTHER), now=0.0)
    ledger.withdraw(again)
    assert ledger.ended(0) is None
