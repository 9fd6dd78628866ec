"""Requests that say which others begin alike, and which workers they must have."""

from collections import Counter
from collections.abc import Mapping
from random import Random

import msgspec
import pytest

from posthouse.domain.reports import Ended
from posthouse.domain.worker import WorkerId
from posthouse.errors import BadRequest
from posthouse.fleet.events import Waiting, Wish
from posthouse.gateway.asked import PROMPT_BYTES, read
from posthouse.policy.route import WARM_SHARE
from posthouse.wire.route import MAX_KEY, checked, decode
from tests.kit.fleets import NOW, ONE, TWO, Fleet, assigned, fleet_of, worker

COST = 10.0
RANDOM = Random(1)
KEYS = [RANDOM.getrandbits(64) for _ in range(3000)]


def fleet(workers: int, perf: Mapping[int, float] | None = None, **scaling: float) -> Fleet:
    rows = [worker(WorkerId(n), perf=(perf or {}).get(n, 100.0)) for n in range(1, workers + 1)]
    return fleet_of(*rows, **{"max_queue_time": 30.0, **scaling})


def at_rest(made: Fleet, key: int) -> WorkerId:
    """The worker of a request with this key, where nothing else is done."""
    found = assigned(made.assign(0, COST, NOW, wish=Wish(key)))
    made.forget(found.request_idx)
    return found.worker.id


def test_at_rest_the_same_key_is_the_same_worker_and_keys_are_shared_by_speed() -> None:
    made = fleet(4, perf={4: 150.0})
    there = {key: at_rest(made, key) for key in KEYS}
    assert there == {key: at_rest(made, key) for key in KEYS}
    shares = Counter(there.values())
    assert shares[WorkerId(4)] / len(KEYS) == pytest.approx(1 / 3, abs=0.03)
    assert all(shares[WorkerId(n)] / len(KEYS) == pytest.approx(2 / 9, abs=0.03) for n in (1, 2, 3))
    assert made.counters.keyed == made.counters.kept == 2 * len(KEYS)


def test_only_the_keys_of_a_worker_that_goes_move() -> None:
    before, after = fleet(5), fleet(4)
    moved = {key for key in KEYS if at_rest(before, key) != at_rest(after, key)}
    assert moved == {key for key in KEYS if at_rest(before, key) == WorkerId(5)}
    assert len(moved) / len(KEYS) == pytest.approx(1 / 5, abs=0.03)


def test_under_load_a_key_spreads_and_no_worker_is_later_by_more_than_it_saves() -> None:
    made = fleet(4)
    key = KEYS[0]
    best = at_rest(made, key)
    came = Counter(assigned(made.assign(0, COST, NOW, wish=Wish(key))).worker.id for _ in range(40))
    others = [came[WorkerId(n)] for n in range(1, 5) if WorkerId(n) != best]
    assert max(others) - min(others) <= 1
    assert max(others) <= came[best] <= min(others) + 1 + WARM_SHARE
    assert made.counters.kept < made.counters.keyed


def test_what_a_cache_saves_makes_no_wait_longer_than_it_may_be() -> None:
    made = fleet(2, max_queue_time=0.15)
    placed = [made.assign(0, COST, NOW, wish=Wish(KEYS[0])) for _ in range(5)]
    assert [isinstance(one, Waiting) for one in placed] == [False] * 4 + [True]


def test_a_request_is_kept_from_every_worker_but_those_it_names() -> None:
    made = fleet(3, max_queue_time=0.05)
    only = Wish(only=frozenset({TWO}))
    assert assigned(made.assign(0, COST, NOW, wish=only)).worker.id == TWO
    waits = made.assign(0, COST, NOW, hold_s=2.0, wish=only)
    assert isinstance(waits, Waiting), "the others are free, and not for it"
    after = made.assign(0, COST, NOW, hold_s=2.0)
    assert assigned(after).worker.id != TWO
    made.forget(assigned(after).request_idx)
    assert isinstance(made.assign(waits.request_idx, COST, NOW, wish=Wish(only=frozenset())), Waiting)
    assert assigned(made.assign(waits.request_idx, COST, NOW, wish=Wish(only=frozenset({ONE})))).worker.id == ONE


def test_one_in_line_for_a_busy_worker_does_not_hold_up_the_others() -> None:
    made = fleet(2, max_queue_time=0.05)
    busy = [assigned(made.assign(0, COST, NOW)) for _ in range(2)]
    waits = made.assign(0, COST, NOW, hold_s=9.0, wish=Wish(only=frozenset({TWO})))
    behind = made.assign(0, COST, NOW, hold_s=9.0)
    (on_one,) = [one for one in busy if one.worker.id == ONE]
    made.end(ONE, Ended(on_one.request_idx, success=True), NOW + 0.1)
    assert list(made.ledger.waiting) == [waits.request_idx], "the one behind it was given ONE"
    assert behind.request_idx in made.ledger.at[ONE]


def test_a_key_falls_to_the_next_worker_where_its_own_has_failed() -> None:
    made = fleet(3)
    first = assigned(made.assign(0, COST, NOW, wish=Wish(KEYS[0])))
    again = assigned(made.assign(first.request_idx, COST, NOW, wish=Wish(KEYS[0])))
    assert again.worker.id != first.worker.id
    assert made.counters.kept == 2, "the best of those that are left is its own now"


@pytest.mark.parametrize(
    ("prefer", "words"),
    [("x", "object"), ({"key": 7}, "str"), ({"key": "k" * (MAX_KEY + 1)}, "length"), ({"kee": "k"}, "unknown field")],
)
def test_a_wrong_preference_is_refused_by_its_field(prefer: object, words: str) -> None:
    with pytest.raises(BadRequest, match=f"prefer: .*{words}"):
        checked(decode(msgspec.json.encode({"endpoint": "e", "prefer": prefer})))


def test_numbers_in_quotes_do_not_lose_the_preference() -> None:
    asked = checked(decode(b'{"endpoint":"e","cost":"7","prefer":{"key":"k"}}'))
    assert (asked.cost, asked.prefer and asked.prefer.key) == (7.0, "k")


def key_of(path: str = "/v1/chat/completions", **fields: object) -> str:
    return read(path, msgspec.json.encode({"model": "m", **fields})).key


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_request_begins_like_others_by_what_it_says_of_itself_or_by_its_prompt() -> None:
    long = "x" * PROMPT_BYTES
    assert key_of(prompt_cache_key="a", user="u") == key_of(prompt_cache_key="a", user="v", messages=chat(long))
    assert key_of(user="u") != key_of(user="v")
    assert key_of("/v1/messages", metadata={"user_id": "u"}) == key_of(user="u")
    assert key_of(messages=chat(long + "a")) == key_of(messages=chat(long + "b"), temperature=1)
    assert key_of(messages=chat("y" + long)) != key_of(messages=chat(long))
    assert key_of("/v1/messages", system=long, messages=chat("a")) == key_of(
        "/v1/messages", messages=chat("b"), system=long
    )
    assert key_of(messages=chat("short")) == ""
    assert key_of("/v1/embeddings", user="u", input=long) == "", "nothing is kept of it"
    assert key_of(user=7, metadata="x", messages=chat("a")) == "", "a wrong field is the model's to refuse"
    assert "alice" not in key_of(user="alice@example.org")
