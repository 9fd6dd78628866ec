"""A few cases of what `make fuzz` makes many of."""

from pathlib import Path

from tests.fuzz.__main__ import explore


def test_no_call_of_anybody_breaks_the_server(tmp_path: Path) -> None:
    made = explore(tmp_path, per_call=3, per_decoder=30, seed=1)
    assert made.total() > 350
    assert made["connections"] > 15
    assert all(
        made[f"as {role}"] for role in ("none", "wrong", "endpoint", "worker", "route", "read", "operate", "admin")
    )
