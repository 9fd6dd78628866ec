"""What a worker holds ready for its next report, and when it asks for one at once."""

from posthouse.agent.worker import Request, Worker


def test_what_a_client_gave_up_is_told_at_once_and_what_ended_in_time() -> None:
    worker, requests = Worker(), [Request(1, 5.0), Request(2, 5.0)]
    for request in requests:
        worker.start(request)
    worker.end(requests[0], "Success", done=5.0)
    assert not worker.urgent.is_set()
    worker.end(requests[1], "Cancelled")
    assert worker.urgent.is_set()
    assert [row["status"] for row in worker.ended] == ["Success", "Cancelled"]
