from collections import Counter

from posthouse.domain.endpoint import Endpoint, EndpointId, Scaling
from posthouse.fleet.events import Commit, Ticked, Written
from tests.kit.fleets import Fleet


def test_what_is_written_once_a_minute_is_written_by_each_endpoint_at_another_time() -> None:
    endpoints = [Fleet(Endpoint(EndpointId(number), "llama", Scaling()), 1000.0) for number in range(1, 61, 4)]
    written: Counter[int] = Counter()
    for now in range(1000, 1121):
        for endpoint in endpoints:
            if any(isinstance(effect, Commit) for effect in endpoint.handle(Ticked(), now)):
                endpoint.handle(Written(ok=True), now)
                written[now] += 1
    assert written.pop(1000) == 15
    assert written.total() == 2 * 15
    assert max(written.values()) <= 1
