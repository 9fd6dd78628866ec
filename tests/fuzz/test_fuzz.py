"""A few cases of what `make fuzz` makes many of."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import explore
from tests.kit.marks import long


@pytest.mark.parametrize("per_call", [1, long(5)])
def test_no_call_of_anybody_breaks_the_server(tmp_path: Path, per_call: int) -> None:
    made = explore(tmp_path, per_call=per_call, per_decoder=10 * per_call, seed=1)
    assert made.total() > 120 * per_call
    assert made["connections"] >= 5 * per_call
    assert all(
        made[f"as {role}"] for role in ("none", "wrong", "endpoint", "worker", "route", "read", "operate", "admin")
    )
