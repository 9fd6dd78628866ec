"""The work of a request by each rule, and what a client cannot make it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.agent.workload import MAX_WORK, workload_rule


@pytest.mark.parametrize(
    ("rule", "payload", "work"),
    [
        ("tokens", {"max_tokens": 5}, 5.0),
        ("tokens", {"max_new_tokens": 6}, 6.0),
        ("tokens", {"max_completion_tokens": 7}, 7.0),
        ("tokens", {"inputs": "x", "parameters": {"max_new_tokens": 8}}, 8.0),
        ("tokens", {"input": {"parameters": {"max_new_tokens": 9}}}, 9.0),
        ("tokens", {"max_tokens": None, "parameters": {"max_tokens": 10}}, 10.0),
        ("tokens", {"inputs": "x"}, 64.0),
        ("tokens", {"max_tokens": "12"}, 64.0),
        ("tokens", {"max_tokens": True}, 64.0),
        ("tokens", {"max_tokens": -1}, 64.0),
        ("tokens", {"max_tokens": 10**400}, MAX_WORK),
        ("tokens", [1, 2], 64.0),
        ("tokens", None, 64.0),
        ("cost", {"max_tokens": 5}, 64.0),
        ("json:image.steps", {"image": {"steps": 20.5}}, 20.5),
        ("json:image.steps", {"image": "x"}, 64.0),
        ("json:steps", {"steps": 3}, 3.0),
        ("constant:2.5", {"max_tokens": 5}, 2.5),
    ],
)
def test_a_rule_counts_the_work(rule: str, payload: Any, work: float) -> None:
    assert workload_rule(rule)(payload, 64.0) == work


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, -math.inf])
def test_a_request_without_any_usable_number_is_one_unit_of_work(cost: float) -> None:
    assert workload_rule("tokens")({}, cost) == 1.0


@given(payload=st.dictionaries(st.just("max_tokens"), st.floats() | st.integers()), cost=st.floats())
def test_work_is_always_a_sensible_amount(payload: dict[str, Any], cost: float) -> None:
    assert 0 < workload_rule("tokens")(payload, cost) <= MAX_WORK


@pytest.mark.parametrize(
    "rule",
    ["", "token", "json", "json:", "json:a..b", "constant", "constant:x", "constant:0", "constant:nan", "cost:1"],
)
def test_a_rule_that_does_not_exist_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="workload: must be tokens, cost, json"):
        workload_rule(rule)
